"""The two sides from which ln det(1 + MᵀM) = ln det(1 + MMᵀ) can be computed, preconditioned.

M = Σ^-½ J Bᵀ C^½ maps white DCT coefficients to whitened smashed data. Its spectrum spans ten
orders of magnitude (pictures have a 1/f² spectrum), so that a few Lanczos steps say little. Hence

    ln det(1 + G) = Σ_i ln P_i + ln det(P^-½ (1 + G) P^-½),    G = MᵀM or MMᵀ,

exact for any diagonal P > 0. On the input side P = (1 + diag(G))^0.65, averaged over rings of
equal frequency: with the whole of it, the directions that a head of low rank loses would be spread
over as many orders of magnitude as G has, and the lower bound would come last. On the output side
P = 1: scaled there by channel it converges no sooner (measured, from layer1 to the classifier).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.lanczos import rademacher
from splitdeploy.attacks.leakage.prior import ImagePrior, radial_frequency

_RINGS = 24
_PROBES = 2

_POWER = 0.65
"""Of the input side's preconditioner; 0.5 to 0.75 do about as well (measured)."""


class Whitened:
    """The head's Jacobian between DCT coefficients and smashed data in units of its noise.

    Args:
        jacobian: J at each image.
        prior: Its basis B and the variance C of each coefficient.
        sigma: ``[k]``: the noise of each smashed-data element.
        seed: Of the probes by which diagonals are estimated.

    Attributes:
        jacobian: As given.
        prior: As given.
        half: ``[d]``: C^½.
        sigma: As given.
        ring: ``[d]``: to which ring of which channel each coefficient belongs.
        ring_size: Coefficients in each ring.
    """

    def __init__(
        self, jacobian: HeadJacobian, prior: ImagePrior, sigma: Tensor, *, seed: int
    ) -> None:
        self.jacobian, self.prior = jacobian, prior
        self.sigma, self._seed = sigma, seed
        self._basis = prior.transform(jacobian.features)
        self.half = prior.variance.sqrt().flatten().to(jacobian.features)
        self.ring = frequency_rings(jacobian.shape)
        self.ring_size = torch.bincount(self.ring)

    @property
    def blocks(self) -> int:
        """How many operators there are side by side, one a row of what push and pull take."""
        return self.jacobian.images

    def push(self, coefficients: Tensor) -> Tensor:
        """Σ^-½ J Bᵀ, image by image: ``[n, d]`` to ``[n, k]``."""
        return self.jacobian.jvp(self._basis.inverse(coefficients)) / self.sigma

    def pull(self, u: Tensor) -> Tensor:
        """B Jᵀ Σ^-½, image by image: ``[n, k]`` to ``[n, d]``."""
        return self._basis.forward(self.jacobian.vjp(u / self.sigma)).flatten(1)

    @cached_property
    def probes(self) -> Tensor:
        """B Jᵀ Σ^-½ r for random signs r, ``[2, n, d]``: their squares estimate diag(B I Bᵀ)."""
        like = self.jacobian.features
        n, k = like.shape
        return torch.stack([
            self.pull(rademacher(n, k, seed=self._seed + i, like=like)) for i in range(_PROBES)
        ])

    @cached_property
    def ring_information(self) -> Tensor:
        """The mean of diag(B I Bᵀ) over each ring, ``[n, rings]`` float64, estimated."""
        squares = self.probes.double().square().mean(dim=0)
        sums = squares.new_zeros(len(squares), len(self.ring_size)).index_add_(
            1, self.ring, squares
        )
        return sums / self.ring_size.clamp_min(1)


@dataclass(frozen=True)
class Side:
    """One of the two determinants, ready for quadrature.

    Attributes:
        name: ``input`` or ``output``.
        scale: ``[n, D]``: the diagonal P.
        active: ``[n, D]`` bool: where G can be other than zero; elsewhere P is 1.
        forward: M or Mᵀ.
        adjoint: Mᵀ or M.
        floor_reached: Whether the spectrum is taken to go down to 1/max P: directions that G loses
            are there where P is 1.
        hadamard: ``[n]`` float64: an upper bound on ln det(1 + G), up to the estimation of G's
            diagonal.
    """

    name: str
    scale: Tensor
    active: Tensor
    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    floor_reached: bool
    hadamard: Tensor

    @property
    def dimensions(self) -> Tensor:
        """For each image, the dimensions in which something happens: ``[n]``."""
        return self.active.sum(dim=1)

    @property
    def base(self) -> Tensor:
        """Σ ln P, ``[n]`` float64."""
        return self.scale.double().log().sum(dim=1)

    def stacked(self, v: Tensor) -> Tensor:
        """N v with NᵀN = P^-½ (1 + G) P^-½: M P^-½ above P^-½."""
        scaled = v * self.scale.rsqrt()
        return torch.cat([self.forward(scaled), scaled], dim=1)

    def stacked_adjoint(self, u: Tensor) -> Tensor:
        """Nᵀ u."""
        outputs = u.shape[1] - self.scale.shape[1]
        return (self.adjoint(u[:, :outputs]) + u[:, outputs:]) * self.scale.rsqrt()


def input_side(whitened: Whitened) -> Side:
    """The determinant of 1 + MᵀM, over DCT coefficients.

    Args:
        whitened: M but for C^½.

    Returns:
        The side.
    """
    half = whitened.half
    sums = (whitened.probes.square().mean(dim=0) * half**2).double()
    rings = sums.new_zeros(len(sums), len(whitened.ring_size))
    means = rings.index_add_(1, whitened.ring, sums) / whitened.ring_size.clamp_min(1)
    scale = (1.0 + means[:, whitened.ring]).pow(_POWER).to(half)
    return Side(
        "input",
        scale,
        torch.ones_like(scale, dtype=torch.bool),
        lambda v: whitened.push(v * half),
        lambda u: whitened.pull(u) * half,
        floor_reached=False,
        hadamard=means[:, whitened.ring].log1p().sum(dim=1),
    )


def output_side(whitened: Whitened, *, seed: int) -> Side:
    """The determinant of 1 + MMᵀ, over the smashed data's elements that depend on the picture.

    Args:
        whitened: M but for C^½.
        seed: Of the probe that shows which rows are not zero.

    Returns:
        The side.
    """
    half = whitened.half
    row = whitened.push(rademacher(whitened.blocks, len(half), seed=seed, like=half) * half)
    active = row != 0
    count, power = active.sum(dim=1).double(), row.double().square().sum(dim=1)
    return Side(
        "output",
        torch.ones_like(row),
        active,
        lambda u: whitened.pull(u) * half,
        lambda v: whitened.push(v * half),
        floor_reached=True,
        hadamard=count * (power / count.clamp_min(1)).log1p(),
    )


def frequency_rings(shape: tuple[int, int, int]) -> Tensor:
    """Which ring of equal width in log frequency each DCT coefficient lies in, by channel.

    Args:
        shape: ``(c, h, w)``.

    Returns:
        ``[d]`` int64.
    """
    c, h, w = shape
    radius = radial_frequency(h, w).flatten()
    low, high = float(radius.min()), float(radius.max())
    edges = torch.logspace(0, 1, _RINGS + 1, base=max(high / low, 1.0 + 1e-9), dtype=torch.float64)
    ring = torch.bucketize(radius / low, edges[1:-1], right=True)
    return (ring.unsqueeze(0) + _RINGS * torch.arange(c).unsqueeze(1)).flatten()
