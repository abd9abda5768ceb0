"""Split learning: one network, trained by several parties that show each other only messages.

Gupta and Raskar ("Distributed learning of deep neural network over multiple agents", 2018), in the
three set-ups of figure 1 of UnSplit (Erdoğan, Küpçü and Çiçek, WPES 2022):

    (a) `label_sharing`    client: pictures, labels, first layers   server: the rest and the loss
    (b) `labels_at_client` client: labels, last layers, the loss    server: pictures, first layers
    (c) `u_shaped`         client: all data, first and last layers  server: the middle

Every step is one batch of one client. Several clients take turns, a batch each; before its turn a
client takes over the weights of the one before it, from client to client, unseen by the server.
Gupta and Raskar hand over the weights alone; here the optimiser's state goes with them, so that
with Adam, too, the parties learn exactly what the joint model would have learnt from the same
batches.

What a server saw, and the model that came of it::

    seen = ServerObserver()
    training = u_shaped(first, middle, last, images, labels,
                        lambda p: torch.optim.Adam(p, lr=1e-3), observe=seen)
    run = training.train(200)
    features, gradients = seen.last_layers()
    model = training.joint()
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from splitdeploy.attacks.split_learning.exchanges import (
    LabelsAtClient,
    LabelSharing,
    Observe,
    UShape,
    ignore,
)
from splitdeploy.attacks.split_learning.parties import Client, HonestServer, LossServer, dealt
from splitdeploy.attacks.split_learning.parts import Optimise, Part
from splitdeploy.attacks.split_learning.protocol import SplitTraining
from splitdeploy.profiles.errors import AttackError


def label_sharing(
    first: nn.Module,
    rest: nn.Module | LossServer,
    images: Tensor,
    labels: Tensor,
    optimise: Optimise,
    *,
    clients: int = 1,
    batch: int = 64,
    seed: int = 0,
    observe: Observe = ignore,
) -> SplitTraining:
    """Set-up (a): the labels are shared, the loss is the server's.

    Args:
        first: The clients' layers; each client trains a copy.
        rest: The server's layers, of which it trains a copy, or a server of your own.
        images: ``[n, c, h, w]`` as ``first`` takes them, dealt out to the clients.
        labels: ``[n]`` int64.
        optimise: Makes each party's optimiser.
        clients: How many.
        batch: Samples a step.
        seed: Of the order of the samples.
        observe: Told what the server sees.

    Returns:
        The training.
    """
    server = _honest(rest, optimise) if isinstance(rest, nn.Module) else rest
    parties = [
        Client(i, labels[rows], images=images[rows], first=_client_part(first, optimise, i))
        for i, rows in enumerate(_dealt(images, labels, clients))
    ]
    exchange = LabelSharing(server, observe)
    return SplitTraining(parties, exchange, batch=batch, seed=seed)


def labels_at_client(
    first: nn.Module,
    last: nn.Module,
    images: Tensor,
    labels: Tensor,
    optimise: Optimise,
    *,
    clients: int = 1,
    batch: int = 64,
    seed: int = 0,
    observe: Observe = ignore,
) -> SplitTraining:
    """Set-up (b): the server has the pictures, the clients the labels and the loss.

    Args:
        first: The server's layers, of which it trains a copy.
        last: The clients' layers; each client trains a copy.
        images: ``[n, c, h, w]`` as ``first`` takes them.
        labels: ``[n]`` int64, dealt out to the clients.
        optimise: Makes each party's optimiser.
        clients: How many.
        batch: Samples a step.
        seed: Of the order of the samples.
        observe: Told what the server sees.

    Returns:
        The training.
    """
    held = _dealt(images, labels, clients)
    parties = [
        Client(i, labels[rows], last=_client_part(last, optimise, i)) for i, rows in enumerate(held)
    ]
    server = _honest(first, optimise, images)
    exchange = LabelsAtClient(server, held, observe)
    return SplitTraining(parties, exchange, batch=batch, seed=seed)


def u_shaped(
    first: nn.Module,
    middle: nn.Module,
    last: nn.Module,
    images: Tensor,
    labels: Tensor,
    optimise: Optimise,
    *,
    clients: int = 1,
    batch: int = 64,
    seed: int = 0,
    observe: Observe = ignore,
) -> SplitTraining:
    """Set-up (c): pictures, labels and loss stay with the clients.

    Args:
        first: The clients' first layers; each client trains a copy.
        middle: The server's layers, of which it trains a copy.
        last: The clients' last layers; each client trains a copy.
        images: ``[n, c, h, w]`` as ``first`` takes them, dealt out to the clients.
        labels: ``[n]`` int64.
        optimise: Makes each party's optimiser.
        clients: How many.
        batch: Samples a step.
        seed: Of the order of the samples.
        observe: Told what the server sees.

    Returns:
        The training.
    """
    parties = [
        Client(
            i,
            labels[rows],
            images=images[rows],
            first=_client_part(first, optimise, i),
            last=_client_part(last, optimise, i),
        )
        for i, rows in enumerate(_dealt(images, labels, clients))
    ]
    exchange = UShape(_honest(middle, optimise), observe)
    return SplitTraining(parties, exchange, batch=batch, seed=seed)


def _dealt(images: Tensor, labels: Tensor, clients: int) -> list[Tensor]:
    if labels.shape != (len(images),):
        raise AttackError(
            f"expected a label for each of {len(images)} pictures, got {list(labels.shape)}"
        )
    return [rows.to(images.device) for rows in dealt(len(images), clients)]


def _client_part(layers: nn.Module, optimise: Optimise, index: int) -> Part:
    return Part(copy.deepcopy(layers), optimise, f"client {index}")


def _honest(layers: nn.Module, optimise: Optimise, images: Tensor | None = None) -> HonestServer:
    return HonestServer(Part(copy.deepcopy(layers), optimise, "the server"), images)
