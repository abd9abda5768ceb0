"""What a reconstruction is good for: can the original be told by it, and what does it show?

A picture that a person would call unrecognisable may still tell a machine which of a hundred
pictures it was, so that is asked on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from splitdeploy.attacks.intervals import wilson95

DISTANCE = "mean squared error after matching mean and contrast"
"""By which a reconstruction is compared with the pictures of a gallery."""

_FLAT = 1e-6
"""The standard deviation of pixels below which a picture shows nothing but rounding."""

_TIE = 1e-5
_COPY = 1e-3
"""Of distances between pictures of length 1: as near as another, and the same picture."""

Classifier = Callable[[Tensor], Tensor]
"""From pixels ``[n, c, h, w]`` on [0, 1] to logits ``[n, k]``."""


@dataclass(frozen=True)
class Identification:
    """Whether the originals can be picked out by their reconstructions.

    Attributes:
        ranks: For each reconstruction the place of its original in the gallery, 1 for the nearest;
            pictures that are just as near count as nearer.
        gallery: How many pictures there are to choose among.
    """

    ranks: tuple[int, ...]
    gallery: int

    @property
    def hits(self) -> int:
        """How many originals were the nearest."""
        return sum(rank == 1 for rank in self.ranks)

    @property
    def rate(self) -> float:
        """The share of them, on [0, 1]."""
        return self.hits / len(self.ranks)

    @property
    def ci95(self) -> tuple[float, float]:
        """A 95 % interval for the rate (Wilson)."""
        return wilson95(self.hits, len(self.ranks))

    @property
    def chance(self) -> float:
        """The rate of whoever picks at random."""
        return 1.0 / self.gallery

    @property
    def above_chance(self) -> bool:
        """Whether more are told than by chance, at 95 %."""
        return self.ci95[0] > self.chance


def identify(reconstructions: Tensor, originals: Tensor, others: Tensor) -> Identification:
    """Rank a gallery, the originals and other pictures, by the distance to each reconstruction.

    The distance is the mean squared error after both pictures were brought to mean 0 and standard
    deviation 1, over all channels and places: brightness and contrast are what attacks lose first,
    and no one needs them to tell pictures apart. A flat reconstruction is as far from all of them,
    and tells nothing.

    Args:
        reconstructions: ``[n, c, h, w]``.
        originals: The pictures behind them, in the same order.
        others: More pictures ``[m, c, h, w]``, m from 0; those that equal an original are left out.

    Returns:
        The ranks; in a gallery of one every original is the nearest, as chance has it too.

    Raises:
        ValueError: The shapes differ.
    """
    if reconstructions.shape != originals.shape or others.shape[1:] != originals.shape[1:]:
        raise ValueError(
            f"expected pictures of one shape, got {list(reconstructions.shape)}, "
            f"{list(originals.shape)} and {list(others.shape)}"
        )
    found, own = _standardised(reconstructions.to(originals.device)), _standardised(originals)
    rest = _standardised(others.to(originals.device))
    gallery = torch.cat([own, rest[_apart(rest, own)]])
    distances = _distances(found, gallery)
    mine = distances.diagonal().unsqueeze(1)
    # Rounding must not break the tie of a flat reconstruction.
    nearer = (distances <= mine * (1 + _TIE)).sum(1)
    return Identification(tuple(nearer.tolist()), len(gallery))


def _standardised(pictures: Tensor) -> Tensor:
    """``[n, chw]`` of mean 0 and length 1; zeros where a picture is flat."""
    flat = pictures.detach().float().flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    length = flat.norm(dim=1, keepdim=True)
    return torch.where(length > _FLAT * flat.shape[1] ** 0.5, flat.div_(length), 0.0)


def _distances(one: Tensor, other: Tensor) -> Tensor:
    # Not by a product of matrices, which would lose what is nearly the same.
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")


def _apart(rest: Tensor, own: Tensor) -> Tensor:
    """Which of the others are no copy of an original."""
    if not len(rest):
        return torch.zeros(0, dtype=torch.bool, device=rest.device)
    return _distances(rest, own).amin(1) > _COPY


@dataclass(frozen=True)
class ClassKept:
    """Whether a classifier says the same of a reconstruction as of its original.

    Weak evidence where the classifier is the victim's own model: an attack that matches its
    features matches its answers, whatever the picture looks like.

    Attributes:
        hits: How many answers were the same.
        images: Of how many.
    """

    hits: int
    images: int

    @property
    def rate(self) -> float:
        """The share of them, on [0, 1]."""
        return self.hits / self.images

    @property
    def ci95(self) -> tuple[float, float]:
        """A 95 % interval for the rate (Wilson)."""
        return wilson95(self.hits, self.images)


def class_kept(classifier: Classifier, reconstructions: Tensor, originals: Tensor) -> ClassKept:
    """Compare a classifier's answers on reconstructions with those on their originals.

    Args:
        classifier: From pixels on [0, 1] to logits.
        reconstructions: ``[n, c, h, w]``.
        originals: In the same order.

    Returns:
        How many agree.
    """
    with torch.no_grad():
        said = classifier(reconstructions).argmax(1)
        expected = classifier(originals).argmax(1)
    return ClassKept(int((said.cpu() == expected.cpu()).sum()), len(originals))
