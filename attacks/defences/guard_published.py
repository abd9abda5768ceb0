"""FSInfoGuard as published: for each picture the σ at which FSInfo without a prior is the target.

    σ(x) = det(JᵀJ)^(1/2d) / (e^F·√(2πe)), a standard deviation

(after the note on it in InfoDecom, AAAI 2026, whose expression reproduces its target as a standard
deviation and not as a variance). It is here to compare with. It needs a Jacobian for every picture
that is sent; it tells about the picture by its σ (`sigma_leak`); FSInfo without a prior binds
unbiased attackers at most; and where the Jacobian has not full rank it sends without any noise,
which this refuses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import ClassVar

import torch
from torch import Tensor

from splitdeploy.attacks.defences.base import (
    Defence,
    Defended,
    Victim,
    additive,
    standard_normal,
)
from splitdeploy.attacks.defences.target import Target
from splitdeploy.attacks.leakage.exact import DENSE_LIMIT, exact_fsinfo
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import DefenceError

_BATCH = 8


@dataclass(frozen=True)
class PublishedDefended(Defended):
    """A model whose noise is computed anew for every picture.

    Attributes:
        fsinfo: The target, nats per input element, without a prior.
        typical_sigma: The geometric mean of σ over the victim's pictures.
    """

    fsinfo: float
    typical_sigma: float
    _known: dict[bytes, float] = field(default_factory=dict, repr=False)

    def send(self, pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """What the cloud gets for pictures, each with noise of its own σ.

        Args:
            pixels: ``[n, c, h, w]`` on [0, 1].
            generator: Of the noise.

        Returns:
            The boundary tensors, each ``[n, …]``.
        """
        sigma = self.sigma_of(pixels)
        return tuple(
            z + sigma.to(z).view(-1, *(1,) * (z.dim() - 1)) * standard_normal(z, generator)
            for z in self.head(pixels)
        )

    def sigma_of(self, pixels: Tensor) -> Tensor:
        """σ of each picture, computed once for each.

        Args:
            pixels: ``[n, c, h, w]`` on [0, 1].

        Returns:
            ``[n]`` float64.
        """
        names = [blake2b(x.cpu().contiguous().numpy().tobytes()).digest() for x in pixels]
        new = [i for i, name in enumerate(names) if name not in self._known]
        if new:
            found = published_sigma(self.head, pixels[new], self.fsinfo)
            self._known.update(zip([names[i] for i in new], found.tolist(), strict=True))
        return torch.tensor([self._known[name] for name in names], dtype=torch.float64)

    def perturb(
        self, tensors: tuple[Tensor, ...], generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Not to be had: σ needs the picture.

        Args:
            tensors: As the head computes them.
            generator: Of the noise.

        Raises:
            DefenceError: Always.
        """
        raise DefenceError(
            "expected pictures for the published guard, whose sigma depends on them, got smashed "
            "data: call send()"
        )

    @property
    def gaussian(self) -> bool:
        """No: given the picture its noise is Gaussian, but of a σ that tells about the picture."""
        return False


class GuardPublished(Defence):
    """The published closed form, a σ for every picture.

    Args:
        target: ``fsinfo:`` without a prior, or ``mse:``, which then binds unbiased attackers alone.

    Raises:
        DefenceError: The target is a gain, which is measured from a prior.
    """

    name: ClassVar[str] = "published"
    paper: ClassVar[str] = "FSInfoGuard, arXiv 2504.10016"
    strength: ClassVar[str] = "target: fsinfo:NATS per input element, or mse:VALUE; no prior"

    def __init__(self, target: Target) -> None:
        if target.kind == "gain":
            raise DefenceError(
                f"expected a target fsinfo:NATS or mse:VALUE for the published guard, got {target}:"
                " it knows no prior to gain upon; take the form 'bayesian'"
            )
        self._target = target

    def fit(self, victim: Victim, *, seed: int = 0) -> PublishedDefended:
        """See that there is a σ for the victim's pictures.

        Args:
            victim: The cut model; its head must have a Jacobian of full rank at each picture.
            seed: Of nothing: the form is closed.

        Returns:
            The defended model.
        """
        wanted = self._target.fsinfo(0.0)
        sigma = published_sigma(victim.head, victim.images, wanted)
        typical = float(sigma.log().mean().exp())
        tensors = len(victim.head(victim.images[:1]))
        return PublishedDefended(
            victim.head,
            victim.tail,
            tuple(additive("gaussian", typical) for _ in range(tensors)),
            f"published FSInfoGuard for {self._target}: Gaussian noise, a sigma for each picture, "
            f"{float(sigma.min()):.4g} to {float(sigma.max()):.4g}",
            wanted,
            typical,
        )


def published_sigma(head: PixelHead, pixels: Tensor, fsinfo: float) -> Tensor:
    """det(JᵀJ)^(1/2d)/(e^F·√(2πe)) at each picture.

    FSInfo at σ = 1 is (1/2d)·ln det JᵀJ − ½·ln(2πe), so that ln σ is that less the target.

    Args:
        head: From pixels, in eval mode, of at most `DENSE_LIMIT` input elements.
        pixels: ``[n, c, h, w]`` on [0, 1].
        fsinfo: The target F, nats per input element.

    Returns:
        ``[n]`` float64, a standard deviation in the unit of the smashed data.

    Raises:
        DefenceError: The pictures are too large, or a Jacobian has not full rank.
    """
    d = pixels[0].numel()
    if d > DENSE_LIMIT:
        raise DefenceError(
            f"expected pictures of at most {DENSE_LIMIT} elements for the published guard, which "
            f"needs the determinant of each one's Jacobian, got {d}: take the form 'bayesian'"
        )
    values: list[float] = []
    for start in range(0, len(pixels), _BATCH):
        jacobian = HeadJacobian(head, pixels[start : start + _BATCH])
        unit = torch.ones(jacobian.outputs).to(jacobian.features)
        found = exact_fsinfo(jacobian, unit)
        if min(found.ranks) < d:
            raise DefenceError(
                f"expected a Jacobian of full rank {d} at every picture for the published guard, "
                f"got {min(found.ranks)}: its sigma is 0 there, and what passes would be sent "
                "without noise; take the form 'bayesian'"
            )
        values += found.values
    return (torch.tensor(values, dtype=torch.float64) - fsinfo).exp()
