"""A small convolutional generator of pictures of any size, quick enough for a CPU.

In the spirit of StyleGAN2 (Karras et al. 2020), without its noise and normalisation: resolutions
double from 4x4 up, an RGB picture accumulates beside the features (their "output skips"), and the
latent scales and shifts the channels of every block. What passes from stage to stage is
``(features, rgb, style)``: everything that later stages need, so one that restarts gives the same
picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.generator import Generator, State
from splitdeploy.attacks.generators.origin import Origin
from splitdeploy.profiles.errors import AttackError

_SMALLEST = 4
"""Side of the first map."""

_MOST_WIDENING = 4
"""Channels double with every halving of the resolution, up to so many times the width."""


@dataclass(frozen=True)
class Architecture:
    """What a small generator is built from.

    Attributes:
        image_shape: ``(c, h, w)``; c is 1 or 3, h and w at least 8.
        latent_size: Elements of the latent vector.
        width: Channels at the picture's own resolution, at least 4.

    Raises:
        AttackError: A number is out of its range.
    """

    image_shape: tuple[int, int, int]
    latent_size: int = 256
    width: int = 32

    def __post_init__(self) -> None:
        channels, height, width = self.image_shape
        if channels not in {1, 3} or min(height, width) < 2 * _SMALLEST:
            raise AttackError(
                f"expected pictures (1 or 3, height, width) of at least {2 * _SMALLEST} pixels a "
                f"side for a generator, got {self.image_shape}: choose a larger size"
            )
        if self.latent_size < 1 or self.width < 4:
            raise AttackError(
                "expected a latent_size of at least 1 and a width of at least 4, got "
                f"{self.latent_size} and {self.width}"
            )

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each stage's map, from the smallest to the picture's own."""
        found = [self.image_shape[1:]]
        while min(found[0]) > _SMALLEST:
            found.insert(0, ((found[0][0] + 1) // 2, (found[0][1] + 1) // 2))
        return tuple(found)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage's map."""
        count = len(self.sizes)
        return tuple(self.width * min(_MOST_WIDENING, 2**j) for j in range(count))[::-1]


class SmallGenerator(Generator):
    """The generator of an architecture, with random parameters until it is trained.

    Args:
        architecture: Sizes and widths.

    Attributes:
        architecture: As given.
        origin: What it was trained on and how; None where it was not.
    """

    def __init__(self, architecture: Architecture) -> None:
        shape = architecture.image_shape
        sizes, channels = architecture.sizes, architecture.channels
        style = architecture.latent_size
        stages: list[nn.Module] = [_First(style, channels[0], sizes[0], shape[0])]
        for place in range(1, len(sizes)):
            before, own = channels[place - 1 : place + 1]
            last = place == len(sizes) - 1
            stages.append(_Doubling(before, own, sizes[place], style, shape[0], last=last))
        super().__init__(stages, style, shape)
        self.architecture = architecture
        self.origin: Origin | None = None

    def whiten(self, centre: Tensor, mixing: Tensor) -> None:
        """Make N(0, 1) latents what the trained ones were distributed like.

        Args:
            centre: Mean of the latents as trained, ``[k]``.
            mixing: ``[k, k]``, a square root of their covariance.
        """
        first = self.stages[0]
        first.get_buffer("centre").copy_(centre)
        first.get_buffer("mixing").copy_(mixing)


class Residual(nn.Module):
    """A map plus what two convolutions make of it.

    Args:
        channels: Of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        inner: Tensor = self.second(functional.silu(self.first(functional.silu(x))))
        return x + inner


def downwards(architecture: Architecture) -> tuple[nn.Sequential, tuple[int, int, int]]:
    """The generator's resolutions backwards, for an encoder or a discriminator.

    Args:
        architecture: The generator's.

    Returns:
        From pixels ``[n, c, h, w]`` on [-1, 1] to the smallest map, activated; its shape.
    """
    channels = architecture.channels[::-1]
    layers: list[nn.Module] = []
    before = architecture.image_shape[0]
    for own in channels[1:]:
        layers += [nn.Conv2d(before, own, 3, stride=2, padding=1), Residual(own)]
        before = own
    return nn.Sequential(*layers, nn.SiLU()), (before, *architecture.sizes[0])


class _Block(nn.Module):
    """Channels scaled and shifted by the style, a residual, and its share of the picture."""

    def __init__(self, channels: int, style: int, colours: int) -> None:
        super().__init__()
        self.style = nn.Linear(style, 2 * channels)
        nn.init.zeros_(self.style.weight)
        nn.init.zeros_(self.style.bias)
        self.residual = Residual(channels)
        self.to_rgb = nn.Conv2d(channels, colours, 3, padding=1)

    def forward(self, x: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = self.style(style)[:, :, None, None].chunk(2, dim=1)
        x = self.residual(x * (1.0 + scale) + shift)
        return x, self.to_rgb(functional.silu(x)).float()


class _First(nn.Module):
    """From ``(latent,)`` to the state at the smallest map."""

    def __init__(self, style: int, channels: int, size: tuple[int, int], colours: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(style))
        self.register_buffer("mixing", torch.eye(style))
        self.shape = (channels, *size)
        self.map = nn.Linear(style, channels * size[0] * size[1])
        self.block = _Block(channels, style, colours)

    def forward(self, state: State) -> State:
        (latent,) = state
        style = self.get_buffer("centre") + latent @ self.get_buffer("mixing").T
        x = self.map(style).view(-1, *self.shape)
        # Half as long on a CPU, where convolutions in bfloat16 want it.
        x = x.contiguous(memory_format=torch.channels_last)
        x, rgb = self.block(x, style)
        return x, rgb, style


class _Doubling(nn.Module):
    """From a state to that at twice the size; the last gives ``(pixels,)`` on [0, 1]."""

    def __init__(
        self, before: int, channels: int, size: tuple[int, int], style: int, colours: int,
        *, last: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.size, self.last = size, last
        self.widen = nn.ConvTranspose2d(before, channels, 2, stride=2)
        self.block = _Block(channels, style, colours)

    def forward(self, state: State) -> State:
        x, rgb, style = state
        x = self.widen(x)[:, :, : self.size[0], : self.size[1]]
        rgb = functional.interpolate(rgb, size=self.size, mode="bilinear")
        x, more = self.block(x, style)
        rgb = rgb + more
        return (torch.sigmoid(rgb).contiguous(),) if self.last else (x, rgb, style)
