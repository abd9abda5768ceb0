"""A small network that tells the noise in smoothed pictures, for denoising score matching.

With y = x + t·n, n ~ N(0, 1), the least-squares prediction of n from y is −t times the score
∇ln p_t(y) of the smoothed pictures (Vincent 2011, "A connection between score matching and
denoising autoencoders"; Miyasawa 1961, Robbins 1956). The prediction here is that of a Gaussian
model of the same variances, which is linear, plus what a convolutional network adds to it. One
network serves every t from the declared smoothing s upwards.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from splitdeploy.attacks.leakage.prior import Transform
from splitdeploy.attacks.leakage.sides import frequency_rings

Progress = Callable[[int, float], None]
"""Told after each epoch: how many are done, and the mean squared error of the noise, which is 1 for
a network that knows nothing."""

_WIDTH, _BLOCKS = 48, 3
_BATCH, _LEARNING_RATE, _WARM_UP = 32, 2e-3, 0.02
_PATCH = 64
"""Larger pictures are trained on in crops: the network sees 33 pixels around at most."""

_COARSEST = 0.3
"""In pixel units; noise beyond leaves little of a picture on [0, 1] that is not Gaussian."""

_AT_LEAST = 0.25
"""Pictures shown with the least smoothing, to one shown with more."""

_UNSHUFFLED_FROM = 16
"""From such a side on the network works at half the resolution (FFDNet, Zhang et al. 2018)."""


class NoisePredictor(nn.Module):
    """From smoothed pictures y = x + t·n to a prediction of n.

    Args:
        shape: ``(c, h, w)``.
        mean: ``[c]``: of the pictures.
        variance: ``[c, h, w]``: of each coefficient (see `ImagePrior`) of the pictures.
        smoothing: s, the least t.

    Attributes:
        levels: s, 2s, 4s and so on, up to about 0.3: where information is measured.
    """

    mean: Tensor
    variance: Tensor

    def __init__(
        self, shape: tuple[int, int, int], mean: Tensor, variance: Tensor, smoothing: float
    ) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("mean", mean.float().view(1, -1, 1, 1))
        self.register_buffer("variance", variance.float())
        self._transform = Transform(shape, self.mean)
        self._contrast = math.sqrt(float(variance.mean()) + smoothing**2)
        doublings = max(0, math.floor(math.log2(_COARSEST / smoothing)))
        self.levels = tuple(smoothing * 2.0**i for i in range(doublings + 1))
        self.correction = _convolutions(shape)

    def forward(self, y: Tensor, level: Tensor) -> Tensor:
        """The noise, ``[n, c, h, w]``, in units of t, for smoothings t ``[n]``."""
        linear, seen = self.prepare(y, level)
        out: Tensor = linear + self.correction(seen)
        return out

    def prepare(self, y: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """The Gaussian model's prediction, and what the network sees.

        Args:
            y: Smoothed pictures, ``[n, c, h, w]``.
            level: t of each, ``[n]``.

        Returns:
            The linear prediction ``[n, c, h, w]``; the pictures, whitened and as they are, at unit
            variance, and how strong the noise is, ``[n, 2c + 1, h, w]``.
        """
        t = level.view(-1, 1, 1, 1)
        deviation = (self.variance + t**2).sqrt()
        centred = y - self.mean
        white = self._transform.forward(centred.flatten(1)) / deviation
        linear = self._transform.inverse(white * (t / deviation)).view_as(y)
        whitened = self._transform.inverse(white).view_as(y)
        strength = (t / self.smoothing).log2().expand(-1, 1, *y.shape[2:]) / len(self.levels)
        return linear, torch.cat([whitened, centred / self._contrast, strength], dim=1)


class _Residual(nn.Module):
    """What two convolutions add."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1)
        self.second = nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(torch.relu(self.first(x)))
        return out


