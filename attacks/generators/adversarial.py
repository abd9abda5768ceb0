"""Adversarial training of the small generator: likelier pictures than an autoencoder's, at a price.

Non-saturating loss (Goodfellow et al. 2014) with R1 on real pictures every few steps (Mescheder et
al. 2018; lazily, Karras et al. 2020), random mirroring and shifts of what the discriminator sees,
real or not (DiffAugment, Zhao et al. 2020), and an exponential average of the generator's weights,
which is what comes out. It may begin with an autoencoding generator, whose range already holds
pictures that it never saw; nothing in this loss keeps them there, and the held-out PSNR of the
origin says what became of them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.augment import Augmentation
from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.checkpoint import digest
from splitdeploy.attacks.generators.autoencoding import (
    HELD_OUT_PASSES,
    measured,
    residual_of,
    split,
)
from splitdeploy.attacks.generators.small import Architecture, SmallGenerator, downwards
from splitdeploy.attacks.steps import Run
from splitdeploy.attacks.training import Learner, train
from splitdeploy.profiles.errors import AttackError

_SHIFT = 0.125
_R1_EVERY = 8
_R1_WEIGHT = 0.1
"""γ: that of StyleGAN2-ADA for CIFAR-10 is 0.01, for larger pictures 1 and more."""

_MOMENTA = (0.0, 0.99)


class Discriminator(nn.Module):
    """From pixels to how real they look: the generator's resolutions backwards.

    The spread over the batch is a channel at the end (Karras et al. 2018), so that pictures that
    are all alike are told from real ones.

    Args:
        architecture: The generator's.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.maps, shape = downwards(architecture)
        self.judge = nn.Sequential(
            nn.Conv2d(shape[0] + 1, shape[0], 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(shape[0] * shape[1] * shape[2], 1),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits ``[n]`` in float32 of pixels ``[n, c, h, w]``."""
        centred = (2.0 * pixels - 1.0).contiguous(memory_format=torch.channels_last)
        x = self.maps(centred)
        # Not by std: its gradient is infinite where pictures are equal.
        spread = (x.float().var(0, unbiased=False) + 1e-8).sqrt().mean()
        x = torch.cat([x, spread.to(x.dtype).expand(len(x), 1, *x.shape[2:])], dim=1)
        logits: Tensor = self.judge(x).float().squeeze(1)
        return logits


@dataclass(frozen=True)
class _Variation:
    """An augmentation with the generator of its randomness.

    Attributes:
        augmentation: What is varied.
        random: On the CPU.
    """

    augmentation: Augmentation
    random: torch.Generator

    def __call__(self, pixels: Tensor) -> Tensor:
        """A batch varied anew; differentiable."""
        return self.augmentation(pixels, self.random)


@dataclass
class _Game:
    """Both players, their optimisers, and the average that comes out."""

    generator: SmallGenerator
    average: SmallGenerator
    discriminator: Discriminator
    learning_rate: float
    average_decay: float

    def __post_init__(self) -> None:
        self.for_generator = self._adam(self.generator)
        self.for_discriminator = self._adam(self.discriminator)

    def _adam(self, module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(module.parameters(), lr=self.learning_rate, betas=_MOMENTA)

    def learners(self) -> list[Learner]:
        # The average is no learner, but belongs into the checkpoint with them.
        still = torch.optim.SGD(self.average.parameters(), lr=self.learning_rate)
        return [
            Learner("generator", self.generator, self.for_generator),
            Learner("discriminator", self.discriminator, self.for_discriminator),
            Learner("average", self.average, still),
        ]

    def judge(self, real: Tensor, latent: Tensor, vary: _Variation, *, penalised: bool) -> float:
        """The discriminator's step; its loss."""
        with torch.no_grad(), self._short(real):
            made = self.generator(latent)
        real = vary(real)
        with self._short(real):
            loss = (
                functional.softplus(-self.discriminator(real)).mean()
                + functional.softplus(self.discriminator(vary(made))).mean()
            )
        if penalised:
            loss = loss + 0.5 * _R1_WEIGHT * _R1_EVERY * self._steepness(real)
        _descend(loss, self.discriminator, self.for_discriminator)
        return float(loss.detach())

    def make(self, latent: Tensor, vary: _Variation) -> float:
        """The generator's step; its loss."""
        with self._short(latent):
            loss = functional.softplus(-self.discriminator(vary(self.generator(latent)))).mean()
        _descend(loss, self.generator, self.for_generator)
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.generator.parameters(), strict=True)
            for mean, now in pairs:
                mean.lerp_(now, 1.0 - self.average_decay)
        return float(loss.detach())

    def _steepness(self, real: Tensor) -> Tensor:
        """R1: the mean squared norm of the logit's gradient at real pictures."""
        real = real.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.discriminator(real).sum(), real, create_graph=True)
        return gradient.square().flatten(1).sum(1).mean()

    @staticmethod
    def _short(like: Tensor) -> torch.autocast:
        kind = like.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=kind == "cpu")


