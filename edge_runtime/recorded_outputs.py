"""A head tried on this device against what the workstation recorded.

The folder holds ``bundle/``, ``selftest.json`` (names) and ``selftest.npz`` (arrays, no pickles).
Heads compute the same sums in another order, or in another precision, so that what is compared is
the length of the difference over the length of the recorded output.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.open_head import open_head
from splitdeploy.edge_runtime.session import Array
from splitdeploy.profiles.errors import ReportError, SessionError
from splitdeploy.profiles.store import write_atomically

BUNDLE = "bundle"
NAMES_FILE = "selftest.json"
ARRAYS_FILE = "selftest.npz"

TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2, "int8": 5e-2}
"""On the difference's length over the output's. A wrong head differs by about 1; float32 in another
order by 1e-6 a layer, TF32 by 1e-4; fp16 rounds each value by 5e-4; int8 by half of 1/127."""


def write_recorded(
    folder: Path,
    feeds: Mapping[str, Array],
    outputs: Mapping[str, Array],
    results: Mapping[str, Array],
    answers: Mapping[str, Array] | None = None,
) -> None:
    """Record what a device must give.

    Args:
        folder: Where.
        feeds: The head's inputs.
        outputs: What it gives.
        results: What the tail gives on that.
        answers: What the last part gives on both; None where there is none.
    """
    groups = {"feeds": feeds, "outputs": outputs, "results": results, "answers": answers or {}}
    names = {group: list(values) for group, values in groups.items()}
    arrays: dict[str, Any] = {
        f"{group}{place}": value
        for group, values in groups.items()
        for place, value in enumerate(values.values())
    }
    write_atomically(folder / NAMES_FILE, json.dumps(names))
    np.savez(folder / ARRAYS_FILE, **arrays)


def run_self_test(folder: Path) -> dict[str, Any]:
    """Run the head, the last part, and the tail where it is there, and compare.

    Args:
        folder: With the bundle and what was recorded.

    Returns:
        What ran it, the differences and the tolerance.

    Raises:
        SessionError: It gives something else.
        ReportError: The bundle or the recording is damaged.
    """  # noqa: DOC502
    bundle = read_bundle(folder / BUNDLE, "edge")
    recorded = _recorded(folder)
    with open_head(bundle) as head:
        got = head.run(recorded["feeds"])
        told = {"ran_in": head.name, "note": head.note}
    tolerance = tolerance_of(bundle.precision, head.name)
    errors = _compared("the head", recorded["outputs"], got, tolerance)
    if bundle.tail.is_file():
        with OnnxRuntimeSession(bundle.tail) as tail:
            needed = {spec.name: recorded["outputs"][spec.name] for spec in tail.inputs}
            answered = tail.run(needed)
        errors |= _compared("the tail", recorded["results"], answered, tolerance)
    if bundle.return_at is not None:
        given = recorded["outputs"] | recorded["results"]
        with OnnxRuntimeSession(bundle.last) as last:
            answered = last.run({spec.name: given[spec.name] for spec in last.inputs})
        errors |= _compared("the last part", recorded["answers"], answered, tolerance)
    return {**told, "errors": errors, "tolerance": tolerance}


def tolerance_of(precision: str, ran_in: str) -> float:
    """What a device may differ by.

    Args:
        precision: Of what is sent.
        ran_in: The session's name; that of an engine says what it computes in.

    Returns:
        The tolerance of the coarser of both.
    """
    named = [word for word in ran_in.split() if word in TOLERANCE]
    return max(TOLERANCE[name] for name in (precision, *named))


def difference(expected: Array, got: Array) -> float:
    """The length of the difference over that of what was expected.

    Args:
        expected: An array.
        got: Another.

    Returns:
        The relative difference; infinite for another shape, NaN or infinity.
    """
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return float("inf")
    want, have = expected.astype(np.float64), got.astype(np.float64)
    if not (np.isfinite(want).all() and np.isfinite(have).all()):
        return float("inf")
    length, off = float(np.linalg.norm(want)), float(np.linalg.norm(want - have))
    return off / length if length else (0.0 if off == 0.0 else float("inf"))


def _compared(
    what: str, expected: Mapping[str, Array], got: Mapping[str, Array], tolerance: float
) -> dict[str, float]:
    missing = sorted(set(expected) - set(got))
    if missing:
        raise SessionError(f"{what} gives no {missing[0]!r}, which was recorded: export it again")
    errors = {name: difference(value, got[name]) for name, value in expected.items()}
    worst = max(errors, key=lambda name: errors[name], default=None)
    if worst is not None and not errors[worst] <= tolerance:
        raise SessionError(
            f"{what} gives another {worst!r} here than on the workstation: expected a difference "
            f"of at most {tolerance:g} of its length, got {errors[worst]:.2g}"
        )
    return errors


def _recorded(folder: Path) -> dict[str, dict[str, Array]]:
    try:
        names = json.loads((folder / NAMES_FILE).read_text(encoding="utf-8"))
        with np.load(folder / ARRAYS_FILE, allow_pickle=False) as arrays:
            # What was recorded before there was a last part has no answers of one.
            return {group: _group(arrays, group, names[group]) for group in
                    ("feeds", "outputs", "results", "answers") if group in names}  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReportError(
            f"expected recorded outputs in {folder} ({type(error).__name__}): deploy again"
        ) from error


def _group(arrays: Mapping[str, Array], group: str, names: Sequence[str]) -> dict[str, Array]:
    return {str(name): arrays[f"{group}{place}"] for place, name in enumerate(names)}
