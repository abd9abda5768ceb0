"""The parties of split learning: clients with private data, and the servers that follow the rules.

A malicious server is another object with the methods of `LossServer`, `RelayServer` or
`PictureServer`; the clients and the protocol stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from splitdeploy.attacks.split_learning.messages import (
    FeatureGradient,
    Features,
    Labels,
    Rows,
    SmashedData,
    SmashedGradient,
)
from splitdeploy.attacks.split_learning.parts import Part
from splitdeploy.attacks.training import Learner
from splitdeploy.profiles.errors import AttackError


class Client:
    """Holds private labels, mostly private pictures, and the first layers, the last, or both.

    Args:
        index: Which client, in messages.
        labels: ``[n]`` int64.
        images: ``[n, c, h, w]`` as the first layers take them; None where the server holds them.
        first: The first layers; None where the server holds them.
        last: The last layers and the loss; None where the server holds them.

    Raises:
        AttackError: It holds no layers, pictures without first layers, first layers without
            pictures, no data, or not a label for each picture.
    """

    def __init__(
        self,
        index: int,
        labels: Tensor,
        *,
        images: Tensor | None = None,
        first: Part | None = None,
        last: Part | None = None,
    ) -> None:
        if first is None and last is None:
            raise AttackError("expected a client with the first layers, the last or both, got none")
        if (images is None) != (first is None):
            raise AttackError("expected a client with pictures and first layers, or with neither")
        if not len(labels) or (images is not None and len(images) != len(labels)):
            raise AttackError(
                f"expected a client with as many labels as pictures, at least one, got "
                f"{len(labels)} and {'none' if images is None else len(images)}"
            )
        self.index, self.labels, self.images = index, labels, images
        self.first, self.last = first, last

    def __len__(self) -> int:
        """How many samples it holds."""
        return len(self.labels)

    @property
    def batches(self) -> int:
        """How many batches it has trained on."""
        return int(next(iter(self._parts().values())).steps)

    def send(self, rows: Tensor) -> SmashedData:
        """The smashed data of some of its pictures."""
        if self.first is None or self.images is None:
            raise AttackError(f"expected client {self.index} to hold the first layers")
        return SmashedData(self.index, self.first(self.images[rows.to(self.images.device)]))

    def label(self, rows: Tensor) -> Labels:
        """The labels of some of its samples, which only one set-up sends."""
        return Labels(self.index, self.labels[rows.to(self.labels.device)])

    def receive(self, gradient: SmashedGradient) -> None:
        """Train the first layers by what the server says is the gradient."""
        if self.first is None:
            raise AttackError(f"expected client {self.index} to hold the first layers")
        self.first.backward(gradient.values)

    def finish(self, features: Features, rows: Tensor) -> tuple[float, FeatureGradient]:
        """Train the last layers on what the server gives; the loss stays here."""
        if self.last is None:
            raise AttackError(f"expected client {self.index} to hold the last layers")
        loss, gradient = self.last.finish(features.values, self.label(rows).values)
        return loss, FeatureGradient(self.index, gradient)

    def take_over(self, other: Client) -> None:
        """Go on from the weights of the client that trained last."""
        theirs = other._parts()  # noqa: SLF001 - its own kind
        for name, part in self._parts().items():
            part.take_over(theirs[name].hand_over())

    def learners(self) -> list[Learner]:
        """What it trains."""
        return [p.learner(f"client-{self.index}-{name}") for name, p in self._parts().items()]

    def _parts(self) -> dict[str, Part]:
        held = {"first": self.first, "last": self.last}
        return {name: part for name, part in held.items() if part is not None}


class LossServer(Protocol):
    """A server that is sent the labels and computes the loss.

    Attributes:
        loss: Of the last batch, as it tells it.
    """

    loss: float

    def answer(self, smashed: SmashedData, labels: Labels) -> SmashedGradient:
        """Take a batch; the gradient that the client is to learn by."""

    def learners(self) -> Sequence[Learner]:
        """What it trains."""


class RelayServer(Protocol):
    """A server with the layers in the middle, which sees neither pictures nor labels."""

    def forward(self, smashed: SmashedData) -> Features:
        """The input of the client's last layers."""

    def backward(self, gradient: FeatureGradient) -> SmashedGradient:
        """The gradient that the client's first layers are to learn by."""

    def learners(self) -> Sequence[Learner]:
        """What it trains."""


class PictureServer(Protocol):
    """A server with the pictures and the first layers, whose client has the labels."""

    def serve(self, rows: Rows) -> Features:
        """The input of the client's last layers for some of its pictures."""

    def learn(self, gradient: FeatureGradient) -> None:
        """Train by the gradient that came back."""

    def learners(self) -> Sequence[Learner]:
        """What it trains."""


class HonestServer:
    """Follows the protocol, in any of the set-ups.

    Args:
        part: Its layers.
        images: ``[n, c, h, w]``, where it holds the pictures.
    """

    def __init__(self, part: Part, images: Tensor | None = None) -> None:
        self.part, self.images = part, images
        self.loss = float("nan")

    def answer(self, smashed: SmashedData, labels: Labels) -> SmashedGradient:
        """The rest of the model and its loss; the gradient at the cut."""
        self.loss, gradient = self.part.finish(smashed.values, labels.values)
        return SmashedGradient(smashed.client, gradient)

    def forward(self, smashed: SmashedData) -> Features:
        """The middle of the model."""
        return Features(smashed.client, self.part(smashed.values))

    def backward(self, gradient: FeatureGradient) -> SmashedGradient:
        """Back through the middle."""
        return SmashedGradient(gradient.client, self.part.backward(gradient.values))

    def serve(self, rows: Rows) -> Features:
        """The first layers on the server's own pictures."""
        if self.images is None:
            raise AttackError("expected a server that holds the pictures, got one without")
        return Features(rows.client, self.part(self.images[rows.values.to(self.images.device)]))

    def learn(self, gradient: FeatureGradient) -> None:
        """Back through the first layers."""
        self.part.backward(gradient.values)

    def learners(self) -> Sequence[Learner]:
        """Its layers."""
        return [self.part.learner("server")]


def dealt(count: int, clients: int) -> list[Tensor]:
    """Deal samples out to clients, one by one in turn.

    Args:
        count: Samples.
        clients: Clients.

    Returns:
        For each client the rows that it holds.

    Raises:
        AttackError: There are no clients, or more of them than samples.
    """
    if not 1 <= clients <= count:
        raise AttackError(
            f"expected 1 to {count} clients for {count} pictures, got {clients}: each needs one"
        )
    return [torch.arange(start, count, clients, device="cpu") for start in range(clients)]
