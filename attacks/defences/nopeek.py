"""NoPeek: retrain both halves so that the smashed data depends less on the picture.

Vepakomma, Singh, Gupta and Raskar 2020, "NoPeek: information leakage reduction to share activations
in distributed deep learning" (ICDM workshops; arXiv 2008.09161): minimise

    CE(tail(z), y) + weight·dCor(x, z),    z = head(x),

with dCor the sample distance correlation of a minibatch (Székely, Rizzo and Bakirov 2007).
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.defences.base import Defence, Defended, Perturbation, Victim
from splitdeploy.attacks.defences.halves import (
    answers,
    check_number,
    check_victim,
    minibatches,
    smashed_data,
)
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import DefenceError

_LARGEST_GRADIENT = 1.0


class NoPeek(Defence):
    """Fine-tunes copies of both halves by the loss above; the victim stays as it is.

    Batch norm keeps the statistics that it has: exported halves have it folded away, and a batch's
    own statistics would not be those that are deployed. The sample distance correlation of small
    batches is biased upwards, which shifts the loss but hardly its slope; judge the outcome by
    `attacks.leakage.distance_correlation`, which is unbiased.

    No noise is added: a head that still keeps the picture apart, in however twisted a way, is not
    private towards who knows its weights.

    Args:
        weight: Of the distance correlation, at least 0; 0 is mere fine-tuning, the control.
        epochs: Passes over the victim's pictures.
        batch: Pictures a step, at least 8.
        learning_rate: Of Adam at the start; it falls to zero along a half cosine.

    Raises:
        DefenceError: An argument is out of its range.
    """

    name = "nopeek"
    paper = "Vepakomma et al. 2020, NoPeek (arXiv 2008.09161)"
    strength = "weight of the distance correlation in the training loss, at least 0"

    def __init__(
        self, weight: float, *, epochs: int = 4, batch: int = 128, learning_rate: float = 3e-4
    ) -> None:
        self.weight = check_number("a weight of the distance correlation", weight, 0.0)
        self.epochs = int(check_number("a number of epochs", epochs, 1))
        self.batch = int(check_number("a minibatch", batch, 8))
        self.learning_rate = check_number("a learning rate", learning_rate, 0.0, 1.0, above=True)

    def fit(self, victim: Victim, *, seed: int = 0) -> Defended:
        """Retrain on the victim's pictures and labels, or its own answers where there are none.

        Args:
            victim: The cut model, and pictures to train on.
            seed: Of the order of the pictures.

        Returns:
            New halves, in eval mode, without noise.

        Raises:
            DefenceError: The victim cannot be defended, its head has nothing to train, it has
                fewer than 8 pictures, or the training diverged.
        """
        check_victim(victim)
        if len(victim.images) < 8:
            raise DefenceError(
                f"expected at least 8 pictures to train on, got {len(victim.images)}"
            )
        boundary = len(smashed_data(victim, victim.images[:1]))
        classes = answers(victim)
        head, tail = copy.deepcopy(victim.head), copy.deepcopy(victim.tail)
        weights = trainable(head.head)
        if not weights:
            raise DefenceError("expected a head with weights to retrain, got one without any")
        self._train(head, tail, [*weights, *trainable(tail)], victim.images, classes, seed)
        one, zero = torch.ones(()), torch.zeros(())
        text = f"NoPeek, weight {self.weight:g}, {self.epochs} epochs"
        return Defended(head, tail, (Perturbation("none", one, zero, zero),) * boundary, text)

    def _train(
        self,
        head: PixelHead,
        tail: nn.Module,
        weights: list[Tensor],
        images: Tensor,
        classes: Tensor,
        seed: int,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        for weight in weights:
            weight.requires_grad_(True)
        optimiser = torch.optim.Adam(weights, lr=self.learning_rate)
        for chosen, share in minibatches(len(images), self.batch, self.epochs, generator):
            optimiser.zero_grad()
            with torch.enable_grad():
                loss = self._loss(head, tail, images[chosen], classes[chosen])
                loss.backward()  # type: ignore[no-untyped-call]
            if not math.isfinite(float(loss.detach())):
                raise DefenceError(
                    f"expected NoPeek's loss to stay finite, it diverged at {share:.0%} of the "
                    f"training: lower the learning rate ({self.learning_rate:g})"
                )
            nn.utils.clip_grad_norm_(weights, _LARGEST_GRADIENT)
            optimiser.step()
            for group in optimiser.param_groups:
                group["lr"] = self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
            if self.progress is not None:
                self.progress(share)
        for weight in weights:
            weight.requires_grad_(False)
            weight.grad = None

    def _loss(self, head: PixelHead, tail: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        tensors = head(images)
        loss = functional.cross_entropy(tail(*tensors), classes)
        if self.weight == 0:
            return loss
        # The mean over boundary tensors: joined, the one with the largest numbers would decide.
        apart = [sample_distance_correlation(images, tensor) for tensor in tensors]
        return loss + self.weight * torch.stack(apart).mean()


def trainable(half: nn.Module) -> list[Tensor]:
    """The weights of half a model: its parameters, or what a traced half holds in their place.

    Args:
        half: A module; a traced one keeps its weights as buffers.

    Returns:
        The tensors; the running statistics of batch norm are none of them.
    """
    parameters: list[Tensor] = [p for p in half.parameters() if p.is_floating_point()]
    return parameters or [
        buffer
        for name, buffer in half.named_buffers()
        if buffer.is_floating_point() and not name.endswith(("running_mean", "running_var"))
    ]


def sample_distance_correlation(x: Tensor, z: Tensor) -> Tensor:
    """The distance correlation of a batch, biased, with a gradient.

    dCor² = dCov²(x, z)/√(dVar²(x)·dVar²(z)) of doubly centred distance matrices A and B, where
    dCov² = Σ AB/n² (Székely, Rizzo and Bakirov 2007, eqs. 2.8 to 2.10).

    Args:
        x: ``[n, …]``.
        z: ``[n, …]``.

    Returns:
        A scalar on [0, 1]; 0 where either is constant.
    """
    a, b = _centred_distances(x), _centred_distances(z)
    smallest = torch.finfo(a.dtype).tiny
    covariance = (a * b).mean().clamp_min(smallest)
    spreads = [each.square().mean().clamp_min(smallest).sqrt() for each in (a, b)]
    return (covariance / (spreads[0] * spreads[1]).clamp_min(smallest**0.5)).sqrt()


_LAST_DIGITS = 16.0


def _centred_distances(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    flat = flat - flat.mean(dim=0).detach()  # distances stay, and fewer digits cancel below
    lengths = flat.square().sum(dim=1)
    sums = lengths.unsqueeze(0) + lengths.unsqueeze(1)
    squared = sums - 2 * flat @ flat.T
    # Below the last digits of what is subtracted a distance is zero, whichever way a processor
    # rounds the two; the root's slope there would be infinite.
    apart = squared > _LAST_DIGITS * torch.finfo(x.dtype).eps * sums.detach()
    distances = torch.where(apart, squared, 1.0).sqrt() * apart
    rows = distances.mean(dim=1)
    return distances - rows.unsqueeze(0) - rows.unsqueeze(1) + rows.mean()
