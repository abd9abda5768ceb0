"""A shadow model: a head of the attacker's own, trained to fit the tail, and inverted in its stead.

He et al. 2019, "Model Inversion Attacks Against Collaborative Inference", section 6: without the
weights and without queries. The operator has the tail and labelled pictures of his own; he freezes
the tail, trains a head before it to classify them, and searches for the pictures that this head
would send the observation for.

- ``he2019``: cross-entropy alone; Adam with AMSGrad, 50 passes in batches of 32; then 500 steps of
  regularised maximum likelihood with learning rate 0.1 and λ = 2.
- ``fast``, ours: the shadow must also send what looks like the observation on average
  (`splitdeploy.attacks.statistics`), which the operator sees for nothing. The picture is the mean
  of two: the most probable one for a shadow that is off by so much, and what a linear decoder,
  fitted to the shadow in closed form, makes of the observation.

With ``shadow-other-net`` the attacker does not know the architecture and makes up a head.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.augment import NOTHING, Augmentation
from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.checkpoint import digest
from splitdeploy.attacks.inverse_training import Pictures, Recipe
from splitdeploy.attacks.leakage.noise import root_mean_square
from splitdeploy.attacks.linear_decoder import LinearDecoder
from splitdeploy.attacks.maps import as_map, from_map
from splitdeploy.attacks.noise_aware import NoiseAware
from splitdeploy.attacks.own_head import OwnHead
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.rmle import RmlePublished
from splitdeploy.attacks.shadow_training import PUBLISHED, check_settings, fit_head
from splitdeploy.attacks.statistics import Statistics
from splitdeploy.attacks.steps import Run
from splitdeploy.attacks.target import AttackTarget, TargetView
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.profiles.errors import AttackError

_HE2019 = "He, Zhang, Lee: Model Inversion Attacks Against Collaborative Inference, ACSAC 2019"

PUBLISHED_SEARCH = RmlePublished("code", steps=500, learning_rate=0.1, tv_weight=2.0)
"""Regularised maximum likelihood with the settings that their code has for shadows."""

_TRAINING_SHARE = 0.7
"""Of the time; the search has the rest."""

_MISFIT = 0.2
"""What the shadow is taken to be off, over the root mean square of each tensor: unknown without
queries; the shadows of LeNet's second convolution were off by 0.35 to 0.6."""

_DECODED_BY, _ASIDE = 256, 4
"""Pictures that a linear decoder is fitted to, and every which chooses its settings."""

_VARIED = Augmentation(mirror=False, shift=0.06)


