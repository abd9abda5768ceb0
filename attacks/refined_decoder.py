"""A linear decoder in closed form, and a network that learns what it leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.inverse_network import InverseNetwork
from splitdeploy.attacks.linear_decoder import LinearDecoder

_FINEST = 64
"""Places along a side that the network works at; a larger picture comes out in squares of pixels.
That takes a sixteenth of the time at 224 pixels and leaves the finest detail to the linear part."""


class RefinedDecoder(nn.Module):
    """Pixels = linear part + its typical error × network, which starts from zero.

    The linear part does not train: only the network's parameters and statistics are in the state.

    Args:
        shapes: Of each boundary tensor, without the batch.
        image_shape: ``(c, h, w)``.
    """

    correction: InverseNetwork

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], image_shape: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.linear = LinearDecoder(shapes, image_shape)
        self.error = 1.0
        self._square = max(1, math.ceil(max(image_shape[1:]) / _FINEST))

    @torch.no_grad()
    def fit(
        self,
        tensors: tuple[Tensor, ...],
        pixels: Tensor,
        aside: Tensor,
        generator: torch.Generator,
        *,
        width: int,
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        """Fit the linear part, and make the network that it needs.

        Args:
            tensors: What was sent for each picture, ``[n, …]``.
            pixels: ``[n, c, h, w]``.
            aside: ``[n]`` bool: the pictures that choose the linear part's settings.
            generator: Of the places that are looked at, and of the network's first parameters.
            width: Channels of the network where it is finest.
            hurried: Whether to do without what costs most of the linear fit.
        """
        error = self.linear.fit(tensors, pixels, aside, generator, hurried=hurried)
        # Below this, rounding is all that there is to learn.
        self.error = max(error, 1e-6)
        inputs = self._inputs(tensors)[1]
        c, h, w = self.linear.image_shape
        coarse = (c * self._square**2, math.ceil(h / self._square), math.ceil(w / self._square))
        shapes = [tuple(t.shape[1:]) for t in inputs]
        seed = int(torch.randint(1 << 31, (), generator=generator, device="cpu"))
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(seed)
            self.correction = InverseNetwork(shapes, coarse, width=width, bounded=False)
        self.correction.to(pixels.device)
        self.correction.standardise(inputs)

    def forward(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Pixels ``[n, c, h, w]``, not clamped, for boundary tensors, each ``[n, …]``."""
        with torch.no_grad(), torch.autocast(tensors[0].device.type, enabled=False):
            estimate, inputs = self._inputs(tensors)
        found = functional.pixel_shuffle(self.correction(inputs), self._square)
        _, h, w = self.linear.image_shape
        return estimate + self.error * found[:, :, :h, :w]

    def _inputs(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the linear part makes of it, and what the network is given."""
        estimate, components = self.linear.describe(tensors)
        blocks = self.linear.layout.blocks(estimate)
        return estimate, (components, blocks)
