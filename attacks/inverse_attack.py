"""The inverse network as an attack: trained on pairs of pictures and what is sent for them.

He et al. 2019, "Model Inversion Attacks Against Collaborative Inference", section 5: black-box, by
queries alone. Trained on what is *sent*, it knows every defence on the way, noise included.

- ``he2019``: their decoder, loss and optimiser, 50 passes over the pictures.
- ``fast`` and ``thorough``, ours: a linear decoder in closed form, which is most of it where
  pictures are few or the cut is shallow, and a network that learns what it leaves; pictures are
  varied, since queries cost nothing.

Without pictures of his own an attacker makes some (`splitdeploy.attacks.textures`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from splitdeploy.attacks.augment import NOTHING, Augmentation
from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.checkpoint import digest
from splitdeploy.attacks.inverse_network import invert
from splitdeploy.attacks.inverse_training import Draw, Pictures, Recipe, train_inverses
from splitdeploy.attacks.pace import affordable
from splitdeploy.attacks.published_decoder import PublishedDecoder
from splitdeploy.attacks.refined_decoder import RefinedDecoder
from splitdeploy.attacks.steps import Run
from splitdeploy.attacks.target import TargetView
from splitdeploy.attacks.textures import Made, dead_leaves, normal_noise
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.attacks.training import halved
from splitdeploy.profiles.errors import AttackError

_HE2019 = "He, Zhang, Lee: Model Inversion Attacks Against Collaborative Inference, ACSAC 2019"

_PUBLISHED_EPOCHS = 50
_PUBLISHED = Recipe(
    batch=32, learning_rate=1e-3, schedule=halved(4), eps=1e-3, amsgrad=True, half=False
)

_VARIED = Augmentation(mirror=True, shift=0.125, contrast=0.2, brightness=0.1)
_ASKED, _ASIDE = 8, 4
"""Pictures of one query; and every which chooses the linear part's settings."""

_FITTED, _FITTED_VECTORS = 256, 1024
"""Pictures that the linear part is fitted to; vectors have no places, and need more."""

_FITTING_SHARE = 0.3
"""The part of the time that querying for the linear part may take."""

_AT_ONCE = 32


class InverseAttack(Attack):
    """A decoder trained on pictures of the attacker's own.

    Args:
        variant: ``ours`` or ``he2019``.
        steps: Of training at most; a deadline lessens them, so that the learning rate comes down
            within it. ``he2019`` makes 50 passes, whatever this says.
        width: Channels of our network where it is finest.
        batch: Pictures a step of ours.
        learning_rate: The highest of ours.
        weight_decay: Of ours.
    """

    name = "inverse-network"
    threat = ThreatModel(weights=False, architecture=False, auxiliary_data=True, queries=True)
    cost = "seconds to an hour of training, by pictures and deadline; then one pass"
    paper = _HE2019
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fast": {},
        "thorough": {"steps": 20000, "width": 48},
        "he2019": {"variant": "he2019"},
    }

    def __init__(
        self,
        variant: str = "ours",
        steps: int = 2000,
        width: int = 32,
        batch: int = 32,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
    ) -> None:
        if variant not in {"ours", "he2019"} or min(steps, width, batch) < 1:
            raise AttackError(
                "expected variant 'ours' or 'he2019' and at least 1 step, channel and picture a "
                f"batch, got {variant!r}, {steps}, {width} and {batch}"
            )
        if learning_rate <= 0 or weight_decay < 0:
            raise AttackError(
                "expected a positive learning rate and a non-negative weight decay, got "
                f"{learning_rate:g} and {weight_decay:g}"
            )
        self.variant = variant
        self.steps = steps
        self.width = width
        self.batch = batch
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay

    def _run(self, target: TargetView, run: Run) -> Tensor:
        own = target.auxiliary
        published = self.variant == "he2019"
        source = Pictures(
            own.images, NOTHING if published else _VARIED, shuffle=not published, seed=self.seed
        )
        identity = f"{len(own)} pictures {digest([own.images[:64]])}"
        return self._decoded(target, run, source, len(own), identity)

    def _decoded(
        self, target: TargetView, run: Run, source: Draw, pictures: int, identity: str
    ) -> Tensor:
        """Train a decoder on pictures from somewhere, and decode the observation.

        Args:
            target: What the threat model grants.
            run: The clock.
            source: Of training pictures.
            pictures: How many count as one pass.
            identity: Of the pictures, for the checkpoint.

        Returns:
            Pixels ``[n, c, h, w]``.
        """
        asker = _Asker(target, source)
        checkpoint = run.checkpoint(self.name, f"{self!r} on {identity}; {asker.fingerprint()}")
        network: nn.Module
        if self.variant == "he2019":
            network = self._published(target)
            recipe, steps = _PUBLISHED, _PUBLISHED.steps(pictures, _PUBLISHED_EPOCHS)
            least = steps
        else:
            network = self._fitted(asker, run)
            recipe = Recipe(self.batch, self.learning_rate, weight_decay=self.weight_decay)

            def rehearse(count: int, trial: Run) -> None:
                copied = copy.deepcopy(network)
                train_inverses(asker.observe, [copied], asker, count, trial, recipe)

            steps = affordable(rehearse, self.steps, run, checkpoint)
            least = self.steps
        done = train_inverses(asker.observe, [network], asker, steps, run, recipe, checkpoint)
        run.converged = done >= least
        return invert(network, target.observation, batch=_AT_ONCE)

    def _published(self, target: TargetView) -> PublishedDecoder:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(self.seed)
            network = PublishedDecoder(_shapes(target), target.image_shape)
        return network.to(target.device)

    def _fitted(self, asker: _Asker, run: Run) -> RefinedDecoder:
        """The closed form, on as many pictures as there is time to query for."""
        network = RefinedDecoder(_shapes(asker.target), asker.target.image_shape)
        until_s = time.perf_counter() + _FITTING_SHARE * run.remaining_s

        def hurried() -> bool:
            return time.perf_counter() > until_s

        generator = torch.Generator().manual_seed(self.seed)
        most = _FITTED_VECTORS if max(network.linear.layout.grid) == 1 else _FITTED
        pixels: list[Tensor] = []
        tensors: list[tuple[Tensor, ...]] = []
        while len(pixels) * _ASKED < most and not (pixels and hurried()):
            pixels.append(asker(len(pixels), _ASKED, generator))
            tensors.append(asker.observe(pixels[-1], generator)[0])
        joined = tuple(torch.cat(parts) for parts in zip(*tensors, strict=True))
        rows = torch.cat([asker.rows(done, _ASKED) for done in range(len(pixels))])
        network.fit(
            joined, torch.cat(pixels), _aside(rows), generator, width=self.width, hurried=hurried
        )
        return network


