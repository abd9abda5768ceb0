"""He et al.'s decoders: transposed convolutions, one of stride 2 for each halving of the picture.

After the published code of "Model Inversion Attacks Against Collaborative Inference" (ACSAC 2019):
3 by 3 kernels, ReLU between them, none at the end, pictures in normalised coordinates. Its two nets
have cuts at none, one and two halvings; deeper cuts here go on likewise. The unpadded 5 by 5
convolutions of its LeNet have decoders of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.maps import as_map, map_shape

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_VECTOR_SIDE = 8
_VECTOR_CHANNELS = 128

_LENET = {
    (8, 24, 24): lambda: nn.Sequential(nn.ConvTranspose2d(8, 1, 5)),
    (16, 8, 8): lambda: nn.Sequential(
        nn.ConvTranspose2d(16, 8, 5),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 1, 5, stride=2, output_padding=1),
    ),
}
"""Behind conv1 and behind the second ReLU, for pictures of 1 by 28 by 28."""


class PublishedDecoder(nn.Module):
    """From boundary tensors to pixels.

    Args:
        shapes: Of each boundary tensor, without the batch. Several, which they have not, are
            brought to the widest and joined; a vector, which they do not decode, goes through a
            fully connected layer to a map of 8 by 8.
        image_shape: ``(c, h, w)``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], image_shape: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        read = [map_shape(shape) for shape in shapes]
        maps = [m for m in read if m is not None]
        side = (_VECTOR_SIDE, _VECTOR_SIDE)
        self.size = max((m[1:] for m in maps), default=side)
        vectors = [math.prod(s) for s, m in zip(shapes, read, strict=True) if m is None]
        width = _VECTOR_CHANNELS * self.size[0] * self.size[1]
        self.lifts = nn.ModuleList(nn.Linear(k, width) for k in vectors)
        channels = sum(m[0] for m in maps) + _VECTOR_CHANNELS * len(vectors)
        lenet = image_shape == (1, 28, 28) and len(shapes) == 1 and tuple(shapes[0]) in _LENET
        self.stack = (
            _LENET[shapes[0]]()  # type: ignore[index]
            if lenet
            else _stack(channels, image_shape[0], self._halvings())
        )
        grey = ((0.5,) * image_shape[0], (0.5,) * image_shape[0])
        mean, std = _IMAGENET if image_shape[0] == 3 else grey
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def _halvings(self) -> int:
        ratio = self.image_shape[1] / self.size[0]
        return max(0, math.floor(math.log2(ratio)))

    def forward(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Pixels ``[n, c, h, w]``, not clamped, for boundary tensors, each ``[n, …]``."""
        lifts = iter(self.lifts)
        parts = []
        for tensor in map(as_map, tensors):
            if tensor.dim() == 2:
                parts.append(next(lifts)(tensor).unflatten(1, (_VECTOR_CHANNELS, *self.size)))
            else:
                parts.append(_resized(tensor, self.size))
        found = self.stack(torch.cat(parts, dim=1))
        return _resized(found, self.image_shape[1:]) * self.std + self.mean


def _stack(channels: int, outputs: int, halvings: int) -> nn.Sequential:
    widths = [channels, *([128] * (halvings - 1)), 64][: halvings + 1]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.ConvTranspose2d(before, after, 3, 2, 1, output_padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], outputs, 3, padding=1))


def _resized(tensor: Tensor, size: tuple[int, ...]) -> Tensor:
    if tensor.shape[2:] == size:
        return tensor
    return functional.interpolate(tensor, size=size, mode="bilinear")
