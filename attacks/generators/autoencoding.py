"""The cheap way to a prior: a variational autoencoder whose decoder is the generator.

Kingma and Welling 2014, with the decoder's variance at its optimum for each batch (Rybkin,
Daniilidis and Levine 2021, "Simple and effective VAE training with calibrated decoders", eq. 7):

    L = (d/2)·log(mean squared error) + β·KL(q(z|x) ‖ N(0, 1)),

which needs no weight between the terms: β is 1. Training leaves the latents of pictures with some
mean and covariance (their aggregate posterior); both are folded into the generator, so that N(0, 1)
latents are distributed like them (ours; Ghosh et al. 2020 fit a density after training likewise).

An attack wants pictures it has never seen to lie near the generator's range, more than it wants
beautiful samples. That is what a reconstruction loss trains, at a fraction of a GAN's cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.checkpoint import digest
from splitdeploy.attacks.generators.nearest import nearest_psnr_db
from splitdeploy.attacks.generators.origin import Origin
from splitdeploy.attacks.generators.residual import measure_residual
from splitdeploy.attacks.generators.small import Architecture, SmallGenerator, downwards
from splitdeploy.attacks.quality import psnr_db
from splitdeploy.attacks.steps import Run
from splitdeploy.attacks.training import Learner, one_cycle, train
from splitdeploy.profiles.errors import AttackError

HELD_OUT_PASSES = 100
"""Of the search for the latents of held-out pictures: enough for the last tenth of a decibel."""

LEAST_PICTURES = 32
"""With fewer there is nothing to learn, and nothing to hold out."""

_HELD_OUT_SHARE = 20
_MOST_HELD_OUT = 64
_MOST_WHITENED = 20_000
_WHITENED_AT_ONCE = 256
_LARGEST_LOG_VARIANCE = 4.0


class Encoder(nn.Module):
    """From pixels to mean and log variance of the latent: the generator's resolutions backwards.

    Args:
        architecture: The generator's.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        maps, shape = downwards(architecture)
        self.maps = nn.Sequential(maps, nn.Flatten())
        self.exit = nn.Linear(math.prod(shape), 2 * architecture.latent_size)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each ``[n, k]`` in float32, of pixels ``[n, c, h, w]``."""
        centred = (2.0 * pixels - 1.0).contiguous(memory_format=torch.channels_last)
        mean, log_variance = self.exit(self.maps(centred)).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-20.0, _LARGEST_LOG_VARIANCE)


class Autoencoder(nn.Module):
    """Encoder and generator, trained together.

    Args:
        architecture: Of the generator.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.encoder = Encoder(architecture)
        self.generator = SmallGenerator(architecture)

    def loss(self, pixels: Tensor, noise: Tensor, beta: float) -> Tensor:
        """The negative evidence bound an element of the picture, up to a constant.

        Args:
            pixels: ``[n, c, h, w]`` on [0, 1].
            noise: N(0, 1), ``[n, k]``.
            beta: Weight of the Kullback-Leibler term.

        Returns:
            A number, differentiable.
        """
        mean, log_variance = self.encoder(pixels)
        found = self.generator(mean + noise * (0.5 * log_variance).exp())
        error = (found.float() - pixels).square().mean()
        surplus = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)
        bound: Tensor = 0.5 * error.log() + beta * surplus.sum(1).mean() / pixels[0].numel()
        return bound


@dataclass(frozen=True)
class Split:
    """Which of the pictures train, and which are held out.

    Attributes:
        training: Rows.
        held_out: Rows; none of the others.
    """

    training: Tensor
    held_out: Tensor