def train_predictor(
    images: Tensor,
    *,
    smoothing: float,
    epochs: int,
    seed: int,
    progress: Progress | None = None,
    deadline_s: float | None = None,
) -> tuple[NoisePredictor, int]:
    """Fit a network to pictures under smoothings from s upwards, by Adam with a cosine schedule.

    A fifth of what it is shown has s itself, the rest is spread evenly over the logarithm.

    Args:
        images: ``[n, c, h, w]`` float32 on [0, 1].
        smoothing: s, in pixel units.
        epochs: Passes over the pictures, each with noise of its own.
        seed: Of the weights, the order and the noise.
        progress: Told after each epoch.
        deadline_s: Seconds by which training ends, the schedule with it; the result then depends on
            the speed of the machine.

    Returns:
        The network, in eval mode, and how many steps it was trained for.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = (images.shape[1], images.shape[2], images.shape[3])
        mean = images.mean(dim=(0, 2, 3)).double()
        network = NoisePredictor(shape, mean, ring_variance(images, mean), smoothing)
    optimiser = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE)
    started, steps = time.perf_counter(), 0
    total = epochs * math.ceil(len(images) / _BATCH)
    for epoch in range(epochs):
        losses = []
        for batch in torch.split(torch.randperm(len(images), generator=generator), _BATCH):
            passed = 0.0 if deadline_s is None else time.perf_counter() - started
            share = max(steps / total, passed / deadline_s if deadline_s else 0.0)
            if share >= 1.0 and steps > 0:
                return network.eval(), steps
            for group in optimiser.param_groups:
                group["lr"] = _LEARNING_RATE * _schedule(share)
            losses.append(_step(network, images[batch], optimiser, generator))
            steps += 1
        if progress is not None:
            progress(epoch + 1, sum(losses) / len(losses))
    return network.eval(), steps


def ring_variance(images: Tensor, mean: Tensor) -> Tensor:
    """The variance of pictures' coefficients, averaged over rings of equal frequency.

    Args:
        images: ``[n, c, h, w]``.
        mean: ``[c]``: about which it is taken.

    Returns:
        ``[c, h, w]`` float64.
    """
    shape = (images.shape[1], images.shape[2], images.shape[3])
    ring = frequency_rings(shape)
    power = torch.zeros(shape, dtype=torch.float64)
    for part in torch.split(images, 256):
        centred = part.double() - mean.view(1, -1, 1, 1)
        power += Transform(shape, centred).forward(centred.flatten(1)).square().sum(dim=0)
    size = torch.bincount(ring)
    means = torch.zeros(len(size), dtype=torch.float64).index_add_(0, ring, power.flatten())
    means /= size.clamp_min(1) * len(images)
    return means[ring].view(shape)


def _step(
    network: NoisePredictor,
    pictures: Tensor,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
) -> float:
    n, top = len(pictures), math.log2(network.levels[-1] / network.smoothing)
    drawn = (1.0 + _AT_LEAST) * torch.rand(n, generator=generator) - _AT_LEAST
    octaves = top * drawn.clamp_min(0.0)
    level = network.smoothing * torch.exp2(octaves)
    noise = torch.randn(pictures.shape, generator=generator)
    linear, seen = network.prepare(pictures + level.view(-1, 1, 1, 1) * noise, level)
    linear, seen, noise = _crop((linear, seen, noise), generator)
    loss = (linear + network.correction(seen) - noise).square().mean()
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


def _crop(tensors: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
    """The same random window of at most `_PATCH` pixels a side, at even places, of each tensor."""
    h, w = tensors[0].shape[2:]
    if max(h, w) <= _PATCH:
        return tensors
    tall, wide = min(h, _PATCH), min(w, _PATCH)
    top = 2 * int(torch.randint((h - tall) // 2 + 1, (1,), generator=generator))
    left = 2 * int(torch.randint((w - wide) // 2 + 1, (1,), generator=generator))
    return tuple(t[:, :, top : top + tall, left : left + wide] for t in tensors)


def _schedule(share: float) -> float:
    """A short warm-up, then half a cosine down to zero."""
    return min(1.0, 0.05 + share / _WARM_UP) * 0.5 * (1.0 + math.cos(math.pi * share))


def _convolutions(shape: tuple[int, int, int]) -> nn.Sequential:
    c, h, w = shape
    fold = 2 if h % 2 == w % 2 == 0 and min(h, w) >= _UNSHUFFLED_FROM else 1
    last = nn.Conv2d(_WIDTH, c * fold**2, 3, padding=1)
    # It starts as the Gaussian model.
    nn.init.zeros_(last.weight)
    nn.init.zeros_(torch.as_tensor(last.bias))
    return nn.Sequential(
        nn.PixelUnshuffle(fold),
        nn.Conv2d((2 * c + 1) * fold**2, _WIDTH, 3, padding=1),
        *(_Residual() for _ in range(_BLOCKS)),
        nn.SiLU(),
        last,
        nn.PixelShuffle(fold),
    )
