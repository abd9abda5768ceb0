"""The cuts that no other cut beats in everything at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one point is nowhere worse than another and somewhere better; less is better."""
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def pareto_front(points: Mapping[str, Sequence[float]]) -> tuple[str, ...]:
    """The names of the points that no other point dominates.

    Args:
        points: Coordinates by name, all of one length; less is better, infinity is the worst.

    Returns:
        The names in the order they came; points that coincide are all in or all out.
    """
    return tuple(
        name
        for name, point in points.items()
        if not any(dominates(other, point) for other in points.values())
    )
