"""Through which elements of the smashed data the information comes: their leverages.

With W = Σ^-½ J Bᵀ C^½ over all pictures, G = WᵀW, an element's leverage is its share of
tr(G(1 + G)⁻¹), the number of directions that pass: the diagonal of W(1 + G)⁻¹Wᵀ. It is also
−∂ ln det(1 + G)/∂ ln σ_i²; each is on [0, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from splitdeploy.attacks.leakage.mean_information import MeanWhitened
from splitdeploy.attacks.leakage.sides import Side, input_side

_DENSE_ELEMENTS = 1 << 24
"""The most elements of all pictures' Jacobians together that are formed: 128 MiB in float64."""

_SOLVE_STEPS, _SOLVE_TOLERANCE = 25, 1e-2
_POWER_STEPS = 20


def leverages(whitened: MeanWhitened, *, probes: int = 4, seed: int = 0) -> Tensor:
    """The leverage of each element in each picture.

    Small heads: exact, by Cholesky. Others: y = (1 + G)⁻¹(Wᵀη + ξ) with standard normal η and ξ has
    covariance (1 + G)⁻¹, so that the mean of (Wy)² is the leverage (Papandreou and Yuille 2010);
    it is never negative, and its relative error over a group of m directions is √(2/(m·probes)).

    Args:
        whitened: The Jacobians in units of the noise.
        probes: How many y are averaged where the head is not small.
        seed: Of η and ξ.

    Returns:
        ``[n, k]`` float64; the sum is the number of directions that pass.
    """
    jacobian = whitened.jacobian
    n, k, d = jacobian.images, jacobian.outputs, jacobian.inputs
    if n * k * d <= _DENSE_ELEMENTS:
        return _exact(whitened)
    generator = torch.Generator().manual_seed(seed)
    side, half = input_side(whitened), whitened.half
    total = torch.zeros(n, k, dtype=torch.float64, device=half.device)
    for _ in range(probes):
        eta = torch.randn(1, n * k, generator=generator, dtype=half.dtype).to(half)
        xi = torch.randn(1, d, generator=generator, dtype=half.dtype).to(half)
        y = _solve(side, side.adjoint(eta) + xi)
        total += side.forward(y).double().square().view(n, k)
    return total / probes


def largest_information(whitened: MeanWhitened, *, seed: int = 0) -> float:
    """The largest eigenvalue of the mean information Ī in pixel space, by power steps.

    Args:
        whitened: The Jacobians in units of the noise.
        seed: Of the start.

    Returns:
        From below, 1/pixel²: the inverse is the variance that an unbiased attacker has along the
        direction that leaks most.
    """
    half = whitened.half
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(1, len(half), generator=generator, dtype=half.dtype).to(half)
    found = 0.0
    for _ in range(_POWER_STEPS):
        norm = float(v.double().norm())
        if norm == 0.0:
            return 0.0
        pushed = whitened.push(v / norm)
        found = float(pushed.double().square().sum())
        v = whitened.pull(pushed)
    return found


def image_error(leverage: Tensor, dimensions: int) -> float:
    """The standard error of a mean-information gain that comes from which pictures were taken.

    The derivative of ½·ln det(1 + G) by the weight of a picture is half its leverages' sum times
    n; their spread over the pictures, over √n, is the delta method's error.

    Args:
        leverage: ``[n, k]``.
        dimensions: Input elements, d.

    Returns:
        Nats per input element; 0 for one picture, which has no spread.
    """
    n = len(leverage)
    if n == 1:
        return 0.0
    return float((n * leverage.sum(dim=1)).std()) / (2 * dimensions) / math.sqrt(n)


def _exact(whitened: MeanWhitened) -> Tensor:
    jacobian, half = whitened.jacobian, whitened.half.double()
    n, k, d = jacobian.images, jacobian.outputs, jacobian.inputs
    sigma = whitened.sigma.double().unsqueeze(1)
    transform = whitened.prior.transform(half)
    rows = torch.cat([
        transform.forward(j.double() / sigma).flatten(1) * half for j in jacobian.dense()
    ]) / math.sqrt(n)  # fmt: skip
    if n * k < d:
        # W(1 + WᵀW)⁻¹Wᵀ = 1 − (1 + WWᵀ)⁻¹.
        gram = torch.eye(n * k).to(rows) + rows @ rows.T
        inverse: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        return (1.0 - inverse.diagonal()).clamp_min(0.0).view(n, k)
    factor = torch.linalg.cholesky(torch.eye(d).to(rows) + rows.T @ rows)
    solved: Tensor = torch.linalg.solve_triangular(factor, rows.T, upper=False)
    return solved.square().sum(dim=0).view(n, k)


def _solve(side: Side, b: Tensor) -> Tensor:
    """(1 + G)⁻¹b by preconditioned conjugate gradients: P^-½ (NᵀN)⁻¹ P^-½ b."""
    residual = b * side.scale.rsqrt()
    found, direction = torch.zeros_like(b), residual
    square = residual.square().sum()
    enough = _SOLVE_TOLERANCE**2 * float(square)
    for _ in range(_SOLVE_STEPS):
        if float(square) <= enough:
            break
        image = side.stacked_adjoint(side.stacked(direction))
        step = square / (direction * image).sum()
        found, residual = found + step * direction, residual - step * image
        square, before = residual.square().sum(), square
        direction = residual + (square / before) * direction
    return found * side.scale.rsqrt()
