"""The three networks of feature-space hijacking, built for the shape of the client's output."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from splitdeploy.profiles.errors import AttackError

_WIDEST = 4
"""Channels double with every halving, up to so many times the width."""


def _check(shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> None:
    if not 1 <= len(shape) <= 3 or min(shape) < 1:
        raise AttackError(
            "expected smashed data of one to three dimensions behind the batch, got "
            f"{list(shape)}: choose a cut that gives maps, tokens or a vector"
        )
    if len(shape) == 3 and (shape[1] > image_shape[1] or shape[2] > image_shape[2]):
        raise AttackError(
            f"expected smashed data no larger than the pictures {list(image_shape)}, got "
            f"{list(shape)}"
        )


def pilot(
    shape: tuple[int, ...], image_shape: tuple[int, int, int], *, width: int, linear: bool
) -> nn.Module:
    """From pictures to the feature space: what the client's head is to resemble.

    Convolutions of stride 2 down to the smashed data's size, then one to its channels; a vector or
    tokens come from 4 by 4 maps by a linear layer.

    Args:
        shape: Of the smashed data, without the batch.
        image_shape: ``(c, h, w)``.
        width: Channels after the first convolution.
        linear: Without activations, as the authors' code has it.

    Returns:
        The network.
    """
    _check(shape, image_shape)
    ends = _grid(shape, image_shape)
    sizes = _sizes(ends, (image_shape[1], image_shape[2]))[::-1]
    channels, layers = image_shape[0], list[nn.Module]()
    for place, (before, size) in enumerate(pairwise(sizes)):
        wider = width * min(_WIDEST, 2**place)
        halved = ((before[0] + 1) // 2, (before[1] + 1) // 2)
        conv = nn.Conv2d(channels, wider, 3, stride=2 if size == halved else 1, padding=1)
        fitted = [] if size == halved else [nn.AdaptiveAvgPool2d(size)]
        layers += [conv, *fitted, *_activation(linear)]
        channels = wider
    if len(sizes) == 1:
        layers += [nn.Conv2d(channels, width, 3, padding=1), *_activation(linear)]
        channels = width
    if len(shape) == 3:
        return nn.Sequential(*layers, nn.Conv2d(channels, shape[0], 3, padding=1))
    inside = channels * ends[0] * ends[1]
    entry = nn.Linear(inside, math.prod(shape))
    return nn.Sequential(*layers, nn.Flatten(), entry, nn.Unflatten(1, shape))


def decoder(
    shape: tuple[int, ...], image_shape: tuple[int, int, int], *, width: int, linear: bool
) -> nn.Module:
    """From the feature space to pictures on [0, 1].

    Args:
        shape: Of the smashed data, without the batch.
        image_shape: ``(c, h, w)``.
        width: Channels at the picture's own resolution.
        linear: Without activations but the last.

    Returns:
        The network.
    """
    _check(shape, image_shape)
    sizes = _sizes(_grid(shape, image_shape), (image_shape[1], image_shape[2]))
    most = width * min(_WIDEST, 2 ** (len(sizes) - 1))
    layers: list[nn.Module] = []
    if len(shape) == 3:
        layers += [nn.Conv2d(shape[0], most, 3, padding=1), *_activation(linear)]
    else:
        inside = most * sizes[0][0] * sizes[0][1]
        layers += [
            nn.Flatten(),
            nn.Linear(math.prod(shape), inside),
            nn.Unflatten(1, (most, *sizes[0])),
            *_activation(linear),
        ]
    channels = most
    for _, size in pairwise(sizes):
        narrower = max(width, channels // 2)
        layers += [
            nn.Upsample(size=size),
            nn.Conv2d(channels, narrower, 3, padding=1),
            *_activation(linear),
        ]
        channels = narrower
    return nn.Sequential(*layers, nn.Conv2d(channels, image_shape[0], 3, padding=1), nn.Sigmoid())


def discriminator(shape: tuple[int, ...], *, width: int, blocks: int) -> nn.Module:
    """A critic of points of the feature space: one number each.

    Args:
        shape: Of the smashed data, without the batch.
        width: Channels of maps; four times as many units for vectors and tokens.
        blocks: Residual blocks.

    Returns:
        The network.
    """
    if len(shape) == 3:
        size = (math.ceil(shape[1] / 2), math.ceil(shape[2] / 2))
        return nn.Sequential(
            nn.Conv2d(shape[0], width, 3, padding=1),
            *(_Residual(_conv(width), _conv(width)) for _ in range(blocks)),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.Flatten(),
            nn.Linear(width * size[0] * size[1], 1),
        )
    units = 4 * width
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(shape), units),
        *(_Residual(nn.Linear(units, units), nn.Linear(units, units)) for _ in range(blocks)),
        nn.ReLU(),
        nn.Linear(units, 1),
    )


class _Residual(nn.Module):
    """Pre-activation, without normalisation, which a gradient penalty does not allow."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.ReLU(), first, nn.ReLU(), second)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.inner(x)
        return out


def _conv(width: int) -> nn.Module:
    return nn.Conv2d(width, width, 3, padding=1)


def _activation(linear: bool) -> list[nn.Module]:
    return [] if linear else [nn.ReLU()]


def _grid(shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Where a network between pictures and features ends: the maps' size, or 4 by 4."""
    if len(shape) == 3:
        return shape[1], shape[2]
    return min(4, image_shape[1]), min(4, image_shape[2])


def _sizes(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """Doubled from start until it is end, both included."""
    sizes = [start]
    while sizes[-1] != end:
        high, wide = sizes[-1]
        sizes.append((min(2 * high, end[0]), min(2 * wide, end[1])))
    return sizes
