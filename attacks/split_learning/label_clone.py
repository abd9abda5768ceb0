"""Label inference through clones of the client's last layers: random ones, and trained ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.fresh import fresh_head
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.split_learning.directions import grouped, unit
from splitdeploy.attacks.split_learning.inferred import Inferred
from splitdeploy.attacks.split_learning.observables import (
    Observed,
    boundary_gradients,
    candidate_errors,
    logits_of,
)
from splitdeploy.profiles.errors import AttackError

_SETTLED = 1 / 3
"""Share of the steps before a matched clone may change what the grouping said."""
_REASSIGNED_EVERY = 10


@dataclass(frozen=True)
class RandomClone:
    """UnSplit's: the label whose gradient through a clone is closest.

    At depth one, with p̃ what the clone says, label k is closer than the true y exactly where
    (p − p̃)_y − (p − p̃)_k > 1. So it is right while the client is hardly trained; of a client that
    is sure of y (p_y near 1) it tells what the *clone* thinks likeliest. The sign rule does not
    depend on that.

    Attributes:
        seed: Of the clone.
        learning_rate: Of AMSGrad, by which the clone learns the labels that it inferred.
        update_every: Samples between two updates, 1 in the authors' code; 0 for a clone that stays
            as it was drawn, through which all samples go at once.
    """

    seed: int = 0
    learning_rate: float = 1e-3
    update_every: int = 1

    def __post_init__(self) -> None:
        if self.update_every < 0 or not self.learning_rate > 0:
            raise AttackError(
                "expected update_every of 0 or more and a positive learning rate, got "
                f"{self.update_every} and {self.learning_rate}"
            )

    def __call__(self, layers: nn.Module, seen: Observed) -> Inferred:
        """Infer the labels, in the order of the samples.

        Args:
            layers: The client's last layers, for their architecture.
            seen: Gradients of either kind.

        Returns:
            The labels.
        """
        clone = _clone(layers, self.seed)
        if not self.update_every:
            return Inferred(candidate_errors(clone, seen).argmin(1))
        optimiser = torch.optim.Adam(clone.parameters(), lr=self.learning_rate, amsgrad=True)
        found = []
        for start in range(0, len(seen), self.update_every):
            end = start + self.update_every
            part = Observed(seen.features[start:end], seen.gradients[start:end], seen.of)
            labels = candidate_errors(clone, part).argmin(1)
            optimiser.zero_grad()
            torch.autograd.backward([functional.cross_entropy(clone(part.features), labels)])
            optimiser.step()
            found.append(labels)
        return Inferred(torch.cat(found))


@dataclass(frozen=True)
class MatchedClone:
    """Ours, from the boundary gradient: groups, refined by a clone that is trained to explain them.

    Samples are grouped by the directions of feature and gradient; a clone learns to give gradients
    of the observed *directions* for these labels (their lengths say how sure the client is and span
    many orders), and then each sample takes the label that explains its gradient best, in turns.

    Attributes:
        seed: Of the clones and of the grouping.
        steps: Of Adam.
        learning_rate: Of Adam, falling linearly to zero.
        restarts: Clones; the one whose gradients fit best is kept.
    """

    seed: int = 0
    steps: int = 300
    learning_rate: float = 3e-3
    restarts: int = 2

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or not self.learning_rate > 0:
            raise AttackError(
                "expected at least one step and one restart and a positive learning rate, got "
                f"{self.steps}, {self.restarts} and {self.learning_rate}"
            )

    def __call__(self, layers: nn.Module, seen: Observed) -> Inferred:
        """Group the samples by label.

        Args:
            layers: The client's last layers, for their architecture.
            seen: Boundary gradients, of a client that hardly changed meanwhile.

        Returns:
            The groups, and how well the clone explains the gradients.

        Raises:
            AttackError: Weight gradients were observed.
        """
        if seen.of != "boundary":
            raise AttackError(
                "a matched clone explains boundary gradients, got those of the weight: use 'sign'"
            )
        classes = logits_of(layers, seen.features).shape[1]
        generator = torch.Generator().manual_seed(self.seed)
        wanted = unit(seen.gradients)
        both = torch.cat([unit(seen.features), -wanted], 1)
        best, labels = math.inf, seen.gradients.new_empty(0)
        for restart in range(self.restarts):
            groups = grouped(unit(both), classes, generator)
            clone = _clone(layers, self.seed + restart)
            misfit, found = self._fitted(clone, seen.features, wanted, groups, classes)
            if misfit < best:
                best, labels = misfit, found
        if not math.isfinite(best):
            raise AttackError("expected a clone that can be trained, got NaN from its gradients")
        note = f"the clone explains the gradients' directions up to {best:.3f} (1 − cosine)"
        return Inferred(labels, up_to_names=True, notes=(note,))

    def _fitted(
        self, clone: nn.Module, features: Tensor, wanted: Tensor, labels: Tensor, classes: int
    ) -> tuple[float, Tensor]:
        optimiser = torch.optim.Adam(clone.parameters(), lr=self.learning_rate)
        misfit = math.inf
        for step in range(self.steps):
            if step >= _SETTLED * self.steps and step % _REASSIGNED_EVERY == 0:
                labels = _explaining(clone, features, wanted, classes)
            gradients = boundary_gradients(clone, features, labels, differentiable=True)
            loss = (1 - (unit(gradients) * wanted).sum(1)).mean()
            optimiser.zero_grad()
            torch.autograd.backward([loss])
            optimiser.param_groups[0]["lr"] = self.learning_rate * (1 - step / self.steps)
            optimiser.step()
            misfit = float(loss.detach())
        return misfit, labels


def _explaining(clone: nn.Module, features: Tensor, wanted: Tensor, classes: int) -> Tensor:
    """For each sample the label whose gradient has the observed direction best."""
    cosines = []
    for label in range(classes):
        labels = torch.full((len(features),), label, device=features.device)
        ours = unit(boundary_gradients(clone, features, labels))
        cosines.append((ours * wanted).sum(1))
    return torch.stack(cosines, 1).argmax(1)


def _clone(layers: nn.Module, seed: int) -> nn.Module:
    return fresh_head(PixelHead(layers, (0.0,), (1.0,)), seed).head
