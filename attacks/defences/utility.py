"""What a defence costs in accuracy, with intervals: before, after, and the difference in pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from splitdeploy.attacks.defences.base import Defended, Victim
from splitdeploy.attacks.intervals import Z95, wilson95
from splitdeploy.profiles.errors import DefenceError

_CHUNK = 128


@dataclass(frozen=True)
class Share:
    """A share of pictures.

    Attributes:
        value: On [0, 1].
        ci95: A 95 % interval for pictures like these.
    """

    value: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Utility:
    """How often the answers are right, without and with a defence, on the same pictures.

    Attributes:
        measure: ``accuracy``: against labels; ``agreement``: with the undefended model's answer.
        before: Without the defence; an agreement is then 1 by definition.
        after: With it, over fresh noise.
        change: After less before.
        change_ci95: A 95 % interval for it, from the pairs.
        images: How many pictures.
        draws: How often each was sent, with fresh noise.
    """

    measure: Literal["accuracy", "agreement"]
    before: Share
    after: Share
    change: float
    change_ci95: tuple[float, float]
    images: int
    draws: int


@torch.no_grad()
def utility(
    defended: Defended,
    victim: Victim,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    draws: int = 3,
    seed: int = 0,
) -> Utility:
    """Measure what a defence costs in right answers.

    Args:
        defended: The model with the defence.
        victim: The model without it; its own pictures are not used.
        images: ``[n, c, h, w]`` on [0, 1]; none of those that the defence was set up by.
        labels: ``[n]`` int64; None for agreement with the undefended model.
        draws: How often each picture is sent, with fresh noise. It narrows what the noise adds to
            the spread; the intervals count each picture once all the same, and so are wide enough.
        seed: Of the noise.

    Returns:
        Shares and intervals.

    Raises:
        DefenceError: There are no pictures, not as many labels, no draws, or no classes.
    """
    if len(images) == 0 or draws < 1 or (labels is not None and len(labels) != len(images)):
        raise DefenceError(
            f"expected pictures, as many labels and at least 1 draw, got {len(images)}, "
            f"{'none' if labels is None else len(labels)} and {draws}"
        )
    generator = torch.Generator().manual_seed(seed)
    plain = torch.cat([_classes(victim.tail(*victim.head(part))) for part in _parts(images)])
    wanted = plain if labels is None else labels
    right = plain == wanted
    gained = lost = correct = 0.0
    for _ in range(draws):
        sent = (defended.tail(*defended.send(part, generator)) for part in _parts(images))
        now = torch.cat([_classes(scores) for scores in sent]) == wanted
        correct += float(now.sum()) / draws
        gained += float((now & ~right).sum()) / draws
        lost += float((right & ~now).sum()) / draws
    n = len(images)
    before = float(right.sum())
    return Utility(
        measure="agreement" if labels is None else "accuracy",
        before=Share(1.0, (1.0, 1.0)) if labels is None else Share(before / n, wilson95(before, n)),
        after=Share(correct / n, wilson95(correct, n)),
        change=(gained - lost) / n,
        change_ci95=paired_interval(gained, lost, n),
        images=n,
        draws=draws,
    )


def paired_interval(gained: float, lost: float, pairs: int) -> tuple[float, float]:
    """Agresti and Min's interval (Stat. Med. 2005) for a difference of paired shares, at 95 %.

    Half a pair is added to each of the four cells; so it has a width where no pair changed.

    Args:
        gained: Pairs that were wrong and are right.
        lost: Pairs that were right and are wrong.
        pairs: All of them.

    Returns:
        The interval within [-1, 1].
    """
    n, b, c = pairs + 2.0, gained + 0.5, lost + 0.5
    middle = (b - c) / n
    half = Z95 * math.sqrt((b + c) - (b - c) ** 2 / n) / n
    return max(-1.0, middle - half), min(1.0, middle + half)


def _parts(images: Tensor) -> Iterator[Tensor]:
    return iter(torch.split(images, _CHUNK))


def _classes(scores: Tensor) -> Tensor:
    if scores.dim() != 2 or scores.shape[1] < 2:
        raise DefenceError(
            f"expected a model that answers [n, classes], got {list(scores.shape)}: what a defence "
            "costs is told for classifiers alone"
        )
    return scores.argmax(dim=1)
