"""The attacker's own pictures: all, some to fit on and some to choose by, a few of each class."""

from __future__ import annotations

import torch
from torch import Tensor

from splitdeploy.attacks.label_probes.target import LabelTarget, Views
from splitdeploy.profiles.errors import AttackError

_SHARE = 4
"""Of the pictures of a class, every so many is put aside."""


def own_pictures(target: LabelTarget) -> tuple[Views, Tensor]:
    """What an attacker learns from.

    Args:
        target: As his threat model grants it.

    Returns:
        Features of his own pictures, and a class for each: its label, or else what the system
        answers.

    Raises:
        AttackError: He has none, or all of one class.
    """
    labels = target.own_labels if target.own_labels is not None else target.own_answers
    if target.own is None or labels is None:
        raise AttackError("expected pictures of the attacker's own with classes, got none")
    if len(present(labels)) < 2:
        raise AttackError(
            f"expected pictures of the attacker's own of two classes or more, got {len(labels)} of "
            f"class {int(labels[0])}: there is nothing to tell apart"
        )
    return target.own, labels


def present(labels: Tensor) -> Tensor:
    """The classes that there are, in order; ``[c]`` int64."""
    return torch.bincount(labels).nonzero().flatten()


def told_missing(labels: Tensor, classes: int) -> tuple[str, ...]:
    """Which classes an attacker cannot name because he has no picture of them, as a note.

    Args:
        labels: ``[m]`` int64: what he learns from.
        classes: How many the model tells apart.

    Returns:
        The note; empty where he has pictures of all.
    """
    held = len(present(labels))
    if held == classes:
        return ()
    return (f"his pictures are of {held} of {classes} classes: the others he cannot name",)


def held_out(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows to fit on, and rows put aside: a quarter of each class that has two pictures or more.

    Args:
        labels: ``[m]`` int64.
        generator: Of the order.

    Returns:
        Both, int64; nothing is put aside where no class has two.
    """
    fitted, aside = [], []
    for rows in _by_class(labels, generator):
        kept = max(1, len(rows) // _SHARE) if len(rows) > 1 else 0
        aside.append(rows[:kept])
        fitted.append(rows[kept:])
    return torch.cat(fitted), torch.cat(aside)


def some_of_each(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Rows with so many pictures of each class.

    Args:
        labels: ``[m]`` int64, each class at least so often.
        count: Of a class.
        generator: Of the choice.

    Returns:
        Rows, int64.
    """
    return torch.cat([rows[:count] for rows in _by_class(labels, generator)])


def _by_class(labels: Tensor, generator: torch.Generator) -> list[Tensor]:
    """The rows of each class, shuffled."""
    found = []
    for label in present(labels):
        rows = torch.nonzero(labels == label).flatten()
        found.append(rows[torch.randperm(len(rows), generator=generator)])
    return found
