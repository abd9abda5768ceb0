"""Whether a tail on its head's output equals the whole model, in ONNX Runtime, on photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from splitdeploy.edge_runtime.session import Session
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.report import HALVES, Verification

Array = NDArray[Any]

RELATIVE_TOLERANCE = 1e-3
"""On the largest difference over the largest magnitude of its tensor. Slicing changes which nodes
ONNX Runtime fuses, and float32 sums in another order differ by about 1e-6 a layer; a wrong slice
differs by the order of one."""

ABSOLUTE_TOLERANCE = 1e-6
NOISE_SHARE = 0.1
"""A tensor that is all but zero is rounding noise for the most part: an absolute difference below
the first is let pass, as long as it is below the second over the tensor's largest magnitude. A
tail that answers nothing is thus never taken for one that answers little."""


class Runs(Protocol):
    """Whatever takes tensors by name and gives tensors by name."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """What it gives."""


def run_halves(
    head: Session, tail: Session, feeds: Mapping[str, Array], last: Session | None = None
) -> list[Array]:
    """The results of a cut model, in the order of the outputs of whatever gives them.

    Args:
        head: The head's session.
        tail: The tail's session; its inputs are the head's outputs, by name.
        feeds: The model's inputs.
        last: The last part's, where there is a second cut; it takes outputs of both.

    Returns:
        The results.
    """
    return run_behind(head.run(feeds), tail, last)


def run_behind(sent: Mapping[str, Array], tail: Runs, last: Session | None = None) -> list[Array]:
    """The results of what lies behind a head.

    Args:
        sent: What the head put out, by name.
        tail: The tail's session, or what stands for it.
        last: The last part's, where there is a second cut; it takes outputs of both.

    Returns:
        The results.
    """
    given = tail.run({spec.name: sent[spec.name] for spec in tail.inputs})
    if last is not None:
        both = {**sent, **given}
        given = last.run({spec.name: both[spec.name] for spec in last.inputs})
    return list(given.values())


def compare(
    expected: Sequence[Array], got: Sequence[Array], images: int, *, ran: str = HALVES
) -> Verification:
    """Compare results tensor by tensor; NaN or infinity anywhere fails.

    Args:
        expected: What the whole model puts out.
        got: What stands to be verified, in the same order.
        images: How many photographs it is for.
        ran: What was run, as a `Verification` tells it.

    Returns:
        The verdict, with the largest errors over all tensors.
    """
    if len(expected) != len(got):
        return Verification(False, float("inf"), float("inf"), images, ran)
    worst_abs = worst_rel = 0.0
    ok = True
    for want, have in zip(expected, got, strict=True):
        absolute, relative = _errors(want, have)
        worst_abs, worst_rel = max(worst_abs, absolute), max(worst_rel, relative)
        noise = absolute <= ABSOLUTE_TOLERANCE and relative <= NOISE_SHARE
        ok = ok and (relative <= RELATIVE_TOLERANCE or noise)
    return Verification(ok and np.isfinite(worst_abs).item(), worst_abs, worst_rel, images, ran)


def _errors(want: Array, have: Array) -> tuple[float, float]:
    if want.shape != have.shape:
        return float("inf"), float("inf")
    if want.size == 0:
        return 0.0, 0.0
    left, right = want.astype(np.float64), have.astype(np.float64)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return float("inf"), float("inf")
    absolute = float(np.abs(left - right).max())
    scale = float(np.abs(left).max())
    if scale == 0.0:
        return absolute, 0.0 if absolute == 0.0 else float("inf")
    return absolute, absolute / scale
