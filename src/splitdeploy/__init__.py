"""Where to cut a neural network between an edge device and the cloud.

The public names load on first use, so that ``import splitdeploy`` stays light on a device.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splitdeploy.attacks.base import run_attack as run_attack
    from splitdeploy.attacks.leakage.fsinfo import fsinfo as fsinfo
    from splitdeploy.attacks.leakage.measure import measure_leakage as measure_leakage
    from splitdeploy.attacks.registry import find_attack as find_attack
    from splitdeploy.attacks.target import AttackTarget as AttackTarget
    from splitdeploy.edge_runtime.adaptive import AdaptiveClient as AdaptiveClient
    from splitdeploy.edge_runtime.bundle import read_bundle
    from splitdeploy.edge_runtime.client import SplitClient as SplitClient
    from splitdeploy.partitioner.api import find_cuts as find_cuts
    from splitdeploy.partitioner.api import profile as profile
    from splitdeploy.partitioner.api import split as split
    from splitdeploy.partitioner.models import load_model as load_model
    from splitdeploy.partitioner.recommend import recommend as recommend
    from splitdeploy.profiles.cut import CutPoint as CutPoint
    from splitdeploy.profiles.cut import TensorSpec as TensorSpec
    from splitdeploy.profiles.errors import SplitdeployError as SplitdeployError
    from splitdeploy.profiles.network import NetworkProfile as NetworkProfile
    from splitdeploy.profiles.report import Constraints as Constraints
    from splitdeploy.profiles.report import Objective as Objective
    from splitdeploy.profiles.report import SweepReport as SweepReport
    from splitdeploy.profiles.store import read_report as read_report

    load_bundle = read_bundle

__version__ = "0.1.0"

_PUBLIC = {
    "AdaptiveClient": "splitdeploy.edge_runtime.adaptive:AdaptiveClient",
    "AttackTarget": "splitdeploy.attacks.target:AttackTarget",
    "Constraints": "splitdeploy.profiles.report:Constraints",
    "CutPoint": "splitdeploy.profiles.cut:CutPoint",
    "NetworkProfile": "splitdeploy.profiles.network:NetworkProfile",
    "Objective": "splitdeploy.profiles.report:Objective",
    "SplitClient": "splitdeploy.edge_runtime.client:SplitClient",
    "SplitdeployError": "splitdeploy.profiles.errors:SplitdeployError",
    "SweepReport": "splitdeploy.profiles.report:SweepReport",
    "TensorSpec": "splitdeploy.profiles.cut:TensorSpec",
    "find_attack": "splitdeploy.attacks.registry:find_attack",
    "find_cuts": "splitdeploy.partitioner.api:find_cuts",
    "fsinfo": "splitdeploy.attacks.leakage.fsinfo:fsinfo",
    "load_bundle": "splitdeploy.edge_runtime.bundle:read_bundle",
    "load_model": "splitdeploy.partitioner.models:load_model",
    "measure_leakage": "splitdeploy.attacks.leakage.measure:measure_leakage",
    "profile": "splitdeploy.partitioner.api:profile",
    "read_report": "splitdeploy.profiles.store:read_report",
    "recommend": "splitdeploy.partitioner.recommend:recommend",
    "run_attack": "splitdeploy.attacks.base:run_attack",
    "split": "splitdeploy.partitioner.api:split",
}
"""Where each public name lives: ``module:attribute``."""

__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(
            f"module 'splitdeploy' has no attribute {name!r}; available: {', '.join(__all__)}"
        )
    module, _, attribute = _PUBLIC[name].partition(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
