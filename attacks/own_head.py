"""A head of the attacker's own making, for one who does not know the victim's.

He et al. 2019 ("different net"): plain convolutions that match what is seen of the boundary, its
shape and, here, whether it is ever negative.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.maps import from_map, map_shape

_NARROW, _WIDE = 64, 128
_VECTOR_SIDE = 4
_SHALLOW_WIDTH = 16


class OwnHead(nn.Module):
    """From normalised pictures to tensors of the observed shapes.

    A map of 2⁻ᵏ of the picture's side: k times a convolution of 5 by 5, a ReLU and pooling, then
    one more convolution; without a halving two convolutions of 3 by 3. It is cropped to where a
    border is missing. A vector: two such halvings, pooled to 4 by 4, and a fully connected layer. A
    ReLU ends what was never seen to be negative.

    Args:
        observation: Each boundary tensor, ``[n, …]``.
        image_shape: ``(c, h, w)``.
    """

    def __init__(self, observation: tuple[Tensor, ...], image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shapes = [tuple(t.shape[1:]) for t in observation]
        self.branches = nn.ModuleList(
            _branch(shape, image_shape, signed=bool((t < 0).any()))
            for shape, t in zip(self.shapes, observation, strict=True)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Boundary tensors ``[n, …]`` for normalised pictures ``[n, c, h, w]``."""
        found = []
        for branch, shape in zip(self.branches, self.shapes, strict=True):
            read = map_shape(shape)
            made = branch(x)
            found.append(from_map(made if read is None else _sized(made, read[1:]), shape))
        return tuple(found)


def _branch(
    shape: tuple[int, ...], image_shape: tuple[int, int, int], *, signed: bool
) -> nn.Sequential:
    read = map_shape(shape)
    if read is None:
        layers = _halving(image_shape[0], 2)
        layers += [nn.AdaptiveAvgPool2d(_VECTOR_SIDE), nn.Flatten()]
        layers += [nn.Linear(_WIDE * _VECTOR_SIDE**2, math.prod(shape))]
    else:
        ratio = min(s / m for s, m in zip(image_shape[1:], read[1:], strict=True))
        halvings = max(0, math.floor(math.log2(ratio)))
        if halvings:
            width = _NARROW if halvings == 1 else _WIDE
            layers = _halving(image_shape[0], halvings)
            layers += [nn.Conv2d(width, read[0], 5, padding=2)]
        else:
            layers = [nn.Conv2d(image_shape[0], _SHALLOW_WIDTH, 3, padding=1)]
            layers += [] if signed else [nn.ReLU()]
            layers += [nn.Conv2d(_SHALLOW_WIDTH, read[0], 3, padding=1)]
    return nn.Sequential(*layers, *([] if signed else [nn.ReLU()]))


def _halving(channels: int, times: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for place in range(times):
        width = _NARROW if place == 0 else _WIDE
        layers += [nn.Conv2d(channels, width, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    return layers


def _sized(found: Tensor, size: tuple[int, int]) -> Tensor:
    """Cropped at the centre; resized where it is too small."""
    down, across = found.shape[2] - size[0], found.shape[3] - size[1]
    if min(down, across) < 0:
        return functional.interpolate(found, size=size, mode="bilinear")
    top, left = down // 2, across // 2
    return found[:, :, top : top + size[0], left : left + size[1]]