class InverseBlind(InverseAttack):
    """The same without pictures: trained on made ones.

    Args:
        variant: As in `InverseAttack`.
        kind: ``leaves`` or ``noise``.
        steps: As in `InverseAttack`.
        width: As there.
        batch: As there.
        learning_rate: As there.
        weight_decay: As there.
    """

    name = "inverse-network-blind"
    threat = ThreatModel(weights=False, architecture=False, queries=True)
    paper = f"{_HE2019}; pictures after Lee, Mumford and Huang 2001, Baradad et al. 2021"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fast": {},
        "thorough": {"steps": 20000, "width": 48},
        "noise": {"kind": "noise"},
        "he2019-noise": {"variant": "he2019", "kind": "noise"},
    }

    def __init__(
        self,
        variant: str = "ours",
        kind: str = "leaves",
        steps: int = 2000,
        width: int = 32,
        batch: int = 32,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(variant, steps, width, batch, learning_rate, weight_decay)
        if kind not in _KINDS:
            raise AttackError(
                f"expected made pictures of the kind {' or '.join(_KINDS)}, got {kind!r}"
            )
        self.kind = kind

    def _run(self, target: TargetView, run: Run) -> Tensor:
        source = Made(_KINDS[self.kind], target.image_shape)
        return self._decoded(target, run, source, _MADE, f"made pictures: {self.kind}")


_KINDS = {"leaves": dead_leaves, "noise": normal_noise}
_MADE = 5000
"""Made pictures that count as one pass of the published training."""


@dataclass(frozen=True)
class _Asker:
    """Training pictures, on the target's device, and what the head answers to them.

    Attributes:
        target: What the threat model grants.
        source: Of the pictures.
    """

    target: TargetView
    source: Draw

    def __call__(self, done: int, count: int, generator: torch.Generator) -> Tensor:
        return self.source(done, count, generator).to(self.target.device)

    def rows(self, done: int, count: int) -> Tensor:
        """Which pictures the source gives."""
        return self.source.rows(done, count)

    def observe(self, pixels: Tensor, generator: torch.Generator) -> list[tuple[Tensor, ...]]:
        """What is sent for pictures, with fresh noise."""
        seed = int(torch.randint(1 << 31, (), generator=generator, device="cpu"))
        return [tuple(t.detach().float() for t in self.target.query(pixels, seed))]

    def fingerprint(self) -> str:
        """What tells one head from another, but for the last digits: they vary with threads."""
        generator = torch.Generator().manual_seed(0)
        (sent,) = self.observe(self(0, 2, generator), generator)
        told = (f"{list(t.shape[1:])} {float(t.mean()):.3g} {float(t.std()):.3g}" for t in sent)
        return f"sends {', '.join(told)}"


def _shapes(target: TargetView) -> list[tuple[int, ...]]:
    return [tuple(t.shape[1:]) for t in target.observation]


def _aside(rows: Tensor) -> Tensor:
    """Every fourth picture with all its variants; of a single one, every fourth variant."""
    last = int(rows.max())
    aside = rows % _ASIDE == last % _ASIDE
    if bool(aside.all()):
        aside = torch.arange(len(rows), device="cpu") % _ASIDE == _ASIDE - 1
    return aside
