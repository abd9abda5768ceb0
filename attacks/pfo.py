"""Progressive feature optimisation: a search through the stages of a generator of pictures.

Qiu et al. 2025, "Revisiting the Privacy Risks of Split Inference: A GAN-Based Data Reconstruction
Attack via Progressive Feature Optimization". Only the abstract is known here, and no code. What
stands where:

- From the abstract: the generator is decomposed into blocks, intermediate representations are
  optimised block after block, and an ℓ1 ball constrains the optimisation.
- From the same group's IF-GMI (Qiu et al. 2024) and GIFD (Fang et al. 2023), which attack other
  things in the same way: the best of many random latents to begin with; in stage i the input of
  block i together with the latent; each step is followed by the projection of the deviation from
  where the stage began on the ℓ1 ball; the output is the stage with the lowest attack loss.
- Ours: radius and steps relative to the size of what is optimised; the RGB picture that has
  accumulated is carried into each stage (both published codes drop it) and optimised with the
  rest; L-BFGS instead of Adam; how unlikely latents are counts, with a weight that falls as the
  search comes nearer; pictures may leave the generator's range by a residual with the spectrum of
  its errors (`splitdeploy.attacks.generators.residual`); stage and restart are chosen picture by
  picture, by the distance of the smashed data alone.

With h⁰ the state before block i, e the residual, f the head and z the observation:

    min ‖f(G_i…(h) + e) − z‖²/‖z‖² + λ·(unlikeliness)
    subject to ‖h − h⁰‖₁ ≤ τ·numel(h⁰)·rms(h⁰), and for e, in white coordinates, likewise.

On the deepest convolution of a CIFAR-10 net and a small autoencoding generator, the residual
decided: without it the features came near and pictures went 4 dB astray.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.generator import Generator, State
from splitdeploy.attacks.generator_search import better, choose_restart, first_latents
from splitdeploy.attacks.generators.residual import Residual
from splitdeploy.attacks.lbfgs import BatchedLbfgs
from splitdeploy.attacks.objective import FeatureDistance
from splitdeploy.attacks.stage_search import StageSearch
from splitdeploy.attacks.steps import Plateau, Run
from splitdeploy.attacks.target import TargetView
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.profiles.errors import AttackError

_HISTORY = 20
_FIRST_STEP = 0.02
_SHOWN_EVERY = 10
"""Passes between the pictures that a run keeps, which cost a pass through the generator."""


class Pfo(Attack):
    """Stage 0 on the latent, stage i on the state before block i, the residual with either.

    Args:
        samples: Latents drawn to begin with.
        restarts: How many of them are kept for each picture.
        latent_steps: Passes of stage 0.
        stage_steps: Passes of each later stage.
        radius: τ: the mean deviation from where a stage began, in units of the root mean square of
            what is optimised; 0 leaves the picture of stage 0, infinity is unconstrained.
        weights: λ: of the mean square of what is N(0, 1) for likely pictures, beside a distance
            that is 1 for smashed data of zero; one after another in equal parts of stage 0, the
            last one in later stages.
        residual: Factor on the deviation of what pictures are beside the generator's range; 0 for
            pictures in its range alone, as published.
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
            "samples": 512, "latent_steps": 900, "stage_steps": 100,
            "weights": (1.0, 0.3, 0.1, 0.03, 0.01, 0.003),
        },
        "in-range": {
            "samples": 512, "restarts": 2, "latent_steps": 300, "stage_steps": 100,
            "weights": (0.01,), "residual": 0.0,
        },
    }  # fmt: skip

    def __init__(
        self,
        samples: int = 128,
        restarts: int = 1,
        latent_steps: int = 200,
        stage_steps: int = 20,
        radius: float = 0.05,
        weights: Sequence[float] = (1.0, 0.3, 0.1, 0.03, 0.01),
        residual: float = 1.0,
    ) -> None:
        if not 1 <= restarts <= samples or latent_steps < len(weights) or stage_steps < 1:
            raise AttackError(
                "expected 1 to samples restarts, and a step at least for each stage and each of "
                f"the weights, got restarts={restarts}, samples={samples}, "
                f"latent_steps={latent_steps}, stage_steps={stage_steps} and {len(weights)} weights"
            )
        if not (radius >= 0 and residual >= 0 and len(weights) and min(weights) >= 0):
            raise AttackError(
                "expected a radius, a residual and one or more weights of zero or more, got "
                f"{radius}, {residual} and {tuple(weights)}"
            )
        self.samples = samples
        self.restarts = restarts
        self.latent_steps = latent_steps
        self.stage_steps = stage_steps
        self.radius = radius
        self.weights = tuple(weights)
        self.residual = residual

    def _run(self, target: TargetView, run: Run) -> Tensor:
        generator, distance = target.generator, FeatureDistance.relative(target)
        beside = Residual(generator, self.residual, target.device) if self.residual else None
        whole = self.latent_steps + (len(generator.stages) - 1) * self.stage_steps
        part = run.part(self.latent_steps / whole)
        found = self._latent_stage(target, generator, distance, beside, part)
        for place in range(1, len(generator.stages)):
            if run.diverged:
                break
            part = run.part((self.latent_steps + place * self.stage_steps) / whole)
            found = self._stage(place, found, generator, distance, beside, part)
        run.converged = part.converged
        _, pixels = choose_restart(found.distances, found.pixels, target.images)
        # Each stage keeps the best it has seen, which is worth more than a diverged run's last.
        run.last_finite = pixels
        return pixels

    def _latent_stage(
        self, target: TargetView, generator: Generator, distance: FeatureDistance,
        beside: Residual | None, run: Run,
    ) -> _Found:  # fmt: skip
        latent = first_latents(
            target, generator, distance,
            samples=self.samples, keep=self.restarts, random=run.generator,
        )  # fmt: skip
        elements = 0 if beside is None else math.prod(target.image_shape)
        white = torch.zeros(len(latent), elements, device=target.device)
        stage = StageSearch(generator, distance, 0, (torch.zeros_like(latent),), beside, white)
        point, done = torch.cat([latent, white], dim=1), 0
        for level, weight in enumerate(self.weights, 1):
            search = BatchedLbfgs(
                stage.evaluate(weight), point, history=_HISTORY, first_step=_FIRST_STEP
            )
            until = round(self.latent_steps * level / len(self.weights))
            go_on = _search(search, stage, distance, run, done, until, self.latent_steps)
            point, done = search.point, until
            if not go_on:
                break
        return _found(stage, point)

    def _stage(
        self, place: int, before: _Found, generator: Generator, distance: FeatureDistance,
        beside: Residual | None, run: Run,
    ) -> _Found:  # fmt: skip
        """Optimise the state before one block, never leaving its ball."""
        with torch.no_grad():
            begin = generator.to_stage(place, before.state, start=place - 1)
        stage = StageSearch(generator, distance, place, begin, beside, before.white)
        shares: list[float] = []

        def project(points: Tensor) -> Tensor:
            inside, share = stage.project(points, self.radius)
            shares.append(share)
            return inside

        search = BatchedLbfgs(
            stage.evaluate(self.weights[-1]), stage.origin(),
            history=_HISTORY, first_step=_FIRST_STEP, project=project,
        )  # fmt: skip
        _search(search, stage, distance, run, 0, self.stage_steps, self.stage_steps)
        bound = sum(shares) / len(shares)
        run.note(f"stage {place}: the l1 ball of radius {self.radius:g} bound {bound:.0%} of moves")
        start = _Found(begin, before.white, before.distances, before.pixels)
        return _nearer(_found(stage, search.point), start)


