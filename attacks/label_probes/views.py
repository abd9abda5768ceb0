"""What of the features a probe looks at: means, as fine as a probe can be fitted on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

MOST_NUMBERS = 1024
"""Of a picture in a view, unless a tensor without positions has more by itself: enough for four by
four means of 64 channels, and few enough for a probe on ten thousand pictures."""

COARSE, FINE = "coarse", "fine"
"""The two views: means over all positions, and over as small parts of them as `MOST_NUMBERS` lets.
Of tokens, their mean, and the first one, where transformers keep the class. Where no tensor has
positions there is the first view alone, and it is everything."""


def views_of(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """The views of some pictures' features.

    Args:
        tensors: What crosses the second cut, each ``[n, …]``.

    Returns:
        By name ``[n, k]`` in float32; the first is the coarsest.
    """
    held = [tensor.detach().float() for tensor in tensors]
    coarse = torch.cat([_coarse(tensor) for tensor in held], 1)
    if all(tensor.dim() == 2 for tensor in held):
        return {COARSE: coarse}
    each = MOST_NUMBERS // len(held)
    return {COARSE: coarse, FINE: torch.cat([_fine(tensor, each) for tensor in held], 1)}


def _coarse(tensor: Tensor) -> Tensor:
    if tensor.dim() == 3:
        return tensor.mean(1)
    return _channels_first(tensor).flatten(2).mean(2) if tensor.dim() > 3 else tensor.flatten(1)


def _fine(tensor: Tensor, most: int) -> Tensor:
    if tensor.dim() == 3:
        return tensor[:, 0]
    if tensor.dim() != 4:
        return _coarse(tensor)
    maps = _channels_first(tensor)
    channels, height, width = maps.shape[1:]
    if channels * height * width <= most:
        return maps.flatten(1)
    side = 1
    while channels * (side + 1) ** 2 <= most:
        side += 1
    return functional.adaptive_avg_pool2d(maps, (min(side, height), min(side, width))).flatten(1)


def _channels_first(tensor: Tensor) -> Tensor:
    """Some transformers keep channels behind positions: there the last axis is the longest."""
    last = tensor.dim() == 4 and tensor.shape[3] > max(tensor.shape[1:3])
    return tensor.permute(0, 3, 1, 2) if last else tensor
