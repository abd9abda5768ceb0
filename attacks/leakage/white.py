"""MᵀM and M as matrices, for M = Σ^-½ J Bᵀ C^½ from white DCT coefficients to whitened features."""

from __future__ import annotations

import torch
from torch import Tensor

from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.prior import ImagePrior
from splitdeploy.attacks.leakage.sides import Whitened


def white_information(information: Tensor, prior: ImagePrior) -> Tensor:
    """MᵀM = C^½ B I Bᵀ C^½ of an information matrix.

    Args:
        information: I, ``[d, d]`` float64.
        prior: Its basis B and the variance C of each coefficient.

    Returns:
        ``[d, d]``, symmetric.
    """
    rows = white_rows(information, prior)
    both = white_rows(rows.T, prior)
    return (both + both.T) / 2


def white_rows(rows: Tensor, prior: ImagePrior) -> Tensor:
    """A Bᵀ C^½ for rows in pixel space.

    Args:
        rows: A, ``[m, d]``.
        prior: As above.

    Returns:
        ``[m, d]``.
    """
    half = prior.variance.sqrt().flatten().to(rows)
    return prior.transform(rows).forward(rows.contiguous()).flatten(1) * half


def white_jacobian(jacobian: HeadJacobian, image: int, prior: ImagePrior, sigma: Tensor) -> Tensor:
    """M of one image, from k products; for heads of few outputs.

    Args:
        jacobian: J at each image.
        image: Which.
        prior: As above.
        sigma: ``[k]``: the noise of each smashed-data element.

    Returns:
        ``[k, d]`` float64.
    """
    rows = jacobian.vjps(image, torch.eye(jacobian.outputs).to(jacobian.features))
    return white_rows(rows.double() / sigma.double().unsqueeze(1), prior)


def image_shares(whitened: Whitened, probe: Tensor) -> Tensor:
    """G_x z = M_xᵀM_x z for each image x.

    Args:
        whitened: M but for C^½, of images side by side or above each other.
        probe: z, ``[1, d]``.

    Returns:
        ``[n, d]``.
    """
    half = whitened.half
    every = probe.expand(whitened.jacobian.images, -1)
    return Whitened.pull(whitened, Whitened.push(whitened, every * half)) * half
