"""The attacks on labels by name. Adding one: its file, its line here, its row in a tests' table."""

from __future__ import annotations

from splitdeploy.attacks.label_probes.base import LabelAttack
from splitdeploy.attacks.label_probes.clusters import Clusters, NamedClusters
from splitdeploy.attacks.label_probes.last_layers import LastLayers
from splitdeploy.attacks.label_probes.linear import LinearProbe, LinearProbeByAnswers
from splitdeploy.attacks.label_probes.nearest_mean import NearestMean
from splitdeploy.attacks.named import Registry, described

_ATTACKS: Registry[LabelAttack] = Registry(
    "attack on labels", "(with --return-at; without it pictures are attacked)"
)
find_label_attack = _ATTACKS.find

ORDER: tuple[type[LabelAttack], ...] = (
    LastLayers, LinearProbe, NearestMean, NamedClusters, LinearProbeByAnswers, Clusters,
)  # fmt: skip
"""From those who know most to those who know least; the order of reports."""

for _member in ORDER:
    _ATTACKS.register(_member)


def label_attacks_table() -> list[dict[str, str]]:
    """What there is: for each attack its name, presets, threat model, cost and paper."""
    return described(ORDER)
