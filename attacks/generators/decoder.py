"""Decoders that someone else trained, as generators."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from splitdeploy.attacks.generator import Generator, State
from splitdeploy.attacks.generators.check import check_generator
from splitdeploy.profiles.errors import AttackError


def wrap_generator(
    module: nn.Module, latent_size: int, image_shape: tuple[int, int, int]
) -> Generator:
    """Any module from latent vectors to pictures, as a generator of one stage.

    Args:
        module: From ``[n, k]`` to pixels ``[n, c, h, w]`` on [0, 1].
        latent_size: k.
        image_shape: ``(c, h, w)``.

    Returns:
        The generator, in eval mode; a progressive attack finds nothing to go through in it.

    Raises:
        AttackError: It does not give such pictures.
    """
    return _checked(Generator([_OneState(module)], latent_size, image_shape))


def from_decoder(
    decoder: nn.Sequential,
    latent_shape: tuple[int, ...],
    image_shape: tuple[int, int, int],
    bounds: tuple[float, float] = (0.0, 1.0),
    *,
    stages: int = 6,
    latent_mean: float = 0.0,
    latent_std: float = 1.0,
) -> Generator:
    """A pretrained decoder as a generator, its layers shared out over stages.

    Args:
        decoder: Modules in a row, from ``[n, *latent_shape]`` to pixels ``[n, c, h, w]``.
        latent_shape: Of its input, without the batch: a map ``(c, h, w)``, or ``(k,)``.
        image_shape: ``(c, h, w)``.
        bounds: The range of the pixels that it gives; mapped to [0, 1].
        stages: At most so many; a stage ends where the resolution changes, and where it does so
            more often, at the earliest of these places.
        latent_mean: Of the latents that it was trained with.
        latent_std: Likewise.

    Returns:
        The generator, in eval mode; its latent is the flattened map.

    Raises:
        AttackError: The decoder does not take such latents or gives other pictures.
    """
    low, high = bounds
    if not high > low or stages < 1 or not latent_std > 0:
        raise AttackError(
            "expected bounds (low, high), at least 1 stage and a positive latent_std, got "
            f"{bounds}, {stages} and {latent_std}"
        )
    layers = list(decoder)
    entry = _Entry(latent_shape, latent_mean, latent_std)
    size = math.prod(latent_shape)
    ends = _ends(layers, entry, size, stages)
    parts = [layers[a:b] for a, b in zip([0, *ends], [*ends, len(layers)], strict=True)]
    parts[0] = [entry, *parts[0]]
    parts[-1] = [*parts[-1], _Exit(low, high)]
    made = [_OneState(nn.Sequential(*part)) for part in parts]
    return _checked(Generator(made, size, image_shape))


def _checked(generator: Generator) -> Generator:
    generator.eval().requires_grad_(False)
    check_generator(generator)
    return generator


def _ends(layers: Sequence[nn.Module], entry: nn.Module, size: int, stages: int) -> list[int]:
    """Where stages end: after layers that change the resolution, at most so many."""
    found = [place for place, changes in enumerate(_changes(layers, entry, size), 1) if changes]
    return [end for end in found if end < len(layers)][: stages - 1]


def _changes(layers: Sequence[nn.Module], entry: nn.Module, size: int) -> Iterator[bool]:
    parameter = next((p for layer in layers for p in layer.parameters()), torch.zeros(()))
    with torch.no_grad():
        try:
            x = entry(torch.zeros(1, size, device=parameter.device))
            for layer in layers:
                before = x.shape[2:]
                x = layer(x)
                yield x.shape[2:] != before
        except (RuntimeError, ValueError, TypeError) as error:
            raise AttackError(
                f"expected a decoder of latents of {size} elements, got an error: "
                f"{str(error).splitlines()[0]}"
            ) from error


class _OneState(nn.Module):
    """A module between tensors as a stage between states of one tensor."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, state: State) -> State:
        (x,) = state
        return (self.inner(x),)


class _Entry(nn.Module):
    """From N(0, 1) vectors to the decoder's latents."""

    def __init__(self, shape: tuple[int, ...], mean: float, std: float) -> None:
        super().__init__()
        self.shape, self.mean, self.std = shape, mean, std

    def forward(self, latent: Tensor) -> Tensor:
        return self.mean + self.std * latent.view(-1, *self.shape)


class _Exit(nn.Module):
    """From the decoder's bounds to [0, 1]; what is outside is cut off, with its gradient kept."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        scaled = (x - self.low) / (self.high - self.low)
        # A clamp has no gradient outside, and a search that got there would never come back.
        return scaled + (scaled.clamp(0.0, 1.0) - scaled).detach()
