"""Progressive feature optimisation: a search through the stages of a generator of pictures.

Qiu et al. 2025, "Revisiting the Privacy Risks of Split Inference: A GAN-Based Data Reconstruction
Attack via Progressive Feature Optimization". Only the abstract is known here, and no code. What
stands where:

- From the abstract: the generator is decomposed into blocks, intermediate representations are
  optimised block after block, and an ℓ1 ball constrains the optimisation.
- From the same group's IF-GMI (Qiu et al. 2024) and GIFD (Fang et al. 2023), which attack other
  things in the same way: the best of many random latents to begin with; Adam; in stage i the
  input of block i together with the latent; after each step the deviation from where the stage
  began is projected on the ℓ1 ball; the output is the stage with the lowest attack loss.
- Ours: radius and learning rate relative to the size of what is optimised; the RGB picture that
  has accumulated is carried into each stage (both published codes drop it) and optimised with the
  rest; the latent by L-BFGS; the best iterate of a stage, restart and stage chosen picture by
  picture, by the distance of the smashed data alone; and a last stage on the pixels.

With h⁰ the state before block i, f the head, z the observation:

    min ‖f(G_i…(h)) − z‖² / ‖z‖²   subject to   ‖h − h⁰‖₁ ≤ τ·numel(h⁰)·rms(h⁰)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.generator import Generator, State
from splitdeploy.attacks.generator_search import (
    better,
    choose_restart,
    first_latents,
    restart_distances,
)
from splitdeploy.attacks.l1_ball import project_on_l1_ball
from splitdeploy.attacks.lbfgs import BatchedLbfgs
from splitdeploy.attacks.objective import FeatureDistance, outside
from splitdeploy.attacks.spectral import SpectralImage
from splitdeploy.attacks.steps import Plateau, Run
from splitdeploy.attacks.target import TargetView
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.profiles.errors import AttackError

_HISTORY = 20
_FIRST_STEP = 0.05
_BOUNDS_WEIGHT = 10.0


class Pfo(Attack):
    """Stage 0 on the latent, stage i on the state before block i, and a last one on the pixels.

    Args:
        samples: Latents drawn to begin with.
        restarts: How many of them are kept for each picture.
        latent_steps: Of L-BFGS on the latent.
        stage_steps: Of Adam in each later stage.
        pixel_steps: Of L-BFGS on the pixels around the generator's picture; 0 leaves that out.
        radius: τ: the mean deviation from where a stage began, beside the root mean square of what
            is optimised; 0 leaves the picture of stage 0, infinity is unconstrained.
        learning_rate: Of Adam, likewise relative; it falls as a cosine over a stage.
        latent_weight: Of the mean square of the latent, N(0, 1) being what pictures have, beside a
            distance that is 1 for smashed data of zero.
        pixel_weight: Of the mean square of the deviation from the generator's picture, in
            coordinates in which pictures are white.
    """

    name = "pfo"
    threat = ThreatModel(weights=True, generator=True)
    cost = "a trained generator; hundreds of passes through it and the head; minutes without a GPU"
    paper = (
        "Qiu et al.: Revisiting the Privacy Risks of Split Inference: Progressive Feature "
        "Optimization, 2025 (from its abstract); IF-GMI, Qiu et al. 2024; GIFD, Fang et al. 2023"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fast": {},
        "thorough": {
            "samples": 512, "restarts": 4, "latent_steps": 300, "stage_steps": 300,
            "pixel_steps": 300,
        },
    }  # fmt: skip

    def __init__(
        self,
        samples: int = 128,
        restarts: int = 1,
        latent_steps: int = 100,
        stage_steps: int = 60,
        pixel_steps: int = 0,
        radius: float = 0.1,
        learning_rate: float = 0.02,
        latent_weight: float = 1e-3,
        pixel_weight: float = 1e-2,
    ) -> None:
        if not 1 <= restarts <= samples or min(latent_steps, stage_steps) < 1 or pixel_steps < 0:
            raise AttackError(
                "expected at least 1 step in each stage and 1 to samples restarts, got "
                f"latent_steps={latent_steps}, stage_steps={stage_steps}, "
                f"pixel_steps={pixel_steps}, restarts={restarts}, samples={samples}"
            )
        if not (radius >= 0 and learning_rate > 0 and latent_weight >= 0 and pixel_weight >= 0):
            raise AttackError(
                "expected a radius and weights of zero or more and a positive learning_rate, got "
                f"{radius}, {latent_weight}, {pixel_weight} and {learning_rate}"
            )
        self.samples = samples
        self.restarts = restarts
        self.latent_steps = latent_steps
        self.stage_steps = stage_steps
        self.pixel_steps = pixel_steps
        self.radius = radius
        self.learning_rate = learning_rate
        self.latent_weight = latent_weight
        self.pixel_weight = pixel_weight

    def _run(self, target: TargetView, run: Run) -> Tensor:
        generator, distance = target.generator, FeatureDistance.relative(target)
        stages = len(generator.stages)
        whole = self.latent_steps + (stages - 1) * self.stage_steps + self.pixel_steps
        latent = first_latents(
            target, generator, distance,
            samples=self.samples, keep=self.restarts, random=run.generator,
        )  # fmt: skip
        found = self._latent_stage(latent, generator, distance, run.part(self.latent_steps / whole))
        for place in range(1, stages):
            if run.diverged:
                break
            with torch.no_grad():
                begin = generator.to_stage(place, found.state, start=place - 1)
            until = (self.latent_steps + place * self.stage_steps) / whole
            found = self._stage(place, begin, generator, distance, run.part(until))
        _, pixels = choose_restart(found.distances, found.pixels, target.images)
        run.converged = found.converged
        if self.pixel_steps and not run.diverged:
            part = run.part(1.0)
            pixels = self._pixel_stage(pixels, distance, part)
            run.converged = part.converged
        # Each stage keeps the best it has seen, which is worth more than a diverged run's last.
        run.last_finite = pixels
        return pixels

    def _latent_stage(
        self, latent: Tensor, generator: Generator, distance: FeatureDistance, run: Run
    ) -> _Found:
        def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
            z = points.detach().requires_grad_()
            losses = restart_distances(distance, generator(z))
            losses = losses + self.latent_weight * z.square().mean(1)
            (gradient,) = torch.autograd.grad(losses.sum(), z)
            return losses.detach(), gradient

        search = BatchedLbfgs(evaluate, latent, history=_HISTORY, first_step=_FIRST_STEP)
        images = distance.target.images
        for step in range(1, self.latent_steps + 1):
            search.advance()
            with torch.no_grad():
                pixels = generator(search.point)
            run.converged = Plateau().reached(run.losses)
            share = 1.0 if run.converged else step / self.latent_steps
            chosen = choose_restart(search.loss, pixels, images)[1]
            if not run.step(float(search.loss.mean()), chosen, share):
                break
        with torch.no_grad():
            distances = restart_distances(distance, pixels)
        return _Found((search.point,), distances, pixels, run.converged)

    def _stage(
        self, place: int, begin: State, generator: Generator, distance: FeatureDistance, run: Run
    ) -> _Found:
        """Optimise the state before one block, never leaving its ball."""
        scales = tuple(_rms(t) for t in begin)
        moves = [torch.zeros_like(t).requires_grad_() for t in begin]
        optimiser = torch.optim.Adam(moves, lr=self.learning_rate)
        rates, bound = [], 0
        best: _Found | None = None
        for step in range(1, self.stage_steps + 1):
            state = tuple(t + s * m for t, s, m in zip(begin, scales, moves, strict=True))
            pixels = generator.from_stage(place, state)
            distances = restart_distances(distance, pixels)
            best = _nearer(best, _Found(state, distances, pixels, False))
            gradients = torch.autograd.grad(distances.sum(), moves, allow_unused=True)
            chosen = choose_restart(best.distances, best.pixels, distance.target.images)[1]
            rates.append(_cosine(step / self.stage_steps) * self.learning_rate)
            if not run.step(float(distances.detach().mean()), chosen, step / self.stage_steps):
                break
            for move, gradient in zip(moves, gradients, strict=True):
                move.grad = gradient
            optimiser.param_groups[0]["lr"] = rates[-1]
            optimiser.step()
            bound += self._project(moves)
        share = bound / max(1, (len(rates) - 1) * len(moves) * len(begin[0]))
        run.note(f"stage {place}: the l1 ball of radius {self.radius:g} bound in {share:.0%} of it")
        assert best is not None
        return replace(best, converged=Plateau().reached(run.losses, rates))

    def _project(self, moves: list[Tensor]) -> int:
        """Put deviations back into their balls; how many were outside."""
        outside_of_it = 0
        with torch.no_grad():
            for move in moves:
                radius = self.radius * move[0].numel()
                outside_of_it += int((move.abs().flatten(1).sum(1) > radius).sum())
                move.copy_(project_on_l1_ball(move, radius))
        return outside_of_it

    def _pixel_stage(self, pixels: Tensor, distance: FeatureDistance, run: Run) -> Tensor:
        """Beyond the generator's range: near its picture, as pictures differ from each other."""
        target = distance.target
        image = SpectralImage(target.image_shape, device=target.device)
        centre = image.white(pixels).flatten(1)

        def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
            white = points.detach().requires_grad_()
            found = image.pixels(white.view_as(pixels))
            losses = distance(found) + _BOUNDS_WEIGHT * outside(found, target.bounds)
            losses = losses + self.pixel_weight * (white - centre).square().mean(1)
            (gradient,) = torch.autograd.grad(losses.sum(), white)
            return losses.detach(), gradient

        search = BatchedLbfgs(evaluate, centre, history=_HISTORY, first_step=_FIRST_STEP)
        for step in range(1, self.pixel_steps + 1):
            search.advance()
            pixels = image.pixels(search.point.view_as(pixels))
            run.converged = Plateau().reached(run.losses)
            share = 1.0 if run.converged else step / self.pixel_steps
            if not run.step(float(search.loss.mean()), pixels, share):
                break
        return pixels


@dataclass(frozen=True)
class _Found:
    """The best of a stage: for each restart and picture its state, distance and pixels."""

    state: State
    distances: Tensor
    pixels: Tensor
    converged: bool


def _nearer(best: _Found | None, new: _Found) -> _Found:
    state = tuple(t.detach() for t in new.state)
    distances, pixels = new.distances.detach(), new.pixels.detach()
    if best is None:
        return _Found(state, distances, pixels, False)
    improved = distances < best.distances
    *kept, pixels = better(improved, (*state, pixels), (*best.state, best.pixels))
    return _Found(tuple(kept), torch.where(improved, distances, best.distances), pixels, False)


def _rms(tensor: Tensor) -> Tensor:
    """Of each sample, ``[m, 1, …]``."""
    size = tensor.square().flatten(1).mean(1).sqrt()
    return size.view(-1, *(1,) * (tensor.dim() - 1))


def _cosine(share: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * share)
