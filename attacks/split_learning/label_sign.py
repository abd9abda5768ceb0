"""The exact label inference, from the gradient of the last weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from splitdeploy.attacks.split_learning.inferred import Inferred
from splitdeploy.attacks.split_learning.observables import Observed
from splitdeploy.profiles.errors import AttackError


@dataclass(frozen=True)
class SignRule:
    """The exact one, from the weight gradient, at any depth of the client."""

    def __call__(self, layers: nn.Module, seen: Observed) -> Inferred:
        """Infer the labels.

        Args:
            layers: The client's last layers: whether they are one linear layer, whose input the
                server knows.
            seen: Weight gradients.

        Returns:
            The labels. Not certain are those whose gradient vanished in rounding, and, behind
            further layers, those with two classes left: their two rows mirror each other, and the
            label rests on activations not being negative.

        Raises:
            AttackError: Boundary gradients were observed.
        """
        if seen.of != "weight":
            raise AttackError(
                "the sign rule reads the gradient of the last weight, got the boundary's: use "
                "'matched'"
            )
        rows = seen.gradients.double()
        known = isinstance(layers, nn.Linear) and seen.features.shape[1:] == rows.shape[2:]
        if known:
            shares = torch.einsum("nck,nk->nc", rows, seen.features.double())
            lowest = shares.amin(1)
            return Inferred(shares.argmin(1), lowest < 0)
        longest = rows.norm(dim=2).argmax(1)
        direction = functional.normalize(
            rows[torch.arange(len(rows), device=rows.device), longest], dim=1
        )
        shares = torch.einsum("nck,nk->nc", rows, direction)
        below, above = (shares < 0).sum(1), (shares > 0).sum(1)
        # Where counts do not tell: activations behind a ReLU or a sigmoid are not negative.
        flipped = torch.where(below == above, direction.sum(1) < 0, below > above)
        labels = torch.where(flipped, shares.argmax(1), shares.argmin(1))
        return Inferred(labels, (torch.minimum(below, above) == 1) & (below != above))
