"""Pictures for attackers who have none: synthetic ones, with the statistics of natural pictures.

Dead leaves (Lee, Mumford and Huang 2001): opaque discs that fall on each other, with radii by a
power law, have the edges, the occlusions and the scaling of photographs; clouds with a spectrum of
1/f have their correlations. Networks trained on such pictures alone transfer to photographs
(Baradad et al. 2021, "Learning to see by looking at noise").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from splitdeploy.attacks.dct import dct_matrix

_LEAVES = 40
_SMALLEST, _LARGEST = 0.03, 0.5
"""Radii over the picture's side."""

_DARKER = 1.3
"""Exponent that gives luminance a skewness of about 0.2, as CIFAR-10 and ImageNet have."""

_CLOUD = 0.15
"""Standard deviation of the clouds that lie within leaves."""


@dataclass(frozen=True)
class Made:
    """A source of training pictures that never gives the same twice.

    Attributes:
        make: From a count, a shape and a generator to pictures on the CPU.
        image_shape: ``(c, h, w)``.
    """

    make: Callable[[int, tuple[int, int, int], torch.Generator], Tensor]
    image_shape: tuple[int, int, int]

    def __call__(self, done: int, count: int, generator: torch.Generator) -> Tensor:
        """Pictures ``[count, c, h, w]`` on [0, 1]."""
        del done
        return self.make(count, self.image_shape, generator)

    def rows(self, done: int, count: int) -> Tensor:
        """Their numbers: each is another."""
        return torch.arange(done * count, (done + 1) * count, device="cpu")


def dead_leaves(
    count: int, image_shape: tuple[int, int, int], generator: torch.Generator
) -> Tensor:
    """Discs that cover each other, each with a colour and clouds of its own.

    Args:
        count: How many pictures.
        image_shape: ``(c, h, w)``.
        generator: On the CPU.

    Returns:
        ``[count, c, h, w]`` on [0, 1], on the CPU.
    """
    channels, height, width = image_shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device="cpu")

    texture = _CLOUD * clouds(count, image_shape, generator)
    below = _CLOUD * clouds(count, image_shape, generator)
    down = torch.linspace(0, height / max(height, width), height, device="cpu").view(1, -1, 1)
    across = torch.linspace(0, width / max(height, width), width, device="cpu").view(1, 1, -1)
    pixels = _colours(count, channels, uniform) + below
    for _ in range(_LEAVES):
        # Radii of density r^-3 between the bounds, by the inverse of their distribution.
        low, high = _SMALLEST**-2, _LARGEST**-2
        radius = (low + (high - low) * uniform(count, 1, 1)).rsqrt()
        top, left = uniform(count, 1, 1), uniform(count, 1, 1)
        inside = (down - top).square() + (across - left).square() < radius.square()
        leaf = _colours(count, channels, uniform) + uniform(count, 1, 1, 1) * texture
        pixels = torch.where(inside.unsqueeze(1), leaf, pixels)
    return pixels.clamp(0.0, 1.0)


def clouds(count: int, image_shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Gaussian noise with amplitudes of 1/f, of mean 0 and variance 1 a picture on average.

    Args:
        count: How many.
        image_shape: ``(c, h, w)``.
        generator: On the CPU.

    Returns:
        ``[count, c, h, w]``, on the CPU.
    """
    _, height, width = image_shape
    with torch.device("cpu"):
        rows, columns = dct_matrix(height).float(), dct_matrix(width).float()
        frequency = torch.hypot(
            torch.arange(height).view(-1, 1) / height, torch.arange(width).view(1, -1) / width
        )
    frequency[0, 0] = torch.inf
    amplitude = 1.0 / frequency
    amplitude = amplitude * (height * width / amplitude.square().sum()).sqrt()
    white = torch.randn((count, *image_shape), generator=generator, device="cpu")
    return rows.T @ (white * amplitude) @ columns


def normal_noise(
    count: int, image_shape: tuple[int, int, int], generator: torch.Generator
) -> Tensor:
    """N(0, 1) in normalised coordinates, as He et al.'s "rand set": 0.5 + 0.25·ε on [0, 1].

    Args:
        count: How many.
        image_shape: ``(c, h, w)``.
        generator: On the CPU.

    Returns:
        ``[count, c, h, w]``, clamped to [0, 1], on the CPU.
    """
    white = torch.randn((count, *image_shape), generator=generator, device="cpu")
    return (0.5 + 0.25 * white).clamp(0.0, 1.0)


def _colours(count: int, channels: int, uniform: Callable[..., Tensor]) -> Tensor:
    """Flat colours, mostly grey, more of them dark than bright, as in photographs."""
    grey, tint = uniform(count, 1, 1, 1) ** _DARKER, uniform(count, channels, 1, 1) ** _DARKER
    return 0.65 * grey + 0.35 * tint
