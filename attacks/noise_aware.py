"""Maximum a posteriori, white-box: what the smashed data and its noise say, and what pictures are.

    x* = argmin_x  ½·‖(f(x) − z)/σ‖² + ½·(x − m)ᵀC⁻¹(x − m)

for z = f(x) + σ·ε with Gaussian ε, and the Gaussian prior of pictures N(m, C) that the leakage
figures declare (`splitdeploy.attacks.leakage.prior`). Nothing is tuned: the noise is that of the
defence, which the attacker knows, and says itself how much the prior counts. For a linear head it
is Wiener's estimate, which no attacker beats on pictures of the prior; else it is its best point
within reach of the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.lbfgs import BatchedLbfgs
from splitdeploy.attacks.leakage.noise import PrecisionNoise, root_mean_square
from splitdeploy.attacks.spectral import SpectralImage
from splitdeploy.attacks.steps import Plateau, Run
from splitdeploy.attacks.target import TargetView
from splitdeploy.attacks.threat import WHITE_BOX
from splitdeploy.profiles.errors import AttackError

_NATURAL = 2.0
"""The exponent of the prior's power law: its white coordinates have its covariance."""


class NoiseAware(Attack):
    """The posterior's mode, by L-BFGS in the prior's white coordinates, from its mean.

    Args:
        passes: Evaluations of the head, forward and back, at most.
        history: Curvature pairs of L-BFGS.
        first_step: Root mean square of its first step, in white coordinates.
        rounding: The number format whose rounding is the noise where none is told.
        floor: The least σ, over the root mean square of its tensor: below it the search crawls
            along valleys that double precision alone would resolve.
        tolerance: It has converged when its loss falls by less than this share of itself. The loss
            of a noisy observation stays above half its elements, so it must be small.
    """

    name = "noise-aware"
    threat = WHITE_BOX
    cost = "up to 300 passes forward and back; seconds a cut without a GPU"
    paper = "maximum a posteriori; Wiener 1949 for linear heads; L-BFGS of Liu and Nocedal 1989"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"fast": {}, "thorough": {"passes": 3000}}

    def __init__(
        self,
        passes: int = 300,
        history: int = 20,
        first_step: float = 0.05,
        rounding: str = "fp16",
        floor: float = 1e-3,
        tolerance: float = 1e-3,
    ) -> None:
        if passes < 2 or history < 1 or not min(first_step, floor, tolerance) > 0:
            raise AttackError(
                "expected at least 2 passes, a history of at least 1, a positive first_step, floor "
                f"and tolerance, got {passes}, {history}, {first_step}, {floor} and {tolerance}"
            )
        self.passes = passes
        self.history = history
        self.first_step = first_step
        self.rounding = PrecisionNoise(rounding).dtype
        self.floor = floor
        self.tolerance = tolerance

    def _run(self, target: TargetView, run: Run) -> Tensor:
        double = any(t.dtype == torch.float64 for t in target.observation)
        dtype = torch.float64 if double else torch.float32
        image = SpectralImage(
            target.image_shape, exponent=_NATURAL, dtype=dtype, device=target.device
        )
        return self.search(target, image, run)

    def search(self, target: TargetView, image: SpectralImage, run: Run) -> Tensor:
        """The mode under another Gaussian prior than that of all pictures.

        Args:
            target: What the threat model grants.
            image: The coordinates in which that prior is white, about its mean.
            run: The clock and the record of the losses.

        Returns:
            Pixels ``[n, c, h, w]``, not clamped.
        """
        precisions = self._precisions(target)
        shape = (target.images, *target.image_shape)

        def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
            white = points.view(shape).detach().requires_grad_()
            losses = self._losses(target, image, white, precisions)
            (gradient,) = torch.autograd.grad(losses.sum(), white)
            return losses.detach(), gradient.flatten(1)

        search = BatchedLbfgs(
            evaluate,
            image.origin(target.images).flatten(1),
            history=self.history,
            first_step=self.first_step,
        )
        plateau = Plateau(tolerance=self.tolerance)
        for step in range(2, self.passes + 1):
            search.advance()
            pixels = image.pixels(search.point.view(shape))
            run.converged = plateau.reached(run.losses)
            share = 1.0 if run.converged else step / self.passes
            if not run.step(float(search.loss.mean()), pixels, share):
                break
        return pixels

    def _precisions(self, target: TargetView) -> tuple[Tensor, ...]:
        """1/σ² of each observed tensor."""
        given = target.noise_sigma
        if given is None:
            rule = PrecisionNoise(self.rounding)
            given = tuple(t.new_tensor(rule.tensor_sigma(t)) for t in target.observation)
        found = []
        for sigma, tensor in zip(given, target.observation, strict=True):
            least = self.floor * root_mean_square(tensor) or 1.0
            found.append(sigma.to(tensor).clamp_min(least).pow(-2))
        return tuple(found)

    def _losses(
        self,
        target: TargetView,
        image: SpectralImage,
        white: Tensor,
        precisions: tuple[Tensor, ...],
    ) -> Tensor:
        """Minus the logarithm of the posterior, image by image, but for a constant."""
        pixels = image.pixels(white)
        sent = target.pixel_head(pixels)
        if [t.shape for t in sent] != [t.shape for t in target.observation]:
            raise AttackError(
                f"the torch head gives tensors of shapes {[list(t.shape) for t in sent]}, observed "
                f"were {[list(t.shape) for t in target.observation]}: head and observation are of "
                "different cuts"
            )
        losses = 0.5 * white.square().flatten(1).sum(1)
        for tensor, observed, precision in zip(sent, target.observation, precisions, strict=True):
            away = (tensor - observed).square() * precision
            losses = losses + 0.5 * away.flatten(1).sum(1)
        return losses
