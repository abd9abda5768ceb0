"""Regularised maximum likelihood (He, Zhang and Lee, ACSAC 2019, section 4), white-box.

    x* = argmin_x  ‖f(x) − z‖² + λ·TV_β(x),    TV_β = Σ (Δh² + Δv²)^(β/2)

as three presets, which are different algorithms:

- ``paper``: the sum of squares, β = 1, from grey, Adam with 1e-2 for 500 steps. λ is not published.
- ``code``: as the authors' code has it: means instead of sums, β = 2 in normalised coordinates,
  from zeros there (the data's mean colour), AMSGrad with eps 1e-3, 5000 steps. Their λ grows with
  depth (0, 10, 1000 on CIFAR-10's three cuts); 0 is that of the first.
- ``fast``, ours: the same objective, relative to each tensor's energy, over white spectral
  coordinates (`splitdeploy.attacks.spectral`) by a batched L-BFGS. On SqueezeNet's early and
  middle cuts it recovers more in 15 passes than ``code`` does in 150. A sweep uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.lbfgs import BatchedLbfgs
from splitdeploy.attacks.objective import (
    FeatureDistance,
    mean_square_variation,
    outside,
    total_variation,
)
from splitdeploy.attacks.spectral import GREY, SpectralImage
from splitdeploy.attacks.steps import Plateau, Run
from splitdeploy.attacks.target import TargetView
from splitdeploy.attacks.threat import WHITE_BOX
from splitdeploy.profiles.errors import AttackError

_HE2019 = "He, Zhang, Lee: Model Inversion Attacks Against Collaborative Inference, ACSAC 2019"


class RmlePublished(Attack):
    """He et al.'s attack as published: Adam on the pixels, as the paper or as the code has it.

    Args:
        variant: ``paper`` or ``code``: which objective, coordinates and optimiser.
        steps: Of Adam.
        learning_rate: Of Adam, constant.
        tv_weight: λ.
    """

    name = "rmle-he2019"
    threat = WHITE_BOX
    cost = "500 to 5000 passes forward and back; minutes to hours without a GPU"
    paper = _HE2019
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "code": {"variant": "code", "steps": 5000, "learning_rate": 1e-2, "tv_weight": 0.0},
        "paper": {"variant": "paper", "steps": 500, "learning_rate": 1e-2, "tv_weight": 0.0},
        "paper-deep": {"variant": "paper", "steps": 5000, "learning_rate": 1e-3, "tv_weight": 0.0},
    }

    def __init__(
        self, variant: str, steps: int = 500, learning_rate: float = 1e-2, tv_weight: float = 0.0
    ) -> None:
        if variant not in {"paper", "code"} or steps < 1 or learning_rate <= 0 or tv_weight < 0:
            raise AttackError(
                "expected variant 'paper' or 'code', at least 1 step, a positive learning rate and "
                f"a non-negative tv_weight, got {variant!r}, {steps}, {learning_rate}, {tv_weight}"
            )
        self.variant = variant
        self.steps = steps
        self.learning_rate = learning_rate
        self.tv_weight = tv_weight

    def _run(self, target: TargetView, run: Run) -> Tensor:
        of_code = self.variant == "code"
        head = target.pixel_head
        shape = (target.images, *target.image_shape)
        distance = (FeatureDistance.averaged if of_code else FeatureDistance.summed)(target)
        x = torch.full(shape, 0.0 if of_code else 0.5, device=target.device).requires_grad_()
        optimiser = (
            torch.optim.Adam([x], lr=self.learning_rate, eps=1e-3, amsgrad=True)
            if of_code
            else torch.optim.Adam([x], lr=self.learning_rate)
        )
        for step in range(1, self.steps + 1):
            pixels = x * head.std + head.mean if of_code else x
            variation = mean_square_variation(x) if of_code else total_variation(x, 1.0)
            loss = (distance(pixels) + self.tv_weight * variation).sum()
            (x.grad,) = torch.autograd.grad(loss, x)
            if not run.step(float(loss.detach()), pixels.detach().clone(), step / self.steps):
                break
            optimiser.step()
        # The step size is constant, so equal steps are equal effort.
        run.converged = Plateau().reached(run.losses)
        return pixels.detach()


class Rmle(Attack):
    """The same objective in spectral coordinates, by L-BFGS: the attack of a sweep.

    Args:
        passes: Evaluations of the head, forward and back, at most, of each restart.
        exponent: Of the power law of the coordinates; smaller favours fine detail.
        prior_weight: Of the mean square of the white coordinates, beside a distance that is 1 for
            smashed data of zero.
        tv_weight: Of the total variation (β = 1) a pixel.
        colour_weight: Of the squared distance of the mean colour to grey, times the distance to the
            smashed data: it binds where these are poorly explained, as deep features are, which
            hardly depend on brightness, and vanishes where they are matched.
        bounds_weight: Of the mean squared excess over the bounds of a pixel.
        history: Curvature pairs of L-BFGS.
        first_step: Root mean square of its first step, in white coordinates.
        scales: Coarse to fine: the frequencies, as shares of the highest, up to which each of as
            many equal parts of the passes searches.
        restarts: Searches side by side for each picture, the first from grey and the others from
            random pictures of the prior; the one of the lowest loss is kept.
        spread: Root mean square of the random starts, in white coordinates.
    """

    name = "rmle"
    threat = WHITE_BOX
    cost = "up to 150 passes forward and back; seconds a cut without a GPU"
    paper = f"{_HE2019}; coordinates after Olah et al. 2017; L-BFGS of Liu and Nocedal 1989"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fast": {},
        "thorough": {"passes": 2000},
        "restarts": {"passes": 600, "restarts": 4},
        "coarse-to-fine": {"passes": 600, "scales": (0.125, 0.25, 0.5, 1.0)},
    }

    def __init__(
        self,
        passes: int = 150,
        exponent: float = 1.5,
        prior_weight: float = 1e-2,
        tv_weight: float = 0.5,
        colour_weight: float = 5.0,
        bounds_weight: float = 10.0,
        history: int = 20,
        first_step: float = 0.05,
        scales: Sequence[float] = (1.0,),
        restarts: int = 1,
        spread: float = 0.5,
    ) -> None:
        if passes < 2 or history < 1 or first_step <= 0 or exponent < 0:
            raise AttackError(
                "expected at least 2 passes, a history of at least 1, a positive first_step and a "
                f"non-negative exponent, got {passes}, {history}, {first_step}, {exponent}"
            )
        if min(prior_weight, tv_weight, colour_weight, bounds_weight) < 0:
            raise AttackError("expected weights of zero or more in rmle, got a negative one")
        if restarts < 1 or spread <= 0 or list(scales) != sorted({*scales, 1.0}) or scales[0] <= 0:
            raise AttackError(
                "expected at least 1 restart, a positive spread, and scales that rise from above 0 "
                f"to 1, got {restarts}, {spread} and {tuple(scales)}"
            )
        self.passes = passes
        self.exponent = exponent
        self.prior_weight = prior_weight
        self.tv_weight = tv_weight
        self.colour_weight = colour_weight
        self.bounds_weight = bounds_weight
        self.history = history
        self.first_step = first_step
        self.scales = tuple(scales)
        self.restarts = restarts
        self.spread = spread

    def _run(self, target: TargetView, run: Run) -> Tensor:
        image = SpectralImage(target.image_shape, exponent=self.exponent, device=target.device)
        distance = FeatureDistance.relative(target).repeated(self.restarts)
        white = self._starts(target, image, run)
        losses = white.new_full((len(white),), torch.inf)
        for place, scale in enumerate(self.scales, start=1):
            part = run.part(place / len(self.scales))
            white, losses = self._searched(white, image, image.band(scale), distance, part)
            run.converged = part.converged
            if run.stopped_early or run.diverged:
                break
        best = losses.view(-1, self.restarts).argmin(1)
        rows = torch.arange(target.images, device=target.device) * self.restarts + best
        return image.pixels(white[rows])

    def _starts(self, target: TargetView, image: SpectralImage, run: Run) -> Tensor:
        """White coordinates ``[n·restarts, c, h, w]``."""
        start = image.origin(target.images * self.restarts)
        drawn = torch.randn(start.shape, generator=run.generator, device="cpu").to(start)
        first = torch.arange(len(start), device=target.device) % self.restarts == 0
        return torch.where(first.view(-1, 1, 1, 1), start, self.spread * drawn)

    def _searched(
        self, white: Tensor, image: SpectralImage, band: Tensor, distance: FeatureDistance, run: Run
    ) -> tuple[Tensor, Tensor]:
        """The best white coordinates and their losses, moving those of a band alone."""
        shape = white.shape

        def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
            at = points.view(shape).detach().requires_grad_()
            losses = self._losses(at, image.pixels(at), distance)
            (gradient,) = torch.autograd.grad(losses.sum(), at)
            return losses.detach(), (gradient * band).flatten(1)

        search = BatchedLbfgs(
            evaluate, white.flatten(1), history=self.history, first_step=self.first_step
        )
        plateau = Plateau()
        passes = max(2, self.passes // len(self.scales))
        for step in range(2, passes + 1):
            search.advance()
            run.converged = plateau.reached(run.losses)
            share = 1.0 if run.converged else step / passes
            lowest = search.loss.view(-1, self.restarts).min(1).values
            pixels = image.pixels(search.point.view(shape)[:: self.restarts])
            if not run.step(float(lowest.mean()), pixels, share):
                break
        return search.point.view(shape), search.loss

    def _losses(self, white: Tensor, pixels: Tensor, distance: FeatureDistance) -> Tensor:
        colour = (pixels.mean((2, 3)) - GREY).square().mean(1)
        loss = distance(pixels) * (1.0 + self.colour_weight * colour)
        loss = loss + self.prior_weight * white.square().flatten(1).mean(1)
        if self.bounds_weight:
            loss = loss + self.bounds_weight * outside(pixels, distance.target.bounds)
        if self.tv_weight:
            per_pixel = self.tv_weight / pixels[0].numel()
            loss = loss + per_pixel * total_variation(pixels, 1.0)
        return loss
