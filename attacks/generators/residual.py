"""What pictures are beside a generator's range: an error whose spectrum is known.

A small generator gives smooth pictures, and a search that must match smashed data with those alone
bends the latent until smooth pictures answer as sharp ones do: the features come near, the picture
goes astray. So an attacker lets a picture be G(z) + e, with z ~ N(0, 1) and e of the spectrum that
the generator's errors have. Of an autoencoder this is its own model of pictures, with the errors'
covariance diagonal in frequency instead of a multiple of one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from splitdeploy.attacks.generator import Generator
from splitdeploy.attacks.generators.nearest import nearest_latents
from splitdeploy.attacks.spectral import GREY, SpectralImage

_UNKNOWN_SHARE = 0.3
"""Of the deviation of pictures themselves, for a generator whose errors were never measured."""


def measure_residual(generator: Generator, pictures: Tensor, *, passes: int = 60) -> Tensor:
    """The spectrum of what the likeliest latents leave of pictures.

    Args:
        generator: In eval mode.
        pictures: ``[n, c, h, w]`` on [0, 1], better ones that it was not trained on.
        passes: Of the search for the latents.

    Returns:
        ``[c, h, w]``: the standard deviation of each coefficient (orthonormal DCT of opponent
        colours), for `Residual`.
    """
    share = generator.latent_size / pictures[0].numel()
    latents = nearest_latents(generator, pictures, passes=passes, weight=0.01 * share)
    with torch.no_grad():
        variance = float((generator(latents) - pictures).square().mean())
    # Now as likely as can be: log p(x, z) = −‖x − G(z)‖²/2σ² − ‖z‖²/2, an element of the picture.
    latents = nearest_latents(
        generator, pictures, passes=passes, start=latents, weight=variance * share
    )
    with torch.no_grad():
        errors = pictures - generator(latents)
    image = SpectralImage(generator.image_shape, device=pictures.device)
    return (image.white(errors + GREY) * image.deviation).square().mean(0).sqrt()


class Residual:
    """Errors of a generator in coordinates in which they are N(0, 1).

    Args:
        generator: With its ``residual`` where that was measured; else a share of the spectrum of
            natural pictures stands for it.
        factor: On the deviation; above 0.
        device: Where to compute.
    """

    def __init__(self, generator: Generator, factor: float, device: torch.device) -> None:
        self._image = SpectralImage(generator.image_shape, device=device)
        known = generator.residual
        natural = self._image.deviation
        deviation = _UNKNOWN_SHARE * natural if known is None else known.to(natural)
        self._ratio = factor * deviation / natural

    def pixels(self, white: Tensor) -> Tensor:
        """Differences to the generator's pictures ``[n, c, h, w]`` of white ones ``[n, c·h·w]``."""
        shaped = white.view(-1, *self._image.shape) * self._ratio
        return self._image.pixels(shaped) - GREY
