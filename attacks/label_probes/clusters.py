"""Groups without any label: which pictures are of one class, not which class that is."""

from __future__ import annotations

from typing import ClassVar

from splitdeploy.attacks.label_probes.base import Guess, LabelAttack
from splitdeploy.attacks.label_probes.target import LabelTarget
from splitdeploy.attacks.split_learning.label_inference import feature_groups
from splitdeploy.attacks.threat import ThreatModel


class Clusters(LabelAttack):
    """k-means on the directions of the victim's own features, from their centre, k the classes."""

    name = "clusters"
    presets: ClassVar = {"default": {}}
    threat: ClassVar[ThreatModel] = ThreatModel(weights=False, architecture=False, tail=True)
    cost: ClassVar[str] = "seconds"
    paper: ClassVar[str] = "Dhillon, Modha: spherical k-means, 2001"

    def _run(self, target: LabelTarget) -> Guess:
        view, points = next(iter(target.features.items()))
        groups = feature_groups(points - points.mean(0), target.classes, self.seed)
        return Guess(groups, up_to_names=True, view=view)
