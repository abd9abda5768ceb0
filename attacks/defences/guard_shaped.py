"""FSInfoGuard with shaped noise: the same leakage budget, spent where the tail minds it least.

Minimise tr(HΣ) over diagonal Σ subject to ln det(J_π + mean JᵀΣ⁻¹J) = target, with H the tail's
sensitivity. In ln σ² this is a convex program: the determinant is a polynomial of 1/σ_g² with
coefficients that are not negative (mixed discriminants), so that its logarithm is convex in
−ln σ_g², and so is tr(HΣ). With ℓ_g the leverage of a group of elements, −∂ ln det/∂ ln σ_g², the
one minimum has

    H_g·σ_g² = μ·ℓ_g        for all groups g.

For k = d, an invertible J and no prior, ℓ = 1 and Σ ∝ H⁻¹. The iteration σ² ← √(σ²·μℓ/H) contracts
by half or more a round near the minimum, since the Hessian of ln det lies between 0 and diag(ℓ).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from splitdeploy.attacks.defences.base import Defence, Victim, additive
from splitdeploy.attacks.defences.calibration import Budget, Calibrator, Guarded
from splitdeploy.attacks.defences.leverage import leverages
from splitdeploy.attacks.defences.sensitivity import SHARES, Share, pool, tail_sensitivity
from splitdeploy.attacks.defences.target import Target
from splitdeploy.attacks.leakage.noise import Noise, PrecisionNoise
from splitdeploy.attacks.leakage.prior import ImagePrior
from splitdeploy.profiles.errors import DefenceError, UnknownNameError

_BISECTIONS = 60


class GuardShaped(Defence):
    """Gaussian noise whose σ differs between channels, at the same FSInfo as one σ.

    A determinant is a geometric mean: noise could be taken from few directions and put on many. The
    floor bounds that: as no σ is below ``floor`` times that of the plain guard, the largest
    eigenvalue of the information is at most 1/floor² times the plain guard's. The ceiling keeps
    noise where the tail's sensitivity was measured.

    Noise is shaped on other pictures than it is calibrated on, where the victim has twice as many
    as the budget takes: a shape of many σ leaks less on the pictures that it was made by.

    Args:
        target: How little may leak.
        share: Which elements have one σ: ``channel``, ``element`` (needs many pictures to know the
            sensitivities), or ``tensor``.
        floor: On (0, 1]: the least σ, over the plain guard's.
        ceiling: From 1: the greatest, likewise.
        rounds: Of the iteration; each halves the distance to the minimum, or better.
        draws: Of signs and noise for each picture and round.
        prior: What is taken as known of pictures; None takes `default_prior`.
        rounding: What the payload carries without a guard.
        budget: How the calibration may compute.

    Raises:
        UnknownNameError: There is no such way of sharing.
        DefenceError: Floor, ceiling, rounds or draws are out of their range.
    """

    name: ClassVar[str] = "shaped"
    paper: ClassVar[str] = "FSInfoGuard with noise shaped by the tail's sensitivity"
    strength: ClassVar[str] = "target: fsinfo:NATS, gain:NATS per input element, or mse:VALUE"

    def __init__(
        self,
        target: Target,
        *,
        share: Share = "channel",
        floor: float = 0.5,
        ceiling: float = 8.0,
        rounds: int = 4,
        draws: int = 8,
        prior: ImagePrior | None = None,
        rounding: Noise | None = None,
        budget: Budget | None = None,
    ) -> None:
        if share not in SHARES:
            raise UnknownNameError("way of sharing sigma", share, SHARES)
        if not (0.0 < floor <= 1.0 <= ceiling) or rounds < 1 or draws < 1:
            raise DefenceError(
                "expected a floor on (0, 1], a ceiling from 1, and at least 1 round and draw, got "
                f"{floor:g}, {ceiling:g}, {rounds} and {draws}"
            )
        self._target, self._share, self._prior = target, share, prior
        self._floor, self._ceiling = floor, ceiling
        self._rounds, self._draws = rounds, draws
        self._rounding = PrecisionNoise("fp32") if rounding is None else rounding
        self._budget = Budget() if budget is None else budget

    def fit(self, victim: Victim, *, seed: int = 0) -> Guarded:
        """Calibrate one σ, shape it, and calibrate the shape.

        Args:
            victim: The cut model, and pictures like those that will be sent.
            seed: Of which pictures are taken, of probes, signs and noise.

        Returns:
            The guarded model, with what it leaks and what one σ would.
        """
        calibrator = Calibrator(victim, self._target, self._prior, self._budget, seed)
        plain, before = calibrator.calibrate(calibrator.plain_shape, self._rounding)
        shaper = Calibrator(victim, self._target, self._prior, self._budget, seed, others=True)
        shape = list(plain)
        for _ in range(self._rounds):
            shape = self._improved(shaper, victim, plain, shape, seed)
        sigmas, after = calibrator.calibrate(shape, self._rounding)
        spread = max(float((s / p).max()) for s, p in zip(sigmas, plain, strict=True))
        least = min(float((s / p).min()) for s, p in zip(sigmas, plain, strict=True))
        return Guarded(
            victim.head,
            victim.tail,
            tuple(additive("gaussian", s) for s in sigmas),
            f"FSInfoGuard for {self._target}: Gaussian noise shaped by {self._share}, "
            f"{least:.2g} to {spread:.2g} times the sigma of a plain guard "
            f"({after.relative_sigma:.3g} of the root mean square)",
            after,
            before,
        )

    def _improved(
        self,
        shaper: Calibrator,
        victim: Victim,
        plain: Sequence[Tensor],
        sigmas: Sequence[Tensor],
        seed: int,
    ) -> list[Tensor]:
        """One round: σ² ← √(σ²·μℓ/H), with μ so that the leakage stays as it is to first order."""
        costs = tail_sensitivity(victim, sigmas, draws=self._draws, seed=seed)
        leverage = leverages(shaper.whitened(sigmas), seed=seed).sum(dim=0).cpu()
        tensors = shaper.jacobian.tensors
        shares = torch.split(leverage, [t[0].numel() for t in tensors])
        before, wanted, low, high, weight = [], [], [], [], []
        for cost, share, tensor, base, sigma in zip(
            costs, shares, tensors, plain, sigmas, strict=True
        ):
            cost_g = pool(cost.cpu(), self._share)
            share_g = pool(share.view(tensor.shape[1:]), self._share)
            now = (2.0 * sigma.log()).expand_as(cost_g)
            before.append(now)
            # Where the tail minds nothing σ goes to the ceiling, where nothing passes to the floor.
            ratio = torch.where(share_g > 0, share_g / cost_g, torch.zeros(()).to(share_g))
            wanted.append((now + ratio.log()) / 2.0)
            low.append((2.0 * (self._floor * base).log()).expand_as(cost_g))
            high.append((2.0 * (self._ceiling * base).log()).expand_as(cost_g))
            weight.append(share_g * (tensor[0].numel() / share_g.numel()))
        joined = [
            torch.cat([x.reshape(-1) for x in parts])
            for parts in (before, wanted, low, high, weight)
        ]
        flat = _same_leakage(*joined)
        pieces = torch.split(flat, [x.numel() for x in before])
        return [(p.view_as(x) / 2.0).exp() for p, x in zip(pieces, before, strict=True)]


def _same_leakage(
    before: Tensor, wanted: Tensor, low: Tensor, high: Tensor, weight: Tensor
) -> Tensor:
    """The wanted ln σ² shifted by one constant, within limits, at the leakage of before.

    To first order ln det changes by −Σ ℓ·Δ ln σ², which grows with the constant: bisection.

    Returns:
        ln σ² of each group.
    """
    # Beyond these ends every group with a finite wish is at its limit.
    finite = wanted[wanted.isfinite()]
    gaps = torch.cat([low[wanted.isfinite()] - finite, high[wanted.isfinite()] - finite])
    down, up = (float(gaps.min()), float(gaps.max())) if len(gaps) else (0.0, 0.0)
    for _ in range(_BISECTIONS):
        constant = (down + up) / 2.0
        changed = torch.minimum(torch.maximum(wanted + constant, low), high)
        if float((weight * (changed - before)).sum()) > 0:
            up = constant
        else:
            down = constant
    return torch.minimum(torch.maximum(wanted + (down + up) / 2.0, low), high)
