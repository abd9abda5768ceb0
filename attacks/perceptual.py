"""LPIPS (Zhang et al., CVPR 2018): how alike two pictures look to a trained network.

The weights of the comparison come with torchmetrics; the network beneath does not. It is taken
where torch's hub has it on this machine, and never downloaded: a figure that is there or not with
the network would make runs differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

BACKBONES: dict[Literal["alex", "vgg", "squeeze"], str] = {
    "alex": "AlexNet_Weights",
    "vgg": "VGG16_Weights",
    "squeeze": "SqueezeNet1_1_Weights",
}
"""LPIPS's name of each network, the usual one first, and torchvision's of its weights."""

_SMALLEST = 32
"""Pixels a side below which nothing is left of a picture in AlexNet's last layer."""

_BATCH = 16


@dataclass(frozen=True)
class Perceptual:
    """LPIPS, or why there is none.

    Attributes:
        value: The mean over the pictures, 0 for the same; None where it cannot be had.
        text: The network that it stands on, or the reason.
    """

    value: float | None
    text: str


def lpips(reconstructions: Tensor, originals: Tensor) -> Perceptual:
    """How far reconstructions look from their originals.

    Args:
        reconstructions: ``[n, c, h, w]``, clamped to [0, 1] here; c is 1 (repeated) or 3.
        originals: In the same order.

    Returns:
        The figure on the first of `BACKBONES` that is at hand.
    """
    if min(originals.shape[2:]) < _SMALLEST:
        return Perceptual(None, f"no LPIPS: it needs {_SMALLEST} pixels a side")
    try:
        from torchmetrics.functional.image import learned_perceptual_image_patch_similarity
    except ImportError:
        return Perceptual(None, "no LPIPS: torchmetrics or torchvision is not installed")
    files = {name: _file(weights) for name, weights in BACKBONES.items()}
    backbone = next((name for name, file in files.items() if file.is_file()), None)
    if backbone is None:
        names = ", ".join(file.name for file in files.values())
        folder = next(iter(files.values())).parent
        return Perceptual(None, f"no LPIPS: none of {names} lies in {folder}")
    x, y = _coloured(reconstructions), _coloured(originals)
    try:
        parts = [
            learned_perceptual_image_patch_similarity(
                x[at : at + _BATCH], y[at : at + _BATCH], backbone, "sum", normalize=True
            )
            for at in range(0, len(x), _BATCH)
        ]
    except (RuntimeError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:120]
        return Perceptual(None, f"no LPIPS: {files[backbone]} cannot be used ({reason})")
    value = float(torch.stack([part.detach() for part in parts]).sum()) / len(x)
    return Perceptual(value, f"LPIPS on {files[backbone].name}")


def _file(weights: str) -> Path:
    """Where torch's hub keeps a network of torchvision's."""
    from torchvision import models

    url: str = getattr(models, weights).DEFAULT.url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _coloured(pictures: Tensor) -> Tensor:
    """On the CPU in float32, three channels, on [0, 1]."""
    pixels = pictures.detach().float().cpu().clamp(0.0, 1.0)
    return pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels
