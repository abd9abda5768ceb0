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

from collections.abc import Mapping
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
        x = (torch.zeros(shape) if of_code else torch.full(shape, 0.5)).requires_grad_()
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
        passes: Evaluations of the head, forward and back, at most.
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
    """

    name = "rmle"
    threat = WHITE_BOX
    cost = "up to 150 passes forward and back; seconds a cut without a GPU"
    paper = f"{_HE2019}; coordinates after Olah et al. 2017; L-BFGS of Liu and Nocedal 1989"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"fast": {}, "thorough": {"passes": 2000}}

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
    ) -> None:
        if passes < 2 or history < 1 or first_step <= 0 or exponent < 0:
            raise AttackError(
                "expected at least 2 passes, a history of at least 1, a positive first_step and a "
                f"non-negative exponent, got {passes}, {history}, {first_step}, {exponent}"
            )
        if min(prior_weight, tv_weight, colour_weight, bounds_weight) < 0:
            raise AttackError("expected weights of zero or more in rmle, got a negative one")
        self.passes = passes
        self.exponent = exponent
        self.prior_weight = prior_weight
        self.tv_weight = tv_weight
        self.colour_weight = colour_weight
        self.bounds_weight = bounds_weight
        self.history = history
        self.first_step = first_step

    def _run(self, target: TargetView, run: Run) -> Tensor:
        image = SpectralImage(target.image_shape, exponent=self.exponent)
        distance = FeatureDistance.relative(target)
        shape = (target.images, *target.image_shape)

        def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
            white = points.view(shape).detach().requires_grad_()
            losses = self._losses(white, image.pixels(white), distance)
            (gradient,) = torch.autograd.grad(losses.sum(), white)
            return losses.detach(), gradient.flatten(1)

        search = BatchedLbfgs(
            evaluate,
            image.origin(target.images).flatten(1),
            history=self.history,
            first_step=self.first_step,
        )
        plateau = Plateau()
        for step in range(2, self.passes + 1):
            search.advance()
            pixels = image.pixels(search.point.view(shape))
            run.converged = plateau.reached(run.losses)
            share = 1.0 if run.converged else step / self.passes
            if not run.step(float(search.loss.mean()), pixels, share):
                break
        return pixels

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
