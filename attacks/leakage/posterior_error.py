"""The error that is left when the head is taken as linear about each picture.

For a linear head, Gaussian noise and pictures that follow the Gaussian prior, the best estimate's
mean squared error is tr((C⁻¹ + I(x))⁻¹)/d exactly (Wiener). For other heads it is the error of the
linearised posterior at x, and bounds nobody's: it says how well a picture is pinned down by what
is sent near it. With the mean of I(x) over pictures in its place it is van Trees' bound in matrix
form, which does bind any attacker on pictures that follow the prior, and is at least the bound by
rings.

Where the log-determinant counts every direction alike, be it below what an eye or an error sees,
the trace counts a direction by the variance that pictures have along it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from splitdeploy.attacks.leakage.lanczos import rademacher
from splitdeploy.attacks.leakage.sides import Side, Whitened, input_side


@dataclass(frozen=True)
class PosteriorError:
    """Mean squared error a pixel on [0, 1] that the linearised posterior leaves.

    Attributes:
        lower: ``[n]`` float64: for these probes at least that.
        upper: ``[n]``: for these probes at most that.
        probe_error: ``[n]``: standard error that comes from the probes; 0 for one probe, which
            tells nothing of it.
    """

    lower: Tensor
    upper: Tensor
    probe_error: Tensor

    @property
    def value(self) -> Tensor:
        """The middle of each bracket."""
        return (self.lower + self.upper) / 2


def posterior_error(
    whitened: Whitened,
    *,
    probes: int = 2,
    steps: int = 60,
    tolerance: float = 0.02,
    seed: int = 0,
    deadline_s: float | None = None,
) -> PosteriorError:
    """tr((C⁻¹ + I)⁻¹)/d for each block of a whitened Jacobian: an image, or the mean of all.

    Hutchinson probes z; each zᵀC^½(1 + G)⁻¹C^½z by preconditioned conjugate gradients, whose
    iterate bounds it from below, and from above by the residual over the spectrum's lower end
    (Golub and Meurant 2010, ch. 12).

    Args:
        whitened: The head's Jacobian in the prior's basis.
        probes: Random probes, averaged.
        steps: At most so many products a probe.
        tolerance: Half of the bracket over its middle at which steps end.
        seed: Of the probes.
        deadline_s: Seconds after which no further step begins; the bracket tells what it costs.

    Returns:
        The brackets.
    """
    side = input_side(whitened)
    started = time.perf_counter()
    found = []
    for i in range(probes):
        # Each probe has its share of the time, so that the last is as good as the first.
        ends = math.inf if deadline_s is None else started + deadline_s * (i + 1) / probes
        found.append(_one_probe(whitened, side, steps, tolerance, seed + i, ends))
    lower = torch.stack([low for low, _ in found])
    upper = torch.stack([high for _, high in found])
    middle = (lower + upper) / 2
    error = middle.std(dim=0) / math.sqrt(probes) if probes > 1 else torch.zeros_like(middle[0])
    return PosteriorError(lower.mean(dim=0), upper.mean(dim=0), error)


def _one_probe(
    whitened: Whitened, side: Side, steps: int, tolerance: float, seed: int, ends: float
) -> tuple[Tensor, Tensor]:
    n, d = side.scale.shape
    z = rademacher(n, d, seed=seed, like=side.scale)
    b = z * whitened.half * side.scale.rsqrt()
    # 1 + G ⪰ 1, so the preconditioned operator's spectrum starts no lower than the least 1/P.
    floor = (1.0 / side.scale.double()).amin(dim=1)
    # The prior's own variance is there whatever is sent.
    ceiling = (whitened.half.double().square()).sum().expand(n)
    x, residual, direction = torch.zeros_like(b), b, b
    square = residual.double().square().sum(dim=1)
    for _ in range(steps):
        image = side.stacked_adjoint(side.stacked(direction))
        curvature = (direction.double() * image.double()).sum(dim=1)
        step = torch.where(curvature > 0, square / curvature, 0.0).to(b).unsqueeze(1)
        x, residual = x + step * direction, residual - step * image
        before, square = square, residual.double().square().sum(dim=1)
        lower = (b.double() * x.double()).sum(dim=1)
        upper = torch.minimum(lower + square / floor, ceiling)
        if bool((upper - lower <= tolerance * (upper + lower)).all()) or time.perf_counter() > ends:
            break
        direction = residual + (square / before.clamp_min(1e-300)).to(b).unsqueeze(1) * direction
    return lower / d, torch.maximum(upper, lower) / d
