"""Intervals of 95 %: of a mean over pictures, and of a share of pictures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Z95 = 1.959963984540054
"""The 97.5th percentile of the normal distribution."""


def student95(values: Tensor, low: float, high: float) -> tuple[float, float]:
    """For the mean over pictures like these, by Student's t, within the range of the figure.

    Args:
        values: One for each picture, ``[n]``.
        low: The least that the figure can be.
        high: The most.

    Returns:
        The interval; all of the range for a single picture, which says nothing of the others.
    """
    # Deciding anew from a report takes shares of this file alone, and starts in a moment.
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        return (low, high)
    mean, spread = float(values.mean()), float(values.std())
    half = float(stdtrit(n - 1, 0.975)) * spread / math.sqrt(n)
    return (max(low, mean - half), min(high, mean + half))


def wilson95(hits: float, n: int) -> tuple[float, float]:
    """For a share, after Wilson 1927: it has its level where all or none of a few pictures hit.

    Args:
        hits: How many pictures hit; a mean over draws need not be whole.
        n: Of how many; at least 1.

    Returns:
        The interval, on [0, 1].

    Raises:
        ValueError: There are no pictures, or more hits than pictures.
    """
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"expected 0 to n hits of at least 1 picture, got {hits} of {n}")
    share, weight = hits / n, Z95**2 / n
    middle = (share + weight / 2) / (1 + weight)
    half = Z95 * math.sqrt(share * (1 - share) / n + weight / (4 * n)) / (1 + weight)
    # At the ends the terms cancel but for rounding.
    low = 0.0 if hits == 0 else max(0.0, middle - half)
    return (low, 1.0 if hits == n else min(1.0, middle + half))
