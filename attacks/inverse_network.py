"""The inverse network: a decoder from smashed data to pictures, trained on pairs of both.

He et al. 2019 ("Model inversion attacks against collaborative inference", their Algorithm 3) train
one on whatever the head answers to pictures of the attacker's own. It needs no weights, only
queries, and as it is trained on what is *sent*, it knows every noise and every codec on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.profiles.errors import AttackError

Observe = Callable[[Tensor, torch.Generator], Sequence[tuple[Tensor, ...]]]
"""From pixels ``[n, c, h, w]`` and a generator of noise to what each of some cuts sends."""

_MOST_WIDENING = 4
"""Channels double with every halving of the resolution, up to so many times the width."""


class InverseNetwork(nn.Module):
    """From boundary tensors to pixels on [0, 1].

    Maps are brought to their widest common resolution, vectors to 8 by 8; then a residual block at
    each resolution, doubled until it is the picture's. Tensors are standardised by mean and spread
    of their channels over the training pictures (`standardise`).

    Args:
        shapes: Of each boundary tensor, without the batch: ``(c, h, w)`` or ``(k,)``; tokens
            ``(t, k)`` count as k channels in a row.
        image_shape: ``(c, h, w)``.
        width: Channels at the picture's own resolution.

    Raises:
        AttackError: A tensor has more than three dimensions.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], image_shape: tuple[int, int, int], *, width: int
    ) -> None:
        super().__init__()
        if not shapes or any(not 1 <= len(shape) <= 3 for shape in shapes):
            raise AttackError(
                f"expected boundary tensors of one to three dimensions, got {list(shapes)}"
            )
        self.shapes, self.image_shape = tuple(shapes), image_shape
        sizes = [_grid(shape, image_shape) for shape in shapes]
        size = (max(s[0] for s in sizes), max(s[1] for s in sizes))
        channels = self._width(size, width)
        self._size = size
        self.entries = nn.ModuleList(
            _entry(shape, channels, grid) for shape, grid in zip(shapes, sizes, strict=True)
        )
        stages: list[nn.Module] = [_Residual(channels)]
        while size[0] < image_shape[1] or size[1] < image_shape[2]:
            size = (min(2 * size[0], image_shape[1]), min(2 * size[1], image_shape[2]))
            narrower = self._width(size, width)
            stages += [_Upsampled(channels, narrower, size), _Residual(narrower)]
            channels = narrower
        self.stages = nn.Sequential(*stages)
        self.exit = nn.Conv2d(channels, image_shape[0], 3, padding=1)
        for place, shape in enumerate(shapes):
            self.register_buffer(f"mean_{place}", torch.zeros(1, *_statistics_shape(shape)))
            self.register_buffer(f"spread_{place}", torch.ones(1, *_statistics_shape(shape)))

    def _width(self, size: tuple[int, int], width: int) -> int:
        ratio = max(self.image_shape[1] / size[0], self.image_shape[2] / size[1])
        return int(width * min(_MOST_WIDENING, 2 ** math.floor(math.log2(max(1.0, ratio)))))

    def standardise(self, tensors: tuple[Tensor, ...]) -> None:
        """Take mean and spread of each channel from observations, each ``[n, …]``."""
        for place, tensor in enumerate(tensors):
            dims = (0, *range(2, tensor.dim())) if tensor.dim() != 3 else (0, 1)
            mean = tensor.mean(dim=dims, keepdim=True)
            spread = (tensor - mean).square().mean(dim=dims, keepdim=True).sqrt()
            # A dead channel says nothing; its spread must not blow rounding up.
            largest = spread.amax().clamp_min(torch.finfo(tensor.dtype).tiny)
            spread = torch.where(spread > 1e-6 * largest, spread, 1.0)
            self.get_buffer(f"mean_{place}").copy_(mean)
            self.get_buffer(f"spread_{place}").copy_(spread)

    def forward(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Pixels ``[n, c, h, w]`` on [0, 1] for boundary tensors, each ``[n, …]``."""
        entered = 0.0
        for place, (entry, tensor) in enumerate(zip(self.entries, tensors, strict=True)):
            mean, spread = self.get_buffer(f"mean_{place}"), self.get_buffer(f"spread_{place}")
            scaled = (tensor - mean) / spread
            if scaled.dim() == 4:
                # Half as long on a CPU, where convolutions in bfloat16 want it.
                scaled = scaled.contiguous(memory_format=torch.channels_last)
            part = entry(scaled)
            if part.shape[2:] != self._size:
                part = functional.interpolate(part, size=self._size, mode="nearest")
            entered = entered + part
        return torch.sigmoid(self.exit(self.stages(entered)).float())


def train_inverses(
    observe: Observe,
    networks: Sequence[InverseNetwork],
    images: Tensor,
    *,
    epochs: int = 4,
    batch: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    deadline: Callable[[], bool] = lambda: False,
) -> None:
    """Train decoders side by side, each on what its own cut sends; one pass serves them all.

    Mean squared error; Adam with a one-cycle schedule; pictures mirrored at random; fresh noise
    with every pass. On the CPU products are in bfloat16, which trains as well and twice as fast.

    Args:
        observe: What each network's cut sends.
        networks: In the order of what ``observe`` returns; trained in place.
        images: The attacker's pictures, ``[n, c, h, w]`` on [0, 1], or uint8 on 0 to 255.
        epochs: Passes over them.
        batch: Pictures a step.
        learning_rate: The schedule's highest.
        seed: Of order, mirroring and noise.
        progress: Told the share that is done.
        deadline: Asked after every step; training ends when it says so.

    Raises:
        AttackError: There are fewer pictures than a batch.
    """
    if len(images) < batch:
        raise AttackError(
            f"expected at least {batch} pictures to train an inverse network, got {len(images)}"
        )
    generator = torch.Generator().manual_seed(seed)
    first = _pixels(images[:512])
    with torch.no_grad():
        for network, tensors in zip(networks, observe(first, generator), strict=True):
            network.standardise(tensors)
    steps = epochs * (len(images) // batch)
    optimisers = [torch.optim.Adam(n.parameters(), lr=learning_rate) for n in networks]
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(o, learning_rate, total_steps=steps + 1)
        for o in optimisers
    ]
    done = 0
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(images) - batch + 1, batch):
            pixels = _pixels(images[order[start : start + batch]])
            mirrored = torch.rand(batch, generator=generator) < 0.5
            pixels[mirrored] = pixels[mirrored].flip(3)
            with torch.no_grad():
                observed = observe(pixels, generator)
            for network, tensors, optimiser, schedule in zip(
                networks, observed, optimisers, schedules, strict=True
            ):
                _step(network, tensors, pixels, optimiser)
                schedule.step()
            done += 1
            if progress is not None:
                progress(done / steps)
            if deadline():
                return


def _step(
    network: InverseNetwork,
    tensors: tuple[Tensor, ...],
    pixels: Tensor,
    optimiser: torch.optim.Optimizer,
) -> None:
    kind = pixels.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=kind == "cpu"):
        found = network(tensors)
    loss = (found - pixels).square().mean()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def invert(network: InverseNetwork, tensors: tuple[Tensor, ...], *, batch: int = 128) -> Tensor:
    """Pictures for observations.

    Args:
        network: Trained.
        tensors: What was sent, each ``[n, …]``.
        batch: Pictures at once.

    Returns:
        ``[n, c, h, w]`` on [0, 1].
    """
    n = len(tensors[0])
    with torch.no_grad():
        parts = [network(tuple(t[at : at + batch] for t in tensors)) for at in range(0, n, batch)]
    return torch.cat(parts)


def _pixels(images: Tensor) -> Tensor:
    return images.float() / 255.0 if images.dtype == torch.uint8 else images.clone()


def _grid(shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> tuple[int, int]:
    if len(shape) == 3:
        return min(shape[1], image_shape[1]), min(shape[2], image_shape[2])
    return min(8, image_shape[1]), min(8, image_shape[2])


def _statistics_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, shape[1]) if len(shape) == 2 else (shape[0], *(1 for _ in shape[1:]))


def _entry(shape: tuple[int, ...], channels: int, grid: tuple[int, int]) -> nn.Module:
    if len(shape) == 3:
        conv = nn.Conv2d(shape[0], channels, 3, padding=1)
        larger = shape[1:] != grid
        return nn.Sequential(conv, nn.AdaptiveAvgPool2d(grid)) if larger else conv
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(shape), channels * grid[0] * grid[1]),
        nn.Unflatten(1, (channels, *grid)),
    )  # fmt: skip


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The input plus what two convolutions make of it, rectified."""
        inner = self.second(functional.relu(self.first(functional.relu(x))))
        return torch.relu(x + inner)


class _Upsampled(nn.Module):
    def __init__(self, channels: int, narrower: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.deconvolution = nn.ConvTranspose2d(channels, narrower, 2, stride=2)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Twice the resolution, brought to the size where that is not twice."""
        doubled: Tensor = self.deconvolution(x)
        if doubled.shape[2:] != self.size:
            doubled = functional.interpolate(doubled, size=self.size, mode="bilinear")
        return doubled
