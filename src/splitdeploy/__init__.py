"""Where to cut a neural network between an edge device and the cloud.

The public names load on first use, so that ``import splitdeploy`` stays light on a device.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Constraints": "splitdeploy.profiles.report:Constraints",
    "CutPoint": "splitdeploy.profiles.cut:CutPoint",
    "NetworkProfile": "splitdeploy.profiles.network:NetworkProfile",
    "SweepReport": "splitdeploy.profiles.report:SweepReport",
    "TensorSpec": "splitdeploy.profiles.cut:TensorSpec",
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
