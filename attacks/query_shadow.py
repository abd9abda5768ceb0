"""Queries instead of labels: a shadow of the head that sends what the head sends, then inverted.

He et al. 2019, "Model Inversion Attacks Against Collaborative Inference", Table 8: who may query
and knows the architecture fits a head of the same layers to pairs (x, f(x)) by mean squared error,
and then attacks it as if its weights were known.

- ``he2019``: their settings for shadows, for both parts.
- ``fast``, ours: errors relative to each tensor's energy, pictures varied, a one-cycle schedule;
  and a search that knows how far the shadow is off, from variants that it was not trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitdeploy.attacks.augment import NOTHING, Augmentation
from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.checkpoint import digest
from splitdeploy.attacks.inverse_training import Pictures, Recipe
from splitdeploy.attacks.noise_aware import NoiseAware
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.shadow import PUBLISHED_SEARCH
from splitdeploy.attacks.shadow_training import PUBLISHED, check_settings, fit_head
from splitdeploy.attacks.steps import Run
from splitdeploy.attacks.target import AttackTarget, TargetView
from splitdeploy.attacks.threat import ThreatModel

_TRAINING_SHARE = 0.7
_VARIED = Augmentation(mirror=True, shift=0.1, contrast=0.2, brightness=0.1)
_CHECKED = 32
"""Variants of pictures that tell how far the shadow is off."""


class QueryShadow(Attack):
    """A head of the known architecture, fitted to queries, and inverted.

    Args:
        variant: ``ours`` or ``he2019``.
        steps: Of training at most, in ours; ``he2019`` makes 50 passes over the pictures.
        batch: Pictures a step, in ours.
        learning_rate: The highest, in ours.
        passes: Of the search, in ours.
    """

    name = "query-shadow"
    threat = ThreatModel(weights=False, architecture=True, auxiliary_data=True, queries=True)
    cost = "minutes of training; then a search as noise-aware's"
    paper = "He, Zhang, Lee: Model Inversion Attacks Against Collaborative Inference, ACSAC 2019"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fast": {},
        "he2019": {"variant": "he2019"},
    }

    def __init__(
        self,
        variant: str = "ours",
        steps: int = 3000,
        batch: int = 32,
        learning_rate: float = 5e-3,
        passes: int = 400,
    ) -> None:
        check_settings(variant, steps, batch, learning_rate)
        self.variant = variant
        self.steps = steps
        self.batch = batch
        self.learning_rate = learning_rate
        self.passes = passes

    def _run(self, target: TargetView, run: Run) -> Tensor:
        published = self.variant == "he2019"
        own = target.auxiliary
        source = Pictures(
            own.images, NOTHING if published else _VARIED, shuffle=not published, seed=self.seed
        )
        training = run.part(_TRAINING_SHARE)
        shadow = self._shadow(target, source, training)
        part = run.part(1.0)
        seen = AttackTarget(target.observation, shadow, target.image_shape, target.bounds)
        if published:
            pixels = PUBLISHED_SEARCH.within(seen, part)
        else:
            sigma = _misfit(target, shadow, source)
            seen = AttackTarget(
                target.observation, shadow, target.image_shape, target.bounds, noise_sigma=sigma
            )
            pixels = NoiseAware(passes=self.passes, floor=1e-4).within(seen, part)
        run.converged = part.converged
        return pixels

    def _shadow(self, target: TargetView, source: Pictures, run: Run) -> PixelHead:
        published = self.variant == "he2019"
        head = target.fresh_head(self.seed)
        energies = [float(t.double().square().mean()) or 1.0 for t in target.observation]
        asked = torch.Generator().manual_seed(self.seed)

        def loss(sent: tuple[Tensor, ...], pixels: Tensor, rows: Tensor) -> Tensor:
            del rows
            seed = int(torch.randint(1 << 31, (), generator=asked, device="cpu"))
            pairs = zip(sent, target.query(pixels, seed), energies, strict=True)
            away = [
                (mine - theirs).square().mean() / (1.0 if published else energy)
                for mine, theirs, energy in pairs
            ]
            return torch.stack(away).sum()

        own = source.images
        recipe = PUBLISHED if published else Recipe(self.batch, self.learning_rate)
        told = f"{self!r} on {len(own)} pictures {digest([own[:64], *target.observation])}"
        fit_head(head, loss, source, recipe, None if published else self.steps, run, told)
        return head


@torch.no_grad()
def _misfit(target: TargetView, shadow: PixelHead, source: Pictures) -> tuple[Tensor, ...]:
    """Root mean square of what the shadow is off, channel by channel, on new variants."""
    pixels = source(0, _CHECKED, torch.Generator().manual_seed(1)).to(target.device)
    found = []
    for mine, theirs in zip(shadow(pixels), target.query(pixels, 1), strict=True):
        dims = (0, *range(2, mine.dim()))
        sigma = (mine - theirs).square().mean(dims, keepdim=True).sqrt()
        found.append(sigma.clamp_min(1e-12))
    return tuple(found)
