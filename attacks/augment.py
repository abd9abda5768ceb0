"""More pictures out of few: an attacker who may query gets what the head makes of each for nothing.

Whatever is done to a picture, the pair of it and its smashed data stays true; it is only a matter
of how like the victim's pictures it still looks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """How pictures are varied at random.

    Attributes:
        mirror: Left to right, every other one.
        shift: Moved by at most this share of their sides; the border is mirrored.
        contrast: Multiplied about their mean by at most 1 ± this, and each channel by half as much.
        brightness: Raised or lowered by at most this.
        mix: The share of pictures that become a blend of two.
    """

    mirror: bool = True
    shift: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    mix: float = 0.0

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Vary a batch.

        Args:
            pixels: ``[n, c, h, w]`` on [0, 1].
            generator: On the CPU.

        Returns:
            ``[n, c, h, w]`` on [0, 1], new.
        """
        pixels = pixels.clone()
        if self.mirror:
            mirrored = torch.rand(len(pixels), generator=generator, device="cpu") < 0.5
            mirrored = mirrored.to(pixels.device)
            pixels[mirrored] = pixels[mirrored].flip(3)
        if self.shift:
            pixels = self._shifted(pixels, generator)
        if self.contrast or self.brightness:
            pixels = self._toned(pixels, generator)
        if self.mix:
            pixels = self._blended(pixels, generator)
        return pixels

    def _shifted(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        height, width = pixels.shape[2:]
        down, right = int(self.shift * height), int(self.shift * width)
        padded = functional.pad(pixels, (right, right, down, down), mode="reflect")
        tops = torch.randint(2 * down + 1, (len(pixels),), generator=generator, device="cpu")
        lefts = torch.randint(2 * right + 1, (len(pixels),), generator=generator, device="cpu")
        places = zip(padded, tops.tolist(), lefts.tolist(), strict=True)
        return torch.stack([p[:, t : t + height, f : f + width] for p, t, f in places])

    def _toned(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        def uniform(channels: int) -> Tensor:
            shape = (len(pixels), channels, 1, 1)
            return (2 * torch.rand(shape, generator=generator, device="cpu") - 1).to(pixels)

        gain = 1 + self.contrast * uniform(1) + self.contrast / 2 * uniform(pixels.shape[1])
        mean = pixels.mean((2, 3), keepdim=True)
        toned = (pixels - mean) * gain + mean + self.brightness * uniform(1)
        return toned.clamp(0.0, 1.0)

    def _blended(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        n = len(pixels)
        share = torch.rand(n, generator=generator, device="cpu")
        blended = torch.rand(n, generator=generator, device="cpu") < self.mix
        share = torch.where(blended, share, torch.ones_like(share)).view(-1, 1, 1, 1).to(pixels)
        others = torch.randperm(n, generator=generator, device="cpu").to(pixels.device)
        return share * pixels + (1 - share) * pixels[others]


NOTHING = Augmentation(mirror=False)
"""Pictures as they are."""
