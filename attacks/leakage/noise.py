"""How much noise there is on the smashed data, in forms that rescaling it does not change.

The Fisher information needs noise, and a noise of fixed size can be gamed: multiply the smashed
data by ten, divide the next layer's weights by ten, and the figure moves though nothing else does.
So the noise follows the data: the rounding of the number format that is sent, or a declared
signal-to-noise ratio. Both are one σ a boundary tensor, over all elements and images: a σ that
depends on the input would itself tell about the input.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from splitdeploy.profiles.errors import LeakageError, UnknownNameError, UsageError

_MANTISSA_BITS = {"fp32": 23, "fp16": 10, "bf16": 7}

# A float in [2^e, 2^(e+1)) is rounded to steps of 2^(e-p), with an error of variance step²/12.
# With mantissas m of density 1/(m ln 2), as data of no particular scale have them, the mean of
# step²/z² is 4^-p·∫ m^-3 dm / ln 2 over [1, 2) = 4^-p·3/(8 ln 2).
_STEP_BY_VALUE = 3.0 / (8.0 * math.log(2.0))


@dataclass(frozen=True)
class NoiseLevel:
    """The noise on one head's smashed data.

    Attributes:
        sigma: ``[k]``: the standard deviation of each element, positive.
        relative: σ over the root mean square of its tensor, root-mean-squared over the elements.
        text: Where it comes from, in words, for the report.
    """

    sigma: Tensor
    relative: float
    text: str


@dataclass(frozen=True)
class Noise(ABC):
    """A rule that gives smashed data its σ."""

    @abstractmethod
    def level(self, tensors: Sequence[Tensor]) -> NoiseLevel:
        """The noise on smashed data.

        Args:
            tensors: The boundary tensors, each ``[n, …]``.

        Returns:
            σ for each element of the joined features, and its source.
        """

    @abstractmethod
    def describe(self) -> str:
        """The rule in a sentence, for the report."""


@dataclass(frozen=True)
class TensorNoise(Noise):
    """A rule that gives each boundary tensor one σ."""

    @abstractmethod
    def tensor_sigma(self, tensor: Tensor) -> float:
        """The standard deviation for a boundary tensor, over all its images and elements."""

    def level(self, tensors: Sequence[Tensor]) -> NoiseLevel:
        """The noise on smashed data.

        A tensor that is zero everywhere (a dead branch) has no scale; it gets σ = 1, and as its
        Jacobian is zero too, that says nothing.

        Args:
            tensors: The boundary tensors, each ``[n, …]``.

        Returns:
            σ for each element of the joined features, and its source.
        """
        sigmas, squares = [], 0.0
        for tensor in tensors:
            rms = root_mean_square(tensor)
            sigma = self.tensor_sigma(tensor) if rms > 0 else 1.0
            elements = tensor[0].numel()
            sigmas.append(torch.full((elements,), sigma, dtype=torch.float64))
            squares += elements * (sigma / rms) ** 2 if rms > 0 else 0.0
        joined = torch.cat(sigmas).to(tensors[0])
        return NoiseLevel(joined, math.sqrt(squares / len(joined)), self.describe())


@dataclass(frozen=True)
class PrecisionNoise(TensorNoise):
    """The rounding error of the number format that the smashed data is sent in.

    Floats: the error of rounding a mantissa, in the mean over mantissas, so that σ is a fixed
    fraction of the tensor's root mean square. ``int8``: a step of the tensor's largest magnitude
    over 127, uniform error.

    Args:
        dtype: ``fp32``, ``fp16``, ``bf16`` or ``int8``.

    Raises:
        UnknownNameError: The precision is none of those.
    """

    dtype: str
    available: ClassVar[tuple[str, ...]] = (*_MANTISSA_BITS, "int8")

    def __post_init__(self) -> None:
        if self.dtype not in self.available:
            raise UnknownNameError("precision", self.dtype, self.available)

    def tensor_sigma(self, tensor: Tensor) -> float:
        """The root mean square of the rounding error."""
        if self.dtype == "int8":
            return float(tensor.abs().amax()) / 127.0 / math.sqrt(12.0)
        relative = math.sqrt(_STEP_BY_VALUE / 12.0) / float(1 << _MANTISSA_BITS[self.dtype])
        return relative * root_mean_square(tensor)

    def describe(self) -> str:
        """The rule in a sentence."""
        return f"rounding error of {self.dtype}, one sigma a boundary tensor"


@dataclass(frozen=True)
class SnrNoise(TensorNoise):
    """Noise at a declared signal-to-noise ratio: σ = rms·10^(−snr/20) for each boundary tensor.

    Args:
        snr_db: The ratio of powers in decibels.

    Raises:
        LeakageError: The ratio is not finite.
    """

    snr_db: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.snr_db):
            raise LeakageError(f"expected a finite signal-to-noise ratio in dB, got {self.snr_db}")

    def tensor_sigma(self, tensor: Tensor) -> float:
        """The standard deviation that makes the ratio."""
        return root_mean_square(tensor) * math.pow(10.0, -self.snr_db / 20.0)

    def describe(self) -> str:
        """The rule in a sentence."""
        return f"declared signal-to-noise ratio of {self.snr_db:g} dB, one sigma a boundary tensor"


@dataclass(frozen=True)
class FixedNoise(TensorNoise):
    """Noise that a deployed head adds: the same σ on every element.

    Args:
        sigma: Its standard deviation, in the unit of the smashed data.

    Raises:
        LeakageError: It is not positive.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise LeakageError(
                f"expected a positive noise sigma, got {self.sigma}: without noise the information "
                "is infinite; the rounding of what is sent (fp32, fp16, int8) is there in any case"
            )

    def tensor_sigma(self, tensor: Tensor) -> float:
        """σ, whatever the tensor."""
        return self.sigma

    def describe(self) -> str:
        """The rule in a sentence."""
        return f"added noise of sigma {self.sigma:g} on every element"


