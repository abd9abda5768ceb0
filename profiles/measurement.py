"""Figures with their source, and the verdict on how far repeated timings can be trusted."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Source = Literal["measured", "simulated", "predicted", "published"]
"""Where a figure comes from. A report never mixes them silently."""

Stability = Literal["stable", "unstable", "too few samples", "not repeated"]


@dataclass(frozen=True)
class Measurement:
    """A time, as its distribution and its source.

    Attributes:
        median: In seconds.
        p95: The 95th percentile, in seconds.
        spread: The interquartile range over the median; 0 where nothing was repeated.
        count: How many repetitions stand behind it; 0 where it was not measured.
        stability: The verdict on the repetitions.
        source: Where the figure comes from.
    """

    median: float
    p95: float
    spread: float
    count: int
    stability: Stability
    source: Source

    @classmethod
    def from_samples(cls, samples_s: Sequence[float], source: Source = "measured") -> Measurement:
        """Summarise repeated timings.

        Unstable is what pyperf calls so: a standard deviation of at least 10 % of the mean, or
        extremes that lie 50 % away from it; below five repetitions there is no verdict.

        Args:
            samples_s: Times in seconds, at least one.
            source: Where they come from.

        Returns:
            Their median, 95th percentile, spread and verdict.

        Raises:
            ValueError: There is no sample.
        """
        if not samples_s:
            raise ValueError("expected at least one timing, got none")
        ordered = sorted(samples_s)
        median = statistics.median(ordered)
        interquartile = _quantile(ordered, 0.75) - _quantile(ordered, 0.25)
        return cls(
            median=median,
            p95=_quantile(ordered, 0.95),
            spread=interquartile / median if median else 0.0,
            count=len(ordered),
            stability=_verdict(ordered),
            source=source,
        )

    @classmethod
    def single(cls, value_s: float, source: Source, p95_s: float | None = None) -> Measurement:
        """A figure that was computed, not repeated."""
        return cls(value_s, value_s if p95_s is None else p95_s, 0.0, 0, "not repeated", source)


def _quantile(ordered: Sequence[float], q: float) -> float:
    """Linear interpolation between the order statistics, as NumPy's default."""
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def _verdict(ordered: Sequence[float]) -> Stability:
    if len(ordered) < 5:
        return "too few samples"
    mean = statistics.fmean(ordered)
    if statistics.stdev(ordered) >= 0.1 * mean:
        return "unstable"
    return "unstable" if ordered[0] < 0.5 * mean or ordered[-1] > 1.5 * mean else "stable"
