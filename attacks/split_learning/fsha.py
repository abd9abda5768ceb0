"""Feature-space hijacking: a server that trains the client to send what it can decode.

Pasquini, Ateniese and Bernaschi ("Unleashing the Tiger: Inference Attacks on Split Learning", CCS
2021). On pictures of its own the server trains an autoencoder, a pilot f̃ and a decoder; a critic D
(Wasserstein with gradient penalty) learns to tell f̃'s output from the client's smashed data, and
what goes back to the client instead of the task's gradient is ∂/∂z of D(z): the client's head f
learns to give what f̃ would, and the decoder opens it. The task is never trained, which a client
could notice by a loss that stays.

Presets:

- ``quick``, ours: rates a hundred times the published (the critic's thirty times), a penalty on the
  norm over all of z, and activations. On pictures of 12 pixels it passes the trivial baselines in
  some hundred steps.
- ``published``: the authors' code: batches of 64, rates 1e-5 (client, autoencoder) and 1e-4
  (critic), penalty 500 on the norm over height and width of each channel, a pilot and a decoder
  without activations. There the decoder ends in tanh on [-1, 1], here in a sigmoid on [0, 1], and
  it resizes and convolves where theirs has transposed convolutions; the client's rate is the
  client's choice, and theirs.

Against a head and private pictures of one's own::

    attack = Fsha.preset("quick")
    found = attack(head, private, Auxiliary(public, "same distribution"))
    print(judge(found.pixels, private), best_baseline(private))
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.base import Progress, Reconstruction
from splitdeploy.attacks.checkpoint import digest
from splitdeploy.attacks.presets import WithPresets
from splitdeploy.attacks.split_learning.fsha_server import HijackingServer
from splitdeploy.attacks.split_learning.parts import single
from splitdeploy.attacks.split_learning.protocol import SplitTraining
from splitdeploy.attacks.split_learning.setups import label_sharing
from splitdeploy.attacks.steps import Plateau, Run
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.profiles.errors import AttackError


class Fsha(WithPresets):
    """The attack with its settings: a value that can be called on any client.

    Args:
        steps: Batches of the clients.
        batch: Pictures a step, of the client and of the server each.
        client_rate: Of the clients' Adam.
        rate: Of the autoencoder's Adam.
        critic_rate: Of the critic's Adam.
        penalty: Weight of the gradient penalty.
        penalty_norm: Over all of a sample's z, or over height and width of each channel.
        width: Channels of pilot and decoder.
        linear: Pilot and decoder without activations.
        critic_width: Channels of the critic.
        critic_blocks: Residual blocks of the critic.
    """

    name = "fsha"
    threat: ClassVar[ThreatModel] = ThreatModel(
        weights=False, architecture=False, auxiliary_data=True, active=True
    )
    cost: ClassVar[str] = "thousands of steps of the clients' training; minutes to hours"
    paper: ClassVar[str] = (
        "Pasquini, Ateniese, Bernaschi: Unleashing the Tiger: Inference Attacks on Split Learning, "
        "CCS 2021"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {},
        "published": {
            "steps": 10_000,
            "client_rate": 1e-5,
            "rate": 1e-5,
            "critic_rate": 1e-4,
            "penalty": 500.0,
            "penalty_norm": "channel",
            "width": 64,
            "linear": True,
            "critic_width": 256,
            "critic_blocks": 6,
        },
    }

    def __init__(
        self,
        steps: int = 2000,
        batch: int = 64,
        client_rate: float = 1e-3,
        rate: float = 1e-3,
        critic_rate: float = 3e-3,
        penalty: float = 10.0,
        penalty_norm: Literal["sample", "channel"] = "sample",
        width: int = 16,
        linear: bool = False,
        critic_width: int = 32,
        critic_blocks: int = 2,
    ) -> None:
        if min(steps, batch, width, critic_width) < 1 or critic_blocks < 0:
            raise AttackError(
                "expected at least one step, picture a batch and channel in fsha, got "
                f"{steps}, {batch}, {width}, {critic_width}"
            )
        if min(client_rate, rate, critic_rate) <= 0 or penalty < 0:
            raise AttackError(
                "expected positive learning rates and a penalty of 0 or more in fsha, got "
                f"{client_rate}, {rate}, {critic_rate}, {penalty}"
            )
        if penalty_norm not in {"sample", "channel"}:
            raise AttackError(f"expected penalty_norm 'sample' or 'channel', got {penalty_norm!r}")
        self.steps, self.batch = steps, batch
        self.client_rate, self.rate, self.critic_rate = client_rate, rate, critic_rate
        self.penalty = penalty
        self.penalty_norm: Literal["sample", "channel"] = penalty_norm
        self.width, self.linear = width, linear
        self.critic_width, self.critic_blocks = critic_width, critic_blocks

    def __call__(
        self,
        head: nn.Module,
        images: Tensor,
        auxiliary: Auxiliary,
        *,
        clients: int = 1,
        deadline_s: float | None = None,
        progress: Progress | None = None,
        folder: Path | None = None,
    ) -> Reconstruction:
        """Simulate clients that train with this server, and decode what they send at the end.

        The server is given messages, its own pictures and the pictures' shape, nothing else.

        Args:
            head: The clients' first layers, from pixels; a copy is trained, in the mode that it is
                in, as clients train theirs.
            images: The clients' private pictures, ``[n, c, h, w]`` on [0, 1].
            auxiliary: The server's own pictures.
            clients: How many share the private pictures.
            deadline_s: Seconds that the training may take.
            progress: Told the share that is done.
            folder: Where the training keeps the state of clients and server; None for nowhere.

        Returns:
            The reconstruction of all private pictures, and the autoencoder's losses.
            ``converged`` says that these stand still. Where the training diverged, that of the
            last finite state.

        Raises:
            AttackError: The deadline is not positive, or the pictures or the head do not fit.
        """
        if deadline_s is not None and not deadline_s > 0:
            raise AttackError(f"expected a deadline above 0 s, got {deadline_s}")
        if images.dim() != 4 or auxiliary.images.shape[1:] != images.shape[1:]:
            raise AttackError(
                f"expected pictures of the attacker's own of shape {list(images.shape[1:])}, got "
                f"{list(auxiliary.images.shape[1:])}"
            )
        run = Run(self.seed, deadline_s, progress, folder)
        server = self._server(head, images, auxiliary, run)
        nobody = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        training = label_sharing(
            head,
            server,
            images,
            nobody,
            lambda p: torch.optim.Adam(p, lr=self.client_rate),
            clients=clients,
            batch=self.batch,
            seed=self.seed,
        )
        identity = (
            f"{self!r} by {clients} clients with head {digest(head.state_dict().values())} and "
            f"pictures {digest([images])}, server's pictures {digest([auxiliary.images])}"
        )
        training.train(self.steps, run, run.checkpoint("fsha", identity))
        pixels = self._decoded(training, server, images)
        complete = training.steps >= self.steps
        return Reconstruction(
            pixels=pixels,
            converged=complete and Plateau().reached(run.losses),
            steps=training.steps,
            losses=tuple(run.losses),
            seconds=time.perf_counter() - run.started_s,
            notes=tuple(run.notes),
        )

    def _server(
        self, head: nn.Module, images: Tensor, auxiliary: Auxiliary, run: Run
    ) -> HijackingServer:
        with torch.no_grad():
            was_training = head.training
            shape = single(head.eval()(images[:1]), "the clients").shape[1:]
            head.train(was_training)
        image_shape = (images.shape[1], images.shape[2], images.shape[3])
        return HijackingServer(self, tuple(shape), image_shape, auxiliary, run.generator)

    def _decoded(self, training: SplitTraining, server: HijackingServer, images: Tensor) -> Tensor:
        first = training.joint()
        with torch.no_grad():
            sent = (single(first(part), "the clients") for part in torch.split(images, self.batch))
            return torch.cat([server.decode(smashed) for smashed in sent])
