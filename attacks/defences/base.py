"""What a defence is: something that a head does to its smashed data before it is sent.

Everything that is done at inference is one line for each boundary tensor z,

    sent = gate·z + shift + scale·ε,

with ε drawn anew for every picture, so that one piece of graph deploys any of them. Defences that
retrain the halves return new halves besides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import DefenceError

Distribution = Literal["none", "gaussian", "laplace", "dropout"]


@dataclass(frozen=True)
class Victim:
    """A cut model, and the pictures by which a defence may set itself up.

    Attributes:
        head: From pixels to the boundary tensors, in eval mode.
        tail: From the boundary tensors, as arguments, to the result ``[n, classes]``; eval mode.
        images: ``[n, c, h, w]`` on [0, 1]; none of those that the defence is judged by.
        labels: ``[n]`` int64, or None: then the undefended model's own answers stand for them.
    """

    head: PixelHead
    tail: nn.Module
    images: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True)
class Perturbation:
    """What happens to one boundary tensor: ``gate·z + shift + scale·ε``.

    Attributes:
        distribution: Of ε: ``gaussian`` is standard normal; ``laplace`` has scale 1 (variance 2);
            ``none`` has no ε; with ``dropout`` the gate is multiplied by a mask that is 0 with
            probability ``drop_rate`` and 1/(1 − drop_rate) else.
        gate: Broadcasts to ``[1, *shape]``.
        shift: Likewise.
        scale: Likewise, at least 0; 0 for ``none`` and ``dropout``.
        drop_rate: On [0, 1).

    Raises:
        DefenceError: A scale is negative, anything is not finite, or the drop rate is not below 1.
    """

    distribution: Distribution
    gate: Tensor
    shift: Tensor
    scale: Tensor
    drop_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("gate", "shift", "scale"):
            if not bool(torch.isfinite(getattr(self, name)).all()):
                raise DefenceError(f"expected a finite {name} of a defence, got NaN or infinity")
        if bool((self.scale < 0).any()):
            raise DefenceError(
                f"expected noise of a scale of at least 0, got {float(self.scale.min()):g}"
            )
        if not 0.0 <= self.drop_rate < 1.0:
            raise DefenceError(f"expected a drop rate on [0, 1), got {self.drop_rate:g}")

    def apply(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """One tensor as it is sent, ``[n, …]``, with fresh noise for each picture."""
        changed = self.gate.to(z) * z + self.shift.to(z)
        if self.distribution == "gaussian":
            return changed + self.scale.to(z) * standard_normal(z, generator)
        if self.distribution == "laplace":
            return changed + self.scale.to(z) * standard_laplace(z, generator)
        if self.distribution == "dropout":
            kept = torch.rand(z.shape, generator=generator, dtype=z.dtype) >= self.drop_rate
            return changed * kept.to(z) / (1.0 - self.drop_rate)
        return changed


def additive(distribution: Distribution, scale: Tensor | float) -> Perturbation:
    """Noise alone: gate 1, shift 0.

    Args:
        distribution: ``gaussian`` or ``laplace``.
        scale: Broadcasts to ``[1, *shape]``.

    Returns:
        The perturbation.
    """
    each = torch.as_tensor(scale, dtype=torch.float32)
    return Perturbation(distribution, torch.ones(()), torch.zeros(()), each)


def standard_normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Independent N(0, 1) of a tensor's shape, dtype and device; drawn on the CPU."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like)


def standard_laplace(like: Tensor, generator: torch.Generator) -> Tensor:
    """Independent Laplace(0, 1): the difference of two exponentials."""
    first, second = (torch.empty(like.shape, dtype=like.dtype) for _ in range(2))
    first.exponential_(generator=generator)
    second.exponential_(generator=generator)
    return (first - second).to(like)


@dataclass(frozen=True)
class Defended:
    """A cut model with a defence on it: it can be run, attacked and measured.

    Attributes:
        head: What is computed before the perturbation; the victim's own unless it was retrained.
        tail: The victim's own unless it was retrained.
        perturbations: One for each boundary tensor, in the order of the boundary.
        text: The defence and its strength, in words.
    """

    head: PixelHead
    tail: nn.Module
    perturbations: tuple[Perturbation, ...]
    text: str

    def send(self, pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """What the cloud gets for pictures, one query each.

        Args:
            pixels: ``[n, c, h, w]`` on [0, 1].
            generator: Of the noise; call again for another query.

        Returns:
            The boundary tensors, each ``[n, …]``.
        """
        return self.perturb(self.head(pixels), generator)

    def perturb(
        self, tensors: tuple[Tensor, ...], generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Boundary tensors as they are sent.

        Args:
            tensors: As the head computes them.
            generator: Of the noise.

        Returns:
            As they are sent.
        """
        pairs = zip(self.perturbations, tensors, strict=True)
        return tuple(p.apply(z, generator) for p, z in pairs)

    @property
    def gaussian(self) -> bool:
        """Whether all that protects is Gaussian noise, so that Fisher information applies."""
        return all(p.distribution == "gaussian" for p in self.perturbations)

    def sigma(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """The standard deviation of Gaussian noise on each element, joined.

        Args:
            tensors: The boundary tensors, for their shapes.

        Returns:
            ``[k]`` float64.

        Raises:
            DefenceError: The defence is no Gaussian noise.
        """
        if not self.gaussian:
            raise DefenceError(
                f"expected a defence by Gaussian noise, which has Fisher information, got "
                f"{self.text}: judge it by attacks"
            )
        pairs = zip(self.perturbations, tensors, strict=True)
        parts = [p.scale.double().expand(1, *t.shape[1:]).reshape(-1) for p, t in pairs]
        return torch.cat(parts)


class Defence(ABC):
    """A defence with its strength; `fit` sets it up on a cut model.

    Attributes:
        name: In the registry, on the command line and in reports.
        paper: Whose idea it is.
        strength: What the strength is, in words, with its unit and range.
        progress: Told the share of `fit` that is done, on [0, 1], where it takes long; or None.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    strength: ClassVar[str]
    progress: Callable[[float], None] | None = None

    @abstractmethod
    def fit(self, victim: Victim, *, seed: int = 0) -> Defended:
        """Set it up.

        Args:
            victim: The cut model, and pictures to set up by.
            seed: Of whatever is random about setting up.

        Returns:
            The defended model.
        """
