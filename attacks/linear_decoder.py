"""The best linear decoder from few pictures, in closed form: what a network need not learn.

Convolutional heads treat every place of a picture alike, so that a decoder may too: each block of
the picture is a linear function of the smashed data around the place that it belongs to, and every
place of every picture is one more sample. Ridge regression finds it from a few dozen pictures, in
seconds; how far around, and how much it is held back, is chosen on pictures put aside.

A vector has one place, the whole picture, and its decoder no more samples than pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.maps import as_map, map_shape

_REACHES = (1, 3, 5, 7, 9, 11)
_MOST_INPUTS = 1024
"""Numbers that a block is a function of; a wider reach leaves fewer components a place."""

_SAMPLES_AN_INPUT = 8
_EXACT = 512
"""With more inputs, products are summed in single precision a chunk: twice as fast, and where so
many are needed no picture comes back to more digits than that."""

_LARGEST_BLOCK = 32
"""Pixels along a block that are told apart; larger ones are enlarged."""

_RIDGES = (1e-10, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Over the mean variance of the inputs."""

_MOST_COMPONENTS = 256
"""Of the smashed data at each place, that `describe` gives."""

_GAIN = 0.99
"""A wider reach is tried as long as the error falls below this share of that before."""

_PLACES_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Layout:
    """Which block of the picture belongs to which place.

    Attributes:
        grid: Places down and across; at least as many as the widest map has.
        stride: Pixels from place to place.
        block: Pixels along a block that are told apart.
    """

    grid: tuple[int, int]
    stride: tuple[int, int]
    block: tuple[int, int]

    @classmethod
    def of(cls, shapes: Sequence[tuple[int, ...]], image_shape: tuple[int, int, int]) -> Layout:
        """That of the widest of some boundary tensors."""
        maps = [m for m in map(map_shape, shapes) if m is not None]
        sides = [max((m[1 + axis] for m in maps), default=1) for axis in (0, 1)]
        sizes = image_shape[1:]
        stride = [_stride(size, side) for size, side in zip(sizes, sides, strict=True)]
        grid = [math.ceil(size / step) for size, step in zip(sizes, stride, strict=True)]
        block = [min(step, _LARGEST_BLOCK) for step in stride]
        return cls((grid[0], grid[1]), (stride[0], stride[1]), (block[0], block[1]))

    def blocks(self, pixels: Tensor) -> Tensor:
        """The picture's blocks ``[n, c·block·block, *grid]``."""
        down, across = (g * s for g, s in zip(self.grid, self.stride, strict=True))
        missing = (0, across - pixels.shape[3], 0, down - pixels.shape[2])
        whole = functional.pad(pixels, missing, mode="replicate")
        if self.block != self.stride:
            size = tuple(g * b for g, b in zip(self.grid, self.block, strict=True))
            whole = functional.interpolate(whole, size=size, mode="area")
        n, c = whole.shape[:2]
        parts = whole.view(n, c, self.grid[0], self.block[0], self.grid[1], self.block[1])
        return parts.permute(0, 1, 3, 5, 2, 4).reshape(n, -1, *self.grid)

    def pixels(self, blocks: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        """The inverse of `blocks`."""
        parts = blocks.view(len(blocks), image_shape[0], *self.block, *self.grid)
        parts = parts.permute(0, 1, 4, 2, 5, 3)
        whole = parts.flatten(4, 5).flatten(2, 3)
        if self.block != self.stride:
            size = tuple(g * s for g, s in zip(self.grid, self.stride, strict=True))
            whole = functional.interpolate(whole, size=size, mode="bilinear")
        return whole[:, :, : image_shape[1], : image_shape[2]]


def _stride(size: int, side: int) -> int:
    """Pixels from place to place: a power of two where a border was lost on the way."""
    if size % side == 0:
        return size // side
    return int(2 ** max(0, math.floor(math.log2(size / side))))


class LinearDecoder(nn.Module):
    """From boundary tensors to pixels, linear.

    Args:
        shapes: Of each boundary tensor, without the batch.
        image_shape: ``(c, h, w)``.
    """

    mean: Tensor
    basis: Tensor
    components: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], image_shape: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.layout = Layout.of(shapes, image_shape)
        self.image_shape = image_shape
        self.scales = [1.0] * len(shapes)
        for name in ("mean", "basis", "components", "weight", "bias"):
            self.register_buffer(name, None, persistent=False)

    @torch.no_grad()
    def fit(
        self,
        tensors: tuple[Tensor, ...],
        pixels: Tensor,
        aside: Tensor,
        generator: torch.Generator,
        *,
        hurried: Callable[[], bool] = lambda: False,
    ) -> float:
        """Fit it to pairs.

        Args:
            tensors: What was sent for each picture, ``[n, …]``.
            pixels: ``[n, c, h, w]``.
            aside: ``[n]`` bool, on the CPU: the pictures that choose; some, not all.
            generator: Of the places that are looked at.
            hurried: Asked before each wider reach: whether to do without.

        Returns:
            The root mean square of its error on the pictures put aside, which are then used too.
        """
        spreads = [float(t.float().std()) for t in tensors]
        self.scales = [s if s > 0 else 1.0 for s in spreads]
        joined = self._joined(tensors)
        blocks = self.layout.blocks(pixels)
        centre = blocks.mean((0, 2, 3), keepdim=True)
        self.mean, principal = _principal(joined)
        self.components = principal[:_MOST_COMPONENTS]
        fits: list[tuple[float, Tensor, Tensor, Tensor, int]] = []
        for reach in _REACHES if min(self.layout.grid) > 1 else (1,):
            if fits and hurried():
                break
            basis = principal[: max(1, _MOST_INPUTS // reach**2)]
            components = _projected(joined, self.mean, basis)
            gathered = _gathered(components, blocks - centre, aside, reach, generator)
            fits.append((*_solved(*gathered), basis, reach))
            if len(fits) > 1 and fits[-1][0] > _GAIN * fits[-2][0]:
                break
        error, weight, bias, self.basis, reach = min(fits, key=lambda fit: fit[0])
        self.weight = weight.T.reshape(-1, len(self.basis), reach, reach).to(pixels)
        self.bias = bias.to(pixels) + centre.flatten()
        return error

    def forward(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Pixels ``[n, c, h, w]``, not clamped, for boundary tensors, each ``[n, …]``."""
        return self._decoded(self._joined(tensors))

    def describe(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Pixels as `forward` gives them, and what they come from in few channels.

        Args:
            tensors: Each ``[n, …]``.

        Returns:
            ``[n, c, h, w]``, and the principal components ``[n, k, *grid]``.
        """
        joined = self._joined(tensors)
        return self._decoded(joined), _projected(joined, self.mean, self.components)

    def _decoded(self, joined: Tensor) -> Tensor:
        around = _projected(joined, self.mean, self.basis)
        reach = self.weight.shape[-1]
        blocks = functional.conv2d(around, self.weight, self.bias, padding=reach // 2)
        return self.layout.pixels(blocks, self.image_shape)

    def _joined(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """All of them as one map over the layout's places."""
        parts = [self._placed(as_map(t).float()) for t in tensors]
        return torch.cat([p / s for p, s in zip(parts, self.scales, strict=True)], dim=1)

    def _placed(self, tensor: Tensor) -> Tensor:
        grid = self.layout.grid
        if tensor.dim() == 2:
            return tensor[:, :, None, None].expand(-1, -1, *grid)
        if any(2 * side <= g for g, side in zip(grid, tensor.shape[2:], strict=True)):
            return functional.interpolate(tensor, size=grid, mode="bilinear")
        # A convolution without padding loses as much on either side.
        down, across = grid[0] - tensor.shape[2], grid[1] - tensor.shape[3]
        return functional.pad(
            tensor, (across // 2, across - across // 2, down // 2, down - down // 2),
            mode="replicate",
        )  # fmt: skip


def _principal(joined: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``[1, c, 1, 1]``, and orthonormal components by falling variance ``[k, c]``."""
    mean = joined.mean((0, 2, 3), keepdim=True)
    rows = (joined - mean).transpose(0, 1).flatten(1)
    count = rows.shape[1]
    if len(rows) <= 4 * _MOST_INPUTS:
        covariance = (rows @ rows.T / count).double()
        variances, vectors = torch.linalg.eigh(covariance)
    else:
        few = rows[:, :: max(1, count // _MOST_INPUTS)]
        left, singular, _ = torch.linalg.svd(few, full_matrices=False)
        variances, vectors = (singular.square() / few.shape[1]).flip(0), left.flip(1)
    keep = variances > 1e-12 * variances[-1].clamp_min(1e-30)
    basis = vectors[:, keep].flip(1).T[:_MOST_INPUTS].to(joined)
    if not len(basis):
        basis = torch.zeros(1, len(rows), device=joined.device, dtype=joined.dtype)
    return mean, basis


def _projected(joined: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    return functional.conv2d(joined - mean, basis[:, :, None, None])


class _Moments:
    """Sums of products of samples, kept in double precision."""

    def __init__(self, inputs: int, outputs: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.count = 0
        self.x, self.y, self.yy = zeros(inputs), zeros(outputs), zeros()
        self.xx, self.xy = zeros(inputs, inputs), zeros(inputs, outputs)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take samples ``[inputs, k]`` and ``[outputs, k]`` in."""
        if len(x) <= _EXACT:
            x, y = x.double(), y.double()
        self.count += x.shape[1]
        self.x += x.sum(1)
        self.y += y.sum(1)
        self.yy += y.square().sum()
        self.xx += x @ x.T
        self.xy += x @ y.T

    def merge(self, other: _Moments) -> None:
        """Take another's samples in."""
        self.count += other.count
        for name in ("x", "y", "yy", "xx", "xy"):
            getattr(self, name).add_(getattr(other, name))

    def centred(self) -> tuple[Tensor, Tensor]:
        """The inputs' covariance, and theirs with the outputs, times the count."""
        gram = self.xx - torch.outer(self.x, self.x) / self.count
        return gram, self.xy - torch.outer(self.x, self.y) / self.count

    def bias(self, weight: Tensor) -> Tensor:
        """What makes the mean error zero."""
        return (self.y - self.x @ weight) / self.count

    def error(self, weight: Tensor, bias: Tensor) -> float:
        """Mean square of y − Wᵀx − b."""
        total = self.yy - 2 * (weight * self.xy).sum() - 2 * bias @ self.y
        total = total + (weight * (self.xx @ weight)).sum() + 2 * bias @ (self.x @ weight)
        return float(total / self.count + bias.square().sum()) / len(bias)


def _gathered(
    components: Tensor, blocks: Tensor, aside: Tensor, reach: int, generator: torch.Generator
) -> tuple[_Moments, _Moments]:
    """Of the samples that fit, and of those put aside."""
    n, places = len(components), blocks.shape[2] * blocks.shape[3]
    inputs = components.shape[1] * reach**2
    each = min(places, math.ceil(_SAMPLES_AN_INPUT * inputs / n))
    sums = [_Moments(inputs, blocks.shape[1], blocks.device) for _ in range(2)]
    chunk = max(1, _PLACES_AT_ONCE // places)
    for start in range(0, n, chunk):
        rows = slice(start, start + chunk)
        part = components[rows]
        noise = torch.rand(len(part), places, generator=generator, device="cpu")
        chosen = noise.topk(each, dim=1).indices.to(blocks.device).unsqueeze(1)
        around = functional.unfold(part, reach, padding=reach // 2)
        x = around.gather(2, chosen.expand(-1, around.shape[1], -1)).transpose(0, 1)
        wanted = blocks[rows].flatten(2)
        y = wanted.gather(2, chosen.expand(-1, wanted.shape[1], -1)).transpose(0, 1)
        for side in (0, 1):
            mine = (aside[rows] == bool(side)).to(blocks.device)
            sums[side].add(x[:, mine].flatten(1), y[:, mine].flatten(1))
    return sums[0], sums[1]


def _solved(fitting: _Moments, aside: _Moments) -> tuple[float, Tensor, Tensor]:
    """The error on what was put aside; weight ``[inputs, outputs]``; bias ``[outputs]``."""
    gram, cross = fitting.centred()
    scale = (gram.diagonal().mean() / fitting.count).clamp_min(1e-30)
    values, vectors = torch.linalg.eigh(gram)
    turned = vectors.T @ cross
    errors = []
    for ridge in _RIDGES:
        held = values.clamp_min(0) + ridge * scale * fitting.count
        weight = vectors @ (turned / held.unsqueeze(1))
        errors.append(aside.error(weight, fitting.bias(weight)))
    best = min(range(len(errors)), key=errors.__getitem__)
    aside.merge(fitting)
    gram, cross = aside.centred()
    gram.diagonal().add_(_RIDGES[best] * scale * aside.count)
    weight = torch.linalg.solve(gram, cross)
    return math.sqrt(max(0.0, errors[best])), weight, aside.bias(weight)
