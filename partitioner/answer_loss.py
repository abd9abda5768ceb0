"""How far the answers of a changed model are from those of the one that it was made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from splitdeploy.attacks.intervals import wilson95
from splitdeploy.edge_runtime.session import Array


@dataclass(frozen=True)
class AnswerLoss:
    """What a change costs, measured on pictures.

    Attributes:
        images: How many pictures.
        pictures: Where they come from, in words.
        aside: Whether the change was calibrated on others.
        top1_agreement: The share with the same first class; None where results are no classes.
        top1_agreement_ci95: Its 95 % interval.
        max_rel_error: The largest difference of a result over the results' largest magnitude.
    """

    images: int
    pictures: str
    aside: bool
    top1_agreement: float | None
    top1_agreement_ci95: tuple[float, float] | None
    max_rel_error: float

    def parts(self) -> list[str]:
        """What there is to tell, a phrase each."""
        phrases = [f"largest error {self.max_rel_error:.1e} of the largest result"]
        if self.top1_agreement is not None and self.top1_agreement_ci95 is not None:
            low, high = (100 * end for end in self.top1_agreement_ci95)
            share = 100 * self.top1_agreement
            phrases.insert(0, f"{share:.1f} % [{low:.1f}, {high:.1f}] same class")
        return phrases


def same_class(before: Array, after: Array) -> tuple[float | None, tuple[float, float] | None]:
    """How often two models see the same first class.

    Args:
        before: Results of one, the batch first.
        after: Those of the other.

    Returns:
        The share and its 95 % interval; None for both where results are no classes ``[n, k]``.
    """
    if before.ndim != 2:
        return None, None
    hits = int((before.argmax(1) == after.argmax(1)).sum())
    return hits / len(before), wilson95(hits, len(before))


def relative_error(before: Array, after: Array) -> float:
    """The largest difference over the largest magnitude; NaN where either is not finite."""
    scale = float(np.abs(before).max()) or 1.0
    return float(np.abs(before - after).max()) / scale
