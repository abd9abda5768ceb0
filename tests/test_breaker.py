"""The circuit breaker: what it lets through, on a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.edge_runtime.breaker import Breaker, BreakerSettings, Permit
from splitdeploy.profiles.errors import UsageError

SETTINGS = BreakerSettings(failures=3, pause_s=1.0, growth=2.0, longest_pause_s=4.0)


def asked(breaker: Breaker, now_s: float) -> Permit:
    permit = breaker.ask(now_s)
    assert permit is not None
    return permit


def opened(now_s: float = 0.0) -> Breaker:
    breaker = Breaker(SETTINGS)
    for _ in range(3):
        breaker.failed(asked(breaker, now_s), now_s)
    return breaker


def test_it_opens_after_failures_in_a_row_and_not_before() -> None:
    breaker = Breaker(SETTINGS)
    for _ in range(5):
        for _ in range(2):
            breaker.failed(asked(breaker, 0), 0)
        breaker.answered(asked(breaker, 0))
    assert breaker.state == "closed"
    for _ in range(3):
        assert breaker.state == "closed"
        breaker.failed(asked(breaker, 0), 0)
    assert breaker.state == "open"
    assert breaker.ask(0.99) is None and breaker.wait_s(0.75) == 0.25


def test_one_probe_at_a_time() -> None:
    breaker = opened()
    probe = asked(breaker, 1.0)
    assert breaker.state == "half-open"
    assert breaker.ask(1.0) is None and breaker.ask(100.0) is None
    breaker.answered(probe)
    assert breaker.state == "closed"
    asked(breaker, 100.0)


def test_pauses_grow_up_to_the_longest_and_start_over_after_an_answer() -> None:
    breaker, now_s, pauses = opened(), 0.0, []
    for _ in range(5):
        pauses.append(breaker.wait_s(now_s))
        now_s += pauses[-1]
        breaker.failed(asked(breaker, now_s), now_s)
    assert pauses == [1.0, 2.0, 4.0, 4.0, 4.0]
    now_s += breaker.wait_s(now_s)
    breaker.answered(asked(breaker, now_s))
    for _ in range(3):
        breaker.failed(asked(breaker, now_s), now_s)
    assert breaker.wait_s(now_s) == 1.0


def test_what_was_asked_before_it_opened_changes_nothing_after() -> None:
    breaker = Breaker(SETTINGS)
    permits = [asked(breaker, 0) for _ in range(6)]
    for permit in permits[:3]:
        breaker.failed(permit, 0)
    probe = asked(breaker, 1.0)
    breaker.failed(permits[3], 1.0)
    breaker.answered(permits[4])
    assert breaker.state == "half-open"
    breaker.failed(probe, 1.0)
    breaker.answered(permits[5])
    assert breaker.state == "open" and breaker.wait_s(1.0) == 2.0


def test_a_probe_that_nobody_waits_for_makes_room_for_the_next() -> None:
    breaker = opened()
    breaker.abandoned(asked(breaker, 1.0), 1.0)
    assert breaker.state == "open"
    breaker.answered(asked(breaker, 1.0))
    assert breaker.state == "closed"


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "answered", "failed", "abandoned"]),
        st.integers(0, 20),
        st.floats(0, 3),
    ),
    max_size=120,
)


@given(ACTIONS)
def test_invariants(actions: list[tuple[str, int, float]]) -> None:
    breaker, now_s = Breaker(SETTINGS), 0.0
    waiting: list[Permit] = []
    probing: Permit | None = None
    opened_s = 0.0
    for action, place, later_s in actions:
        now_s += later_s
        before = breaker.state
        if action == "ask":
            permit = breaker.ask(now_s)
            # Closed lets everybody through, half-open nobody more, open one once the pause is over.
            assert (permit is not None) == (
                before == "closed" or (before == "open" and breaker.state == "half-open")
            )
            if permit is not None:
                waiting.append(permit)
                probing = permit if breaker.state == "half-open" else probing
        elif waiting:
            permit = waiting.pop(place % len(waiting))
            if action == "answered":
                breaker.answered(permit)
                assert breaker.state == before or (before, permit) == ("half-open", probing)
            elif action == "failed":
                breaker.failed(permit, now_s)
            else:
                breaker.abandoned(permit, now_s)
            if before == "half-open" and permit != probing:
                assert breaker.state == "half-open"
            if breaker.state == "open" and before != "open":
                opened_s = now_s
        # It never stays open longer than the longest pause, and somebody can always end half-open.
        assert breaker.wait_s(now_s) <= SETTINGS.longest_pause_s
        if breaker.state == "open":
            assert now_s + breaker.wait_s(now_s) <= max(now_s, opened_s + SETTINGS.longest_pause_s)
        if breaker.state == "half-open":
            assert probing in waiting


@given(st.integers(0, 2**32 - 1))
def test_whoever_answers_again_is_asked_again(seed: int) -> None:
    breaker, now_s = opened(), float(seed % 7)
    for _ in range(seed % 5):
        now_s += breaker.wait_s(now_s)
        breaker.failed(asked(breaker, now_s), now_s)
    now_s += breaker.wait_s(now_s)
    breaker.answered(asked(breaker, now_s))
    assert breaker.state == "closed"


@pytest.mark.parametrize(
    "settings",
    [{"failures": 0}, {"pause_s": 0.0}, {"pause_s": 9.0}, {"growth": 0.5}, {"pause_s": -1.0}],
)
def test_settings_that_cannot_be_meant(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected a breaker of at least 1 failure"):
        BreakerSettings(**settings)  # type: ignore[arg-type]
