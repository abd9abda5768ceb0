"""A picture in coordinates in which natural images are white: DCT, opponent colours, 1/f.

    pixels = 0.5 + Bᵀ·C^½·w,    C = Var[coefficients],    w ~ N(0, 1) for natural pictures

with B the orthonormal opponent-colour transform and the orthonormal two-dimensional DCT-II, and C
the power law of the declared prior of pictures (`splitdeploy.attacks.leakage.prior`). A gradient
step in w moves each frequency by what natural pictures vary there: the preconditioning that an
optimiser in pixel coordinates, blind to the difference between a sky and a texture, lacks. The idea
is that of feature visualisation (Olah et al. 2017, "decorrelated" and Fourier coordinates).
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from splitdeploy.attacks.leakage.prior import NATURAL_IMAGES, GaussianPrior, radial_frequency

_BANDS = torch.linspace(0.0, 1.0, 17, device="cpu")[1:-1]
"""Of radial frequency, over the highest: what errors are averaged over."""

_LEAST = 1e-6
"""Of the largest variance: what has no error in the samples may yet have one."""

GREY = 0.5
"""The mean of the prior, in every channel."""


class SpectralImage:
    """The change of coordinates between white coefficients w and pixels.

    Args:
        shape: ``(c, h, w)`` of a picture.
        exponent: Of the power law: 2 is that of natural pictures, smaller gives fine detail more
            of each step.
        dtype: In which to compute.
        device: Where to compute.

    Attributes:
        shape: As given.
        deviation: ``[c, h, w]``: the standard deviation of each coefficient.
        centre: The mean: grey, or pixels ``[n, c, h, w]``.
    """

    centre: Tensor | float = GREY

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        exponent: float = 2.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        law = replace(NATURAL_IMAGES, exponent=(exponent,) * 3)
        prior = GaussianPrior(shape, law)
        self.shape = shape
        self.deviation = prior.variance.sqrt().to(device, dtype)
        self._transform = prior.transform(self.deviation)

    def pixels(self, white: Tensor) -> Tensor:
        """Pixels of white coefficients; differentiable.

        Args:
            white: ``[n, c, h, w]``.

        Returns:
            ``[n, c, h, w]``, on [0, 1] for most of what the prior thinks likely, not clamped.
        """
        return self._transform.inverse(white * self.deviation).view_as(white) + self.centre

    def white(self, pixels: Tensor) -> Tensor:
        """White coefficients of pixels, the inverse of `pixels`.

        Args:
            pixels: ``[n, c, h, w]``.

        Returns:
            ``[n, c, h, w]``.
        """
        return self._transform.forward((pixels - self.centre).flatten(1)) / self.deviation

    def around(self, centre: Tensor, errors: Tensor) -> SpectralImage:
        """Coordinates about pictures that are known but for an error, white for that error.

        Args:
            centre: Pixels ``[n, c, h, w]``.
            errors: Samples of the error, in pixels, ``[m, c, h, w]``.

        Returns:
            Coordinates in which such errors have about unit variance: each coefficient's is
            shrunk to that of its radial frequency, as m is small.
        """
        power = self._transform.forward(errors.to(self.deviation).flatten(1)).square().mean(0)
        radius = radial_frequency(*self.shape[1:]).to(power.device)
        band = torch.bucketize(radius, radius.max() * _BANDS.to(radius)).flatten()
        flat = power.flatten(1)
        sums = flat.new_zeros(len(flat), len(_BANDS) + 1).index_add_(1, band, flat)
        counts = torch.bincount(band, minlength=len(_BANDS) + 1).clamp_min(1)
        smooth = (sums / counts)[:, band].view_as(power)
        moved = copy.copy(self)
        moved.centre = centre
        moved.deviation = smooth.clamp_min(_LEAST * float(smooth.max())).sqrt()
        return moved

    def origin(self, images: int) -> Tensor:
        """The mean of the prior, a grey picture, as white coefficients ``[images, c, h, w]``."""
        return self.deviation.new_zeros(images, *self.shape)

    def band(self, share: float) -> Tensor:
        """Which coefficients have a radial frequency up to a share of the highest.

        Args:
            share: On (0, 1]; 1 takes them all.

        Returns:
            ``[h, w]``: 1 for those, 0 for the others; the constant is always among them.
        """
        radius = radial_frequency(*self.shape[1:])
        return (radius <= share * radius.max()).to(self.deviation)