def train_adversarial(
    images: Auxiliary,
    *,
    steps: int,
    run: Run,
    latent_size: int = 256,
    width: int = 32,
    batch: int = 32,
    learning_rate: float = 5e-4,
    average_decay: float = 0.998,
    mirror: bool = True,
    start: SmallGenerator | None = None,
    passes: int = HELD_OUT_PASSES,
    device: torch.device | None = None,
) -> SmallGenerator:
    """Train a generator against a discriminator; resumable.

    Args:
        images: The attacker's pictures.
        steps: Of both players, at least 1.
        run: Seed, clock and folder: with a folder, an interrupted training goes on from there.
        latent_size: Elements of the latent vector; that of ``start`` where given.
        width: Channels at the picture's own resolution; likewise.
        batch: Pictures a step, real and made.
        learning_rate: Of both players' Adam.
        average_decay: Of the weights' average, a step.
        mirror: Whether pictures are mirrored at random.
        start: A generator to begin with; None for a random one.
        passes: Of the search for the latents of held-out pictures.
        device: Where it is trained; the CPU where None.

    Returns:
        The averaged generator in eval mode, with its origin, on that device.

    Raises:
        AttackError: There are too few pictures, a number is out of its range, or ``start`` gives
            pictures of another shape.
    """
    if steps < 1 or batch < 2 or learning_rate <= 0 or not 0 <= average_decay < 1:
        raise AttackError(
            "expected at least 1 step, a batch of at least 2, a positive learning rate and an "
            f"average_decay on [0, 1), got {steps}, {batch}, {learning_rate} and {average_decay}"
        )
    device = device or torch.device("cpu")
    shape = images.images.shape
    architecture = Architecture((shape[1], shape[2], shape[3]), latent_size, width)
    architecture = _fitting(architecture, start)
    rows = split(images, run.seed)
    game = _game(architecture, start, run.seed, learning_rate, average_decay, device)
    augmentation = Augmentation(mirror=mirror, shift=_SHIFT)

    def step(random: torch.Generator) -> float:
        chosen = torch.randint(len(rows.training), (batch,), generator=random, device="cpu")
        real = images.pixels(rows.training[chosen]).to(device)
        vary = _Variation(augmentation, random)
        penalised = int(torch.randint(_R1_EVERY, (), generator=random, device="cpu")) == 0
        lost = game.judge(real, game.generator.draw(batch, random), vary, penalised=penalised)
        return lost + game.make(game.generator.draw(batch, random), vary)

    mark = digest([images.images])
    begun = "none" if start is None else digest(start.state_dict().values())
    settings = (architecture, batch, learning_rate, average_decay, mirror, steps, begun)
    state = run.checkpoint("adversarial", f"a generative adversarial net of {mark} with {settings}")
    train(game.learners(), step, steps, run, state)
    found = game.average.eval().requires_grad_(False)
    found.residual = residual_of(found, images, rows, passes)
    found.origin = measured(found, images, rows, "adversarial", mark, steps, run.seed, passes)
    return found


def _fitting(wanted: Architecture, start: SmallGenerator | None) -> Architecture:
    if start is None:
        return wanted
    if start.architecture.image_shape != wanted.image_shape:
        raise AttackError(
            f"expected a generator of pictures of {wanted.image_shape} to begin with, got one of "
            f"{start.architecture.image_shape}"
        )
    return start.architecture


def _game(
    architecture: Architecture, start: SmallGenerator | None, seed: int, learning_rate: float,
    average_decay: float, device: torch.device,
) -> _Game:  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        discriminator = Discriminator(architecture)
        generator = SmallGenerator(architecture)
    if start is not None:
        generator.load_state_dict(start.state_dict())
    generator.requires_grad_(True)
    for module in (generator, discriminator):
        module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(generator)
    return _Game(generator, average, discriminator, learning_rate, average_decay)


def _descend(loss: Tensor, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    # The other player's parameters are left alone: their gradients are not even computed.
    parameters = [p for p in module.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimiser.step()
