"""What an inverse network says, made to agree with the smashed data: white-box, with pictures.

A trained decoder knows what pictures look like and is blind to what it gets wrong; a search by
gradients sees that and knows little of pictures. Together, as a posterior's mode:

    x* = argmin_x  ½·‖(f(x) − z)/σ‖² + ½·(x − D(z))ᵀ C⁻¹ (x − D(z)),    C = Cov[x − D(f(x))]

with D the decoder and C the covariance of its errors, by radial frequency, on pictures of the
attacker's own that it was not trained on. Ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.inverse_attack import InverseAttack
from splitdeploy.attacks.noise_aware import NoiseAware
from splitdeploy.attacks.spectral import SpectralImage
from splitdeploy.attacks.steps import Run
from splitdeploy.attacks.target import AttackTarget, TargetView
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.profiles.errors import AttackError

_TRAINING_SHARE = 0.7
_LEAST_PICTURES = 8


class InverseRefined(Attack):
    """Train a decoder, measure its errors on pictures put aside, and search around what it says.

    Args:
        steps: Of training at most.
        width: Channels of the network where it is finest.
        passes: Of the search, at most.
        aside: The share of the attacker's pictures that measure errors; at most 64 of them.
    """

    name = "inverse-refined"
    threat = ThreatModel(weights=True, auxiliary_data=True)
    cost = "as inverse-network's, and up to 300 passes forward and back"
    paper = "ours; a decoder as He et al. 2019, a maximum a posteriori search around it"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fast": {},
        "thorough": {"steps": 20000, "width": 48, "passes": 2000},
    }

    def __init__(
        self, steps: int = 2000, width: int = 32, passes: int = 300, aside: float = 0.1
    ) -> None:
        if min(steps, width) < 1 or passes < 2 or not 0 < aside < 1:
            raise AttackError(
                "expected at least 1 step and channel, 2 passes, and a share between 0 and 1, got "
                f"{steps}, {width}, {passes} and {aside}"
            )
        self.steps = steps
        self.width = width
        self.passes = passes
        self.aside = aside

    def _run(self, target: TargetView, run: Run) -> Tensor:
        own = target.auxiliary
        if len(own) < _LEAST_PICTURES:
            raise AttackError(
                f"inverse-refined needs {_LEAST_PICTURES} pictures of the attacker's own or more, "
                f"to put some aside; got {len(own)}"
            )
        aside = min(64, max(2, round(self.aside * len(own))))
        held = own.pixels(slice(0, aside)).to(target.device)
        decoded = self._decoded(target, Auxiliary(own.images[aside:], own.kinship), held, run)
        centre = decoded[: target.images].clamp(*target.bounds)
        errors = held - decoded[target.images :].clamp(*target.bounds)
        image = SpectralImage(target.image_shape, device=target.device).around(centre, errors)
        last = run.part(1.0)
        found = NoiseAware(passes=self.passes).search(target, image, last)
        run.converged = last.converged
        return found

    def _decoded(self, target: TargetView, own: Auxiliary, held: Tensor, run: Run) -> Tensor:
        """What a decoder makes of the observation and, behind it, of pictures put aside."""
        sent = target.query(held, self.seed)
        joined = AttackTarget(
            tuple(torch.cat([a, b]) for a, b in zip(target.observation, sent, strict=True)),
            None,
            target.image_shape,
            target.bounds,
            query=target.query,
            auxiliary=own,
        )
        decoder = InverseAttack(steps=self.steps, width=self.width)
        decoder.seed = self.seed
        return decoder.within(joined, run.part(_TRAINING_SHARE))
