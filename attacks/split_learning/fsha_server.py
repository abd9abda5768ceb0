"""The malicious server of feature-space hijacking, in the set-up that shares labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.split_learning.fsha_networks import decoder, discriminator, pilot
from splitdeploy.attacks.split_learning.messages import Labels, SmashedData, SmashedGradient
from splitdeploy.attacks.training import Learner

_SQUARE_FLOOR = 1e-24
"""Under the root of the penalty's norm, whose slope at zero is infinite."""


class FshaSettings(Protocol):
    """What the server needs of the attack's settings."""

    batch: int
    rate: float
    critic_rate: float
    penalty: float
    penalty_norm: Literal["sample", "channel"]
    width: int
    linear: bool
    critic_width: int
    critic_blocks: int
    seed: int


class HijackingServer:
    """Answers smashed data by the gradient of a critic instead of the task's.

    Args:
        settings: Of the attack.
        shape: Of the smashed data, without the batch.
        image_shape: ``(c, h, w)`` of the clients' pictures.
        auxiliary: The server's own pictures.
        generator: Of the choice among them and of the penalty's points, on the CPU.

    Attributes:
        loss: The autoencoder's mean squared error on the last batch; NaN where the critic's loss
            is not finite.
    """

    def __init__(
        self,
        settings: FshaSettings,
        shape: tuple[int, ...],
        image_shape: tuple[int, int, int],
        auxiliary: Auxiliary,
        generator: torch.Generator,
    ) -> None:
        self.settings, self.auxiliary, self.generator = settings, auxiliary, generator
        device = auxiliary.images.device
        width, linear = settings.width, settings.linear
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(settings.seed)
            self.pilot = pilot(shape, image_shape, width=width, linear=linear)
            self.decoder = decoder(shape, image_shape, width=width, linear=linear)
            self.critic = discriminator(
                shape, width=settings.critic_width, blocks=settings.critic_blocks
            )
        self._autoencoder = nn.ModuleList([self.pilot, self.decoder]).to(device)
        self.critic.to(device)
        self._rates = (
            torch.optim.Adam(self._autoencoder.parameters(), lr=settings.rate),
            torch.optim.Adam(self.critic.parameters(), lr=settings.critic_rate),
        )
        self.loss = math.nan

    def answer(self, smashed: SmashedData, labels: Labels) -> SmashedGradient:
        """Train on the batch, and lead the client towards the pilot.

        As in the authors' code all gradients are taken before any of the networks moves.

        Args:
            smashed: Of the client's batch.
            labels: Not used.

        Returns:
            ∂/∂z of the critic's mean, which is low for the pilot's output.
        """
        del labels
        own = self._own_pictures()
        points = self.pilot(own)
        loss = functional.mse_loss(self.decoder(points), own)
        private = smashed.values.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.critic(private).mean(), private)
        critic_loss = self._critic_loss(private.detach(), points.detach())
        for optimiser, own_loss in zip(self._rates, (loss, critic_loss), strict=True):
            optimiser.zero_grad()
            torch.autograd.backward([own_loss])
            optimiser.step()
        self.loss = float(loss.detach()) if bool(torch.isfinite(critic_loss)) else math.nan
        return SmashedGradient(smashed.client, gradient)

    def decode(self, smashed: Tensor) -> Tensor:
        """Pictures ``[n, c, h, w]`` on [0, 1] for smashed data ``[n, …]``."""
        pixels: Tensor = self.decoder(smashed)
        return pixels

    def learners(self) -> Sequence[Learner]:
        """The autoencoder and the critic."""
        autoencoder, critic = self._rates
        return [
            Learner("autoencoder", self._autoencoder, autoencoder),
            Learner("critic", self.critic, critic),
        ]

    def _own_pictures(self) -> Tensor:
        rows = torch.randint(
            len(self.auxiliary), (self.settings.batch,), generator=self.generator, device="cpu"
        )
        return self.auxiliary.pixels(rows.to(self.auxiliary.images.device))

    def _critic_loss(self, private: Tensor, points: Tensor) -> Tensor:
        distance: Tensor = self.critic(points).mean() - self.critic(private).mean()
        if not self.settings.penalty:
            return distance
        count = min(len(private), len(points))
        shape = (count, *[1] * (private.dim() - 1))
        share = torch.rand(shape, generator=self.generator, device="cpu").to(private.device)
        between = (share * private[:count] + (1 - share) * points[:count]).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        flat = slope.flatten(2) if self._by_channel(slope) else slope.flatten(1)
        norm = (flat.square().sum(-1) + _SQUARE_FLOOR).sqrt()
        return distance + self.settings.penalty * (norm - 1).square().mean()

    def _by_channel(self, slope: Tensor) -> bool:
        return self.settings.penalty_norm == "channel" and slope.dim() == 4
