"""Which of several cuts of one model to send through, as the bandwidth changes.

A cut's predicted latency is that of its head, its payload over the uplink, and its tail. Where two
cuts are equally fast lies a bandwidth that an estimate wanders about; so a switch needs two
thresholds: to more bytes only where it would pay at a bandwidth lower by the margin, to fewer only
where it would pay at one higher by it. After RoboECC (arXiv 2603.20711), which moves its boundary
by two thresholds; the prediction is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from splitdeploy.profiles.errors import UsageError

_BITS = 8


@dataclass(frozen=True)
class CutCost:
    """What one request through a cut takes beside the network's round trip.

    Attributes:
        name: Of the cut.
        payload_bytes: Sent up for a request.
        head_s: On the device.
        tail_s: On the server.
    """

    name: str
    payload_bytes: int
    head_s: float
    tail_s: float

    def latency_s(self, uplink_bps: float) -> float:
        """At a bandwidth; the round trip of a small message is the same for all cuts."""
        return self.head_s + self.payload_bytes * _BITS / uplink_bps + self.tail_s


class CutChooser:
    """The choice, which remembers where it stands; a value of numbers alone, without a clock.

    Args:
        cuts: At least one, with names of their own.
        start: The place of the cut to begin with.
        margin: How far the bandwidth may be off, as a share; at least 0. 0.25 means: an estimate
            that wanders by a quarter about the crossing changes nothing.

    Raises:
        UsageError: There are no cuts, two have one name, or a number is out of range.
    """

    def __init__(self, cuts: Sequence[CutCost], *, start: int = 0, margin: float = 0.25) -> None:
        names = [cut.name for cut in cuts]
        if not names or len(set(names)) < len(names):
            raise UsageError(f"expected cuts of different names, got {', '.join(names) or 'none'}")
        if not 0 <= start < len(names) or not 0 <= margin < math.inf:
            raise UsageError(
                f"expected a start among {len(names)} cuts and a margin of 0 or more, got {start} "
                f"and {margin:g}"
            )
        self.cuts = tuple(cuts)
        self.current = start
        self.margin = margin
        self.switches = 0

    def measured(self, place: int, *, head_s: float, tail_s: float) -> None:
        """Take a cut's times as they are now.

        Args:
            place: The cut's.
            head_s: On the device.
            tail_s: On the server.
        """
        cut = self.cuts[place]
        fresh = CutCost(cut.name, cut.payload_bytes, head_s, tail_s)
        self.cuts = (*self.cuts[:place], fresh, *self.cuts[place + 1 :])

    def choose(self, uplink_bps: float | None, *, at_least: bool = False) -> int:
        """The place of the cut for the next request.

        Args:
            uplink_bps: The smoothed estimate; None where there is none, which changes nothing.
            at_least: Whether the uplink has at least this: then only more bytes are a choice.

        Returns:
            The place.

        Raises:
            UsageError: The bandwidth is not positive.
        """
        if uplink_bps is None:
            return self.current
        if not 0 < uplink_bps < math.inf:
            raise UsageError(f"expected a bandwidth above 0 bit/s, got {uplink_bps:g}")
        here = self.cuts[self.current]
        better = [
            place
            for place, cut in enumerate(self.cuts)
            if (cut.payload_bytes > here.payload_bytes or not at_least)
            and cut.latency_s(self._doubted(cut, uplink_bps))
            < here.latency_s(self._doubted(cut, uplink_bps))
        ]
        if better:
            best = min(better, key=lambda place: self.cuts[place].latency_s(uplink_bps))
            self.current = best
            self.switches += 1
        return self.current

    def _doubted(self, cut: CutCost, uplink_bps: float) -> float:
        """The bandwidth at which a switch to this cut has to pay."""
        more = cut.payload_bytes > self.cuts[self.current].payload_bytes
        return uplink_bps / (1 + self.margin) if more else uplink_bps * (1 + self.margin)
