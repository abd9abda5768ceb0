"""The spectrum of MᵀM, whole or by quadrature, from which the leakage at every noise follows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitdeploy.attacks.leakage.lanczos import probe_error

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Nats:
    """½·ln det(1 + MᵀM/factor²) of one operator.

    Attributes:
        value: In the middle of the quadrature's bracket.
        half_width: Half of it; 0 where the eigenvalues are known.
        probe_error: A bound on the standard error that comes from random probes.
    """

    value: float
    half_width: float
    probe_error: float


@dataclass(frozen=True)
class Rule:
    """A quadrature of the spectral density at one probe.

    Attributes:
        values: ``[m]``: eigenvalues, not negative.
        weights: ``[m]``: their sum is 1.
    """

    values: Array
    weights: Array

    def moments(self, factor: float) -> tuple[float, float]:
        """Mean and mean square of ln(1 + θ/factor²)."""
        logs = np.log1p(self.values / factor**2)
        return float(self.weights @ logs), float(self.weights @ logs**2)


@dataclass(frozen=True)
class Response:
    """How ln det of the mean information answers to the weight of each image.

    The derivative is tr((factor² + G)⁻¹ G_x); in the basis of G's eigenvectors or, from a probe, of
    its Ritz vectors, it is Σ_i c_xi/(factor² + θ_i), which serves every factor.

    Attributes:
        values: ``[m]``: θ.
        parts: ``[n, m]``: c for each image.
    """

    values: Array
    parts: Array

    def error(self, factor: float) -> float:
        """The standard error of ½·ln det that comes from which images were taken (delta method)."""
        n = len(self.parts)
        if n == 1:
            return 0.0
        traces = self.parts @ (1.0 / (factor**2 + self.values))
        return float(traces.std(ddof=1)) / 2 / math.sqrt(n)


@dataclass(frozen=True)
class Spectrum:
    """The eigenvalues of one operator MᵀM, whole or by quadrature.

    Attributes:
        size: How many directions the weights stand for together.
        upper: A rule for each probe whose value is an upper bound for that probe.
        lower: Likewise; the same where the eigenvalues are known.
        exact: Whether they are.
        response: Of the mean information of several images.
    """

    size: int
    upper: tuple[Rule, ...]
    lower: tuple[Rule, ...]
    exact: bool
    response: Response | None = None

    @property
    def largest(self) -> float:
        """The largest eigenvalue that was seen."""
        return max(float(rule.values.max(initial=0.0)) for rule in self.upper)

    def nats(self, factor: float) -> Nats:
        """½·ln det(1 + MᵀM/factor²)."""
        high = [rule.moments(factor) for rule in self.upper]
        low = [rule.moments(factor) for rule in self.lower]
        top, bottom = np.mean([m for m, _ in high]), np.mean([m for m, _ in low])
        # Rounding alone puts the lower bound above the other.
        bottom = min(bottom, top)
        spread = math.sqrt(max(0.0, *(square - mean**2 for mean, square in high + low)))
        error = 0.0 if self.exact else probe_error(spread, self.size) / math.sqrt(len(high))
        half = self.size / 2
        return Nats(
            float(half * (top + bottom) / 2), float(half * (top - bottom) / 2), half * error
        )

    def image_error(self, factor: float) -> float:
        """The standard error of ½·ln det that comes from which images were taken."""
        return 0.0 if self.response is None else self.response.error(factor)
