"""Latent search with a generator: the GAN-prior baseline of GLASS (Li et al., NeurIPS 2023).

As their code has it: many random latents, some steps of Adam each (AMSGrad, eps 1e-3), on

    mean squared feature error + 0.01·TV(x) + 0.01·mean(x²) + KLD(z),
    KLD = −½·(1 + log s² − m² − s²)    with m and s the mean and spread of z's own elements,

x being pixels on [-1, 1]; of these the one of least feature error goes on, for many more steps,
with noise on the latent that dies away. Theirs goes on in StyleGAN's w+, one latent a layer; a
generator in general has none, so here it stays the latent, with the same objective (ours), and TV
is the mean square one of He et al.'s code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.generator import Generator
from splitdeploy.attacks.generator_search import better, choose_restart, restart_distances
from splitdeploy.attacks.objective import FeatureDistance, mean_square_variation
from splitdeploy.attacks.steps import Plateau, Run
from splitdeploy.attacks.target import TargetView
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.profiles.errors import AttackError

_AT_ONCE = 256
"""Latents that are searched from together, over all pictures."""

_NOISY_UNTIL = 0.75 / 2
"""Share of the steps with noise: theirs is over at 7,500 of 20,000."""

_TINY = 1e-12


class LatentSearch(Attack):
    """The latent alone, from many starts.

    Args:
        starts: Random latents for each picture.
        start_steps: Of Adam from each.
        start_rate: Its learning rate.
        steps: Of Adam from the best.
        rate: Its learning rate.
        relative: Whether the feature error is relative to the observation's energy, so that the
            weights below mean the same for every head, or a plain mean as published.
        tv_weight: Of the total variation.
        square_weight: Of the mean square of the picture.
        latent_weight: Of the divergence from N(0, 1).
        noise: Standard deviation of the noise on the latent at the beginning of the second part.
    """

    name = "glass"
    threat = ThreatModel(weights=True, generator=True)
    cost = "a trained generator; hundreds to 20,000 passes through it and the head, and the starts"
    paper = "Li et al.: GAN You See Me? Enhanced Data Reconstruction Attacks, NeurIPS 2023 (GLASS)"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fast": {
            "starts": 8, "start_steps": 30, "start_rate": 0.1, "steps": 270, "relative": True,
            "tv_weight": 1e-3, "square_weight": 1e-3, "latent_weight": 1e-2,
        },
        "thorough": {
            "starts": 64, "start_steps": 50, "start_rate": 0.1, "steps": 2000, "relative": True,
            "tv_weight": 1e-3, "square_weight": 1e-3, "latent_weight": 1e-2,
        },
        "published": {},
    }  # fmt: skip

    def __init__(
        self,
        starts: int = 200,
        start_steps: int = 100,
        start_rate: float = 1e-2,
        steps: int = 20_000,
        rate: float = 0.1,
        relative: bool = False,
        tv_weight: float = 0.01,
        square_weight: float = 0.01,
        latent_weight: float = 1.0,
        noise: float = 0.02,
    ) -> None:
        if min(starts, start_steps, steps) < 1 or not (start_rate > 0 and rate > 0):
            raise AttackError(
                "expected at least 1 start and 1 step and positive learning rates in glass, got "
                f"{starts}, {start_steps}, {steps}, {start_rate} and {rate}"
            )
        if not min(tv_weight, square_weight, latent_weight, noise) >= 0:
            raise AttackError("expected weights and noise of zero or more in glass, got others")
        self.starts = starts
        self.start_steps = start_steps
        self.start_rate = start_rate
        self.steps = steps
        self.rate = rate
        self.relative = relative
        self.tv_weight = tv_weight
        self.square_weight = square_weight
        self.latent_weight = latent_weight
        self.noise = noise

    def _run(self, target: TargetView, run: Run) -> Tensor:
        generator, images = target.generator, target.images
        kind = FeatureDistance.relative if self.relative else FeatureDistance.averaged
        distance = kind(target)
        together = max(1, min(self.starts, _AT_ONCE // images))
        whole = -(-self.starts // together) * self.start_steps + self.steps
        best: tuple[Tensor, Tensor] | None = None
        done = 0
        for at in range(0, self.starts, together):
            count = min(together, self.starts - at)
            drawn = generator.draw(count * images, run.generator).to(target.device)
            done += self.start_steps
            found = self._descend(
                drawn,
                generator,
                distance,
                run,
                done / whole,
                self.start_steps,
                self.start_rate,
                0.0,
            )
            lowest, latent = choose_restart(*found, images)
            if best is not None:
                nearer = lowest < best[0]
                (latent,) = better(nearer, (latent,), (best[1],))
                lowest = torch.where(nearer, lowest, best[0])
            best = lowest, latent
            if run.diverged:
                break
        if not run.diverged:
            _, latent = self._descend(
                latent, generator, distance, run, 1.0, self.steps, self.rate, self.noise
            )
        with torch.no_grad():
            pixels = generator.from_stage(0, (latent,)).contiguous()
        run.last_finite = pixels
        return pixels

    def _descend(
        self, start: Tensor, generator: Generator, distance: FeatureDistance, run: Run,
        until: float, steps: int, rate: float, noise: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Adam on latents ``[r·n, k]``; the feature error ``[r·n]`` and latents of the best."""
        part, images = run.part(until), distance.target.images
        latent = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([latent], lr=rate, eps=1e-3, amsgrad=True)
        lowest, kept = torch.full((len(start),), torch.inf, device=start.device), start
        for step in range(1, steps + 1):
            strength = noise * max(0.0, 1.0 - (step - 1) / (steps * _NOISY_UNTIL)) ** 2
            tried = latent + strength * _noise(latent, run.generator) if strength else latent
            pixels = generator(tried)
            errors = restart_distances(distance, pixels)
            loss = (errors + self._prior(tried, pixels, distance.target.bounds)).sum()
            (latent.grad,) = torch.autograd.grad(loss, latent)
            improved = errors.detach() < lowest
            lowest = torch.where(improved, errors.detach(), lowest)
            (kept,) = better(improved, (tried.detach(),), (kept,))
            shown = choose_restart(errors.detach(), pixels.detach(), images)[1]
            if not part.step(float(loss.detach()) / len(start), shown, step / steps):
                break
            optimiser.step()
        run.converged = Plateau().reached(part.losses)
        return lowest, kept

    def _prior(self, latent: Tensor, pixels: Tensor, bounds: tuple[float, float]) -> Tensor:
        low, high = bounds
        centred = (pixels - low) * (2.0 / (high - low)) - 1.0
        mean, variance = latent.mean(1), latent.var(1, unbiased=False)
        divergence = -0.5 * (1.0 + (variance + _TINY).log() - mean.square() - variance)
        unlikely: Tensor = (
            self.tv_weight * mean_square_variation(centred)
            + self.square_weight * centred.square().flatten(1).mean(1)
            + self.latent_weight * divergence
        )
        return unlikely


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device="cpu").to(like.device)
