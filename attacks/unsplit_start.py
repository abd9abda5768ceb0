"""A first guess at a client's head and pictures, from the statistics of what it sends.

The server has no pictures, but knows what pictures are like on average; made ones
(`splitdeploy.attacks.textures`) share that. A clone that sends for them what looks like the
observation (`splitdeploy.attacks.statistics`) has about the right filters, and a linear decoder of
what it sends gives a first picture for each observation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from splitdeploy.attacks.linear_decoder import LinearDecoder
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.statistics import Statistics
from splitdeploy.attacks.target import TargetView
from splitdeploy.attacks.textures import dead_leaves

_MADE, _DECODED_BY = 512, 128
"""Made pictures in all, and those that the linear decoder is fitted to."""

_ASIDE = 4
_TAIL = 0.05


@dataclass(frozen=True)
class Likeness:
    """How like the observation a clone's smashed data of made pictures look.

    Attributes:
        target: What was observed.
        seen: Its statistics.
        made: The pictures, ``[m, c, h, w]``.
        batch: How many of them a look takes.
    """

    target: TargetView
    seen: Statistics
    made: Tensor
    batch: int

    @classmethod
    def to(cls, target: TargetView, generator: torch.Generator, batch: int = 64) -> Likeness:
        """That to an observation.

        Args:
            target: What was observed.
            generator: Of the made pictures.
            batch: How many of them a look takes.

        Returns:
            The measure.
        """
        made = dead_leaves(_MADE, target.image_shape, generator).to(target.device)
        return cls(target, Statistics(target.observation), made, batch)

    def distance(self, clone: PixelHead, generator: torch.Generator) -> Tensor:
        """Zero where they look the same; differentiable.

        Args:
            clone: Whose they are.
            generator: Of the choice of pictures.

        Returns:
            A number.
        """
        rows = torch.randint(len(self.made), (self.batch,), generator=generator, device="cpu")
        return self.seen.distance(clone(self.made[rows.to(self.made.device)]))


@torch.no_grad()
def first_pictures(clone: PixelHead, likeness: Likeness, generator: torch.Generator) -> Tensor:
    """What a linear decoder of the clone's smashed data makes of the observation.

    Args:
        clone: The clone as far as it is; its normalisation may be turned over (`bright`).
        likeness: The observation, and a source of made pictures.
        generator: Of the places that are looked at.

    Returns:
        ``[n, c, h, w]`` on the bounds of pixels.
    """
    target = likeness.target
    pixels = likeness.made[:_DECODED_BY]
    decoder = LinearDecoder([t.shape[1:] for t in target.observation], target.image_shape)
    aside = torch.arange(_DECODED_BY, device="cpu") % _ASIDE == 0
    decoder.fit(clone(pixels), pixels, aside, generator)
    found: Tensor = decoder(target.observation)
    found = found.clamp(*target.bounds)
    return bright(found, clone, target.bounds)


def bright(pixels: Tensor, clone: PixelHead, bounds: tuple[float, float]) -> Tensor:
    """Pictures or their negatives, whichever look more like pictures.

    Smashed data do not tell them apart: a clone with the opposite first layer sends the same. Of
    pictures in general, more is dark than bright (the luminance of MNIST, Fashion-MNIST, CIFAR-10
    and ImageNet is skewed to the right, in any 16 of them but a fifth of CIFAR-10's).

    Args:
        pixels: ``[n, c, h, w]``.
        clone: Its normalisation is turned over where the negatives are taken.
        bounds: The range of pixels.

    Returns:
        ``[n, c, h, w]``.
    """
    if _skewness(pixels) >= 0:
        return pixels
    _regauge(clone, -1.0, sum(bounds))
    return sum(bounds) - pixels


def stretch(pixels: Tensor, clone: PixelHead, bounds: tuple[float, float]) -> Tensor:
    """Brightness and contrast such that pixels, all together, are spread as those of pictures.

    Smashed data do not tell these either: a clone with another gain and bias sends the same. A
    twentieth of the pixels is to lie in the darkest twentieth of the range, and of the brightest.

    Args:
        pixels: ``[n, c, h, w]``.
        clone: Its normalisation is changed so that it sends for the new what it sent for the old.
        bounds: The range of pixels.

    Returns:
        ``[n, c, h, w]``, not clamped.
    """
    values = pixels.flatten().sort().values
    low, high = (values[int(q * (len(values) - 1))] for q in (_TAIL, 1 - _TAIL))
    span = bounds[1] - bounds[0]
    gain = float((1 - 2 * _TAIL) * span / (high - low).clamp_min(1e-3))
    shift = bounds[0] + _TAIL * span - gain * float(low)
    _regauge(clone, gain, shift)
    return gain * pixels + shift


def _regauge(clone: PixelHead, gain: float, shift: float) -> None:
    """Let a clone take gain·x + shift for x."""
    clone.mean, clone.std = gain * clone.mean + shift, gain * clone.std


def _skewness(pixels: Tensor) -> float:
    luminance = pixels.mean(1)
    away = luminance - luminance.mean()
    return float(away.pow(3).mean() / away.square().mean().clamp_min(1e-12).pow(1.5))