def split(images: Auxiliary, seed: int) -> Split:
    """Hold some of the pictures out, at random.

    Args:
        images: All of them.
        seed: Of the choice.

    Returns:
        Every twentieth held out, at most 64, and the rest.

    Raises:
        AttackError: There are fewer than `LEAST_PICTURES`.
    """
    if len(images) < LEAST_PICTURES:
        raise AttackError(
            f"expected at least {LEAST_PICTURES} pictures to train a generator, got {len(images)}: "
            "give more of them"
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed), device="cpu")
    count = min(_MOST_HELD_OUT, max(1, len(images) // _HELD_OUT_SHARE))
    return Split(order[count:], order[:count])


def train_autoencoding(
    images: Auxiliary,
    *,
    steps: int,
    run: Run,
    latent_size: int = 256,
    width: int = 32,
    batch: int = 64,
    learning_rate: float = 2e-3,
    beta: float = 1.0,
    mirror: bool = True,
    passes: int = HELD_OUT_PASSES,
    device: torch.device | None = None,
) -> SmallGenerator:
    """Train a generator as the decoder of an autoencoder; resumable.

    Adam on a one-cycle schedule; on the CPU products are in bfloat16.

    Args:
        images: The attacker's pictures.
        steps: Of the optimiser, at least 1.
        run: Seed, clock and folder: with a folder, an interrupted training goes on from there.
        latent_size: Elements of the latent vector.
        width: Channels at the picture's own resolution.
        batch: Pictures a step.
        learning_rate: The schedule's highest.
        beta: Weight of the Kullback-Leibler term: below 1 pictures come out sharper and latents
            are less like N(0, 1).
        mirror: Whether pictures are mirrored at random: not where left and right matter, as in
            digits.
        passes: Of the search for the latents of held-out pictures.
        device: Where it is trained; the CPU where None.

    Returns:
        The generator in eval mode, with its origin, on that device.

    Raises:
        AttackError: There are too few pictures, or a number is out of its range.
    """
    if steps < 1 or batch < 1 or learning_rate <= 0 or beta <= 0:
        raise AttackError(
            "expected at least 1 step, a batch of at least 1, a positive learning rate and beta, "
            f"got {steps}, {batch}, {learning_rate} and {beta}"
        )
    device = device or torch.device("cpu")
    shape = images.images.shape
    architecture = Architecture((shape[1], shape[2], shape[3]), latent_size, width)
    rows = split(images, run.seed)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(run.seed)
        model = Autoencoder(architecture)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.9, 0.99))

    def step(generator: torch.Generator) -> float:
        chosen = torch.randint(len(rows.training), (batch,), generator=generator, device="cpu")
        pixels = images.pixels(rows.training[chosen]).to(device)
        if mirror:
            flipped = torch.rand(batch, 1, 1, 1, generator=generator, device="cpu") < 0.5
            pixels = torch.where(flipped.to(device), pixels.flip(3), pixels)
        noise = torch.randn(batch, latent_size, generator=generator, device="cpu").to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cpu"):
            loss = model.loss(pixels, noise, beta)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        return float(loss.detach())

    settings = (architecture, batch, learning_rate, beta, mirror, steps)
    mark = digest([images.images])
    state = run.checkpoint("autoencoding", f"an autoencoder of {mark} with {settings}")
    train([Learner("autoencoder", model, optimiser, one_cycle)], step, steps, run, state)
    generator = model.generator.eval().requires_grad_(False)
    with torch.no_grad():
        _whiten(model, images, rows.training)
    generator.residual = residual_of(generator, images, rows, passes)
    generator.origin = measured(
        generator, images, rows, "autoencoding", mark, steps, run.seed, passes
    )
    return generator


def measured(
    generator: SmallGenerator,
    images: Auxiliary,
    rows: Split,
    method: str,
    mark: str,
    steps: int,
    seed: int,
    passes: int,
) -> Origin:
    """The origin of a trained generator, with what it reaches on the pictures held out.

    Args:
        generator: Trained, in eval mode.
        images: All pictures.
        rows: Which of them were held out.
        method: Of the training.
        mark: The pictures' digest.
        steps: Of the training.
        seed: Of the training.
        passes: Of the search for the held-out pictures' latents.

    Returns:
        The origin.
    """
    device = next(generator.parameters()).device
    held_out = images.pixels(rows.held_out).to(device)
    flat = held_out.mean((2, 3), keepdim=True).expand_as(held_out)
    return Origin(
        method=method,
        pictures=len(rows.training),
        digest=mark,
        kinship=images.kinship,
        steps=steps,
        seed=seed,
        held_out=len(rows.held_out),
        held_out_psnr_db=nearest_psnr_db(generator, held_out, passes=passes),
        flat_psnr_db=float(psnr_db(flat, held_out).mean()),
    )


def residual_of(generator: SmallGenerator, images: Auxiliary, rows: Split, passes: int) -> Tensor:
    """The spectrum of a trained generator's errors, on held-out pictures as far as they suffice.

    Args:
        generator: Trained, in eval mode.
        images: All pictures.
        rows: Which of them were held out.
        passes: Of the search for their latents.

    Returns:
        As `measure_residual` has it.
    """
    chosen = torch.cat([rows.held_out, rows.training])[:_MOST_HELD_OUT]
    device = next(generator.parameters()).device
    return measure_residual(generator, images.pixels(chosen).to(device), passes=passes // 2 + 1)


def _whiten(model: Autoencoder, images: Auxiliary, rows: Tensor) -> None:
    """Fold the aggregate posterior's mean and covariance into the generator."""
    device = next(model.parameters()).device
    means, variances = [], []
    for at in range(0, min(len(rows), _MOST_WHITENED), _WHITENED_AT_ONCE):
        pixels = images.pixels(rows[at : at + _WHITENED_AT_ONCE]).to(device)
        mean, log_variance = model.encoder(pixels)
        means.append(mean.double())
        variances.append(log_variance.double().exp())
    found, spread = torch.cat(means), torch.cat(variances).mean(0)
    centre = found.mean(0)
    centred = found - centre
    covariance = centred.T @ centred / len(found) + torch.diag(spread)
    values, vectors = torch.linalg.eigh(covariance)
    # The symmetric root leaves latents that were already N(0, 1) as they are.
    root = vectors * values.clamp_min(0.0).sqrt() @ vectors.T
    model.generator.whiten(centre.float(), root.float())
