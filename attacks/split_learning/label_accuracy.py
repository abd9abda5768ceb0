"""How many labels an inference got right, and whether that says anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from splitdeploy.attacks.intervals import wilson95
from splitdeploy.attacks.split_learning.parts import check_labels
from splitdeploy.profiles.errors import AttackError

_SHUFFLES = 200


@dataclass(frozen=True)
class LabelAccuracy:
    """The share of labels inferred, beside what comes for nothing.

    Attributes:
        accuracy: The share that is right.
        ci95: Wilson's interval for it, at 95 %.
        chance: What guessing reaches: the share of the most frequent class, or one in the number
            of classes where that is more; for groups, also what shuffled groups reach.
        samples: How many.
        named_by: Where the names of the classes came from: ``attack``, or ``best match``, which
            uses the true labels and says only how well the *grouping* was found.
    """

    accuracy: float
    ci95: tuple[float, float]
    chance: float
    samples: int
    named_by: str = "attack"

    @property
    def beats_chance(self) -> bool:
        """Whether the whole interval lies above chance."""
        return self.ci95[0] > self.chance

    def __str__(self) -> str:
        """In a line: ``100.0 % of 100 labels (96.3 to 100.0), chance 14.0 %``."""
        low, high = (100 * bound for bound in self.ci95)
        named = ", classes named by best match" if self.named_by == "best match" else ""
        return (
            f"{100 * self.accuracy:.1f} % of {self.samples} labels ({low:.1f} to {high:.1f}), "
            f"chance {100 * self.chance:.1f} %{named}"
        )


def label_accuracy(inferred: Tensor, labels: Tensor, classes: int) -> LabelAccuracy:
    """Judge inferred labels.

    Args:
        inferred: ``[n]`` int64 on [0, classes).
        labels: ``[n]`` int64, the truth.
        classes: How many there are.

    Returns:
        The record.
    """
    ours, truth = _checked(inferred, labels, classes)
    return _record(int((ours == truth).sum()), len(truth), _majority(truth, classes), "attack")


def grouping_accuracy(groups: Tensor, labels: Tensor, classes: int) -> LabelAccuracy:
    """Judge groups whose names the attack does not claim to know.

    The names are those that fit the true labels best (Hungarian method), which is a use of the
    truth that flatters small samples; ``chance`` is what shuffled groups reach by the same.

    Args:
        groups: ``[n]`` int64 on [0, classes).
        labels: ``[n]`` int64, the truth.
        classes: How many there are.

    Returns:
        The record, with ``named_by="best match"``.
    """
    ours, truth = _checked(groups, labels, classes)
    generator = np.random.default_rng(0)
    shuffled = [_best_match(generator.permutation(ours), truth, classes) for _ in range(_SHUFFLES)]
    chance = max(_majority(truth, classes), float(np.mean(shuffled)) / len(truth))
    return _record(_best_match(ours, truth, classes), len(truth), chance, "best match")


def named(groups: Tensor, rows: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Give groups their classes' names by a few samples whose labels the attacker knows.

    A server that has the pictures (set-up b) looks at one of each group.

    Args:
        groups: ``[n]`` int64 on [0, classes).
        rows: ``[m]`` int64: which samples he knows.
        labels: ``[m]`` int64: their labels.
        classes: How many there are.

    Returns:
        ``[n]`` int64: inferred labels, each group one class. Groups without a known sample get the
        names that are left over.

    Raises:
        AttackError: There is not a label for each known sample.
    """
    if rows.shape != labels.shape or rows.dim() != 1:
        raise AttackError(
            f"expected a label for each known sample, got {list(rows.shape)} and "
            f"{list(labels.shape)}"
        )
    check_labels(labels, classes)
    known = groups[rows.to(groups.device)].cpu().numpy()
    match = _assignment(known, labels.cpu().numpy(), classes)
    return torch.as_tensor(match, device=groups.device)[groups]


def _checked(
    inferred: Tensor, labels: Tensor, classes: int
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    if inferred.shape != labels.shape or labels.dim() != 1 or not len(labels):
        raise AttackError(
            f"expected as many inferred labels as true ones, at least one, got "
            f"{list(inferred.shape)} and {list(labels.shape)}"
        )
    check_labels(inferred, classes)
    check_labels(labels, classes)
    return inferred.cpu().numpy(), labels.cpu().numpy()


def _record(right: int, samples: int, chance: float, named_by: str) -> LabelAccuracy:
    return LabelAccuracy(right / samples, wilson95(right, samples), chance, samples, named_by)


def _majority(labels: np.ndarray[tuple[int], np.dtype[np.int64]], classes: int) -> float:
    return max(float(np.bincount(labels).max()) / len(labels), 1 / classes)


def _best_match(
    groups: np.ndarray[tuple[int], np.dtype[np.int64]],
    labels: np.ndarray[tuple[int], np.dtype[np.int64]],
    classes: int,
) -> int:
    return int((_assignment(groups, labels, classes)[groups] == labels).sum())


def _assignment(
    groups: np.ndarray[tuple[int], np.dtype[np.int64]],
    labels: np.ndarray[tuple[int], np.dtype[np.int64]],
    classes: int,
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """For each group the class whose name fits best, each class once."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (groups, labels), 1)
    _, match = linear_sum_assignment(-counts)
    return np.asarray(match, dtype=np.int64)
