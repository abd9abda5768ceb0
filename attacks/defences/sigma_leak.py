"""What a σ that depends on the picture tells about it.

With z = f(x) + σ(x)·ε the score is ∇_x ln p(z|x), and its covariance, the true information, is

    I(x) = JᵀJ/σ² + 2k·∇lnσ ∇lnσᵀ,

so that ln det grows by ln(1 + 2kσ²·gᵀ(JᵀJ)⁻¹g) with g = ∇lnσ. For the published σ, lnσ is
(1/2d)·ln det JᵀJ and a constant. The gradient is local: where the head is piecewise linear (ReLU)
it is zero almost everywhere, though σ differs from picture to picture. That σ is known to within
1/√(2k) from the noise itself; how many pictures it tells apart is the other figure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp, vmap

from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import DefenceError

LEAK_ELEMENTS = 1 << 24
"""The most elements of a Jacobian for which the leak is computed: 128 MiB in float64."""

_CHUNK_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class SigmaLeak:
    """What the published σ adds to what it was calibrated for.

    Attributes:
        gradient: ``[n, d]``: ∇lnσ at each picture.
        nats: ``[n]``: ½·ln(1 + 2kσ²·gᵀ(JᵀJ)⁻¹g): by so much ½·ln det I(x) is larger than its
            target; over d, FSInfo.
        between_pictures_nats: ½·ln(1 + 2k·Var lnσ) over the pictures: what knowing σ to within
            1/√(2k) tells which picture it is, were lnσ Gaussian; NaN for one picture.
    """

    gradient: Tensor
    nats: Tensor
    between_pictures_nats: float


def sigma_leak(head: PixelHead, pixels: Tensor, sigma: Tensor) -> SigmaLeak:
    """The information that is in the published, picture-dependent σ.

    Args:
        head: From pixels, in eval mode, twice differentiable by forward over reverse mode.
        pixels: ``[n, c, h, w]`` on [0, 1].
        sigma: ``[n]``: the published σ of each picture, positive.

    Returns:
        The leak of each picture.

    Raises:
        DefenceError: A Jacobian is too large, or has not full rank (then σ is 0).
    """
    jacobian = HeadJacobian(head, pixels)
    k, d = jacobian.outputs, jacobian.inputs
    if k * d > LEAK_ELEMENTS:
        raise DefenceError(
            f"expected a Jacobian of at most {LEAK_ELEMENTS} elements for the leak of sigma, got "
            f"{k} by {d}: take smaller pictures"
        )
    gradients, nats = [], []
    for x, j, s in zip(pixels, jacobian.dense(), sigma.double(), strict=True):
        inverse = _inverse_gram(j.double())
        g = _log_sigma_gradient(head, x, (inverse @ j.double().T).T)
        gradients.append(g)
        nats.append(0.5 * torch.log1p(2.0 * k * s.square() * (g @ inverse @ g)))
    spread = float(sigma.double().log().var()) if len(sigma) > 1 else math.nan
    return SigmaLeak(torch.stack(gradients), torch.stack(nats), 0.5 * math.log1p(2.0 * k * spread))


def _inverse_gram(j: Tensor) -> Tensor:
    """(JᵀJ)⁻¹ in float64."""
    factor, failed = torch.linalg.cholesky_ex(j.T @ j)
    if int(failed):
        raise DefenceError(
            f"expected a Jacobian of full rank {j.shape[1]}, got one of "
            f"{int(torch.linalg.matrix_rank(j))}: the published sigma is 0 there"
        )
    inverse: Tensor = torch.cholesky_inverse(factor)
    return inverse


def _log_sigma_gradient(head: PixelHead, x: Tensor, pseudo: Tensor) -> Tensor:
    """∇lnσ = (1/d)·∇_x tr(Pᵀ J(x)) with P = J(JᵀJ)⁻¹ held fixed: ∇½·ln det JᵀJ = tr(J⁺∇J).

    Args:
        head: From pixels.
        x: One picture ``[c, h, w]``.
        pseudo: P, ``[k, d]`` float64.

    Returns:
        ``[d]`` float64.
    """
    k, d = pseudo.shape
    columns = max(1, _CHUNK_ELEMENTS // (k + d))
    total = torch.zeros(d, dtype=torch.float64, device=x.device)
    units = torch.eye(d, dtype=x.dtype, device=x.device)
    for start in range(0, d, columns):
        directions, weights = units[start : start + columns], pseudo[:, start : start + columns]
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()

            def push(v: Tensor, at: Tensor = leaf) -> Tensor:
                pushed: Tensor = jvp(
                    lambda p: head.features(p.unsqueeze(0))[0], (at,), (v.view_as(at),)
                )[1]
                return pushed

            columns_of_j = vmap(push)(directions)
            trace = (columns_of_j.double() * weights.T).sum()
        # Piecewise linear heads have a Jacobian without a graph back to the picture.
        if trace.requires_grad:
            (g,) = torch.autograd.grad(trace, leaf, allow_unused=True)
            if g is not None:
                total += g.double().flatten()
    return total / d
