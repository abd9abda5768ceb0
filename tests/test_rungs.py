"""How a budget is spent: by a clock of the test's own, on work of any cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.partitioner.rungs import (
    Contender,
    field_of,
    first_pass,
    first_share,
    halve,
    rungs_of,
    weigh,
)

SECONDS = st.floats(0.01, 50.0)


@dataclass
class Clock:
    """Time goes by as work is done."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Race:
    """Contenders with some pieces of work each; a piece takes its time, or more if it is given."""

    clock: Clock
    least: Sequence[float]
    pieces: list[int]
    greedy: bool
    truth: float = 1.0
    served: list[tuple[int, float]] = field(default_factory=list)

    def contenders(self) -> list[Contender]:
        return [Contender(k, self.least[k]) for k in range(len(self.least)) if self.pieces[k]]

    def serve(self, key: int, until: float) -> None:
        self.served.append((key, until - self.clock.now))
        least = self.least[key] * self.truth
        self.pieces[key] -= 1
        self.clock.now += max(least, until - self.clock.now) if self.greedy else least


# --- the first pass -------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(1e6, 1e10), SECONDS), min_size=1, max_size=30),
    st.floats(-10, 300), st.floats(0.05, 1.0), st.booleans(),
)  # fmt: skip
def test_the_first_pass_serves_each_once_and_ends_within_one_step(
    cuts: list[tuple[float, float]], left_s: float, share: float, greedy: bool
) -> None:
    clock, served = Clock(), list[int]()
    ends_at = clock.now + left_s
    least = [seconds for _, seconds in cuts]

    def serve(place: int, until: float) -> None:
        assert place == 0 or clock.now < ends_at
        served.append(place)
        wanted = until - clock.now if greedy else 0.0
        clock.now += max(least[place], wanted)

    late = first_pass(
        weigh([cost for cost, _ in cuts]), serve, seconds=share * max(0.0, left_s),
        ends_at=ends_at, clock=clock,
    )  # fmt: skip
    assert sorted([*served, *late]) == list(range(len(cuts)))
    assert served == sorted(served) and served[0] == 0
    assert clock.now <= max(ends_at, 1000.0) + max(least[place] for place in served) + 1e-6
    if greedy and sum(least) <= 0.2 * share * left_s / len(cuts):
        assert not late and clock.now <= 1000.0 + share * left_s + 1e-6


def test_what_the_least_work_costs_is_learnt_and_the_rest_planned_by_it() -> None:
    """Each takes 2 s where 1 s was planned: of five that fit by the plan, the last two do not."""
    clock, granted = Clock(), list[float]()

    def serve(_: int, until: float) -> None:
        granted.append(until - clock.now)
        clock.now += max(2.0, until - clock.now)

    late = first_pass([0.2] * 5, serve, seconds=5.0, ends_at=clock.now + 7.9, clock=clock)
    assert late == [3, 4]
    # From the second one on nobody is given less than the least work takes.
    assert granted == pytest.approx([1.0, 2.0, 2.0])


def test_the_first_is_served_however_late_it_is() -> None:
    clock, served = Clock(), list[int]()
    late = first_pass(
        [0.5, 0.5], lambda place, _: served.append(place), seconds=0.0, ends_at=0.0, clock=clock
    )
    assert (served, late) == ([0], [1])


@given(st.lists(st.floats(1e6, 1e12), min_size=1, max_size=40), st.floats(0, 1e4))
def test_shares_spend_what_there_is_and_half_of_it_evenly(costs: list[float], s: float) -> None:
    weights, left = weigh(costs), s
    assert sum(weights) == pytest.approx(1.0)
    for place, weight in enumerate(weights):
        assert weight >= 0.5 / len(costs) * (1 - 1e-9)
        share = first_share(weights[place:], left)
        assert share == pytest.approx(s * weight, rel=1e-6)
        left -= share
    assert left == pytest.approx(0.0, abs=1e-6 * max(1.0, s))


# --- the rungs ------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(SECONDS, st.integers(0, 4)), max_size=16), st.floats(-5, 500),
    st.booleans(), st.floats(0.2, 3.0),
)  # fmt: skip
def test_the_rungs_end_within_one_step_and_leave_no_work_that_fits(
    work: list[tuple[float, int]], left_s: float, greedy: bool, truth: float
) -> None:
    clock = Clock()
    race = Race(clock, [s for s, _ in work], [count for _, count in work], greedy, truth)
    ends_at = clock.now + left_s
    halve(race.contenders, race.serve, ends_at=ends_at, worth_s=4.5, clock=clock)
    longest = max((race.least[key] * truth for key, _ in race.served), default=0.0)
    assert clock.now <= max(ends_at, 1000.0) + longest + 0.06
    for key, granted in race.served:
        assert granted >= min(race.least[key], 4.5) - 0.06
    # What is left undone had no room.
    assert all(one.least_s > ends_at - clock.now - 0.06 for one in race.contenders())


