"""The cheapest probe: the class whose mean lies nearest."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from splitdeploy.attacks.label_probes.base import WITH_LABELS, Guess, LabelAttack
from splitdeploy.attacks.label_probes.held_out import held_out, own_pictures, present, told_missing
from splitdeploy.attacks.label_probes.target import LabelTarget
from splitdeploy.attacks.threat import ThreatModel


class NearestMean(LabelAttack):
    """The class mean of the attacker's pictures that is nearest by Euclidean distance.

    The view is chosen by the accuracy on a quarter of his own pictures.
    """

    name = "nearest-mean"
    presets: ClassVar = {"default": {}}
    threat: ClassVar[ThreatModel] = WITH_LABELS
    cost: ClassVar[str] = "a mean for each class"
    paper: ClassVar[str] = "Mensink, Verbeek, Perronnin, Csurka: nearest class mean, TPAMI 2013"
    learns: ClassVar[bool] = True

    def _run(self, target: LabelTarget) -> Guess:
        own, labels = own_pictures(target)
        fitted, aside = held_out(labels, torch.Generator().manual_seed(self.seed))
        view = next(iter(own))
        if len(aside):
            right = {
                name: int((_nearest(v[fitted], labels[fitted], v[aside]) == labels[aside]).sum())
                for name, v in own.items()
            }
            view = max(right, key=right.__getitem__)
        classes = _nearest(own[view], labels, target.features[view])
        notes = told_missing(labels, target.classes)
        return Guess(classes, own_pictures=len(labels), view=view, notes=notes)


def _nearest(points: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
    classes = present(labels)
    means = torch.stack([points[labels == label].double().mean(0) for label in classes])
    return classes[torch.cdist(asked.double(), means).argmin(1)]
