"""UnSplit: pictures and a clone of the head, from smashed data alone (Erdoğan et al. 2022).

"UnSplit: Data-Oblivious Model Inversion, Model Stealing, and Label Inference Attacks Against Split
Learning", section 4.2. The server knows the architecture; by turns it fits pictures to the observed
smashed data with a clone of the head held still, and the clone with the pictures held still:

    x ← argmin ‖f̃(x) − z‖² + λ·TV(x),    θ̃ ← argmin ‖f̃(x) − z‖²

- ``code``: as the published code has it: for one picture after the other, from 0.5, 1000 rounds of
  100 steps each; Adam with AMSGrad and 1e-3; mean squares, β = 2; 0.1·TV + 1·mean(x²) at every cut.
  The clone goes from picture to picture and is not reset, so that the first is the hardest.
- ``paper`` and ``paper-deep``: isotropic TV with λ = 0.1 (their first three cuts) and 1 (the rest).
- ``fast``, ours: all observed pictures share one clone and are fitted together, since a server sees
  many from one client: parameters that explain one picture alone explain no other. Pictures are in
  coordinates in which natural ones are white. One start has a clone that was fitted to the
  observation's statistics on made pictures (`splitdeploy.attacks.unsplit_start`), another a fresh
  one; the lowest loss is kept. What smashed data do not tell (the negative, brightness, contrast)
  is taken to be as in pictures in general. No picture of anyone's is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.objective import (
    FeatureDistance,
    mean_square_variation,
    outside,
    total_variation,
)
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.spectral import SpectralImage
from splitdeploy.attacks.steps import Plateau, Run
from splitdeploy.attacks.target import AttackTarget, TargetView
from splitdeploy.attacks.threat import WHITE_BOX, ThreatModel
from splitdeploy.attacks.training import Learner, one_cycle, train
from splitdeploy.attacks.unsplit_start import Likeness, bright, first_pictures, stretch
from splitdeploy.profiles.errors import AttackError

_START_SHARE = 0.2
"""Of the time, what the first guess of ours may take."""


_INPUT_RATE, _MODEL_RATE, _START_RATE = 0.05, 4e-3, 2e-3
_PEAK = 0.3
"""Where on the one-cycle schedule it begins: at its highest."""

_BOUNDS_WEIGHT = 10.0
_EXPONENT = 1.5
"""Of the coordinates' power law, as rmle's."""

_AT_ONCE = 256


@dataclass(frozen=True)
class Unsplit:
    """What the server has in the end.

    Attributes:
        pixels: ``[n, c, h, w]``.
        clone: In place of the client's head: before the server's tail, a whole model.
    """

    pixels: Tensor
    clone: PixelHead


@dataclass(frozen=True)
class _End:
    """How one start of ours ended."""

    found: Unsplit
    loss: float
    converged: bool


class UnSplit(Attack):
    """Pictures and a clone, by turns.

    Args:
        variant: ``ours``, ``code`` or ``paper``.
        rounds: Turns of both, for each picture; in ours, for all together.
        input_steps: On pictures, a turn.
        model_steps: On the clone, a turn.
        tv_weight: λ. In ours, of the total variation a pixel.
        square_weight: Of the mean square of a picture, in ``code`` alone.
        prior_weight: Of the mean square of the white coordinates, in ours alone.
        start_steps: That the clone learns on made pictures before, in every other restart of ours.
        restarts: Of ours: by turns from the guess and from nothing; that of the lowest loss is
            kept.
    """

    name = "unsplit"
    threat = ThreatModel(weights=False, architecture=True)
    cost = "minutes; as published 200,000 steps a picture, hours"
    paper = "Erdoğan, Küpçü, Çiçek: UnSplit, WPES 2022"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fast": {},
        "code": {
            "variant": "code", "rounds": 1000, "input_steps": 100, "model_steps": 100,
            "tv_weight": 0.1, "square_weight": 1.0,
        },
        "paper": {
            "variant": "paper", "rounds": 1000, "input_steps": 100, "model_steps": 100,
            "tv_weight": 0.1,
        },
        "paper-deep": {
            "variant": "paper", "rounds": 1000, "input_steps": 100, "model_steps": 100,
            "tv_weight": 1.0,
        },
    }  # fmt: skip

    def __init__(
        self,
        variant: str = "ours",
        rounds: int = 200,
        input_steps: int = 10,
        model_steps: int = 5,
        tv_weight: float = 0.1,
        square_weight: float = 0.0,
        prior_weight: float = 1e-3,
        start_steps: int = 100,
        restarts: int = 2,
    ) -> None:
        if variant not in {"ours", "code", "paper"} or min(rounds, input_steps, model_steps) < 1:
            raise AttackError(
                "expected variant 'ours', 'code' or 'paper' and at least 1 round and 1 step of "
                f"each kind, got {variant!r}, {rounds}, {input_steps} and {model_steps}"
            )
        if min(tv_weight, square_weight, prior_weight, start_steps) < 0 or restarts < 1:
            raise AttackError(
                "expected weights and start_steps of zero or more and at least 1 restart in unsplit"
            )
        self.variant = variant
        self.rounds = rounds
        self.input_steps = input_steps
        self.model_steps = model_steps
        self.tv_weight = tv_weight
        self.square_weight = square_weight
        self.prior_weight = prior_weight
        self.start_steps = start_steps
        self.restarts = restarts

    def _run(self, target: TargetView, run: Run) -> Tensor:
        return self.steal(target, run).pixels

    def steal(self, target: TargetView, run: Run) -> Unsplit:
        """Both results.

        Args:
            target: What the threat model grants.
            run: The clock and the record of the losses.

        Returns:
            The pictures, not clamped, and the clone.
        """
        if self.variant == "ours":
            return self._restarted(target, run)
        clone = target.fresh_head(self.seed)
        pixels = []
        for place in range(target.images):
            part = run.part((place + 1) / target.images)
            seen = tuple(t[place : place + 1] for t in target.observation)
            pixels.append(self._one(clone, seen, target, part))
            run.converged = part.converged
        return Unsplit(torch.cat(pixels), clone)

    def _one(
        self, clone: PixelHead, seen: tuple[Tensor, ...], target: TargetView, run: Run
    ) -> Tensor:
        """One picture, as published; the clone changes with it."""
        x = torch.full((1, *target.image_shape), 0.5, device=target.device, requires_grad=True)
        on_input, on_model = (
            torch.optim.Adam(parameters, lr=1e-3, amsgrad=True)
            for parameters in ([x], list(clone.parameters()))
        )
        total = self.rounds * (self.input_steps + self.model_steps)
        for step in range(total):
            picture_turn = step % (self.input_steps + self.model_steps) < self.input_steps
            optimiser = on_input if picture_turn else on_model
            pixels = x if picture_turn else x.detach()
            clone.requires_grad_(not picture_turn)
            loss = _mean_square(clone(pixels), seen)
            if picture_turn:
                loss = loss + self._prior(pixels)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            before = x.detach().clone()
            if not run.step(float(loss.detach()), before, (step + 1) / total):
                return before
            optimiser.step()
        run.converged = Plateau().reached(run.losses)
        return x.detach()

    def _prior(self, pixels: Tensor) -> Tensor:
        if self.variant == "paper":
            return self.tv_weight * total_variation(pixels, 1.0).sum()
        squares = self.square_weight * pixels.square().mean()
        return self.tv_weight * mean_square_variation(pixels).mean() + squares

    def _restarted(self, target: TargetView, run: Run) -> Unsplit:
        """The best of some starts, by their own loss."""
        ends = []
        for place in range(self.restarts):
            clone = target.fresh_head(self.seed + place)
            part = run.part((place + 1) / self.restarts)
            ends.append(self._together(clone, target, part, guessed=place % 2 == 0))
        # Not a number counts as the worst.
        best = min(ends, key=lambda end: end.loss if math.isfinite(end.loss) else math.inf)
        run.converged = best.converged
        if bool(torch.isfinite(best.found.pixels).all()):
            run.last_finite = best.found.pixels
        return best.found

    def _together(self, clone: PixelHead, target: TargetView, run: Run, *, guessed: bool) -> _End:
        """All pictures with one clone, from next to nothing."""
        likeness = Likeness.to(target, run.generator)
        if guessed and self.start_steps:
            self._guess(clone, likeness, run.part(_START_SHARE))
        start = first_pictures(clone, likeness, run.generator)
        part = run.part(1.0)
        found = self.refine(clone, start, target, part)
        pixels = stretch(bright(found, clone, target.bounds), clone, target.bounds)
        return _End(Unsplit(pixels, clone), part.losses[-1], part.converged)

    def refine(self, clone: PixelHead, start: Tensor, target: TargetView, run: Run) -> Tensor:
        """Fit a clone and pictures to each other, all pictures with the one clone.

        Args:
            clone: Trained in place.
            start: Pictures to begin with, ``[n, c, h, w]``.
            target: What was observed.
            run: The clock and the record of the losses.

        Returns:
            The pictures, ``[n, c, h, w]``, not clamped.
        """
        image = SpectralImage(target.image_shape, exponent=_EXPONENT, device=target.device)
        white = image.white(start).detach().requires_grad_()
        seen = AttackTarget(target.observation, clone, target.image_shape, target.bounds)
        distance = FeatureDistance.relative(seen.granted(WHITE_BOX))
        on_input = torch.optim.Adam([white], lr=_INPUT_RATE)
        on_model = torch.optim.Adam(clone.parameters(), lr=_MODEL_RATE)
        turn, whole_s = self.input_steps + self.model_steps, run.remaining_s
        total = self.rounds * turn
        for step in range(total):
            # By the clock where that runs faster, so that the steps become small within it.
            late = 0.0 if math.isinf(whole_s) else 1.0 - run.remaining_s / max(1e-9, whole_s)
            factor = one_cycle(_PEAK + (1.0 - _PEAK) * min(1.0, max(step / total, late)))
            pictures = step % turn < self.input_steps
            clone.requires_grad_(not pictures)
            optimiser, rate = (on_input, _INPUT_RATE) if pictures else (on_model, _MODEL_RATE)
            optimiser.param_groups[0]["lr"] = factor * rate
            pixels = image.pixels(white if pictures else white.detach())
            loss = distance(pixels).mean()
            told = float(loss.detach())
            if pictures:
                loss = loss * target.images + self._natural(white, pixels, target).sum()
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            if not run.step(told, pixels.detach(), (step + 1) / total):
                break
            optimiser.step()
        clone.requires_grad_(True)
        run.converged = Plateau().reached(run.losses)
        return image.pixels(white.detach())

    def _guess(self, clone: PixelHead, likeness: Likeness, run: Run) -> None:
        """Train the clone on made pictures until they look like the observation."""
        optimiser = torch.optim.Adam(clone.parameters(), lr=_START_RATE)

        def step(generator: torch.Generator) -> float:
            loss = likeness.distance(clone, generator)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            return float(loss.detach())

        checkpoint = run.checkpoint("clone", repr(self))
        train(
            [Learner("clone", clone, optimiser, one_cycle)], step, self.start_steps, run, checkpoint
        )

    def _natural(self, white: Tensor, pixels: Tensor, target: TargetView) -> Tensor:
        """How little pictures look like pictures, ``[n]``."""
        per_pixel = self.tv_weight / pixels[0].numel()
        return (
            self.prior_weight * white.square().flatten(1).mean(1)
            + per_pixel * total_variation(pixels, 1.0)
            + _BOUNDS_WEIGHT * outside(pixels, target.bounds)
        )


def unsplit(
    target: AttackTarget, attack: UnSplit | None = None, *, deadline_s: float | None = None
) -> Unsplit:
    """Steal pictures and clone at once.

    Args:
        target: What was observed, and the head, of which only the architecture is used.
        attack: With its settings; the default preset where None.
        deadline_s: Seconds that it may take; None for no limit.

    Returns:
        The pictures, clamped to the target's bounds, and the clone.
    """
    chosen = UnSplit.preset() if attack is None else attack
    run = Run(chosen.seed, deadline_s, None)
    found = chosen.steal(target.granted(chosen.threat), run)
    return Unsplit(found.pixels.clamp(*target.bounds), found.clone)


@torch.no_grad()
def clone_accuracy(clone: PixelHead, tail: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """How often the clone before the server's tail is right.

    The published code runs the client's head before the clone's untrained tail; this is what its
    paper describes.

    Args:
        clone: In place of the client's head.
        tail: From the boundary tensors, as arguments, to the logits.
        pixels: ``[n, c, h, w]`` on [0, 1].
        labels: ``[n]`` int64.

    Returns:
        The share of right answers, on [0, 1].
    """
    right = 0
    for part, classes in zip(
        torch.split(pixels, _AT_ONCE), torch.split(labels, _AT_ONCE), strict=True
    ):
        right += int((tail(*clone(part)).argmax(1) == classes).sum())
    return right / len(pixels)


def _mean_square(sent: tuple[Tensor, ...], seen: tuple[Tensor, ...]) -> Tensor:
    """Over the elements of all tensors."""
    away = [(a - b).square().flatten() for a, b in zip(sent, seen, strict=True)]
    return torch.cat(away).mean()
