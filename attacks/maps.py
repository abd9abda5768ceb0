"""Boundary tensors read as maps: channels over places of the picture.

Convolutions send them as they are. Attention sends tokens, channels last, with or without a class
token before them; some nets send whole maps channels last. What has no places is a vector.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_FEWEST_PLACES = 5
"""With fewer than 3 by 3 places a map says little by place, and is a vector."""


def map_shape(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """How `as_map` reads a tensor of this shape.

    Args:
        shape: Without the batch.

    Returns:
        ``(channels, height, width)``; None for a vector. Tokens ``(t, k)`` are a map where t is a
        square, or one more: the first token, which belongs to no place, is then held beside each,
        and there are 2k channels.
    """
    if len(shape) == 2:
        side = math.isqrt(shape[0])
        extra = shape[0] - side * side
        if side * side >= _FEWEST_PLACES and extra <= 1:
            return (shape[1] * (1 + extra), side, side)
        return None
    if len(shape) != 3:
        return None
    channels, height, width = (shape[2], *shape[:2]) if _channels_last(shape) else shape
    return (channels, height, width) if height * width >= _FEWEST_PLACES else None


def as_map(tensor: Tensor) -> Tensor:
    """A boundary tensor as a map, or as a vector.

    Args:
        tensor: ``[n, …]``.

    Returns:
        ``[n, c, h, w]`` with the shape that `map_shape` tells, or ``[n, k]``.
    """
    shape = tuple(tensor.shape[1:])
    found = map_shape(shape)
    if found is None:
        return tensor.reshape(len(tensor), -1)
    if len(shape) == 3:
        return tensor.permute(0, 3, 1, 2) if _channels_last(shape) else tensor
    places = found[1] * found[2]
    if shape[0] > places:
        first = tensor[:, :1].expand(-1, places, -1)
        tensor = torch.cat([tensor[:, 1:], first], dim=2)
    return tensor.transpose(1, 2).reshape(len(tensor), *found)


def _channels_last(shape: tuple[int, ...]) -> bool:
    return shape[0] == shape[1] != shape[2]


def from_map(found: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `as_map`.

    Args:
        found: ``[n, c, h, w]`` or ``[n, k]``.
        shape: Of the boundary tensor, without the batch.

    Returns:
        ``[n, *shape]``; a token of no place is the mean over the places that it was held at.
    """
    if found.dim() == 2:
        return found.reshape(len(found), *shape)
    if len(shape) == 3:
        return found.permute(0, 2, 3, 1) if _channels_last(shape) else found
    tokens = found.flatten(2).transpose(1, 2)
    if tokens.shape[1] == shape[0]:
        return tokens
    first = tokens[:, :, shape[1] :].mean(1, keepdim=True)
    return torch.cat([first, tokens[:, :, : shape[1]]], dim=1)
