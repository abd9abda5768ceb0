"""Defences that leave a part of the smashed data out: at random, or the channels of least use."""

from __future__ import annotations

import torch
from torch import Tensor

from splitdeploy.attacks.defences.base import Defence, Defended, Perturbation, Victim
from splitdeploy.attacks.defences.halves import (
    answers,
    check_number,
    check_victim,
    smashed_data,
)

_CHUNK = 64  # pictures whose gradients are held at once


class Dropout(Defence):
    """sent = z·m/(1 − rate), each element of m zero with probability ``rate``, drawn per picture.

    He, Zhang and Lee (IEEE IoTJ 2021, "Attacking and protecting data privacy in edge–cloud
    collaborative inference systems") leave the dropout on at inference. The cloud sees which
    elements are missing, and n queries of one picture bring all but rate^n of them back.

    Args:
        rate: The share that is dropped, on [0, 1).

    Raises:
        DefenceError: It is outside.
    """

    name = "dropout"
    paper = "He, Zhang and Lee 2021, Attacking and protecting data privacy in edge-cloud inference"
    strength = "share of the elements that are dropped, drawn anew for every picture, on [0, 1)"

    def __init__(self, rate: float) -> None:
        self.rate = check_number("a drop rate", rate, 0.0, 1.0)

    def fit(self, victim: Victim, *, seed: int = 0) -> Defended:
        """Nothing is measured.

        Args:
            victim: The cut model; one picture tells how many boundary tensors there are.
            seed: Not needed.

        Returns:
            The same halves behind a random mask.
        """
        del seed
        check_victim(victim)
        one, zero = torch.ones(()), torch.zeros(())
        mask = Perturbation("dropout", one, zero, zero, self.rate)
        count = len(smashed_data(victim, victim.images[:1]))
        text = f"dropout of {100 * self.rate:g} % at inference"
        return Defended(victim.head, victim.tail, (mask,) * count, text)


class ChannelPruning(Defence):
    """sent = g·z with g zero for the channels that matter least to the tail's answer.

    The static form of what DISCO learns (Singh et al. CVPR 2021, "DISCO: dynamic and invariant
    sensitive channel obfuscation"). A channel's importance is what the log-probability of the
    answer loses to first order when the channel is zeroed (Molchanov et al. ICLR 2017, eq. 8):
    the mean over pictures of |Σ z·∂log p(y|z)/∂z|, summed over the channel's positions.

    Channels are the second axis, or the last of tensors ``[n, tokens, features]``. The share is
    taken of each boundary tensor and rounded; one channel always stays.

    Args:
        share: Of the channels, zeroed; on [0, 1).
        most_important: Zero those that matter most instead: the control that shows what the choice
            is worth.

    Raises:
        DefenceError: The share is outside.
    """

    name = "pruning"
    paper = "Singh et al. 2021, DISCO (static form); importance of Molchanov et al. 2017"
    strength = "share of the channels that are zeroed, those of least use to the answer, on [0, 1)"

    def __init__(self, share: float, *, most_important: bool = False) -> None:
        self.share = check_number("a share of the channels", share, 0.0, 1.0)
        self.most_important = most_important

    def fit(self, victim: Victim, *, seed: int = 0) -> Defended:
        """Rank the channels by the pictures; nothing is random about it.

        Args:
            victim: The cut model, and pictures to rank by.
            seed: Not needed.

        Returns:
            The same halves behind a gate for each channel.
        """
        del seed
        gates = [self._gate(importance) for importance in channel_importance(victim)]
        still, zero = torch.zeros(()), torch.zeros(())
        masks = tuple(Perturbation("none", gate, still, zero) for gate in gates)
        gone = sum(int((gate == 0).sum()) for gate in gates)
        channels = sum(gate.numel() for gate in gates)
        worth = "most" if self.most_important else "least"
        text = f"{gone} of {channels} channels pruned, those of {worth} use to the answer"
        return Defended(victim.head, victim.tail, masks, text)

    def _gate(self, importance: Tensor) -> Tensor:
        channels = importance.numel()
        gone = min(channels - 1, round(self.share * channels))
        order = importance.flatten().argsort(descending=self.most_important, stable=True)
        gate = torch.ones(channels)
        gate[order[:gone]] = 0.0
        return gate.view(importance.shape)


def channel_importance(victim: Victim) -> tuple[Tensor, ...]:
    """How much the answer's log-probability depends on each channel, to first order.

    Args:
        victim: The cut model; the answer is the label, or the model's own where there is none.

    Returns:
        For each boundary tensor the mean over pictures of |Σ z·∂log p(y|z)/∂z|, in nats, shaped to
        broadcast: ``[1, c, 1, 1]`` for feature maps.

    Raises:
        DefenceError: The victim cannot be defended, or its tail is no classifier.
    """  # noqa: DOC502
    check_victim(victim)
    classes = answers(victim)
    sums: list[Tensor] = []
    for images, wanted in zip(
        torch.split(victim.images, _CHUNK), torch.split(classes, _CHUNK), strict=True
    ):
        parts = [part.sum(0, keepdim=True) for part in _losses(victim, images, wanted)]
        sums = parts if not sums else [a + b for a, b in zip(sums, parts, strict=True)]
    return tuple(each / len(victim.images) for each in sums)


def _losses(victim: Victim, images: Tensor, wanted: Tensor) -> list[Tensor]:
    """|Σ z·∂log p/∂z| over the positions of each channel, for each picture."""
    tensors = [tensor.requires_grad_() for tensor in smashed_data(victim, images)]
    with torch.enable_grad():
        chances = victim.tail(*tensors).log_softmax(dim=1)
        answer = chances.gather(1, wanted.unsqueeze(1)).sum()
        # A boundary tensor may reach the answer by no differentiable way; it then matters nothing.
        gradients = torch.autograd.grad(answer, tensors, allow_unused=True, materialize_grads=True)
    return [
        _over_positions(tensor.detach() * gradient)
        for tensor, gradient in zip(tensors, gradients, strict=True)
    ]


def _over_positions(products: Tensor) -> Tensor:
    channel = products.ndim - 1 if products.ndim == 3 else 1
    positions = [axis for axis in range(1, products.ndim) if axis != channel]
    summed = products.sum(dim=positions, keepdim=True) if positions else products
    return summed.abs()
