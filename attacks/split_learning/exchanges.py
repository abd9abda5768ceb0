"""The messages of one batch between a client and the server, in each set-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from splitdeploy.attacks.split_learning.messages import Message, Rows
from splitdeploy.attacks.split_learning.parties import (
    Client,
    HonestServer,
    LossServer,
    PictureServer,
    RelayServer,
)
from splitdeploy.attacks.split_learning.parts import Part
from splitdeploy.attacks.training import Learner

Observe = Callable[[Message], None]
"""Told every message that the server sends or receives, such as a `ServerObserver`."""


def ignore(_message: Message) -> None:
    """Observe nothing."""


class Exchange(Protocol):
    """The messages of one batch between one client and the server."""

    def __call__(self, client: Client, rows: Tensor) -> float:
        """Train on a batch, and the loss of it."""

    def learners(self) -> Sequence[Learner]:
        """What the server trains."""

    def joint(self, client: Client) -> list[nn.Module]:
        """The layers of the joint model in their order, of honest parties."""


@dataclass(frozen=True)
class LabelSharing:
    """Set-up (a)."""

    server: LossServer
    observe: Observe = ignore

    def __call__(self, client: Client, rows: Tensor) -> float:
        """Smashed data and labels up, the gradient down."""
        smashed, labels = client.send(rows), client.label(rows)
        self.observe(smashed)
        self.observe(labels)
        gradient = self.server.answer(smashed, labels)
        self.observe(gradient)
        client.receive(gradient)
        return self.server.loss

    def learners(self) -> Sequence[Learner]:
        """What the server trains."""
        return self.server.learners()

    def joint(self, client: Client) -> list[nn.Module]:
        """First layers of the client, the rest of the server."""
        return [*_layers(client.first), *_served(self.server)]


@dataclass(frozen=True)
class LabelsAtClient:
    """Set-up (b)."""

    server: PictureServer
    rows: Sequence[Tensor]
    observe: Observe = ignore

    def __call__(self, client: Client, rows: Tensor) -> float:
        """Features down, their gradient up; the parties know which sample is which."""
        chosen = Rows(
            client.index, self.rows[client.index][rows.to(self.rows[client.index].device)]
        )
        self.observe(chosen)
        features = self.server.serve(chosen)
        self.observe(features)
        loss, gradient = client.finish(features, rows)
        self.observe(gradient)
        self.server.learn(gradient)
        return loss

    def learners(self) -> Sequence[Learner]:
        """What the server trains."""
        return self.server.learners()

    def joint(self, client: Client) -> list[nn.Module]:
        """First layers of the server, the last of the client."""
        return [*_served(self.server), *_layers(client.last)]


@dataclass(frozen=True)
class UShape:
    """Set-up (c)."""

    server: RelayServer
    observe: Observe = ignore

    def __call__(self, client: Client, rows: Tensor) -> float:
        """Smashed data up, features down, their gradient up, that of the smashed data down."""
        smashed = client.send(rows)
        self.observe(smashed)
        features = self.server.forward(smashed)
        self.observe(features)
        loss, gradient = client.finish(features, rows)
        self.observe(gradient)
        answer = self.server.backward(gradient)
        self.observe(answer)
        client.receive(answer)
        return loss

    def learners(self) -> Sequence[Learner]:
        """What the server trains."""
        return self.server.learners()

    def joint(self, client: Client) -> list[nn.Module]:
        """First layers of the client, the middle of the server, the last of the client."""
        return [*_layers(client.first), *_served(self.server), *_layers(client.last)]


def _layers(part: Part | None) -> list[nn.Module]:
    return [] if part is None else [part.layers]


def _served(server: object) -> list[nn.Module]:
    return [server.part.layers] if isinstance(server, HonestServer) else []
