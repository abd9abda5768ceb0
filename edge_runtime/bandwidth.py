"""The uplink's bandwidth, estimated from the traffic that flows anyway.

A request's way up took what remains of its round trip without the server's own work and without
the round trip of a message of next to no size. Requests that are under way together share the link:
what counts is the time during which at least one of them was going up, and the bytes of all. Both
sums fade with age; their ratio is the estimate. Where the way up is too short to be told from the
scatter of round trips, there is no estimate, only a rate that the link has at least.

Pure: times are arguments, on one clock that never goes back.
"""

from __future__ import annotations

from dataclasses import dataclass

from splitdeploy.profiles.errors import UsageError

_LEAST_NOISE_S = 1e-3
"""So much of a round trip, through threads and timers alone, is in no server's account."""

_CLEAR = 3.0
"""The mean way up must be so many times the scatter to be told."""

_BURST_BYTES = 16_000
"""Less than this leaves at once, in a few packets."""

_BURST_S = 20e-3
"""Such a burst must take so long before it is the link that is slow and not the machines."""

_FORGOTTEN = 1e-3
"""A share of the first bytes so small that nothing is left of them."""


@dataclass(frozen=True)
class Uplink:
    """What is known of the uplink.

    Attributes:
        bps: Bits per second; None where the link is too fast for these payloads to tell.
        at_least_bps: It has at least this.
        requests: How many the estimate rests on.
        age_s: Since the last of them.
    """

    bps: float | None
    at_least_bps: float
    requests: int
    age_s: float


class UplinkMeter:
    """Estimates the uplink; whoever uses it from several threads holds a lock.

    Args:
        half_life_s: After this long a request counts for half.

    Raises:
        UsageError: The half-life is not positive.
    """

    def __init__(self, half_life_s: float = 2.0) -> None:
        if not half_life_s > 0:
            raise UsageError(f"expected a half-life above 0 s, got {half_life_s}")
        self._half_life_s = half_life_s
        self._base_s: float | None = None
        self._scatter_s = 0.0
        self._small = 0
        self.reset()

    def reset(self) -> None:
        """Forget the bytes, for another path or another payload; small round trips are kept."""
        self._bits = self._busy_s = self._weight = 0.0
        self._requests = 0
        self._busy_until_s = self._counted_at_s = -float("inf")

    @property
    def base_s(self) -> float | None:
        """The shortest round trip of a small message; None before the first."""
        return self._base_s

    def small(self, round_trip_s: float) -> None:
        """Tell the round trip of a message of next to no size that the server answers at once.

        Args:
            round_trip_s: Its time; the shortest is what counts.
        """
        if self._base_s is None or round_trip_s < self._base_s:
            # The scatter is the mean excess over the shortest, which has just become shorter.
            shift = 0.0 if self._base_s is None else self._base_s - round_trip_s
            self._scatter_s += shift
            self._base_s = round_trip_s
        self._small += 1
        self._scatter_s += (round_trip_s - self._base_s - self._scatter_s) / self._small

    def answered(
        self, payload_bytes: int, sent_s: float, answered_s: float, server_s: float | None
    ) -> None:
        """Tell of an answered request.

        Args:
            payload_bytes: What went up.
            sent_s: When.
            answered_s: When the answer was there.
            server_s: How much of that the server worked or had it wait; without it, the request
                tells nothing.
        """
        if self._base_s is None or server_s is None:
            return
        self._count(payload_bytes, sent_s, answered_s - server_s - self._base_s, answered_s)

    def given_up(self, payload_bytes: int, sent_s: float, given_up_s: float) -> None:
        """Tell of a request that was not answered within its deadline.

        It counts as though its last byte had just gone up: a link that has become slow shows only
        so, and if it was the server that was slow, the next answers put it right.

        Args:
            payload_bytes: What was to go up.
            sent_s: When it was sent.
            given_up_s: When its time was over.
        """
        if self._base_s is not None:
            self._count(payload_bytes, sent_s, given_up_s, given_up_s)

    def uplink(self, now_s: float) -> Uplink | None:
        """What is known by now.

        Args:
            now_s: The time.

        Returns:
            The estimate; None before the first request that tells anything.
        """
        if self._requests == 0 or self._weight <= 0:
            return None
        noise_s = max(_LEAST_NOISE_S, self._scatter_s) * _CLEAR
        burst = self._bits < 8.0 * _BURST_BYTES * self._weight
        clear_s = max(noise_s, _BURST_S) if burst else noise_s
        clear = self._busy_s >= clear_s * self._weight
        least_s = max(self._busy_s, noise_s * self._weight)
        return Uplink(
            bps=self._bits / self._busy_s if clear else None,
            at_least_bps=self._bits / least_s,
            requests=self._requests,
            age_s=max(0.0, now_s - self._counted_at_s),
        )

    def _count(self, payload_bytes: int, sent_s: float, up_s: float, now_s: float) -> None:
        if payload_bytes <= 0:
            return
        begun_s = max(sent_s, self._busy_until_s)
        busy_s = max(0.0, up_s - begun_s)
        self._fade(now_s)
        self._bits += 8.0 * payload_bytes
        self._busy_s += busy_s
        self._weight += 1.0
        self._requests += 1
        self._busy_until_s = max(self._busy_until_s, up_s)

    def _fade(self, now_s: float) -> None:
        if self._requests:
            age_s = max(0.0, now_s - self._counted_at_s)
            share = 0.5 ** (age_s / self._half_life_s)
            share = share if share > _FORGOTTEN else 0.0
            self._bits *= share
            self._busy_s *= share
            self._weight *= share
        self._counted_at_s = max(self._counted_at_s, now_s)
