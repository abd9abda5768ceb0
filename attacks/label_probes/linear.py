"""A linear probe: what a linear map reads off the features, learnt from the attacker's pictures.

Alain and Bengio ("Understanding intermediate layers using linear classifier probes", 2016). Of a
classifier that is cut before its last layer this is the very form of what was cut off, so that he
learns it anew, from few pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from splitdeploy.attacks.label_probes.base import WITH_LABELS, Guess, LabelAttack
from splitdeploy.attacks.label_probes.held_out import held_out, own_pictures, told_missing
from splitdeploy.attacks.label_probes.softmax import Softmax, fit_softmax
from splitdeploy.attacks.label_probes.target import LabelTarget, Views
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.profiles.errors import AttackError

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""λ, from the strongest on; for points of norm one."""
_UNCHOSEN = 1e-3
"""λ where nothing can be put aside to choose one by."""


class LinearProbe(LabelAttack):
    """Multinomial logistic regression on labelled pictures of the attacker's own.

    View and penalty are chosen by the cross entropy on a quarter of his own pictures; then all of
    them are fitted.

    Args:
        penalties: To choose from, from the strongest on.

    Raises:
        AttackError: There is no penalty, one is not positive, or they do not fall.
    """

    name = "linear-probe"
    presets: ClassVar = {"default": {}}
    threat: ClassVar[ThreatModel] = WITH_LABELS
    cost: ClassVar[str] = "convex fits: seconds, minutes where classes are many"
    paper: ClassVar[str] = "Alain, Bengio: linear classifier probes, 2016"
    learns: ClassVar[bool] = True

    def __init__(self, penalties: Sequence[float] = PENALTIES) -> None:
        falling = all(a > b for a, b in zip(penalties, penalties[1:], strict=False))
        if not penalties or not falling or not penalties[-1] > 0:
            raise AttackError(f"expected falling penalties above zero, got {list(penalties)}")
        self.penalties = tuple(penalties)

    def _run(self, target: LabelTarget) -> Guess:
        own, labels = own_pictures(target)
        generator = torch.Generator().manual_seed(self.seed)
        view, penalty, chosen = self._chosen(own, labels, generator)
        kept = [p for p in self.penalties if p > penalty]
        probe = fit_softmax(own[view], labels, [*kept, penalty])[-1]
        notes = told_missing(labels, target.classes)
        if not chosen:
            notes = (*notes, "no class with two pictures: the penalty is not chosen by any")
        return Guess(
            probe.predict(target.features[view]), own_pictures=len(labels), view=view,
            penalty=penalty, notes=notes,
        )  # fmt: skip

    def _chosen(
        self, own: Views, labels: Tensor, generator: torch.Generator
    ) -> tuple[str, float, bool]:
        """View and penalty, and whether his own pictures chose them."""
        fitted, aside = held_out(labels, generator)
        if not len(aside):
            return next(iter(own)), _UNCHOSEN, False
        tried: list[tuple[float, str, Softmax]] = [
            (probe.loss(points[aside], labels[aside]), view, probe)
            for view, points in own.items()
            for probe in fit_softmax(points[fitted], labels[fitted], self.penalties)
        ]
        _, view, probe = min(tried, key=lambda one: one[0])
        return view, probe.penalty, True


class LinearProbeByAnswers(LinearProbe):
    """The same without labels: the attacker holds a device, and reads off what it answers."""

    name = "linear-probe-answers"
    threat: ClassVar[ThreatModel] = ThreatModel(
        weights=False, architecture=False, auxiliary_data=True, queries=True, tail=True,
        answers=True,
    )  # fmt: skip
