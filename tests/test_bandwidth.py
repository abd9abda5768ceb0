"""The uplink's bandwidth from traffic over links that the test computes."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.edge_runtime.bandwidth import UplinkMeter
from splitdeploy.profiles.errors import UsageError


@dataclass
class SimulatedLink:
    """First come, first served: a message occupies the uplink for its bytes, then the server."""

    bps: float
    rtt_s: float = 0.02
    free_s: float = 0.0

    def send(self, payload_bytes: int, now_s: float, server_s: float) -> float:
        """When the answer is there."""
        self.free_s = max(self.free_s, now_s) + 8 * payload_bytes / self.bps
        return self.free_s + self.rtt_s + server_s


def meter(rtt_s: float = 0.02) -> UplinkMeter:
    found = UplinkMeter()
    for extra_s in (0.0, 0.0002, 0.0001):
        found.small(rtt_s + extra_s)
    return found


def estimate(found: UplinkMeter, now_s: float) -> float:
    uplink = found.uplink(now_s)
    assert uplink is not None and uplink.bps is not None
    return uplink.bps


@given(
    bps=st.floats(2e5, 1e9),
    payload=st.integers(50_000, 3_000_000),
    rtt_s=st.floats(0.0005, 0.2),
    server_s=st.floats(0, 0.1),
)
def test_one_request_after_the_other(
    bps: float, payload: int, rtt_s: float, server_s: float
) -> None:
    link, found, now_s = SimulatedLink(bps, rtt_s), meter(rtt_s), 0.0
    for _ in range(5):
        sent_s, now_s = now_s, link.send(payload, now_s, server_s)
        found.answered(payload, sent_s, now_s, server_s)
    uplink = found.uplink(now_s)
    assert uplink is not None and uplink.requests == 5 and uplink.age_s == 0.0
    if 8 * payload / bps > 0.0031:
        assert uplink.bps == pytest.approx(bps, rel=0.01)
    elif 8 * payload / bps < 0.0029:
        assert uplink.bps is None
    # What it is sure of is never more than there is.
    assert uplink.at_least_bps <= bps * 1.01


@given(
    bps=st.floats(1e6, 1e8),
    window=st.integers(1, 8),
    gap_s=st.floats(0, 0.05),
    seed=st.integers(0, 1000),
)
def test_requests_that_share_the_link(bps: float, window: int, gap_s: float, seed: int) -> None:
    rng = random.Random(seed)
    link, found = SimulatedLink(bps), meter()
    under_way: list[tuple[float, float, int, float]] = []
    now_s = 0.0
    for _ in range(40):
        payload, server_s = rng.randint(100_000, 400_000), rng.uniform(0, 0.03)
        under_way.append((link.send(payload, now_s, server_s), now_s, payload, server_s))
        now_s += gap_s * rng.random()
        while len(under_way) >= window:
            under_way.sort()
            ends_s, sent_s, sent, worked_s = under_way.pop(0)
            now_s = max(now_s, ends_s)
            found.answered(sent, sent_s, ends_s, worked_s)
    # Answers that overtake each other blur which bytes went when, the sums less so.
    assert estimate(found, now_s) == pytest.approx(bps, rel=0.15)


def test_it_follows_a_change_within_a_few_half_lives() -> None:
    link, found, now_s = SimulatedLink(20e6), meter(), 0.0
    for bps in (20e6, 2e6, 50e6):
        link.bps = bps
        until_s = now_s + 12.0
        while now_s < until_s:
            sent_s, now_s = now_s, link.send(200_000, now_s, 0.01)
            found.answered(200_000, sent_s, now_s, 0.01)
        assert estimate(found, now_s) == pytest.approx(bps, rel=0.2)


def test_a_link_that_lets_nothing_through_shows_in_what_was_given_up() -> None:
    link, found, now_s = SimulatedLink(20e6), meter(), 0.0
    for _ in range(20):
        sent_s, now_s = now_s, link.send(200_000, now_s, 0.01)
        found.answered(200_000, sent_s, now_s, 0.01)
    for _ in range(10):
        found.given_up(200_000, now_s, now_s + 1.0)
        now_s += 1.0
    assert estimate(found, now_s) < 2e6
    for _ in range(60):
        sent_s, now_s = now_s, link.send(200_000, now_s, 0.01)
        found.answered(200_000, sent_s, now_s, 0.01)
    assert estimate(found, now_s) > 10e6


def test_small_payloads_tell_a_bound_and_no_estimate() -> None:
    found = meter(0.001)
    for step in range(50):
        found.answered(768, step, step + 0.003, 0.0005)
    uplink = found.uplink(50.0)
    assert uplink is not None and uplink.bps is None
    assert uplink.at_least_bps == pytest.approx(8 * 768 / 0.003)
    assert uplink.age_s == pytest.approx(50.0 - 49.003)


def test_scattered_round_trips_ask_for_a_longer_way_up() -> None:
    found = UplinkMeter()
    for extra_s in (0.0, 0.04, 0.02, 0.04):
        found.small(0.01 + extra_s)
    assert found.base_s == 0.01
    found.answered(100_000, 0.0, 0.05, 0.0)  # 40 ms up, in a scatter of 25
    uplink = found.uplink(0.05)
    assert uplink is not None and uplink.bps is None


def test_nothing_is_told_where_nothing_is_known() -> None:
    found = UplinkMeter()
    found.answered(100_000, 0.0, 1.0, 0.0)  # no small round trip yet
    found.given_up(100_000, 0.0, 1.0)
    assert found.uplink(1.0) is None and found.base_s is None
    found.small(0.01)
    found.answered(100_000, 0.0, 1.0, None)  # a server that does not tell its time
    found.answered(0, 0.0, 1.0, 0.0)
    assert found.uplink(1.0) is None
    found.answered(100_000, 0.0, 1.0, 0.0)
    assert found.uplink(1.0) is not None
    found.reset()
    assert found.uplink(1.0) is None and found.base_s == 0.01


@given(
    st.lists(
        st.tuples(st.integers(0, 10**7), st.floats(0, 100), st.floats(0, 10), st.floats(0, 20)),
        max_size=30,
    )
)
def test_whatever_comes_the_estimate_is_a_rate(
    requests: list[tuple[int, float, float, float]],
) -> None:
    found = meter()
    for payload, sent_s, took_s, server_s in requests:
        found.answered(payload, sent_s, sent_s + took_s, server_s)
        uplink = found.uplink(sent_s + took_s)
        if uplink is not None:
            assert uplink.at_least_bps >= 0 and uplink.age_s >= 0
            assert uplink.bps is None or 0 < uplink.bps < float("inf")


def test_a_half_life_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="expected a half-life above 0 s, got 0"):
        UplinkMeter(0)
