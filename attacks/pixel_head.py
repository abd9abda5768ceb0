"""The head as an attacker or a leakage metric sees it: from pixels on [0, 1] to smashed data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn


class PixelHead(nn.Module):
    """A torch head behind the normalisation of its model.

    Every figure about pictures (PSNR, SSIM, Fisher information per pixel) is on [0, 1], whatever
    normalisation the model expects, so that figures of different models compare.

    Args:
        head: Maps a normalised batch ``[n, c, h, w]`` to a tensor or a tuple of tensors, each with
            the batch first.
        mean: What the model's preprocessing subtracts, a value a channel.
        std: What it divides by, a value a channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, head: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def normalise(self, pixels: Tensor) -> Tensor:
        """The model's input for pixels ``[n, c, h, w]`` on [0, 1]."""
        return (pixels - self.mean) / self.std

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The boundary tensors for pixels ``[n, c, h, w]`` on [0, 1]."""
        out = self.head(self.normalise(pixels))
        return cast("tuple[Tensor, ...]", tuple(out)) if isinstance(out, tuple | list) else (out,)

    def features(self, pixels: Tensor) -> Tensor:
        """All boundary tensors, flattened and joined: ``[n, k]``."""
        return torch.cat([t.flatten(1) for t in self(pixels)], dim=1)
