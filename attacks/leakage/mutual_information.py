"""Upper bounds on the mutual information between a picture and its noisy smashed data, in nats.

For z = f(x) + N(0, Σ):

    I(X; Z) ≤ ½·ln det(1 + Σ^-½ Cov(f(X)) Σ^-½)        for any X: no entropy exceeds a Gaussian's
    I(X; Z) ≤ h(X) + d·FSInfo_B = d·gain_B              for X that follows the prior (Efroimovich)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from splitdeploy.profiles.errors import LeakageError
from splitdeploy.profiles.report import Estimate

_SAMPLES_A_DIMENSION = 4
"""With fewer images than that times k, a sample covariance's determinant is far too small."""


def covariance_bound(tensors: Sequence[Tensor], sigma: Tensor) -> Estimate:
    """½·ln det(1 + Cov(f(X))/σ²), estimated: it needs no prior and no derivative.

    A sample covariance has a rank below the number of images, and its determinant would be no bound
    at all. So with fewer than 4k images only variances are taken, averaged over each channel: by
    Hadamard and Jensen that is larger, and it stays an upper bound.

    Args:
        tensors: The boundary tensors, each ``[n, …]`` with channels first after the batch.
        sigma: ``[k]``: the noise of each smashed-data element.

    Returns:
        Nats a picture, with the error that comes from the choice of images.

    Raises:
        LeakageError: There is only one image.
    """
    n = len(tensors[0])
    if n < 2:
        raise LeakageError(f"expected at least 2 images for a covariance, got {n}")
    white = torch.cat([t.detach().flatten(1) for t in tensors], dim=1).double() / sigma.double()
    white = white - white.mean(dim=0)
    if n >= _SAMPLES_A_DIMENSION * white.shape[1]:
        return _whole(white)
    sizes = [t[0].numel() for t in tensors]
    value, influence = 0.0, torch.zeros(n, dtype=torch.float64, device=white.device)
    for part, tensor in zip(torch.split(white, sizes, dim=1), tensors, strict=True):
        channels = tensor.shape[1] if tensor.dim() > 2 else 1
        squares = part.view(n, channels, -1).square()
        variance = squares.sum(dim=0).mean(dim=1) / (n - 1)
        elements = squares.shape[2]
        value += 0.5 * elements * float(variance.log1p().sum())
        influence += 0.5 * (squares.sum(dim=2) / (1.0 + variance)).sum(dim=1)
    return Estimate(value, float(influence.std()) / math.sqrt(n))


def _whole(white: Tensor) -> Estimate:
    n, k = white.shape
    covariance = torch.eye(k).to(white) + white.T @ white / (n - 1)
    factor = torch.linalg.cholesky(covariance)
    solved = torch.linalg.solve_triangular(factor, white.T, upper=False)
    influence = 0.5 * solved.square().sum(dim=0)
    return Estimate(float(factor.diagonal().log().sum()), float(influence.std()) / math.sqrt(n))
