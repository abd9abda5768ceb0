"""Pictures that an attacker has of his own, and how close they are to the victim's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from splitdeploy.profiles.errors import AttackError

Kinship = Literal["same set", "same distribution", "other distribution", "noise", "unknown"]
"""How an attacker's pictures relate to those that the victim was trained on and sends."""


@dataclass(frozen=True)
class Auxiliary:
    """Pictures of the attacker's own: never those that he reconstructs.

    Attributes:
        images: ``[m, c, h, w]``, uint8 on 0 to 255 or floating point on [0, 1].
        kinship: How they relate to the victim's, as far as whoever collected them can say.
        labels: ``[m]`` int64, or None.

    Raises:
        AttackError: There are none, they are no pictures, or labels are of another number.
    """

    images: Tensor
    kinship: Kinship = "unknown"
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or not len(self.images):
            raise AttackError(
                "expected the attacker's pictures as [m, c, h, w] with at least one, got "
                f"{list(self.images.shape)}"
            )
        if self.images.dtype != torch.uint8 and not self.images.is_floating_point():
            raise AttackError(
                "expected the attacker's pictures as uint8 or floating point, got "
                f"{self.images.dtype}"
            )
        if self.labels is not None and self.labels.shape != (len(self.images),):
            raise AttackError(
                f"expected {len(self.images)} labels of the attacker's pictures, got "
                f"{list(self.labels.shape)}"
            )

    def __len__(self) -> int:
        """How many there are."""
        return len(self.images)

    def pixels(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Some of them, on [0, 1].

        Args:
            rows: Which.

        Returns:
            ``[k, c, h, w]`` in float32, a copy.
        """
        chosen = self.images[rows]
        return chosen.float() / 255.0 if chosen.dtype == torch.uint8 else chosen.float().clone()

    def __str__(self) -> str:
        """In a phrase: ``5000 pictures, same distribution``."""
        labelled = "labelled " if self.labels is not None else ""
        return f"{len(self)} {labelled}pictures, {self.kinship}"
