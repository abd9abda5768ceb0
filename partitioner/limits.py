"""What is common to all limits: which way each points, and the one on the codec.

A limit is a ceiling, but for those in ``FLOORS``, below which a figure must not fall. `turned`
makes a ceiling of a floor, so that whatever compares, sorts or searches knows one direction.
"""

from __future__ import annotations

from splitdeploy.profiles.cut import CutPoint
from splitdeploy.profiles.report import Constraints, CutReport

FLOORS = frozenset({"min_agreement"})
"""Limits that a figure must not fall below, by their names in ``Constraints``."""

_ENCODED = frozenset({"float16", "int8"})


def turned(limit: str, value: float) -> float:
    """A value of a limit or of its figure such that less is better; turned again it is the same.

    Args:
        limit: As in ``Constraints``.
        value: Of the limit, or of the figure that it is on.

    Returns:
        The value, with the other sign for a floor.
    """
    return -value if limit in FLOORS else value


def ceiling(constraints: Constraints, limit: str) -> float:
    """What a turned figure has to stay at or below.

    Args:
        constraints: The limits.
        limit: One that is set.

    Returns:
        The limit, turned.
    """
    return turned(limit, getattr(constraints, limit))


def agreement(row: CutReport) -> float | None:
    """The share of pictures that keep their class with the codec of a row.

    Args:
        row: The row.

    Returns:
        The measured share; 1 where nothing is encoded; None where it was not measured, or where
        results are no classes.
    """
    if row.codec_loss is not None:
        return row.codec_loss.same_class
    return None if _is_encoded(row.cut) and row.precision != "fp32" else 1.0


def _is_encoded(cut: CutPoint) -> bool:
    """Whether a codec stands at the cut, by the types of what is sent."""
    returned = () if cut.last is None else cut.last.returned
    return any(tensor.dtype in _ENCODED for tensor in (*cut.tensors, *returned))
