"""From a photograph or a camera's frame to what a head takes, on any machine the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from splitdeploy.profiles.errors import ImagesError

Picture = Image.Image | NDArray[np.uint8]
"""As Pillow opens it, or a frame ``[h, w, 3]`` in RGB."""


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a picture before the head: cover the frame, crop at the centre, normalise.

    Attributes:
        channels: 1 (grey) or 3 (RGB).
        height: Of the input, in pixels.
        width: Of the input, in pixels.
        mean: Subtracted from pixels on [0, 1], a value a channel.
        std: What they are then divided by.
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pictures: Sequence[Picture]) -> NDArray[np.float32]:
        """The head's input.

        Args:
            pictures: At least one, of any sizes.

        Returns:
            ``[n, c, h, w]``.

        Raises:
            ImagesError: One of them is neither a picture nor a frame ``[h, w, 3]`` of uint8.
        """  # noqa: DOC502
        return self.normalise(np.stack([self.pixels(picture) for picture in pictures]))

    def pixels(self, picture: Picture) -> NDArray[np.float32]:
        """A picture on [0, 1], ``[c, h, w]``; ImagesError where it is none."""
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
                raise ImagesError(
                    f"expected a frame [h, w, 3] of uint8 in RGB, got {list(picture.shape)} of "
                    f"{picture.dtype}"
                )
            picture = Image.fromarray(picture)
        return to_array(cover(picture.convert("RGB"), self.height, self.width), self.channels)

    def normalise(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """The head's input for pixels ``[n, c, h, w]`` on [0, 1]."""
        return normalised(pixels, self.mean, self.std)

    def to_json(self) -> dict[str, Any]:
        """As a manifest holds it."""
        return {
            "channels": self.channels,
            "height": self.height,
            "width": self.width,
            "resize": "cover, bilinear, centre crop",
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Preprocessing:
        """From a manifest; KeyError, TypeError or ValueError where it holds something else."""
        found = cls(
            int(entry["channels"]),
            int(entry["height"]),
            int(entry["width"]),
            tuple(float(value) for value in entry["mean"]),
            tuple(float(value) for value in entry["std"]),
        )
        if found.channels not in {1, 3} or min(found.height, found.width) < 1:
            raise ValueError(f"no picture is {found.channels}x{found.height}x{found.width}")
        if not len(found.mean) == len(found.std) == found.channels or 0.0 in found.std:
            raise ValueError("expected a mean and a std other than 0 for each channel")
        return found


def normalised(
    pixels: NDArray[np.float32], mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """Pixels less a mean, over a deviation.

    Args:
        pixels: ``[n, c, h, w]`` on [0, 1].
        mean: A value a channel.
        std: A value a channel, none of them 0.

    Returns:
        ``[n, c, h, w]``.
    """
    less, over = (np.asarray(values, np.float32)[:, None, None] for values in (mean, std))
    return ((pixels - less) / over).astype(np.float32, copy=False)


def cover(picture: Image.Image, height: int, width: int) -> Image.Image:
    """Resize so that a picture covers the frame (bilinear, antialiased), then crop at the centre.

    Args:
        picture: Of any size.
        height: Of the frame.
        width: Of the frame.

    Returns:
        A picture of that size, as torchvision's ``Resize`` and ``CenterCrop`` make it.
    """
    old_width, old_height = picture.size
    # Compared as products, and truncated as torchvision does, so that squares come out the same.
    if width * old_height >= height * old_width:
        size = (width, max(height, int(width * old_height / old_width)))
    else:
        size = (max(width, int(height * old_width / old_height)), height)
    resized = picture.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - width) / 2.0), round((size[1] - height) / 2.0)
    return resized.crop((left, top, left + width, top + height))


def to_array(picture: Image.Image, channels: int) -> NDArray[np.float32]:
    """A picture's levels on [0, 1].

    Args:
        picture: In RGB.
        channels: 3, or 1 for grey.

    Returns:
        ``[channels, h, w]``.
    """
    flat = picture if channels == 3 else picture.convert("L")
    levels = np.asarray(flat, dtype=np.float32).reshape(flat.height, flat.width, channels)
    return np.ascontiguousarray(levels.transpose(2, 0, 1) / 255, dtype=np.float32)