@dataclass(frozen=True)
class _Found:
    """Where a stage ended: for each restart and picture its state, residual, distance, pixels."""

    state: State
    white: Tensor
    distances: Tensor
    pixels: Tensor


def _found(stage: StageSearch, point: Tensor) -> _Found:
    with torch.no_grad():
        return _Found(*stage.state(point), stage.distances(point), stage.pixels(point))


def _nearer(new: _Found, old: _Found) -> _Found:
    """The new where its smashed data are nearer, else the old: the stage without a step."""
    improved = new.distances < old.distances
    *state, white, distances, pixels = better(
        improved,
        (*new.state, new.white, new.distances, new.pixels),
        (*old.state, old.white, old.distances, old.pixels),
    )
    return _Found(tuple(state), white, distances, pixels)


def _search(
    search: BatchedLbfgs, stage: StageSearch, distance: FeatureDistance, run: Run,
    done: int, until: int, whole: int,
) -> bool:  # fmt: skip
    """Advance from one step to another; whether there is time for more."""
    images, losses = distance.target.images, list[float]()
    pixels = None
    for step in range(done + 1, until + 1):
        search.advance()
        # Of the restart that leads: one that is stuck says nothing of the others.
        losses.append(float(search.loss.view(-1, images).amin(0).mean()))
        run.converged = Plateau().reached(losses)
        reached = until if run.converged else step
        if pixels is None or reached % _SHOWN_EVERY == 0 or reached == until:
            with torch.no_grad():
                pixels = stage.pixels(search.point)
            pixels = choose_restart(search.loss, pixels, images)[1]
        if not run.step(losses[-1], pixels, reached / whole):
            return False
        if run.converged:
            break
    return True
