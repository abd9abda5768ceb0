"""The inverse network: a decoder from smashed data to pictures, trained on pairs of both.

He et al. 2019 ("Model inversion attacks against collaborative inference", their Algorithm 3) train
one on whatever the head answers to pictures of the attacker's own. It needs no weights, only
queries, and as it is trained on what is *sent*, it knows every noise and every codec on the way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.maps import as_map, map_shape
from splitdeploy.profiles.errors import AttackError

_MOST_WIDENING = 4
"""Channels double with every halving of the resolution, up to so many times the width."""


class InverseNetwork(nn.Module):
    """From boundary tensors to pixels.

    Maps (`splitdeploy.attacks.maps` says what counts as one) are brought to their widest common
    resolution, vectors to 8 by 8; then a residual block at each resolution, doubled until it is the
    picture's. Tensors are standardised by mean and spread of their channels over the training
    pictures (`standardise`).

    Args:
        shapes: Of each boundary tensor, without the batch.
        image_shape: ``(c, h, w)``.
        width: Channels at the picture's own resolution.
        bounded: Whether what comes out is on [0, 1], by a sigmoid; else any number, and zero before
            the training.

    Raises:
        AttackError: There are no tensors.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        image_shape: tuple[int, int, int],
        *,
        width: int,
        bounded: bool = True,
    ) -> None:
        super().__init__()
        if not shapes:
            raise AttackError("expected at least one boundary tensor to decode, got none")
        read = [map_shape(shape) or (math.prod(shape),) for shape in shapes]
        self.image_shape, self.bounded = image_shape, bounded
        sizes = [_grid(shape, image_shape) for shape in read]
        size = (max(s[0] for s in sizes), max(s[1] for s in sizes))
        channels = self._width(size, width)
        self._size = size
        self.entries = nn.ModuleList(
            _entry(shape, channels, grid) for shape, grid in zip(read, sizes, strict=True)
        )
        stages: list[nn.Module] = [_Residual(channels)]
        while size[0] < image_shape[1] or size[1] < image_shape[2]:
            size = (min(2 * size[0], image_shape[1]), min(2 * size[1], image_shape[2]))
            narrower = self._width(size, width)
            stages += [_Upsampled(channels, narrower, size), _Residual(narrower)]
            channels = narrower
        self.stages = nn.Sequential(*stages)
        self.exit = nn.Conv2d(channels, image_shape[0], 3, padding=1)
        if not bounded:
            for parameter in self.exit.parameters():
                nn.init.zeros_(parameter)
        for place, shape in enumerate(read):
            each = (1, shape[0], *(1 for _ in shape[1:]))
            self.register_buffer(f"mean_{place}", torch.zeros(each))
            self.register_buffer(f"spread_{place}", torch.ones(each))

    def _width(self, size: tuple[int, int], width: int) -> int:
        ratio = max(self.image_shape[1] / size[0], self.image_shape[2] / size[1])
        return int(width * min(_MOST_WIDENING, 2 ** math.floor(math.log2(max(1.0, ratio)))))

    def standardise(self, tensors: tuple[Tensor, ...]) -> None:
        """Take mean and spread of each channel from observations, each ``[n, …]``."""
        for place, tensor in enumerate(map(as_map, tensors)):
            dims = (0, *range(2, tensor.dim()))
            mean = tensor.mean(dim=dims, keepdim=True)
            spread = (tensor - mean).square().mean(dim=dims, keepdim=True).sqrt()
            # A dead channel says nothing; its spread must not blow rounding up.
            largest = spread.amax().clamp_min(torch.finfo(tensor.dtype).tiny)
            spread = torch.where(spread > 1e-6 * largest, spread, 1.0)
            self.get_buffer(f"mean_{place}").copy_(mean)
            self.get_buffer(f"spread_{place}").copy_(spread)

    def forward(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Pixels ``[n, c, h, w]`` for boundary tensors, each ``[n, …]``."""
        entered = 0.0
        for place, (entry, given) in enumerate(zip(self.entries, tensors, strict=True)):
            tensor = as_map(given)
            mean, spread = self.get_buffer(f"mean_{place}"), self.get_buffer(f"spread_{place}")
            scaled = (tensor - mean) / spread
            if scaled.dim() == 4:
                # Half as long on a CPU, where convolutions in bfloat16 want it.
                scaled = scaled.contiguous(memory_format=torch.channels_last)
            part = entry(scaled)
            if part.shape[2:] != self._size:
                part = functional.interpolate(part, size=self._size, mode="nearest")
            entered = entered + part
        found: Tensor = self.exit(self.stages(entered)).float()
        return torch.sigmoid(found) if self.bounded else found


def invert(network: nn.Module, tensors: tuple[Tensor, ...], *, batch: int = 128) -> Tensor:
    """Pictures for observations.

    Args:
        network: A decoder, trained.
        tensors: What was sent, each ``[n, …]``.
        batch: Pictures at once.

    Returns:
        ``[n, c, h, w]``.
    """
    n = len(tensors[0])
    with torch.no_grad():
        parts = [network(tuple(t[at : at + batch] for t in tensors)) for at in range(0, n, batch)]
    return torch.cat(parts)


def _grid(shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> tuple[int, int]:
    if len(shape) == 3:
        return min(shape[1], image_shape[1]), min(shape[2], image_shape[2])
    return min(8, image_shape[1]), min(8, image_shape[2])


def _entry(shape: tuple[int, ...], channels: int, grid: tuple[int, int]) -> nn.Module:
    if len(shape) == 3:
        conv = nn.Conv2d(shape[0], channels, 3, padding=1)
        larger = shape[1:] != grid
        return nn.Sequential(conv, nn.AdaptiveAvgPool2d(grid)) if larger else conv
    return nn.Sequential(
        nn.Linear(shape[0], channels * grid[0] * grid[1]), nn.Unflatten(1, (channels, *grid))
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The input plus what two convolutions make of it, rectified."""
        inner = self.second(functional.relu(self.first(functional.relu(x))))
        return torch.relu(x + inner)


class _Upsampled(nn.Module):
    def __init__(self, channels: int, narrower: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.deconvolution = nn.ConvTranspose2d(channels, narrower, 2, stride=2)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Twice the resolution, brought to the size where that is not twice."""
        doubled: Tensor = self.deconvolution(x)
        if doubled.shape[2:] != self.size:
            doubled = functional.interpolate(doubled, size=self.size, mode="bilinear")
        return doubled
