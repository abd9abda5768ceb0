"""The choice among cuts: right where it is clear, and still where the estimate wanders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.edge_runtime.cut_chooser import CutChooser, CutCost
from splitdeploy.profiles.errors import UsageError

LIGHT = CutCost("late", 50_000, head_s=0.030, tail_s=0.002)
HEAVY = CutCost("early", 400_000, head_s=0.005, tail_s=0.006)
CROSSING_BPS = (400_000 - 50_000) * 8 / (0.032 - 0.011)

cuts = st.lists(
    st.builds(
        CutCost,
        name=st.just("c"),
        payload_bytes=st.integers(1, 10**7),
        head_s=st.floats(0, 1),
        tail_s=st.floats(0, 1),
    ),
    min_size=1,
    max_size=5,
).map(lambda found: [CutCost(str(i), c.payload_bytes, c.head_s, c.tail_s)
                     for i, c in enumerate(found)])  # fmt: skip
rates = st.floats(1e4, 1e10)


def test_the_crossing_is_where_both_take_as_long() -> None:
    assert LIGHT.latency_s(CROSSING_BPS) == pytest.approx(HEAVY.latency_s(CROSSING_BPS))


def test_two_thresholds() -> None:
    chooser = CutChooser([LIGHT, HEAVY], margin=0.25)
    for share in (0.5, 1.0, 1.2, 0.9, 1.24):
        assert chooser.choose(CROSSING_BPS * share) == 0
    assert chooser.choose(CROSSING_BPS * 1.26) == 1
    for share in (1.0, 0.9, 1.1, 0.81):
        assert chooser.choose(CROSSING_BPS * share) == 1
    assert chooser.choose(CROSSING_BPS * 0.79) == 0
    assert chooser.switches == 2


def test_no_estimate_changes_nothing() -> None:
    assert CutChooser([LIGHT, HEAVY], start=1).choose(None) == 1


def test_what_the_uplink_has_at_least_speaks_for_more_bytes_alone() -> None:
    chooser = CutChooser([LIGHT, HEAVY], start=1)
    assert chooser.choose(CROSSING_BPS / 10, at_least=True) == 1
    assert chooser.choose(CROSSING_BPS / 10) == 0
    assert chooser.choose(CROSSING_BPS * 2, at_least=True) == 1


def test_measured_times_count() -> None:
    chooser = CutChooser([LIGHT, HEAVY], margin=0.0)
    assert chooser.choose(CROSSING_BPS * 1.1) == 1
    chooser.measured(1, head_s=0.005, tail_s=0.5)  # the server is busy
    assert chooser.choose(CROSSING_BPS * 1.1) == 0


@given(cuts, rates)
def test_without_a_margin_the_fastest_is_chosen(found: list[CutCost], rate: float) -> None:
    chooser = CutChooser(found, margin=0.0)
    chosen = found[chooser.choose(rate)]
    assert chosen.latency_s(rate) == min(cut.latency_s(rate) for cut in found)


@given(cuts, st.lists(rates, max_size=20), st.floats(0, 2))
def test_the_same_bandwidth_twice_switches_at_most_once(
    found: list[CutCost], seen: list[float], margin: float
) -> None:
    chooser = CutChooser(found, margin=margin)
    for rate in seen:
        first = chooser.choose(rate)
        assert chooser.choose(rate) == first


@given(cuts, rates, st.floats(0.05, 1), st.lists(st.floats(-1, 1), min_size=2, max_size=20))
def test_wandering_within_the_margin_settles(
    found: list[CutCost], rate: float, margin: float, steps: list[float]
) -> None:
    two = found[:2]
    chooser = CutChooser(two, margin=margin)
    # An estimate that wanders by less than the margin about any bandwidth: it may leave the cut
    # that it began with, and does not come back.
    for step in steps:
        chooser.choose(rate * (1 + margin) ** (0.49 * step))
    assert chooser.switches <= 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([],), "expected cuts of different names, got none"),
        (([LIGHT, LIGHT],), "different names, got late, late"),
    ],
)
def test_refusals(arguments: tuple[list[CutCost]], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        CutChooser(*arguments)


def test_numbers_out_of_range() -> None:
    with pytest.raises(UsageError, match="expected a start among 1 cuts"):
        CutChooser([LIGHT], start=1)
    with pytest.raises(UsageError, match="a margin of 0 or more, got 0 and -1"):
        CutChooser([LIGHT], margin=-1.0)
    for rate in (0.0, float("nan")):
        with pytest.raises(UsageError, match="expected a bandwidth above 0"):
            CutChooser([LIGHT]).choose(rate)
