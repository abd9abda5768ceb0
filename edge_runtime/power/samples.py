"""Joules out of samples of power: the integral, its parts, and when there is none."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_SAMPLES = 20
"""Samples that a window must hold, and readings that its sensor must have made in it: two for each
of the blocks that the standard error is taken over."""

BLOCKS = 10


@dataclass(frozen=True)
class Trace:
    """Power over time.

    Attributes:
        times_s: When, ascending.
        power_w: What was drawn.
    """

    times_s: tuple[float, ...]
    power_w: tuple[float, ...]

    def inside(self, start_s: float, end_s: float) -> int:
        """How many samples lie in a window."""
        return bisect_right(self.times_s, end_s) - bisect_left(self.times_s, start_s)

    def at(self, time_s: float) -> float:
        """The power at a moment: on the line between two samples, or that of the nearest end."""
        after = bisect_left(self.times_s, time_s)
        if after == 0:
            return self.power_w[0]
        if after == len(self.times_s):
            return self.power_w[-1]
        start_s, end_s = self.times_s[after - 1], self.times_s[after]
        low, high = self.power_w[after - 1], self.power_w[after]
        return low + (high - low) * (time_s - start_s) / (end_s - start_s)

    def joules(self, start_s: float, end_s: float) -> float:
        """The integral over a window, by trapezoids between the real times of the samples.

        Args:
            start_s: Where the window begins.
            end_s: Where it ends.

        Returns:
            The energy; power at the window's ends is interpolated.
        """
        first = bisect_right(self.times_s, start_s)
        last = bisect_left(self.times_s, end_s)
        times = [start_s, *self.times_s[first:last], end_s]
        power = [self.at(start_s), *self.power_w[first:last], self.at(end_s)]
        return math.fsum(
            (times[i + 1] - times[i]) * (power[i + 1] + power[i]) / 2 for i in range(len(times) - 1)
        )


def trace_of(samples: Sequence[tuple[float, float]]) -> Trace:
    """A trace out of samples.

    Args:
        samples: Times in seconds and watts, in any order; of samples with one time the first
            counts, since a sensor that has nothing new repeats what it said.

    Returns:
        The trace.
    """
    once: dict[float, float] = {}
    for time_s, power_w in samples:
        once.setdefault(time_s, power_w)
    ordered = sorted(once.items())
    return Trace(tuple(t for t, _ in ordered), tuple(p for _, p in ordered))


def too_few(trace: Trace, start_s: float, end_s: float, interval_s: float | None) -> str | None:
    """Whether a window holds too little to be integrated.

    Args:
        trace: The samples.
        start_s: Where the window begins.
        end_s: Where it ends.
        interval_s: How often the sensor has a new value; None where that is not known.

    Returns:
        What is wrong, for a message; None where there is enough.
    """
    window_s, count = end_s - start_s, trace.inside(start_s, end_s)
    if interval_s is not None and window_s > 0:
        count = min(count, math.floor(window_s / interval_s) + 1)
    if count >= LEAST_SAMPLES:
        return None
    return (
        f"expected {LEAST_SAMPLES} samples of the power or more in the window, got {count} in "
        f"{window_s:.3g} s: measure for longer"
    )


def block_means(trace: Trace, start_s: float, end_s: float) -> list[float]:
    """Mean power of the equal parts of a window.

    Args:
        trace: The samples.
        start_s: Where the window begins.
        end_s: Where it ends.

    Returns:
        Watts, of ``BLOCKS`` parts.
    """
    step_s = (end_s - start_s) / BLOCKS
    edges = [start_s + step_s * place for place in range(BLOCKS)] + [end_s]
    return [trace.joules(a, b) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of values that are taken as independent.

    Args:
        values: Two or more.

    Returns:
        Their standard deviation over the root of their number.
    """
    return statistics.stdev(values) / math.sqrt(len(values))
