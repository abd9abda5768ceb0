"""ln det(1 + MᵀM) of a large operator from a few products, with a bracket around it.

Stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017) by Golub-Kahan bidiagonalisation: with a
probe z of entries ±1, ‖z‖² = d, the m-step bidiagonal B of M from z/‖z‖ gives

    zᵀ ln(1 + MᵀM) z ≈ d·Σ_i w_i ln(1 + s_i²),    s_i singular values of B, w_i = V_{1i}²,

which is Gauss quadrature. The logarithm's even derivatives are negative and its odd ones positive,
so Gauss is an upper bound and Gauss-Radau with a node at the spectrum's lower end, 1, a lower
bound (Golub and Meurant 2010, ch. 6). The Radau rule is that of the m by (m+1) bidiagonal.

Bidiagonalising M, rather than running Lanczos on MᵀM, keeps singular values to a relative accuracy
of the float type times ‖M‖ instead of its square root: in float32, with ‖M‖² of 1e10 or so, Lanczos
on MᵀM has no digits left for the directions that nothing leaks about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Bidiagonal:
    """The m-step bidiagonal of one operator from one probe, and what its quadratures say.

    Attributes:
        diagonal: ``[m]``: B_11 … B_mm.
        upper: ``[m]``: B_12 … B_{m,m+1}; the last is 0 where the Krylov space is exhausted, and
            then both quadratures are exact for this probe.
    """

    diagonal: NDArray[np.float64]
    upper: NDArray[np.float64]

    def nodes(self, *, radau: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Nodes and weights of the quadrature for the spectral measure of MᵀM at the probe.

        Args:
            radau: Gauss-Radau with a node at 0, else Gauss.

        Returns:
            Eigenvalues of MᵀM, and weights that sum to 1.
        """
        m = len(self.diagonal)
        b = np.diag(self.diagonal) + np.diag(self.upper[:-1], 1)
        if radau:
            b = np.hstack([b, np.zeros((m, 1))])
            b[-1, -1] = self.upper[-1]
        _, s, vt = np.linalg.svd(b, full_matrices=True)
        values = np.zeros(b.shape[1])
        values[: len(s)] = s**2
        return values, vt[:, 0] ** 2

    def log_mean(self, *, scale: float = 1.0) -> LogMean:
        """The mean of ln(1 + scale·λ) over the spectral measure: ln det per dimension, estimated.

        Args:
            scale: A factor on MᵀM: one run serves every noise level.

        Returns:
            Value, half-width of the bracket, and spread of the logarithms.
        """
        upper, square = self._moments(scale, radau=False)
        lower, square_lower = self._moments(scale, radau=True)
        value = (upper + lower) / 2
        spread = math.sqrt(max(0.0, max(square - upper**2, square_lower - lower**2)))
        return LogMean(value, max(0.0, (upper - lower) / 2), spread)

    def _moments(self, scale: float, *, radau: bool) -> tuple[float, float]:
        values, weights = self.nodes(radau=radau)
        logs = np.log1p(scale * values)
        return float(weights @ logs), float(weights @ logs**2)


@dataclass(frozen=True)
class LogMean:
    """(1/d)·ln det(1 + MᵀM) from one probe.

    Attributes:
        value: The middle of the bracket.
        half_width: Half of Gauss minus Gauss-Radau: the quadrature's error is at most that, for
            this probe and in exact arithmetic.
        spread: Standard deviation of the eigenvalues' logarithms, from which the probe's error
            follows.
    """

    value: float
    half_width: float
    spread: float

    def probe_error(self, d: int, probes: int = 1) -> float:
        """A bound on the standard error that comes from random probes.

        The variance of zᵀFz with entries ±1 is 2·Σ_{i≠j} F_ij² = 2(‖F‖² − Σ F_ii²), at most
        2(‖F‖² − (tr F)²/d) (Hutchinson 1990; Cauchy-Schwarz). With F the logarithm, both terms are
        moments of the spectrum.

        Args:
            d: The dimension.
            probes: How many were averaged.

        Returns:
            The bound, for the mean per dimension.
        """
        return math.sqrt(2.0 / (d * probes)) * self.spread


@dataclass(frozen=True)
class Step:
    """Where a run stands after a step: a bidiagonal and the vectors' images for each row."""

    bidiagonals: tuple[Bidiagonal, ...]
    image: Tensor


def rademacher(n: int, d: int, *, seed: int, like: Tensor) -> Tensor:
    """Probes with entries ±1.

    Args:
        n: How many.
        d: The dimension.
        seed: Of the generator.
        like: A tensor with the dtype and device wanted.

    Returns:
        ``[n, d]``.
    """
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(0, 2, (n, d), generator=generator) * 2 - 1).to(like)


def bidiagonalise(forward: Product, adjoint: Product, probe: Tensor) -> Iterator[Step]:
    """Golub-Kahan bidiagonalisation of a block-diagonal operator, all blocks at once.

    Both bases are reorthogonalised in full. A block whose Krylov space is exhausted keeps its
    bidiagonal while the others go on.

    Args:
        forward: M: ``[n, d]`` to ``[n, k]``, row by row.
        adjoint: Mᵀ: ``[n, k]`` to ``[n, d]``.
        probe: ``[n, d]``: the start of each block.

    Yields:
        After each step, what was found so far; ends when every block is exhausted.
    """
    n, d = probe.shape
    tiny = 8 * torch.finfo(probe.dtype).eps
    v = probe / probe.norm(dim=1, keepdim=True)
    rights: list[Tensor] = [v]
    lefts: list[Tensor] = []
    diagonal, upper = np.zeros((0, n)), np.zeros((0, n))
    length = np.full(n, -1)
    size = np.zeros(n)  # the operator's norm as far as it is known
    while (length < 0).any():
        image = forward(v)
        u = image if not lefts else image - _scaled(upper[-1], lefts[-1])
        u, alpha = _next(u, lefts, size * tiny)
        lefts.append(u)
        w = adjoint(u) - _scaled(alpha, v)
        size = np.maximum(size, alpha)
        v, beta = _next(w, rights, size * tiny)
        size = np.maximum(size, beta)
        rights.append(v)
        diagonal, upper = np.vstack([diagonal, alpha]), np.vstack([upper, beta])
        steps = len(diagonal)
        ended = (beta == 0) | (steps == d)
        length = np.where((length < 0) & ended, steps, length)
        upper[-1, ended] = 0.0
        size_of = np.where(length < 0, steps, length)
        yield Step(
            tuple(Bidiagonal(diagonal[:m, i], upper[:m, i]) for i, m in enumerate(size_of)),
            image,
        )


def _scaled(factor: NDArray[np.float64], rows: Tensor) -> Tensor:
    return torch.from_numpy(factor).to(rows).unsqueeze(1) * rows


def _next(
    x: Tensor, basis: list[Tensor], floor: NDArray[np.float64]
) -> tuple[Tensor, NDArray[np.float64]]:
    """Orthogonalise against the basis (twice is enough), normalise; zero where nothing is left."""
    for _ in range(2):
        for b in basis:
            x = x - (x * b).sum(dim=1, keepdim=True) * b
    norm = x.norm(dim=1)
    size = norm.double().cpu().numpy().copy()
    gone = size <= floor
    size[gone] = 0.0
    x = x / norm.clamp_min(torch.finfo(x.dtype).tiny).unsqueeze(1)
    x[torch.from_numpy(gone).to(x.device)] = 0.0
    return x, size
