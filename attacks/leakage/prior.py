"""The declared prior of pictures: Gaussian, with the power law that natural images follow.

`ImagePrior` is what every figure asks of a prior; `GaussianPrior` is the default, and
`splitdeploy.attacks.leakage.score_prior` learns another from the user's pictures.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from splitdeploy.attacks.dct import dct_matrix
from splitdeploy.attacks.leakage.exact import GAUSSIAN_ENTROPY
from splitdeploy.profiles.errors import LeakageError

SMOOTHING = 1.0 / 255.0
"""Standard deviation of the white noise that the prior adds to a picture: one grey level."""

MIN_PHOTOGRAPHS = 16
"""With fewer photographs a fit says more about them than about pictures: the default is taken."""

_LUMINANCE_FIRST = (
    (3**-0.5, 3**-0.5, 3**-0.5),
    (2**-0.5, -(2**-0.5), 0.0),
    (6**-0.5, 6**-0.5, -2 * 6**-0.5),
)


@dataclass(frozen=True)
class PowerLaw:
    """Variance of a DCT coefficient at radial frequency f (cycles a pixel): amplitude·f^-exponent.

    The basis is orthonormal, so with exponent 2 the amplitude does not depend on the resolution.

    Attributes:
        amplitude: For each channel of the opponent colours (luminance, red-green, blue-yellow).
        exponent: For each of them; natural images have about 2 (Field 1987; 1.88 ± 0.43 over 276
            images in van der Schaaf and van Hateren 1996).
        source: Where the constants come from, in words.
    """

    amplitude: tuple[float, float, float]
    exponent: tuple[float, float, float]
    source: str


NATURAL_IMAGES = PowerLaw(
    amplitude=(3.19e-3, 1.25e-4, 2.49e-4),
    exponent=(2.0, 2.0, 2.0),
    source="exponent of natural images, Field 1987; variance of 200 ImageNet photographs",
)
"""The default. The amplitudes give 224 by 224 pictures the variance of each opponent colour that
200 ImageNet photographs have (luminance 0.191, red-green 0.0075, blue-yellow 0.0149 on [0, 1])."""


class ImagePrior(ABC):
    """What is taken as known of pictures: their Fisher information in the DCT basis, a diagonal.

    J = Bᵀ·diag(1/variance)·B with B the orthonormal opponent-colour transform (three channels; none
    otherwise) and the orthonormal two-dimensional DCT-II. Whatever needs the diagonal of B J Bᵀ
    alone (the ring-wise van Trees bound, d/tr(J + Ī), `entropy_at_least`) holds for any pictures of
    that diagonal; log-determinants of J + Ī take J to be diagonal besides, which `describe` tells.

    Args:
        shape: ``(c, h, w)`` of a picture.
        variance: ``[c, h, w]``: one over the Fisher information of each coefficient, positive.
        smoothing: Standard deviation of the white part, in pixel units on [0, 1].

    Attributes:
        shape: As given.
        variance: As given, float64.
        smoothing: As given.
    """

    def __init__(self, shape: tuple[int, int, int], variance: Tensor, *, smoothing: float) -> None:
        self.shape, self.smoothing = shape, smoothing
        self.variance = variance.double()
        self._half: dict[tuple[torch.dtype, torch.device], Transform] = {}

    @property
    def dimensions(self) -> int:
        """Elements of a picture, d."""
        return self.variance.numel()

    @property
    def entropy(self) -> float | None:
        """The differential entropy h(X) of a picture in nats; None where it is not known."""
        return None

    @property
    def entropy_at_least(self) -> float:
        """h(X) ≥ (d/2)·ln(2πe) − ½·ln det J ≥ (d/2)·ln(2πe) − ½·Σ ln J_ii, in nats.

        Stam's inequality, entropy power times Fisher information ≥ 1 (Dembo, Cover and Thomas
        1991), applied to J^½ x; then Hadamard's.
        """
        return self.dimensions * GAUSSIAN_ENTROPY + self.log_det() / 2

    @property
    @abstractmethod
    def entropy_at_most(self) -> float:
        """An upper bound on h(X) in nats: that of Gaussian pictures of the same variances."""

    @abstractmethod
    def describe(self) -> str:
        """The prior in a sentence, for the report."""

    def apply_half(self, v: Tensor) -> Tensor:
        """J^-½ v, image by image; J^-½ is the symmetric root.

        Args:
            v: Directions in pixel space, ``[n, d]``.

        Returns:
            ``[n, d]``.
        """
        transform = self.transform(v)
        coefficients = transform.forward(v) * self.variance.sqrt().to(v)
        return transform.inverse(coefficients)

    def transform(self, like: Tensor) -> Transform:
        """The basis change B in the dtype and on the device of a tensor.

        Args:
            like: The tensor.

        Returns:
            The transform, kept for the next call.
        """
        key = (like.dtype, like.device)
        if key not in self._half:
            self._half[key] = Transform(self.shape, like)
        return self._half[key]

    def log_det(self) -> float:
        """−Σ ln J_ii: the natural logarithm of det C for Gaussian pictures of covariance C."""
        return float(self.variance.log().sum())


class GaussianPrior(ImagePrior):
    """Pictures x ~ N(mean, C): the DCT coefficients of each opponent colour are independent.

    C = J⁻¹, so that variance is that of each coefficient: the power law plus smoothing². The
    smoothing is white noise of one grey level: a prior without it would forbid fine detail, and
    8-bit pictures have no density.

    Args:
        shape: ``(c, h, w)`` of a picture.
        law: The power law.
        smoothing: Standard deviation of the white part, in pixel units on [0, 1].

    Attributes:
        law: As given.

    Raises:
        LeakageError: The smoothing is not positive, so that C could be singular.
    """

    def __init__(
        self, shape: tuple[int, int, int], law: PowerLaw, *, smoothing: float = SMOOTHING
    ) -> None:
        if not smoothing > 0:
            raise LeakageError(f"expected a positive smoothing of the prior, got {smoothing}")
        c, h, w = shape
        # A picture of another number of channels has grey ones: a third of three equal channels'
        # luminance variance each.
        laws = (
            tuple(zip(law.amplitude, law.exponent, strict=True))
            if c == 3
            else ((law.amplitude[0] / 3.0, law.exponent[0]),) * c
        )
        radius = radial_frequency(h, w)
        variance = torch.stack([a * radius**-e for a, e in laws]) + smoothing**2
        super().__init__(shape, variance, smoothing=smoothing)
        self.law = law

    @property
    def entropy(self) -> float:
        """(d/2)·ln(2πe) + ½·ln det C, in nats."""
        return self.entropy_at_least

    @property
    def entropy_at_most(self) -> float:
        """The entropy itself."""
        return self.entropy_at_least

    def describe(self) -> str:
        """The prior in a sentence, for the report."""
        exponents = sorted({f"{e:.2f}" for e in self.law.exponent})
        return (
            f"Gaussian, DCT power law f^-{'/'.join(exponents)} per opponent colour "
            f"({self.law.source}), plus white noise of {self.smoothing * 255:.3g}/255"
        )


class Transform:
    """Opponent colours, then the DCT of rows and columns; orthonormal."""

    def __init__(self, shape: tuple[int, int, int], like: Tensor) -> None:
        c, h, w = shape
        self._shape = shape
        colours = torch.tensor(
            _LUMINANCE_FIRST if c == 3 else np.eye(c).tolist(), dtype=torch.float64, device="cpu"
        )
        self._colours = colours.to(like)
        self._rows = dct_matrix(h, dtype=torch.float64).to(like)
        self._columns = dct_matrix(w, dtype=torch.float64).to(like)

    def forward(self, v: Tensor) -> Tensor:
        """Pixels ``[n, d]`` to coefficients ``[n, c, h, w]``."""
        x = self._rows @ v.view(-1, *self._shape) @ self._columns.T
        return torch.einsum("ij,njhw->nihw", self._colours, x)

    def inverse(self, coefficients: Tensor) -> Tensor:
        """Coefficients ``[n, c, h, w]`` or ``[n, d]`` to pixels ``[n, d]``."""
        x = torch.einsum("ji,njhw->nihw", self._colours, coefficients.view(-1, *self._shape))
        return (self._rows.T @ x @ self._columns).flatten(1)


def default_prior(
    shape: tuple[int, int, int], photographs: Tensor | None = None, *, smoothing: float = SMOOTHING
) -> GaussianPrior:
    """The prior to declare where none is given.

    Args:
        shape: ``(c, h, w)`` of a picture.
        photographs: Photographs of the same shape, other than those whose leakage is measured, on
            [0, 1]; with at least `MIN_PHOTOGRAPHS` in three channels the power law is fitted to
            them.
        smoothing: Standard deviation of the white part, in pixel units on [0, 1].

    Returns:
        The fitted prior, or that of natural images.
    """
    law = NATURAL_IMAGES
    if photographs is not None and len(photographs) >= MIN_PHOTOGRAPHS and shape[0] == 3:
        law = fit_power_law(photographs, smoothing=smoothing)
    return GaussianPrior(shape, law, smoothing=smoothing)


def radial_frequency(h: int, w: int) -> Tensor:
    """The radial frequency of each DCT coefficient.

    Args:
        h: Rows.
        w: Columns.

    Returns:
        ``[h, w]`` in cycles a pixel, float64. The constant has half the lowest frequency there
        would otherwise be: its variance must be finite.
    """
    u = torch.arange(h, dtype=torch.float64, device="cpu").unsqueeze(1) / (2 * h)
    v = torch.arange(w, dtype=torch.float64, device="cpu").unsqueeze(0) / (2 * w)
    radius = torch.sqrt(u**2 + v**2)
    radius[0, 0] = 0.25 / max(h, w)
    return radius


def fit_power_law(photographs: Tensor, *, smoothing: float = SMOOTHING, bins: int = 24) -> PowerLaw:
    """The power law of given photographs: a line through log power against log frequency.

    Power is averaged over photographs and over rings of equal width in log frequency, and the
    smoothing's share taken off, so that every scale counts alike.

    Args:
        photographs: ``[n, 3, h, w]`` on [0, 1].
        smoothing: Standard deviation of the white part that the prior will add.
        bins: How many rings.

    Returns:
        The law, with amplitude and exponent of each opponent colour.

    Raises:
        LeakageError: The photographs are too few, too small or not in three channels.
    """
    n, c, h, w = photographs.shape
    if c != 3 or n < MIN_PHOTOGRAPHS or min(h, w) < 16:
        raise LeakageError(
            f"expected at least {MIN_PHOTOGRAPHS} photographs in 3 channels of at least 16 by 16 "
            f"pixels, got {tuple(photographs.shape)}: use default_prior"
        )
    pixels = photographs.double()
    centred = pixels - pixels.mean(dim=(0, 2, 3), keepdim=True)
    power = (Transform((c, h, w), centred).forward(centred.flatten(1)) ** 2).mean(dim=0)
    radius = radial_frequency(h, w).flatten()[1:].numpy()
    edges = np.geomspace(radius.min(), radius.max() * (1 + 1e-9), bins + 1)
    ring = np.digitize(radius, edges) - 1
    count = np.bincount(ring, minlength=bins)
    used = count > 0
    frequency = np.bincount(ring, np.log(radius), bins)[used] / count[used]
    amplitudes, exponents = [], []
    for channel in power:
        total = np.bincount(ring, channel.flatten()[1:].numpy(), bins)[used] / count[used]
        signal = np.maximum(total - smoothing**2, 1e-3 * total)
        slope, offset = np.polyfit(frequency, np.log(signal), 1)
        amplitudes.append(math.exp(offset))
        exponents.append(-float(slope))
    return PowerLaw(
        (amplitudes[0], amplitudes[1], amplitudes[2]),
        (exponents[0], exponents[1], exponents[2]),
        f"fitted to {n} photographs of {h} by {w} pixels",
    )
