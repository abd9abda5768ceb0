"""How many labelled pictures an attacker needs: the same attack with fewer of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splitdeploy.attacks.label_probes.base import LabelAttack
from splitdeploy.attacks.label_probes.held_out import own_pictures, present, some_of_each
from splitdeploy.attacks.label_probes.target import LabelTarget

COUNTS = (1, 2, 5, 10, 20, 50, 100)
"""Pictures of each class."""
DRAWS = 3
"""How often they are drawn anew."""


@dataclass(frozen=True)
class FewShot:
    """An attack with so many pictures of each class.

    Attributes:
        per_class: How many of each.
        pictures: How many in all.
        accuracies: For each draw the share of the truth that it told: of labels where they are
            known, else of answers.
    """

    per_class: int
    pictures: int
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the draws."""
        return sum(self.accuracies) / len(self.accuracies)


def few_shot(
    attack: LabelAttack,
    target: LabelTarget,
    truth: Tensor,
    *,
    counts: Sequence[int] = COUNTS,
    draws: int = DRAWS,
) -> tuple[FewShot, ...]:
    """The attack by the number of the attacker's pictures of each class.

    Args:
        attack: One that learns.
        target: With the attacker's pictures.
        truth: ``[n]`` int64, to count by.
        counts: Pictures of each class; those that the rarest of his classes has are taken.
        draws: How often they are drawn anew, by the attack's seed.

    Returns:
        One for each count.
    """
    _, labels = own_pictures(target.granted(attack.threat))
    rarest = int(torch.bincount(labels)[present(labels)].min())
    generator = torch.Generator().manual_seed(attack.seed)
    found = []
    for count in counts:
        if count > rarest:
            break
        drawn = [some_of_each(labels, count, generator) for _ in range(draws)]
        right = [(attack(target.with_own(rows)).classes == truth).double().mean() for rows in drawn]
        found.append(FewShot(count, len(drawn[0]), tuple(float(share) for share in right)))
    return tuple(found)
