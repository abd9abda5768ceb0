"""ln det of a large positive operator NᵀN from a few products, with a bracket around it.

Stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017) by Golub-Kahan bidiagonalisation: with a
probe z of entries ±1, the m-step bidiagonal B of N from z/‖z‖ gives

    zᵀ ln(NᵀN) z ≈ ‖z‖²·Σ_i w_i ln(s_i²),    s_i singular values of B, w_i = V_{1i}²,

which is Gauss quadrature. The logarithm's even derivatives are negative and its odd ones positive,
so Gauss is an upper bound, and Gauss-Radau with a node at or below the spectrum's lower end a lower
bound (Golub and Meurant 2010, ch. 6).

Bidiagonalising N, rather than running Lanczos on NᵀN, keeps singular values to a relative accuracy
of the float type times ‖N‖ instead of its square root: in float32, Lanczos on NᵀN would have no
digits left for the directions that little leaks about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal, eigvalsh_tridiagonal
from torch import Tensor

_QUARTER, _SLOW_FALL, _SETTLING_STEPS = 0.25, 0.45, 16
"""When and where the spectrum's lower end is told from its smallest Ritz values (measured)."""

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

    def log_mean(self, floor: float, *, reached: bool = True) -> LogMean:
        """The mean of the logarithm over the spectral measure of NᵀN at the probe.

        Args:
            floor: A lower bound on the spectrum, positive.
            reached: Whether the spectrum is taken to go down to it. Where it is not, and the
                smallest Ritz values settle, Gauss-Radau has its node where they are on their way to
                (see `_lower_end`): a lower bound but for what weight lies beneath.

        Returns:
            Its bracket, and the spread of the logarithms.
        """
        alpha, beta = self.tridiagonal()
        node = floor if reached else max(floor, self._lower_end(alpha, beta))
        upper, square = _log_moments(alpha, beta, floor)
        lower, lower_square = _log_moments(*self.with_node(node), floor)
        variance = max(0.0, square - upper**2, lower_square - lower**2)
        return LogMean(min(lower, upper), upper, math.sqrt(variance))

    @staticmethod
    def _lower_end(alpha: NDArray[np.float64], beta: NDArray[np.float64]) -> float:
        """Where the smallest Ritz value will be when there are four times as many steps.

        Its fall from half the steps to all of them goes on at the same rate, and to a quarter at
        least. Told only where that fall is slow: over fifteen heads and noises the bracket then
        held, and did not where it was fast (trained nets at the noise of fp16).

        Returns:
            The place; 0 where it cannot be told.
        """
        half = len(alpha) // 2
        if len(alpha) < _SETTLING_STEPS:
            return 0.0
        before = _smallest(alpha[:half], beta[: half - 1])
        now = _smallest(alpha, beta)
        slow = before > 0 and now >= _SLOW_FALL * before
        return now * min(_QUARTER, (now / before) ** 2) if slow else 0.0

    def tridiagonal(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """BᵀB: its diagonal ``[m]`` and what is beside it ``[m − 1]``."""
        before = np.concatenate([[0.0], self.upper[:-1]])
        return self.diagonal**2 + before**2, self.diagonal[:-1] * self.upper[:-1]

    def with_node(self, node: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The tridiagonal one larger that has the node as an eigenvalue (Golub 1973).

        Args:
            node: At or below the spectrum.

        Returns:
            Its diagonal ``[m + 1]`` and what is beside it ``[m]``.
        """
        # The last pivot p of T − node, from p − q with q the squared diagonal (the stationary
        # quotient-difference algorithm, Rutishauser): no digits are lost where the node is small.
        squares, rims = self.diagonal**2, self.upper**2
        tiny = np.finfo(np.float64).eps * np.maximum(squares, np.finfo(np.float64).tiny)
        excess = -node
        for q, e, least in zip(squares[:-1], rims, tiny, strict=False):
            excess = float(e * excess / max(q + excess, least)) - node
        pivot = max(float(squares[-1]) + excess, float(tiny[-1]))
        alpha, beta = self.tridiagonal()
        after = node + float(squares[-1] * rims[-1]) / pivot
        return np.append(alpha, after), np.append(beta, self.diagonal[-1] * self.upper[-1])


def _smallest(alpha: NDArray[np.float64], beta: NDArray[np.float64]) -> float:
    return float(eigvalsh_tridiagonal(alpha, beta, select="i", select_range=(0, 0))[0])


def _log_moments(
    alpha: NDArray[np.float64], beta: NDArray[np.float64], floor: float
) -> tuple[float, float]:
    values, vectors = eigh_tridiagonal(alpha, beta)
    # Rounding alone puts a node below the floor.
    logs = np.log(np.maximum(values, floor))
    weights = vectors[0] ** 2
    return float(weights @ logs), float(weights @ logs**2)


@dataclass(frozen=True)
class LogMean:
    """The mean logarithm of an operator's eigenvalues, from one probe.

    Attributes:
        lower: Gauss-Radau: at most what the probe's true quadratic form is, in exact arithmetic.
        upper: Gauss: at least that.
        spread: Standard deviation of the eigenvalues' logarithms, from which the probe's error
            follows.
    """

    lower: float
    upper: float
    spread: float

    def probe_error(self, dimension: int) -> float:
        """A bound on the standard error that comes from a random probe.

        The variance of zᵀFz with entries ±1 is 2·Σ_{i≠j} F_ij² = 2(‖F‖² − Σ F_ii²), at most
        2(‖F‖² − (tr F)²/dimension) (Hutchinson 1990; Cauchy-Schwarz). With F the logarithm, both
        terms are moments of the spectrum, known from the probe itself to a share of about
        dimension^-½, by which the bound is raised.

        Args:
            dimension: Of the space that the probe fills.

        Returns:
            The bound, for the mean per dimension.
        """
        return probe_error(self.spread, dimension)


def probe_error(spread: float, dimension: int) -> float:
    """`LogMean.probe_error` of a spread of logarithms.

    Args:
        spread: Their standard deviation over the spectrum.
        dimension: Of the space that the probe fills.

    Returns:
        The bound, for the mean per dimension.
    """
    return math.sqrt(2.0 / dimension) * (1.0 + 1.0 / math.sqrt(dimension)) * spread


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


def bidiagonalise(
    forward: Product,
    adjoint: Product,
    probe: Tensor,
    *,
    reorthogonalise: bool = True,
    kept: int = 0,
) -> Iterator[tuple[Bidiagonal, ...]]:
    """Golub-Kahan bidiagonalisation of a block-diagonal operator, all blocks at once.

    A block whose Krylov space is exhausted keeps its bidiagonal while the others go on.

    Args:
        forward: N: ``[n, d]`` to ``[n, k]``, row by row.
        adjoint: Nᵀ: ``[n, k]`` to ``[n, d]``.
        probe: ``[n, d]``: the start of each block.
        reorthogonalise: Keep both bases and reorthogonalise in full. Without it converged
            eigenvalues appear again, which delays quadratures but does not bias them (Greenbaum
            1989; Chen, Trogdon and Ubaru 2021).
        kept: Without it, how many right vectors are kept, the first ones, against which later ones
            are orthogonalised. One side is enough to keep copies away (Simon and Zha 2000),
            and the eigenvalues that would appear again are those that converge first.

    Yields:
        After each step, the bidiagonal of each block so far; ends when every block is exhausted.
    """
    n, d = probe.shape
    tiny = 8 * torch.finfo(probe.dtype).eps
    v = probe / probe.norm(dim=1, keepdim=True).clamp_min(torch.finfo(probe.dtype).tiny)
    rights, lefts = _Basis(), _Basis()
    room = None if reorthogonalise else kept
    if room is None or room > 0:
        rights.append(v)
    u = torch.zeros_like(v)
    diagonal, upper = np.zeros((0, n)), np.zeros((0, n))
    length = np.full(n, -1)
    size = np.zeros(n)  # the operator's norm as far as it is known
    while (length < 0).any():
        image = forward(v)
        image = image if len(diagonal) == 0 else image - _scaled(upper[-1], u)
        u, alpha = _next(lefts.orthogonalised(image, 2), size * tiny)
        w = adjoint(u) - _scaled(alpha, v)
        size = np.maximum(size, alpha)
        v, beta = _next(rights.orthogonalised(w, 2), size * tiny)
        size = np.maximum(size, beta)
        if reorthogonalise:
            lefts.append(u)
        if room is None or len(rights) < room:
            rights.append(v)
        diagonal, upper = np.vstack([diagonal, alpha]), np.vstack([upper, beta])
        steps = len(diagonal)
        ended = (beta == 0) | (reorthogonalise and steps == d)
        length = np.where((length < 0) & ended, steps, length)
        upper[-1, ended] = 0.0
        size_of = np.where(length < 0, steps, length)
        yield tuple(Bidiagonal(diagonal[:m, i], upper[:m, i]) for i, m in enumerate(size_of))


def _scaled(factor: NDArray[np.float64], rows: Tensor) -> Tensor:
    return torch.from_numpy(factor).to(rows).unsqueeze(1) * rows


class _Basis:
    """Vectors that others are made orthogonal to, a set for each block: ``[n, m, d]``."""

    def __init__(self) -> None:
        self._count = 0
        self._rows = torch.empty(0)

    def append(self, x: Tensor) -> None:
        """Add one vector to each block's set."""
        if self._count == (self._rows.shape[1] if self._count else 0):
            grown = x.new_empty(x.shape[0], max(8, 2 * self._count), x.shape[1])
            if self._count:
                grown[:, : self._count] = self._rows
            self._rows = grown
        self._rows[:, self._count] = x
        self._count += 1

    def __len__(self) -> int:
        """Vectors of each set."""
        return self._count

    def orthogonalised(self, x: Tensor, times: int) -> Tensor:
        """What of ``[n, d]`` is orthogonal to the sets; twice is enough (Kahan)."""
        if self._count == 0:
            return x
        rows = self._rows[:, : self._count]
        for _ in range(times):
            parts = torch.bmm(rows, x.unsqueeze(2))
            x = x - torch.bmm(parts.transpose(1, 2), rows).squeeze(1)
        return x


def _next(x: Tensor, floor: NDArray[np.float64]) -> tuple[Tensor, NDArray[np.float64]]:
    """Normalised; zero where nothing is left."""
    norm = x.norm(dim=1)
    size = norm.double().cpu().numpy().copy()
    gone = size <= floor
    size[gone] = 0.0
    x = x / norm.clamp_min(torch.finfo(x.dtype).tiny).unsqueeze(1)
    x[torch.from_numpy(gone).to(x.device)] = 0.0
    return x, size
