"""How a budget is spent: once over all cuts, then rung by rung on ever fewer of them.

Pure: what a piece of work is and what it finds is the caller's part, and so is the clock.

First every cut gets cheap evidence (`first_pass`). What time is left is spent by successive halving
(`halve`; Jamieson and Talwalkar 2016): some contenders share a rung, the better half of them share
the next one, which lasts as long, so that each gets twice the time. Time that is left behind the
last rung begins the rungs anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

_SLACK_S = 0.05
"""A plan is still good if so much of its time has gone by."""

Clock = Callable[[], float]
"""The time in seconds; ``time.perf_counter``, or a test's own."""


@dataclass(frozen=True)
class Contender:
    """Someone whose evidence is worth more time.

    Attributes:
        key: Who.
        least_s: Seconds below which the next piece of work tells nothing new.
    """

    key: int
    least_s: float


def first_share(weights: Sequence[float], seconds: float) -> float:
    """What the first of some cuts may take of the time that is left.

    Args:
        weights: Of those that are still to be done, positive.
        seconds: In all.

    Returns:
        Seconds for the first.
    """
    return seconds * weights[0] / sum(weights)


def weigh(costs: Sequence[float]) -> list[float]:
    """How the time of the first pass is divided.

    Half goes by cost, so that a step through a deep head is affordable; half evenly, because there
    is work that costs the same everywhere, and the shallow heads are where steps tell the most.

    Args:
        costs: Of a pass through each head, in any unit; positive.

    Returns:
        Weights that sum to 1.
    """
    return [0.5 * cost / sum(costs) + 0.5 / len(costs) for cost in costs]


def first_pass(
    weights: Sequence[float],
    serve: Callable[[int, float], None],
    *,
    seconds: float,
    ends_at: float,
    clock: Clock,
) -> list[int]:
    """Serve everyone once, in order.

    Nobody takes less than the least work; what that costs is learnt from those that took longer
    than they were given, by the one that took the least for its weight: the first has to warm up
    for all. Whom the time is not enough for, by that, is left out. The first is served however late
    it is.

    Args:
        weights: What the least work of each costs, over that of the others.
        serve: Do the work of one until a moment, by the clock; the least work is always done.
        seconds: That all of them should take, as long as that is enough for the least work.
        ends_at: When nothing more may begin.
        clock: The time.

    Returns:
        The places of those that were left out.
    """
    left_out: list[int] = []
    began = clock()
    rate_s = math.inf
    for place, weight in enumerate(weights):
        now = clock()
        least_s = 0.0 if math.isinf(rate_s) else weight * rate_s
        if place and now + least_s >= ends_at:
            left_out.append(place)
            continue
        share_s = first_share(weights[place:], max(0.0, began + seconds - now))
        granted_s = min(max(share_s, least_s), max(0.0, ends_at - now))
        serve(place, now + granted_s)
        taken_s = clock() - now
        if taken_s > granted_s:
            rate_s = min(rate_s, taken_s / weight)
    return left_out


def rungs_of(contenders: int) -> int:
    """How many rungs there are until one of them is left."""
    return contenders.bit_length()


def field_of(contenders: Sequence[Contender], seconds: float) -> list[Contender]:
    """Those that begin the rungs: as many of the first as get at least what each needs.

    Args:
        contenders: The most important first.
        seconds: For all rungs together.

    Returns:
        They, in order; none where the time is enough for nobody.
    """
    able = [contender for contender in contenders if contender.least_s <= seconds]
    for count in range(len(able), 0, -1):
        if sum(one.least_s for one in able[:count]) <= seconds / rungs_of(count):
            return able[:count]
    return []


def halve(
    contenders: Callable[[], Sequence[Contender]],
    serve: Callable[[int, float], None],
    *,
    ends_at: float,
    worth_s: float,
    clock: Clock,
) -> None:
    """Spend the time until the end, more and more of it on fewer and fewer.

    Whoever is no contender any more at the end of a rung never comes back. Whoever was only among
    the worse half may, once the better ones have had all rungs. The rungs begin anew at once where
    someone who is not on them has come to be the first: whom nobody looked at seems the best.

    Args:
        contenders: Those that more work would tell something of, the most important first; asked
            anew before every rung.
        serve: Do the next piece of work of one until a moment, by the clock; it takes time, or
            the contenders are others afterwards.
        ends_at: When nothing more may begin.
        worth_s: Where the time is too little for what anyone needs, the first gets it all the same
            if it is that much.
        clock: The time.
    """
    gone: set[int] = set()
    known: set[int] = set()

    def standing() -> list[Contender]:
        found = list(contenders())
        gone.update(known - {contender.key for contender in found})
        known.update(contender.key for contender in found)
        return [contender for contender in found if contender.key not in gone]

    while True:
        left_s, found = ends_at - clock(), standing()
        field = field_of(found, left_s)
        if not field and found and left_s >= worth_s:
            field = [replace(found[0], least_s=worth_s)]
        if not field:
            return
        leader = found[0].key
        for rung in range(rungs_of(len(field)), 0, -1):
            _serve_rung(field, serve, (ends_at - clock()) / rung, ends_at, clock)
            staying, found = {contender.key for contender in field}, standing()
            better = [contender for contender in found if contender.key in staying]
            field = better[: max(1, len(field) // 2)]
            if not field or found[0].key not in {leader, *staying}:
                break


def _serve_rung(
    field: Sequence[Contender],
    serve: Callable[[int, float], None],
    seconds: float,
    ends_at: float,
    clock: Clock,
) -> None:
    """Serve each in the field once, by what it needs, as long as there is time."""
    rung_ends = clock() + seconds
    for nth, contender in enumerate(field):
        now = clock()
        if now + contender.least_s > ends_at + _SLACK_S:
            continue
        weights = [other.least_s for other in field[nth:]]
        share_s = first_share(weights, max(0.0, rung_ends - now))
        serve(contender.key, now + max(share_s, contender.least_s))
