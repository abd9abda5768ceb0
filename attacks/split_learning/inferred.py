"""What every label inference takes and says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from splitdeploy.attacks.split_learning.observables import Observed


@dataclass(frozen=True)
class Inferred:
    """What a label inference says.

    Attributes:
        labels: ``[n]`` int64.
        certain: ``[n]`` bool: which of them follow from the observation without a guess; None
            where the attack cannot say.
        up_to_names: Whether the labels are groups, whose classes the attack does not know.
        notes: What whoever reads them should know.
    """

    labels: Tensor
    certain: Tensor | None = None
    up_to_names: bool = False
    notes: tuple[str, ...] = ()


class LabelInference(Protocol):
    """From what a server saw to labels; the layers are used for their architecture alone."""

    def __call__(self, layers: nn.Module, seen: Observed) -> Inferred:
        """Infer the label of each sample."""
