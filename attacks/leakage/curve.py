"""Gain and FSInfo at every strength of the noise, from one decomposition.

With M = Σ^-½ J Bᵀ C^½ at the noise of factor 1, the gain at a noise f times as strong is

    (1/2d)·Σ_i ln(1 + θ_i/f²),    θ_i the eigenvalues of MᵀM,

so that they, or a quadrature of their density, serve every f. It falls as f grows, which is why a
noise that reaches a wanted leakage is found by bisection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitdeploy.attacks.leakage.exact import DENSE_LIMIT, GAUSSIAN_ENTROPY
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.prior import ImagePrior
from splitdeploy.profiles.errors import LeakageError
from splitdeploy.profiles.report import Estimate

_BISECTIONS = 200
_REACH = 1e6
"""Beyond so many times the largest singular value, noise leaves nothing: gain below 1e-12."""


@dataclass(frozen=True)
class Spectrum:
    """The eigenvalues of one operator MᵀM, each with its weight.

    Attributes:
        values: ``[m]``, not negative.
        weights: ``[m]``: how many directions each stands for.
    """

    values: NDArray[np.float64]
    weights: NDArray[np.float64]

    def nats(self, factor: float) -> float:
        """½·ln det(1 + MᵀM/factor²)."""
        return 0.5 * float(self.weights @ np.log1p(self.values / factor**2))


@dataclass(frozen=True)
class GainCurve:
    """Leakage against the noise: σ = factor·sigma_shape.

    Attributes:
        spectra: One an image; one for all where it is the mean information's.
        dimensions: Input elements of an image, d.
        shift: What FSInfo is above the gain, nats per input element: the prior's own.
        factors: Between which two factors the figures hold; below the first, rounding decides.
        method: ``eigenvalues`` (a matrix was formed) or ``slq`` (products alone).
    """

    spectra: tuple[Spectrum, ...]
    dimensions: int
    shift: float
    factors: tuple[float, float]
    method: str

    def gain(self, factor: float) -> Estimate:
        """What the smashed data adds to the prior.

        Args:
            factor: On the shape of the noise; positive.

        Returns:
            Nats per input element.

        Raises:
            LeakageError: The factor is not positive and finite.
        """
        if not (math.isfinite(factor) and factor > 0):
            raise LeakageError(f"expected a positive factor on the noise, got {factor}")
        values = np.array([s.nats(factor) for s in self.spectra]) / self.dimensions
        n = len(values)
        error = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
        return Estimate(float(values.mean()), error)

    def fsinfo(self, factor: float) -> Estimate:
        """FSInfo with the prior: the gain, and the prior's own.

        Args:
            factor: As `gain` takes it.

        Returns:
            Nats per input element.
        """
        found = self.gain(factor)
        return Estimate(found.value + self.shift, found.standard_error)

    def factor_for(self, *, gain: float | None = None, fsinfo: float | None = None) -> float:
        """The noise at which the leakage is as wanted.

        Args:
            gain: Nats per input element; or
            fsinfo: likewise. One of the two.

        Returns:
            The factor.

        Raises:
            LeakageError: Not one target was given, or no factor reaches it; the nearest that can be
                reached is told.
        """
        if (gain is None) == (fsinfo is None):
            raise LeakageError(f"expected a gain or an fsinfo, got {gain} and {fsinfo}")
        shift = 0.0 if gain is not None else self.shift
        wanted = gain if gain is not None else fsinfo
        assert wanted is not None
        low, high = self.factors
        most, least = self.gain(low).value + shift, self.gain(high).value + shift
        if not least <= wanted <= most:
            name = "gain" if gain is not None else "FSInfo"
            nearest, at = (least, high) if wanted < least else (most, low)
            raise LeakageError(
                f"expected a {name} between {least:.4g} and {most:.4g} nats per input element, got "
                f"{wanted:.4g}: the nearest that noise reaches is {nearest:.4g}, at {at:.4g} times "
                "the given noise"
            )
        for _ in range(_BISECTIONS):
            middle = math.sqrt(low * high)
            if not low < middle < high:
                break
            low, high = (
                (middle, high) if self.gain(middle).value + shift > wanted else (low, middle)
            )
        return math.sqrt(low * high)


def gain_curve(
    jacobian: HeadJacobian,
    prior: ImagePrior,
    sigma_shape: Tensor,
    *,
    mean: bool,
    steps: int = 300,
    probes: int = 1,
    seed: int = 0,
    deadline_s: float | None = None,
) -> GainCurve:
    """Gain and FSInfo for every factor on the noise.

    Args:
        jacobian: J at each image.
        prior: Of the same shape.
        sigma_shape: ``[k]``: the noise of each smashed-data element at factor 1; positive.
        mean: Of the mean information over the images (the bayesian kind, which bounds any
            attacker), or the mean over the images of each one's own.
        steps: Of quadrature, where the matrix is too large: at most so many a probe.
        probes: Likewise: how many, averaged.
        seed: Of the probes.
        deadline_s: Seconds after which no further step begins.

    Returns:
        The curve.

    Raises:
        LeakageError: The prior is of another shape, the noise is not positive, or the matrix does
            not fit.
    """
    if jacobian.shape != prior.shape:
        raise LeakageError(
            f"expected pictures of the prior's shape {prior.shape}, got {jacobian.shape}"
        )
    if sigma_shape.shape != (jacobian.outputs,) or not bool((sigma_shape > 0).all()):
        raise LeakageError(
            f"expected a positive sigma for each of {jacobian.outputs} smashed-data elements, got "
            f"shape {tuple(sigma_shape.shape)} with a least value of {float(sigma_shape.min()):g}"
        )
    if min(jacobian.inputs, jacobian.outputs) > DENSE_LIMIT:
        raise LeakageError(f"expected at most {DENSE_LIMIT} elements, got {jacobian.inputs}")
    return _dense_curve(jacobian, prior, sigma_shape, mean=mean)


def _dense_curve(
    jacobian: HeadJacobian, prior: ImagePrior, sigma: Tensor, *, mean: bool
) -> GainCurve:
    d, n = jacobian.inputs, jacobian.images
    half = prior.variance.sqrt().flatten()
    transform = prior.transform(half)
    rows = [
        transform.forward(j.double() / sigma.double().unsqueeze(1)).flatten(1) * half
        for j in jacobian.dense()
    ]
    stacked = [torch.cat(rows) / math.sqrt(n)] if mean else rows
    spectra = []
    for m in stacked:
        gram = m @ m.T if len(m) < d else m.T @ m
        values = torch.linalg.eigvalsh(gram).clamp_min(0).numpy()
        spectra.append(Spectrum(values, np.ones_like(values)))
    shift = -prior.log_det() / (2 * d) - GAUSSIAN_ENTROPY
    scale = math.sqrt(max([float(s.values.max()) for s in spectra] + [0.0])) or 1.0
    eps = torch.finfo(jacobian.features.dtype).eps
    low = scale * max(16 * eps, math.sqrt(d * np.finfo(np.float64).eps))
    return GainCurve(tuple(spectra), d, shift, (low, _REACH * scale), "eigenvalues")
