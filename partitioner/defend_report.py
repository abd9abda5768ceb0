"""What ``defend`` is asked to do, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from splitdeploy.partitioner.defence_judge import Verdict
from splitdeploy.profiles.report import Baseline, Verification
from splitdeploy.profiles.report_writer import finite_or_none

ATTACKS = ("least-squares", "rmle", "noise-aware")
"""Those that are run by default, as far as they apply to the head."""


@dataclass(frozen=True)
class DefendOptions:
    """What ``defend`` is asked to do.

    Attributes:
        target: ``fsinfo:-1``, ``gain:0.5`` or ``mse:0.02``; None for forms with a strength.
        form: By name (see `splitdeploy.partitioner.defence_choice.forms`).
        strength: Of forms without a target.
        compare: Whether other defences of like strength are judged beside it.
        images: A folder; None for the photographs that scikit-image carries.
        labels: A CSV file of their classes, or None.
        image_count: How many pictures judge; as many again, and no others, set defences up.
        attack_count: How many of them are attacked and measured.
        auxiliary: A folder of the attacker's own pictures, for a trained attack; None for none.
        queries: How often each picture is sent, with fresh noise.
        attacks: Names in the registry.
        attack_budget_s: Seconds for leakage and attacks, over all rows.
        seed: Of all that is random.
        model: Where the model's file lies now; None for where the manifest says.
        weights: Where its weights' file lies now, likewise.
    """

    target: str | None = None
    form: str = "bayesian"
    strength: float | None = None
    compare: bool = False
    images: Path | None = None
    labels: Path | None = None
    image_count: int = 16
    attack_count: int = 8
    auxiliary: Path | None = None
    queries: int = 1
    attacks: tuple[str, ...] = ATTACKS
    attack_budget_s: float = 60.0
    seed: int = 0
    model: str | None = None
    weights: str | None = None


@dataclass(frozen=True)
class DefendReport:
    """What came of it.

    Attributes:
        rows: The undefended model, the defence, and what it is compared with.
        baseline: The best reconstruction that needs no smashed data.
        bundle: Where the defended bundle is; None where the form cannot be deployed.
        verified: The exported tail against torch's on noisy data; None without a bundle.
        model: The model's name.
        cut: The cut's name.
        images: Where the pictures come from, in words.
        queries: How often each was sent.
        notes: What a reader has to know besides.
    """

    rows: tuple[Verdict, ...]
    baseline: Baseline
    bundle: Path | None
    verified: Verification | None
    model: str
    cut: str
    images: str
    queries: int
    notes: tuple[str, ...]


def report_to_json(report: DefendReport) -> dict[str, Any]:
    """A report as ``--format json`` prints it.

    Args:
        report: What came of a defence.

    Returns:
        Its fields by name; infinities and NaN are null.
    """
    document: dict[str, Any] = to_json(report)
    return document


def to_json(value: Any) -> Any:
    """Dataclasses, tuples and paths as JSON has them; infinities and NaN as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float):
        return finite_or_none(value)
    return value.as_posix() if isinstance(value, Path) else value
