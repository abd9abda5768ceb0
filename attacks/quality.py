"""How close a reconstruction comes: PSNR, SSIM and MSE on [0, 1], and how sure the mean is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor
from torch.nn import functional as F

_WINDOW = 11
_SIGMA = 1.5
_C1 = 0.01**2
_C2 = 0.03**2
_MSE_FLOOR = 1e-20  # caps the PSNR of an exact reconstruction at 200 dB: a report holds no infinity


@dataclass(frozen=True)
class Quality:
    """Means over the images of a batch.

    Attributes:
        psnr_db: Peak signal-to-noise ratio, peak 1, of each image, averaged; at most 200.
        ssim: Structural similarity.
        mse: Mean squared error.
        ssim_ci95: A 95 % interval for the mean of ``ssim`` over images like these (Student's t);
            all of [-1, 1] for a single image, which says nothing of the others.
        images: How many there were.
    """

    psnr_db: float
    ssim: float
    mse: float
    ssim_ci95: tuple[float, float]
    images: int


def judge(reconstruction: Tensor, originals: Tensor) -> Quality:
    """Compare reconstructions with their originals; both are clamped to [0, 1] before.

    Args:
        reconstruction: ``[n, c, h, w]``, finite.
        originals: ``[n, c, h, w]``.

    Returns:
        The means over the n images.
    """
    x, y = _prepare(reconstruction, originals)
    similarity = ssim(x, y)
    return Quality(
        psnr_db=float(psnr_db(x, y).mean()),
        ssim=float(similarity.mean()),
        mse=float(mse(x, y).mean()),
        ssim_ci95=_interval95(similarity),
        images=len(x),
    )


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of each image.

    Args:
        x: ``[n, c, h, w]``, clamped to [0, 1] here.
        y: ``[n, c, h, w]``, likewise.

    Returns:
        ``[n]``, float64.
    """
    x, y = _prepare(x, y)
    return (x - y).square().flatten(1).mean(1)


def psnr_db(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, with peak 1.

    Args:
        x: ``[n, c, h, w]``, clamped to [0, 1] here.
        y: ``[n, c, h, w]``, likewise.

    Returns:
        ``[n]`` in decibels, float64, at most 200.
    """
    return -10.0 * mse(x, y).clamp_min(_MSE_FLOOR).log10()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of each image (Wang, Bovik, Sheikh and Simoncelli 2004).

    Gaussian window of 11 pixels with sigma 1.5, K1 = 0.01, K2 = 0.03, range 1, over the places
    where the window fits, averaged over places and channels, as scikit-image has it;
    torchmetrics 1.9 also averages over reflected borders, and so differs a little. A picture
    narrower than 11 pixels gets the widest odd window that fits, with the same sigma: such values
    compare only among themselves.

    Args:
        x: ``[n, c, h, w]``, clamped to [0, 1] here.
        y: ``[n, c, h, w]``, likewise.

    Returns:
        ``[n]``, float64.
    """
    x, y = _prepare(x, y)
    n, c, h, w = x.shape
    moments = torch.cat([x, y, x * x, y * y, x * y]).view(5 * n * c, 1, h, w)
    # In float64: variances are differences of close numbers where a picture is flat.
    blurred = _blur(moments).view(5, n, -1)
    mean_x, mean_y, square_x, square_y, product = blurred.unbind(0)
    variances = square_x - mean_x**2 + square_y - mean_y**2
    covariance = product - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variances + _C2)
    return (luminance * structure).mean(1)


def _prepare(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.shape != y.shape or x.ndim != 4 or not len(x):
        raise ValueError(
            f"expected two batches [n, c, h, w] of one shape, got {list(x.shape)} and "
            f"{list(y.shape)}"
        )
    return x.detach().double().clamp(0.0, 1.0), y.detach().double().clamp(0.0, 1.0)


def _blur(planes: Tensor) -> Tensor:
    """Gaussian-weighted means of ``[m, 1, h, w]`` over every place where the window fits."""
    shortest = min(planes.shape[-2:])
    size = min(_WINDOW, shortest if shortest % 2 else shortest - 1) or 1
    offsets = torch.arange(size, dtype=planes.dtype) - size // 2
    kernel = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    kernel /= kernel.sum()
    rows = F.conv2d(planes, kernel.view(1, 1, -1, 1))
    return F.conv2d(rows, kernel.view(1, 1, 1, -1))


def _interval95(values: Tensor) -> tuple[float, float]:
    """Student's t interval for the mean, within the range that an SSIM can have."""
    n = len(values)
    if n < 2:
        return (-1.0, 1.0)
    mean, spread = float(values.mean()), float(values.std())
    half = float(stdtrit(n - 1, 0.975)) * spread / math.sqrt(n)
    return (max(-1.0, mean - half), min(1.0, mean + half))
