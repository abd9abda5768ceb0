"""Groups without any label, and the names that a few labelled pictures give them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from splitdeploy.attacks.label_probes.base import WITH_LABELS, Guess, LabelAttack
from splitdeploy.attacks.label_probes.held_out import own_pictures, told_missing
from splitdeploy.attacks.label_probes.target import LabelTarget
from splitdeploy.attacks.split_learning.label_accuracy import named
from splitdeploy.attacks.split_learning.label_inference import feature_groups
from splitdeploy.attacks.threat import ThreatModel

_PAPER = "Dhillon, Modha: spherical k-means, 2001"


class Clusters(LabelAttack):
    """k-means on the directions of the victim's own features, from their centre, k the classes.

    It tells which pictures are of one class, and not which class that is.
    """

    name = "clusters"
    presets: ClassVar = {"default": {}}
    threat: ClassVar[ThreatModel] = ThreatModel(weights=False, architecture=False, tail=True)
    cost: ClassVar[str] = "seconds"
    paper: ClassVar[str] = _PAPER

    def _run(self, target: LabelTarget) -> Guess:
        view, points = next(iter(target.features.items()))
        return Guess(_grouped(points, target.classes, self.seed), up_to_names=True, view=view)


class NamedClusters(LabelAttack):
    """The same groups, of the victim's pictures and his own together, named by his own.

    The names are those that fit his labels best, each once: one picture of a class can be enough.
    The view is the one in which they fit best.
    """

    name = "named-clusters"
    presets: ClassVar = {"default": {}}
    threat: ClassVar[ThreatModel] = WITH_LABELS
    cost: ClassVar[str] = "seconds"
    paper: ClassVar[str] = _PAPER
    learns: ClassVar[bool] = True

    def _run(self, target: LabelTarget) -> Guess:
        own, labels = own_pictures(target)
        found: dict[str, Tensor] = {}
        for view, points in target.features.items():
            groups = _grouped(torch.cat([points, own[view]]), target.classes, self.seed)
            rows = torch.arange(len(points), len(groups))
            found[view] = named(groups, rows, labels, target.classes)
        right = {view: int((one[-len(labels) :] == labels).sum()) for view, one in found.items()}
        view = max(right, key=right.__getitem__)
        classes, notes = found[view][: target.pictures], told_missing(labels, target.classes)
        return Guess(classes, own_pictures=len(labels), view=view, notes=notes)


def _grouped(points: Tensor, classes: int, seed: int) -> Tensor:
    return feature_groups(points - points.mean(0), classes, seed)