class Shadow(Attack):
    """Query-free, with the architecture.

    Args:
        variant: ``ours`` or ``he2019``.
        steps: Of training at most, in ours; ``he2019`` makes 50 passes over the pictures.
        batch: Pictures a step, in ours.
        learning_rate: The highest, in ours.
        statistics_weight: Of the distance to the observation's statistics, beside the
            cross-entropy.
        passes: Of the search, in ours.
    """

    name = "shadow"
    threat = ThreatModel(
        weights=False, architecture=True, auxiliary_data=True, auxiliary_labels=True, tail=True
    )
    cost = "minutes to an hour of training; then a search as rmle's"
    paper = _HE2019
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fast": {},
        "he2019": {"variant": "he2019"},
    }

    def __init__(
        self,
        variant: str = "ours",
        steps: int = 2000,
        batch: int = 64,
        learning_rate: float = 2e-3,
        statistics_weight: float = 3.0,
        passes: int = 300,
    ) -> None:
        check_settings(variant, steps, batch, learning_rate)
        if statistics_weight < 0:
            raise AttackError(
                f"expected a statistics_weight of zero or more, got {statistics_weight:g}"
            )
        self.variant = variant
        self.steps = steps
        self.batch = batch
        self.learning_rate = learning_rate
        self.statistics_weight = statistics_weight
        self.passes = passes

    def _run(self, target: TargetView, run: Run) -> Tensor:
        shadow = self.shadow(target, run.part(_TRAINING_SHARE))
        seen = AttackTarget(target.observation, shadow, target.image_shape, target.bounds)
        if self.variant == "he2019":
            part = run.part(1.0)
            pixels = PUBLISHED_SEARCH.within(seen, part)
            run.converged = part.converged
            return pixels
        decoded = self._decoded(shadow, target)
        part = run.part(1.0)
        sigma = tuple(
            t.new_full((1,) * t.dim(), _MISFIT * root_mean_square(t) or 1.0)
            for t in target.observation
        )
        search = NoiseAware(passes=self.passes)
        searched = search.within(replace(seen, noise_sigma=sigma), part)
        run.converged = part.converged
        # Two estimates whose errors differ: their mean has less of either.
        found = (searched.clamp(*target.bounds) + decoded) / 2
        run.last_finite = found if bool(torch.isfinite(found).all()) else decoded
        return run.last_finite

    def _decoded(self, shadow: PixelHead, target: TargetView) -> Tensor:
        """What a linear decoder of the shadow's smashed data makes of the observation."""
        pixels = target.auxiliary.pixels(slice(0, _DECODED_BY)).to(target.device)
        decoder = LinearDecoder([t.shape[1:] for t in target.observation], target.image_shape)
        aside = torch.arange(len(pixels), device="cpu") % _ASIDE == 1
        with torch.no_grad():
            sent = shadow(pixels)
            decoder.fit(sent, pixels, aside, torch.Generator().manual_seed(self.seed))
            pairs = zip(target.observation, sent, strict=True)
            found: Tensor = decoder(tuple(_aligned(seen, like) for seen, like in pairs))
        return found.clamp(*target.bounds)

    def shadow(self, target: TargetView, run: Run) -> PixelHead:
        """The head that is to stand in for the victim's.

        Args:
            target: What the threat model grants.
            run: The clock of the training.

        Returns:
            The trained head.

        Raises:
            AttackError: The tail knows fewer classes than the pictures are of.
        """
        own = target.auxiliary
        if own.labels is None:
            raise AttackError("a shadow needs labels of the attacker's own pictures, got none")
        labels = own.labels.to(target.device)
        tail = copy.deepcopy(target.tail).requires_grad_(False)
        head = self._head(target)
        _check_classes(tail, target.observation, labels)
        published = self.variant == "he2019"
        weight = 0.0 if published else self.statistics_weight
        seen = Statistics(target.observation) if weight else None

        def loss(sent: tuple[Tensor, ...], pixels: Tensor, rows: Tensor) -> Tensor:
            logits = tail(*sent)
            found = functional.cross_entropy(logits, labels[rows.to(labels.device)])
            return found if seen is None else found + weight * seen.distance(sent)

        recipe = PUBLISHED if published else Recipe(self.batch, self.learning_rate)
        source = Pictures(
            own.images, NOTHING if published else _VARIED, shuffle=not published, seed=self.seed
        )
        told = f"{self!r} on {len(own)} pictures {digest([own.images[:64], *target.observation])}"
        fit_head(head, loss, source, recipe, None if published else self.steps, run, told)
        return head

    def _head(self, target: TargetView) -> PixelHead:
        return target.fresh_head(self.seed)


class ShadowOtherNet(Shadow):
    """Query-free, with a head of the attacker's own making.

    Args:
        variant: As in `Shadow`.
        steps: As there.
        batch: As there.
        learning_rate: As there.
        statistics_weight: As there.
        passes: As there.
    """

    name = "shadow-other-net"
    threat = ThreatModel(
        weights=False, architecture=False, auxiliary_data=True, auxiliary_labels=True, tail=True
    )

    def _head(self, target: TargetView) -> PixelHead:
        own = target.auxiliary.pixels(slice(0, 256))
        mean, std = own.mean((0, 2, 3)), own.std((0, 2, 3)).clamp_min(1e-3)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(self.seed)
            head = OwnHead(target.observation, target.image_shape)
            made = PixelHead(head, mean.tolist(), std.tolist())
        return made.to(target.device).eval()


@torch.no_grad()
def _check_classes(tail: nn.Module, observation: tuple[Tensor, ...], labels: Tensor) -> None:
    classes = tail(*(t[:1] for t in observation)).shape[-1]
    if int(labels.max()) >= classes:
        raise AttackError(
            f"expected labels below {classes}, the number of classes that the tail tells apart, "
            f"got {int(labels.max())}: label the attacker's pictures with the model's classes"
        )


def _aligned(seen: Tensor, like: Tensor) -> Tensor:
    """With mean and spread of each channel as those of other smashed data."""
    seen_map, like_map = as_map(seen), as_map(like)
    dims = (0, *range(2, seen_map.dim()))
    spread = like_map.std(dims, keepdim=True) / seen_map.std(dims, keepdim=True).clamp_min(1e-6)
    away = seen_map - seen_map.mean(dims, keepdim=True)
    return from_map(away * spread + like_map.mean(dims, keepdim=True), tuple(seen.shape[1:]))
