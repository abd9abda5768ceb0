"""What an attacker on labels may have: the features that the cloud computes, and what else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from splitdeploy.attacks.split_learning.parts import check_labels
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.profiles.errors import AttackError

Views = Mapping[str, Tensor]
"""Features ``[n, k]`` of some pictures, named as in `splitdeploy.attacks.label_probes.views`."""


@dataclass(frozen=True)
class LabelTarget:
    """Features at a second cut, and everything that some attacker may know besides.

    The true labels and the model's answers are not in here:
    `splitdeploy.attacks.label_probes.judging` judges by them afterwards.

    Attributes:
        features: Of the victim's pictures, as the cloud computes them.
        classes: How many the model tells apart.
        own: The same views of the attacker's own pictures: he sent them through the head, as who
            holds a device can, and through the layers that he runs.
        own_labels: ``[m]`` int64: the classes of his own pictures.
        own_answers: ``[m]`` int64: what the whole system answers to them.
        finished: ``[n]`` int64: what the last layers make of the features that the cloud has.
        withheld: Tensors that the last layers read and the cloud never has; then there is nothing
            finished.

    Raises:
        AttackError: There are no features, they are not finite, or something does not fit them.
    """

    features: Views
    classes: int
    own: Views | None = None
    own_labels: Tensor | None = None
    own_answers: Tensor | None = None
    finished: Tensor | None = None
    withheld: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_views("the victim's pictures", self.features)
        if self.own is not None:
            _check_views("the attacker's pictures", self.own)
            shapes = [
                {k: v.shape[1] for k, v in held.items()} for held in (self.features, self.own)
            ]
            if shapes[0] != shapes[1]:
                raise AttackError(
                    "expected the attacker's features in the views of the victim's, "
                    f"{shapes[0]}, got {shapes[1]}"
                )
        for teacher in (self.own_labels, self.own_answers):
            if teacher is None:
                continue
            count = 0 if self.own is None else _count(self.own)
            if teacher.shape != (count,):
                raise AttackError(
                    f"expected a class for each of the attacker's {count} pictures, got "
                    f"{list(teacher.shape)}"
                )
            check_labels(teacher, self.classes)

    @property
    def pictures(self) -> int:
        """How many of the victim's pictures there are."""
        return _count(self.features)

    def granted(self, threat: ThreatModel) -> LabelTarget:
        """What an attacker with this knowledge may use; all else is taken away."""
        own = self.own if threat.auxiliary_data else None
        return replace(
            self,
            own=own,
            own_labels=self.own_labels if own is not None and threat.auxiliary_labels else None,
            own_answers=self.own_answers if own is not None and threat.answers else None,
            finished=self.finished if threat.last_part else None,
        )

    def with_own(self, rows: Tensor) -> LabelTarget:
        """The same with some of the attacker's own pictures alone.

        Args:
            rows: Which, int64.

        Returns:
            The target.
        """
        labels, answers = self.own_labels, self.own_answers
        return replace(
            self,
            own=None if self.own is None else {name: v[rows] for name, v in self.own.items()},
            own_labels=None if labels is None else labels[rows],
            own_answers=None if answers is None else answers[rows],
        )

    def lacks(self, threat: ThreatModel) -> list[str]:
        """What an attacker with this knowledge would have, and this target does not hold.

        Args:
            threat: What the attacker knows.

        Returns:
            In words, each with what to do; empty where nothing is missing.
        """
        return [
            words
            for missing, words in (
                (
                    threat.auxiliary_data and self.own is None,
                    "pictures of the attacker's own (give a folder with --aux-images)",
                ),
                (
                    threat.auxiliary_labels and self.own is not None and self.own_labels is None,
                    "labels of the attacker's own pictures (one sub-folder a class, or "
                    "--aux-labels)",
                ),
                (
                    threat.answers and self.own is not None and self.own_answers is None,
                    "the system's answers to the attacker's own pictures",
                ),
                (
                    threat.last_part and self.finished is None,
                    f"what the edge holds back ({', '.join(self.withheld)}), which the last layers "
                    "read"
                    if self.withheld
                    else "the last layers",
                ),
            )
            if missing
        ]


def _count(views: Views) -> int:
    return len(next(iter(views.values())))


def _check_views(whose: str, views: Views) -> None:
    shapes = {name: list(view.shape) for name, view in views.items()}
    if not views or len({len(v) for v in views.values()}) != 1 or not _count(views):
        raise AttackError(
            f"expected features [n, k] of {whose}, at least one picture and as many in each view, "
            f"got {shapes}"
        )
    if not all(bool(torch.isfinite(view).all()) for view in views.values()):
        raise AttackError(f"expected finite features of {whose}, got NaN or infinity")