@dataclass(frozen=True, eq=False)
class ElementNoise(Noise):
    """Noise that a deployed head adds, with a σ of its own for every element or group of elements.

    Args:
        sigmas: One for each boundary tensor ``[n, *shape]``: broadcasts to ``[1, *shape]``;
            positive, in the unit of the smashed data.
        text: Where it comes from, in words.

    Raises:
        LeakageError: A σ is not positive and finite.
    """

    sigmas: tuple[Tensor, ...]
    text: str

    def __post_init__(self) -> None:
        for sigma in self.sigmas:
            if not bool((torch.isfinite(sigma) & (sigma > 0)).all()):
                raise LeakageError(
                    f"expected a positive noise sigma for every element, got {float(sigma.min()):g}"
                    f" to {float(sigma.max()):g}"
                )

    def level(self, tensors: Sequence[Tensor]) -> NoiseLevel:
        """The noise on smashed data.

        Args:
            tensors: The boundary tensors, each ``[n, …]``.

        Returns:
            σ for each element of the joined features, and its source. Relative figures leave out
            a tensor that is zero everywhere.

        Raises:
            LeakageError: The tensors are more, fewer or of other shapes than the σ are.
        """
        shapes = [tuple(t.shape[1:]) for t in tensors]
        try:
            pairs = zip(self.sigmas, shapes, strict=True)
            parts = [s.double().expand(1, *shape).reshape(-1) for s, shape in pairs]
        except (RuntimeError, ValueError):
            raise LeakageError(
                f"expected boundary tensors that a sigma of shapes "
                f"{[list(s.shape) for s in self.sigmas]} broadcasts to, got "
                f"{[list(shape) for shape in shapes]}: measure the head that the noise was made for"
            ) from None
        squares = 0.0
        for part, tensor in zip(parts, tensors, strict=True):
            rms = root_mean_square(tensor)
            squares += float((part / rms).square().sum()) if rms > 0 else 0.0
        joined = torch.cat([p.to(tensors[0].device) for p in parts])
        relative = math.sqrt(squares / len(joined))
        return NoiseLevel(joined.to(tensors[0]), relative, self.describe())

    def describe(self) -> str:
        """The rule in a sentence."""
        return self.text


@dataclass(frozen=True)
class ScaledNoise(Noise):
    """Another rule's noise, so many times as strong.

    Args:
        inner: The rule.
        factor: On each σ. Sent n times with fresh noise, the smashed data has n-fold information,
            as if its noise were weaker by 1/√n (`repeated`).
        text: What is added to the rule's sentence.

    Raises:
        LeakageError: The factor is not positive.
    """

    inner: Noise
    factor: float
    text: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise LeakageError(f"expected a positive factor on the noise, got {self.factor}")

    def level(self, tensors: Sequence[Tensor]) -> NoiseLevel:
        """The inner rule's, times the factor.

        Args:
            tensors: The boundary tensors, each ``[n, …]``.

        Returns:
            σ for each element of the joined features, and its source.
        """
        inner = self.inner.level(tensors)
        return NoiseLevel(self.factor * inner.sigma, self.factor * inner.relative, self.describe())

    def describe(self) -> str:
        """The rule in a sentence."""
        return f"{self.inner.describe()}, {self.text}"


def repeated(noise: Noise, queries: int) -> Noise:
    """The noise that is left when the same picture is sent several times with fresh noise.

    The information is that of one query times their number: the same as of one query with σ/√n.

    Args:
        noise: Of one query.
        queries: How many.

    Returns:
        The rule; the given one for one query.

    Raises:
        LeakageError: There are no queries.
    """
    if queries < 1:
        raise LeakageError(f"expected at least 1 query, got {queries}")
    if queries == 1:
        return noise
    return ScaledNoise(noise, queries**-0.5, f"{queries} queries with fresh noise")


def repetition_caveats(noise: Noise, queries: int) -> tuple[str, ...]:
    """What has to be said where the noise of repeated queries is not fresh.

    Args:
        noise: Of one query.
        queries: How many.

    Returns:
        Sentences; none where the noise is drawn anew.
    """
    if queries == 1 or not isinstance(noise, PrecisionNoise):
        return ()
    return (
        f"rounding is the same at every query, so that {queries} of them tell what one does; the "
        "figures are those of dithered rounding, which is drawn anew",
    )


def root_mean_square(tensor: Tensor) -> float:
    """The root of the mean square of all elements, in float64."""
    return float(tensor.detach().double().square().mean().sqrt())


def noise_named(text: str) -> Noise:
    """The noise that a text names.

    Args:
        text: A precision (``fp32``, ``fp16``, ``bf16``, ``int8``), ``snr:40`` (dB) or
            ``sigma:0.1``.

    Returns:
        The rule.

    Raises:
        UnknownNameError: The text names none.
        UsageError: Its number is no strength of noise.
    """
    kind, _, number = text.partition(":")
    rules: dict[str, type[SnrNoise] | type[FixedNoise]] = {"snr": SnrNoise, "sigma": FixedNoise}
    if kind in PrecisionNoise.available and not number:
        return PrecisionNoise(kind)
    try:
        return rules[kind](float(number))
    except LeakageError as error:
        raise UsageError(f"noise {text!r}: {error}") from error
    except (KeyError, ValueError):
        available = (*PrecisionNoise.available, "snr:DB", "sigma:VALUE")
        raise UnknownNameError("noise", text, available) from None
