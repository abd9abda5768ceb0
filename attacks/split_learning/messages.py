"""What passes between the parties of split learning, and a listener at the server.

An attacker at the server knows the messages below and nothing else of a client. Tensors are
detached: no message carries a graph through which one party could reach into another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class SmashedData:
    """From a client to the server: what its first layers give.

    Attributes:
        client: Which client.
        values: ``[b, …]``.
    """

    client: int
    values: Tensor


@dataclass(frozen=True)
class Labels:
    """From a client to the server, in the set-up that shares them.

    Attributes:
        client: Which client.
        values: ``[b]`` int64.
    """

    client: int
    values: Tensor


@dataclass(frozen=True)
class SmashedGradient:
    """From the server to a client: ∂L/∂z of the smashed data z, or what it pretends to be.

    Attributes:
        client: Which client.
        values: ``[b, …]``, of the smashed data's shape.
    """

    client: int
    values: Tensor


@dataclass(frozen=True)
class Rows:
    """Which of the server's pictures the next batch is, where the server holds the pictures.

    Attributes:
        client: Whose labels go with them.
        values: ``[b]`` int64.
    """

    client: int
    values: Tensor


@dataclass(frozen=True)
class Features:
    """From the server to a client that holds the last layers: their input.

    Attributes:
        client: Which client.
        values: ``[b, …]``.
    """

    client: int
    values: Tensor


@dataclass(frozen=True)
class FeatureGradient:
    """From a client that holds the last layers to the server: ∂L/∂h of the features h.

    L is the mean cross entropy of the batch, so a row is 1/b of its own sample's gradient.

    Attributes:
        client: Which client.
        values: ``[b, …]``, of the features' shape.
    """

    client: int
    values: Tensor


Message = SmashedData | Labels | SmashedGradient | Rows | Features | FeatureGradient
"""What the server sends or receives."""


@dataclass(frozen=True)
class HandOver:
    """From client to client, at the end of a turn; the server does not see it.

    Attributes:
        weights: Parameters and buffers by name.
        optimiser: The optimiser's state, so that Adam too goes on as if there were one client.
    """

    weights: Mapping[str, Tensor]
    optimiser: Mapping[str, object]


_MessageT = TypeVar("_MessageT", bound=Message)


class ServerObserver:
    """Keeps every message that the server sends or receives: all that it can attack with.

    Attributes:
        messages: In their order.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def __call__(self, message: Message) -> None:
        """Keep a message; its tensor is copied, since optimisers work in place."""
        self.messages.append(type(message)(message.client, message.values.detach().clone()))

    def of(self, kind: type[_MessageT]) -> list[_MessageT]:
        """The messages of one kind.

        Args:
            kind: Their class.

        Returns:
            In their order.
        """
        return [m for m in self.messages if isinstance(m, kind)]

    def last_layers(self) -> tuple[Tensor, Tensor]:
        """What a server that feeds a client's last layers learns of them.

        Returns:
            The features sent, ``[n, …]``, and the gradients that came back, each times its batch
            so that it is that of its sample's own loss, ``[n, …]``; empty where there were none.
        """
        features = [m.values for m in self.of(Features)]
        gradients = [m.values * len(m.values) for m in self.of(FeatureGradient)]
        if not features:
            return torch.empty(0), torch.empty(0)
        return torch.cat(features[: len(gradients)]), torch.cat(gradients)
