"""Gain and FSInfo at every strength of the noise, from one decomposition.

With M = Σ^-½ J Bᵀ C^½ at the noise of factor 1, the gain at a noise f times as strong is

    (1/2d)·Σ_i ln(1 + θ_i/f²),    θ_i the eigenvalues of MᵀM,

so that they, or a quadrature of their density, serve every f. It falls as f grows, which is why a
noise that reaches a wanted leakage is found by bisection.

The quadrature's preconditioner must not depend on f, so that there is none; ln(1 + θ/f²) has even
derivatives below zero, so that Gauss is an upper bound, and Gauss-Radau with a node at 0, where the
spectrum starts, a lower one. The weaker the noise, the wider their bracket.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from splitdeploy.attacks.leakage.dense_spectrum import dense_spectra
from splitdeploy.attacks.leakage.exact import GAUSSIAN_ENTROPY
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.lanczos_spectrum import lanczos_spectra
from splitdeploy.attacks.leakage.mean_information import MeanWhitened
from splitdeploy.attacks.leakage.prior import ImagePrior
from splitdeploy.attacks.leakage.sides import Whitened
from splitdeploy.attacks.leakage.spectrum import Spectrum
from splitdeploy.profiles.errors import LeakageError
from splitdeploy.profiles.report import Estimate

_BISECTIONS = 200
_REACH = 1e6
"""Beyond so many times the largest singular value, noise leaves nothing: gain below 1e-12."""


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

        The standard error combines, in squares, that over the images, that of the probes and half
        the quadrature's bracket over √3.

        Args:
            factor: On the shape of the noise; positive.

        Returns:
            Nats per input element.

        Raises:
            LeakageError: The factor is not positive and finite.
        """
        if not (math.isfinite(factor) and factor > 0):
            raise LeakageError(f"expected a positive factor on the noise, got {factor}")
        found = [s.nats(factor) for s in self.spectra]
        n = len(found)
        values = np.array([nats.value for nats in found])
        over_images = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
        # Few images may agree by chance; the probes' own error is there all the same.
        probes = float(np.mean([nats.probe_error for nats in found])) / math.sqrt(n)
        quadrature = float(np.mean([nats.half_width for nats in found])) / math.sqrt(3.0)
        images = self.spectra[0].image_error(factor) if n == 1 else 0.0
        error = math.hypot(max(over_images, probes), quadrature, images)
        return Estimate(float(values.mean()) / self.dimensions, error / self.dimensions)

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
        if gain is not None and fsinfo is None:
            return self._solve(gain, 0.0, "a gain")
        if fsinfo is not None and gain is None:
            return self._solve(fsinfo, self.shift, "an FSInfo")
        raise LeakageError(f"expected a gain or an fsinfo, got {gain} and {fsinfo}")

    def _solve(self, wanted: float, shift: float, name: str) -> float:
        low, high = self.factors
        most, least = self.gain(low).value + shift, self.gain(high).value + shift
        if not least <= wanted <= most:
            nearest, at = (least, high) if wanted < least else (most, low)
            raise LeakageError(
                f"expected {name} between {least:.4g} and {most:.4g} nats per input element, got "
                f"{wanted:.4g}: the nearest that noise reaches is {nearest:.4g}, at {at:.4g} times "
                "the given noise"
            )
        for _ in range(_BISECTIONS):
            middle = math.sqrt(low * high)
            if not low < middle < high:
                break
            if self.gain(middle).value + shift > wanted:
                low = middle
            else:
                high = middle
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
    weakest: float | None = None,
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
        deadline_s: Seconds after which no further step begins, and within which matrices must be
            made if they are.
        weakest: The least factor that will be asked for; quadrature may end once its bracket there
            is narrow beside the probes' error. None makes all steps.

    Returns:
        The curve.

    Raises:
        LeakageError: The prior is of another shape, the noise is not positive, or there are no
            steps or probes to make.
    """
    if steps < 1 or probes < 1:
        raise LeakageError(f"expected at least 1 step and 1 probe, got {steps} and {probes}")
    if jacobian.shape != prior.shape:
        raise LeakageError(
            f"expected pictures of the prior's shape {prior.shape}, got {jacobian.shape}"
        )
    if sigma_shape.shape != (jacobian.outputs,) or not bool((sigma_shape > 0).all()):
        raise LeakageError(
            f"expected a positive sigma for each of {jacobian.outputs} smashed-data elements, got "
            f"shape {tuple(sigma_shape.shape)} with a least value of {float(sigma_shape.min()):g}"
        )
    started = time.perf_counter()
    kind = MeanWhitened if mean else Whitened
    whitened = kind(jacobian, prior, sigma_shape, seed=seed)
    spectra = dense_spectra(whitened, mean=mean, seed=seed, deadline_s=deadline_s)
    method = "eigenvalues"
    if spectra is None:
        left = None if deadline_s is None else deadline_s - (time.perf_counter() - started)
        spectra = lanczos_spectra(
            whitened, mean=mean, steps=steps, probes=probes, seed=seed, deadline_s=left,
            weakest=weakest,
        )  # fmt: skip
        method = "slq"
    d = jacobian.inputs
    shift = -prior.log_det() / (2 * d) - GAUSSIAN_ENTROPY
    scale = math.sqrt(max(s.largest for s in spectra)) or 1.0
    eps = torch.finfo(jacobian.features.dtype).eps
    low = scale * max(16 * eps, math.sqrt(d * np.finfo(np.float64).eps))
    return GainCurve(tuple(spectra), d, shift, (low, _REACH * scale), method)
