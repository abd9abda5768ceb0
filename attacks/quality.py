"""How close a reconstruction comes: PSNR, SSIM and MSE on [0, 1], and how sure the mean is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from splitdeploy.attacks.intervals import student95

Mode = Literal["standard", "he2019"]
"""Which SSIM: that of Wang et al., or that of He et al.'s code, for reproductions alone."""

_WINDOW = 11
_SIGMA = 1.5
_HE2019_WINDOW = 7
_K1 = 0.01
_K2 = 0.03
_MSE_FLOOR = 1e-20  # caps the PSNR of an exact reconstruction at 200 dB: a report holds no infinity
_MOST_DB = 200.0


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
        psnr_ci95_db: Likewise for ``psnr_db``, on [0, 200].
        mse_ci95: Likewise for ``mse``, on [0, 1].
    """

    psnr_db: float
    ssim: float
    mse: float
    ssim_ci95: tuple[float, float]
    images: int
    psnr_ci95_db: tuple[float, float]
    mse_ci95: tuple[float, float]


def judge(reconstruction: Tensor, originals: Tensor, *, mode: Mode = "standard") -> Quality:
    """Compare reconstructions with their originals; both are clamped to [0, 1] before.

    Args:
        reconstruction: ``[n, c, h, w]``, finite.
        originals: ``[n, c, h, w]``.
        mode: Which SSIM; ``he2019`` to compare with that paper's tables, and for nothing else.

    Returns:
        The means over the n images.
    """
    x, y = _prepare(reconstruction, originals)
    ratios, errors = psnr_db(x, y), mse(x, y)
    similarity = ssim(x, y) if mode == "standard" else ssim_he2019(x, y)
    return Quality(
        psnr_db=float(ratios.mean()),
        ssim=float(similarity.mean()),
        mse=float(errors.mean()),
        ssim_ci95=student95(similarity, -1.0, 1.0),
        images=len(x),
        psnr_ci95_db=student95(ratios, 0.0, _MOST_DB),
        mse_ci95=student95(errors, 0.0, 1.0),
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
    size = _fitting(_WINDOW, x)
    offsets = torch.arange(size, dtype=x.dtype, device=x.device) - size // 2
    kernel = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    return _similarity(x, y, kernel / kernel.sum(), torch.ones_like(x[:, :1, 0, 0]), 1.0)


def ssim_he2019(reconstruction: Tensor, originals: Tensor) -> Tensor:
    """Structural similarity as the code around He et al. 2019 computes it.

    scikit-image's default: a uniform window of 7 pixels and the sample covariance; and as the
    range of each picture not 1 but what its *reconstruction* spans, so that it is not symmetric,
    and a pale reconstruction is punished less. A flat one spans nothing, where the published code
    divides by zero; its range here is 1.

    Args:
        reconstruction: ``[n, c, h, w]``, clamped to [0, 1] here.
        originals: ``[n, c, h, w]``, likewise.

    Returns:
        ``[n]``, float64.
    """
    x, y = _prepare(reconstruction, originals)
    size = _fitting(_HE2019_WINDOW, x)
    flat = x.flatten(1)
    spans = flat.amax(1) - flat.amin(1)
    spans = torch.where(spans > 0, spans, 1.0).unsqueeze(1)
    kernel = torch.full((size,), 1.0 / size, dtype=x.dtype, device=x.device)
    return _similarity(x, y, kernel, spans, size**2 / max(1, size**2 - 1))


def _similarity(x: Tensor, y: Tensor, kernel: Tensor, spans: Tensor, unbiased: float) -> Tensor:
    """The mean over places and channels; ``spans``, ``[n, 1]``, is the range of each picture."""
    n, c, h, w = x.shape
    moments = torch.cat([x, y, x * x, y * y, x * y]).view(5 * n * c, 1, h, w)
    # In float64: variances are differences of close numbers where a picture is flat.
    rows = F.conv2d(moments, kernel.view(1, 1, -1, 1))
    blurred = F.conv2d(rows, kernel.view(1, 1, 1, -1)).view(5, n, -1)
    mean_x, mean_y, square_x, square_y, product = blurred.unbind(0)
    variances = unbiased * (square_x - mean_x**2 + square_y - mean_y**2)
    covariance = unbiased * (product - mean_x * mean_y)
    c1, c2 = (_K1 * spans) ** 2, (_K2 * spans) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return (luminance * structure).mean(1)


def _fitting(window: int, pictures: Tensor) -> int:
    """The window, or the widest odd one that fits."""
    shortest = min(pictures.shape[-2:])
    return min(window, shortest if shortest % 2 else shortest - 1) or 1


def _prepare(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.shape != y.shape or x.ndim != 4 or not len(x):
        raise ValueError(
            f"expected two batches [n, c, h, w] of one shape, got {list(x.shape)} and "
            f"{list(y.shape)}"
        )
    x = x.detach().to(y.device, torch.float64)
    return x.clamp(0.0, 1.0), y.detach().double().clamp(0.0, 1.0)