@given(st.lists(SECONDS, min_size=1, max_size=16), st.floats(1, 500))
def test_each_rung_has_half_of_the_one_before_and_gets_twice_the_time(
    least: list[float], left_s: float
) -> None:
    clock = Clock()
    left_s = clock.now + left_s - clock.now  # as a clock tells it
    race = Race(clock, least, [50] * len(least), greedy=True)
    first = field_of(race.contenders(), left_s)
    halve(race.contenders, race.serve, ends_at=clock.now + left_s, worth_s=1e9, clock=clock)
    size, at = len(first), 0
    assert size == 0 or sum(one.least_s for one in first) <= left_s / rungs_of(size) + 1e-9
    while size:
        rung = race.served[at : at + size]
        assert [key for key, _ in rung] == [one.key for one in first[:size]]
        total = sum(granted for _, granted in rung)
        assert total == pytest.approx(left_s / rungs_of(len(first)), rel=1e-6)
        at, size = at + size, size // 2


@given(
    st.lists(SECONDS, min_size=1, max_size=12), st.floats(0, 300),
    st.lists(st.integers(0, 11), max_size=12),
)  # fmt: skip
def test_whoever_drops_out_never_comes_back(
    least: list[float], left_s: float, dropping: list[int]
) -> None:
    clock, out, served = Clock(), set[int](), list[int]()
    drops = iter(dropping)

    def contenders() -> list[Contender]:
        # Some drop out at each rung, and pretend to be back at the next.
        out.clear()
        out.update({key for key in [next(drops, None)] if key is not None})
        told.append({key for key in range(len(least)) if key not in out})
        return [Contender(key, s) for key, s in enumerate(least) if key not in out]

    def serve(key: int, until: float) -> None:
        known = set.union(*told)
        gone = {k for k in known for place, there in enumerate(told)
                if k not in there and any(k in before for before in told[:place])}  # fmt: skip
        assert key not in gone
        served.append(key)
        clock.now = max(clock.now + least[key], until)

    told: list[set[int]] = []
    halve(contenders, serve, ends_at=clock.now + left_s, worth_s=1e9, clock=clock)


def test_who_comes_to_be_the_first_is_looked_at_at_once() -> None:
    """Each that is served turns out to be the worst: the next one is not left for later."""
    clock, order, served = Clock(), list(range(6)), list[int]()

    def serve(key: int, until: float) -> None:
        served.append(key)
        order.remove(key)
        order.append(key)
        clock.now = max(clock.now + 10.0, until)

    halve(
        lambda: [Contender(key, 10.0) for key in order], serve,
        ends_at=clock.now + 60.0, worth_s=1e9, clock=clock,
    )  # fmt: skip
    # Three on a rung of 30 s, behind which 0 would be next; 3 is the first of all by then.
    assert served == [0, 1, 2, 3]


def test_with_too_little_time_for_anyone_the_first_gets_what_there_is() -> None:
    for left_s, served in ((50.0, [(0, 50.0)]), (4.0, [])):
        clock = Clock()
        race = Race(clock, [100.0, 100.0], [1, 1], greedy=True)
        halve(race.contenders, race.serve, ends_at=clock.now + left_s, worth_s=4.5, clock=clock)
        assert race.served == served


def test_the_rungs_begin_with_as_many_as_get_what_they_need() -> None:
    field = [Contender(key, 5.0) for key in range(8)]
    assert [one.key for one in field_of(field, 45.0)] == [0, 1, 2]  # 2 rungs of 22.5 s
    assert [one.key for one in field_of(field, 60.0)] == [0, 1, 2, 3]  # 3 rungs of 20 s
    assert [one.key for one in field_of(field, 160.0)] == list(range(8))  # 4 rungs of 40 s
    # Who needs more than there is makes room for the next.
    assert field_of([Contender(0, 100.0), Contender(1, 5.0)], 20.0) == [Contender(1, 5.0)]
    assert field_of([], 10.0) == []
