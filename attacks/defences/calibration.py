"""Gaussian noise of a given shape, made as strong as a leakage target asks for.

The leakage is FSInfo with the prior, of the information averaged over pictures: (1/2d)·ln det(J_π +
Ī) − ½·ln(2πe). It bounds what any attacker can know, falls strictly as the noise grows, and is the
same for every picture, so that one σ serves all and tells nothing about any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splitdeploy.attacks.defences.base import Defended, Victim
from splitdeploy.attacks.defences.leverage import image_error, largest_information, leverages
from splitdeploy.attacks.defences.target import Target
from splitdeploy.attacks.leakage.curve import gain_curve
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.mean_information import MeanWhitened
from splitdeploy.attacks.leakage.measure import mse_lower_bound
from splitdeploy.attacks.leakage.noise import Noise, root_mean_square
from splitdeploy.attacks.leakage.prior import ImagePrior, default_prior
from splitdeploy.profiles.errors import DefenceError
from splitdeploy.profiles.report import Estimate

_FAINT = 1e-3
"""A gain that is taken for none, nats per input element: for saying what could be reached."""


@dataclass(frozen=True)
class Budget:
    """How a calibration may compute.

    Attributes:
        pictures: At most so many of the victim's pictures are averaged over; their choice is part
            of the standard error.
        steps: Quadrature steps of large heads (see `gain_curve`).
        deadline_s: Seconds after which no further step of a curve begins; None sets no end.
    """

    pictures: int = 16
    steps: int = 300
    deadline_s: float | None = None


@dataclass(frozen=True)
class Calibration:
    """What a calibrated noise leaks, on the pictures that it was calibrated on.

    Attributes:
        target: What was asked for.
        fsinfo: With the prior, of the mean information; nats per input element. The error is that
            of the curve and of which pictures were taken.
        gain: The same above the prior's own.
        fil_max: The largest eigenvalue of the mean information: the determinant is a geometric
            mean, under which one direction may still leak in full.
        mse_lower_bound: Van Trees: no attacker's mean squared error is below, on pictures of the
            prior; by rings of frequency, estimated.
        relative_sigma: σ over the root mean square of its tensor, root-mean-squared over elements.
        prior: In words.
        pictures: How many were averaged over.
    """

    target: Target
    fsinfo: Estimate
    gain: Estimate
    fil_max: float
    mse_lower_bound: float
    relative_sigma: float
    prior: str
    pictures: int


@dataclass(frozen=True)
class Guarded(Defended):
    """A model under FSInfoGuard's noise.

    Attributes:
        calibration: What leaks.
        plain: For shaped noise: what a single σ leaks that was calibrated to the same target.
    """

    calibration: Calibration
    plain: Calibration | None = None


class Calibrator:
    """The head's Jacobians on the victim's pictures, ready for noise of any shape.

    Args:
        victim: The cut model.
        target: How little may leak.
        prior: What is taken as known of pictures; None takes `default_prior`.
        budget: How it may compute.
        seed: Of which pictures are taken, and of probes.
        others: Take pictures that another calibrator of the same seed does not take, where there
            are enough.

    Attributes:
        jacobian: J at each picture.
        prior: As given, or the default.
        rms: The root mean square of each boundary tensor; 1 where it is zero everywhere.

    Raises:
        DefenceError: There are no pictures.
        LeakageError: The head has no Jacobian (see `HeadJacobian`).
    """

    def __init__(
        self,
        victim: Victim,
        target: Target,
        prior: ImagePrior | None,
        budget: Budget,
        seed: int,
        *,
        others: bool = False,
    ) -> None:
        if len(victim.images) == 0 or budget.pictures < 1:
            raise DefenceError(
                f"expected at least 1 picture to calibrate by, got {len(victim.images)} of which "
                f"{budget.pictures} may be taken: give pictures like those that will be sent"
            )
        order = torch.randperm(len(victim.images), generator=torch.Generator().manual_seed(seed))
        start = budget.pictures if others and len(order) >= 2 * budget.pictures else 0
        pixels = victim.images[order[start : start + budget.pictures]]
        self.jacobian = HeadJacobian(victim.head, pixels)
        self.prior = default_prior(self.jacobian.shape) if prior is None else prior
        self.rms = tuple(root_mean_square(t) or 1.0 for t in self.jacobian.tensors)
        self._target, self._budget, self._seed = target, budget, seed

    @property
    def plain_shape(self) -> tuple[Tensor, ...]:
        """The same σ for all elements of a tensor, in proportion to its root mean square."""
        return tuple(torch.tensor(r, dtype=torch.float64) for r in self.rms)

    def joined(self, shape: Sequence[Tensor]) -> Tensor:
        """σ of each element, joined: ``[k]`` in the dtype of the features."""
        parts = [
            s.double().cpu().expand(1, *t.shape[1:]).reshape(-1)
            for s, t in zip(shape, self.jacobian.tensors, strict=True)
        ]
        return torch.cat(parts).to(self.jacobian.features)

    def whitened(self, sigmas: Sequence[Tensor]) -> MeanWhitened:
        """The mean information's root in units of a noise."""
        return MeanWhitened(self.jacobian, self.prior, self.joined(sigmas), seed=self._seed)

    def calibrate(
        self, shape: Sequence[Tensor], rounding: Noise
    ) -> tuple[tuple[Tensor, ...], Calibration]:
        """Noise of a given shape at the target.

        Args:
            shape: σ of each tensor up to a common factor, each broadcasting to ``[1, *shape]``.
            rounding: What the payload carries without any guard.

        Returns:
            σ of each tensor at the target, and what it leaks.

        Raises:
            DefenceError: No noise reaches the target, or none is needed; the nearest that can be
                reached is told, and its σ.
        """
        curve = gain_curve(
            self.jacobian,
            self.prior,
            self.joined(shape),
            mean=True,
            steps=self._budget.steps,
            seed=self._seed,
            deadline_s=self._budget.deadline_s,
        )
        own = curve.shift
        wanted = self._target.fsinfo(own) - own
        # Noise as strong as the rounding is what is there without a guard.
        bare = rounding.level(self.jacobian.tensors).relative / self.relative(shape)
        bare = min(max(bare, curve.factors[0]), curve.factors[1])
        most = curve.gain(bare).value
        if wanted >= most:
            raise DefenceError(
                f"expected a target that needs noise, got {self._target}: without any the smashed "
                f"data leaks {self._target.of_fsinfo(most + own, own)} by its rounding alone "
                f"(relative sigma {bare * self.relative(shape):.2g}); no guard is needed"
            )
        if wanted <= curve.gain(curve.factors[1]).value:
            faint = min(_FAINT, most / 2)
            factor = curve.factor_for(gain=faint)
            raise DefenceError(
                f"expected a target that noise can reach, got {self._target}: pictures of the prior"
                f" have {self._target.of_fsinfo(own, own)} before anything is sent; the nearest is "
                f"{self._target.of_fsinfo(faint + own, own)}, at a relative sigma of "
                f"{factor * self.relative(shape):.3g}"
            )
        factor = curve.factor_for(gain=wanted)
        sigmas = tuple(factor * s for s in shape)
        return sigmas, self._record(sigmas, curve.gain(factor), own)

    def relative(self, sigmas: Sequence[Tensor]) -> float:
        """σ over its tensor's root mean square, root-mean-squared over the elements."""
        rms = self.joined(self.plain_shape).double()
        return float((self.joined(sigmas).double() / rms).square().mean().sqrt())

    def _record(self, sigmas: Sequence[Tensor], gain: Estimate, own: float) -> Calibration:
        whitened = self.whitened(sigmas)
        spread = image_error(leverages(whitened, seed=self._seed), self.jacobian.inputs)
        error = math.hypot(gain.standard_error, spread)
        return Calibration(
            target=self._target,
            fsinfo=Estimate(gain.value + own, error),
            gain=Estimate(gain.value, error),
            fil_max=largest_information(whitened, seed=self._seed),
            mse_lower_bound=mse_lower_bound(whitened),
            relative_sigma=self.relative(sigmas),
            prior=self.prior.describe(),
            pictures=self.jacobian.images,
        )
