"""The interval of a quantity in which a decision stays the same."""

from __future__ import annotations

import math
from collections.abc import Callable

LOWEST, HIGHEST = 1e3, 1e11
"""Where the search for the ends stops, in bits per second."""

STEPS_PER_DECADE = 16
"""How finely it looks: a change that lasts for less than a step may be missed."""


def stable_interval(
    decide: Callable[[float], str | None],
    here: float,
    pick: str,
    *,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
) -> tuple[float, float | None]:
    """The interval around a value in which a decision gives the same pick.

    The search walks outwards in equal steps of the logarithm until the pick changes, then bisects
    the last step.

    Args:
        decide: Gives the pick at a value; None where there is none.
        here: The value at which the decision was made, above zero.
        pick: What was picked there.
        lowest: Where the search downwards stops.
        highest: Where the search upwards stops.

    Returns:
        The ends, both inside the interval, the lower one 0 where the pick still holds at
        ``lowest``, the upper one None where it still holds at ``highest``.
    """
    low = _walk(decide, here, pick, min(lowest, here), -1)
    high = _walk(decide, here, pick, max(highest, here), +1)
    return (0.0 if low is None else low), high


def _walk(
    decide: Callable[[float], str | None], here: float, pick: str, end: float, direction: int
) -> float | None:
    inside, last = math.log(here), math.log(end)
    step = math.log(10) / STEPS_PER_DECADE
    while direction * (last - inside) > 1e-12:
        beyond = inside + direction * min(step, abs(last - inside))
        if decide(math.exp(beyond)) != pick:
            return _bisect(decide, math.exp(inside), math.exp(beyond), pick)
        inside = beyond
    return None


def _bisect(
    decide: Callable[[float], str | None], inside: float, outside: float, pick: str
) -> float:
    """The value nearest to ``outside`` that still gives the pick, to nine digits."""
    while abs(outside - inside) > 1e-9 * inside:
        middle = math.sqrt(inside * outside)
        if decide(middle) == pick:
            inside = middle
        else:
            outside = middle
    return inside
