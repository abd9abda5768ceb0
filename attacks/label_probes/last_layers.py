"""Who has the whole model runs its last layers himself."""

from __future__ import annotations

from typing import ClassVar

from splitdeploy.attacks.label_probes.base import Guess, LabelAttack
from splitdeploy.attacks.label_probes.target import LabelTarget
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.profiles.errors import AttackError


class LastLayers(LabelAttack):
    """No attack to speak of: what lies behind the second cut, run on what lies before it."""

    name = "last-layers"
    presets: ClassVar = {"default": {}}
    threat: ClassVar[ThreatModel] = ThreatModel(weights=True, tail=True, last_part=True)
    cost: ClassVar[str] = "one pass of the last layers"
    paper: ClassVar[str] = "none: whoever has the weights, as of any published model"

    def _run(self, target: LabelTarget) -> Guess:
        if target.finished is None:
            raise AttackError("expected what the last layers answer, got nothing")
        note = "agreement is 100 % by construction, but for the rounding of what is sent back"
        return Guess(target.finished, notes=(note,))
