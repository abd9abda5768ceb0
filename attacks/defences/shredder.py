"""Shredder: noise learned to cost the tail little, for a head that stays as it is.

Mireshghallah, Taram, Ramrakhyani, Jalali, Tullsen and Esmaeilzadeh, ASPLOS 2020, "Shredder:
learning noise distributions to protect inference privacy": a noise tensor n, the same for every
picture, minimises

    CE(tail(z + n), y) − λ·Σ|nᵢ|

until its power over that of z (their in vivo privacy, 1/SNR) is what was asked for. Several are
learned from different beginnings; to their collection a Laplace distribution is fitted, from which
fresh noise is drawn for every picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.defences.base import (
    Defence,
    Defended,
    Perturbation,
    Victim,
    standard_laplace,
)
from splitdeploy.attacks.defences.halves import (
    answers,
    check_number,
    minibatches,
    root_mean_squares,
    smashed_data,
)
from splitdeploy.profiles.errors import DefenceError

_MOST_BYTES = 256 * 2**20  # of smashed data that is kept; a noise tensor needs no more to learn by
_BEGINS = 0.1  # the first noise, of the power that it is to grow to
_STRIDE = 0.06  # of Adam, in units of the final noise
_SENSITIVITY_PICTURES = 128


class Shredder(Defence):
    """Learned noise: sent = z + location + scale·ε with ε ~ Laplace(0, 1), element by element.

    Location and scale are the median and the mean absolute deviation of the collection, which are
    Laplace's maximum-likelihood estimates. The scales are then brought to exactly the power asked
    for, that of `LaplaceNoise` at the same strength, so that the two compare. The location is the
    same for every picture and known to who knows the defence: it protects nothing and only eases
    the noise for the tail.

    All tensors of the collection are learned side by side, each on its share of every minibatch,
    and on smashed data that is computed once, at most 256 MiB of it.

    Args:
        relative_scale: Root mean square of the scales over that of each boundary tensor, above 0.
        steps: Of learning; each takes one minibatch through the tail and back.
        collection: How many noise tensors are learned, at least 4.
        batch: Pictures a step, at least ``collection``.
        reward: λ as a multiple of the mean |∂CE/∂z| of the undefended tail, which makes it
            independent of the features' scale; above 0.

    Raises:
        DefenceError: An argument is out of its range.
    """

    name = "shredder"
    paper = "Mireshghallah et al. 2020, Shredder: learning noise distributions"
    strength = "rms of the learned Laplace scales over that of each boundary tensor, above 0"

    def __init__(
        self,
        relative_scale: float,
        *,
        steps: int = 200,
        collection: int = 16,
        batch: int = 128,
        reward: float = 1.0,
    ) -> None:
        self.relative_scale = check_number(
            "a scale relative to the smashed data's root mean square",
            relative_scale,
            0.0,
            above=True,
        )
        self.steps = int(check_number("a number of steps", steps, 1))
        self.collection = int(check_number("a collection of noise tensors", collection, 4))
        self.batch = int(check_number("a minibatch", batch, self.collection))
        self.reward = check_number("a reward of large noise", reward, 0.0, above=True)

    def fit(self, victim: Victim, *, seed: int = 0) -> Defended:
        """Learn the collection on the victim's pictures, and fit the distribution to it.

        Args:
            victim: The cut model, and pictures to learn by; labels, or its own answers.
            seed: Of the first noise and of the order of the pictures.

        Returns:
            The same halves behind Laplace noise with a location and a scale for each element.

        Raises:
            DefenceError: The victim cannot be defended, or has fewer pictures than the collection
                has tensors.
        """
        levels = root_mean_squares(victim)
        if len(victim.images) < self.collection:
            raise DefenceError(
                f"expected at least {self.collection} pictures, one for each noise tensor, got "
                f"{len(victim.images)}: give more or lower the collection"
            )
        generator = torch.Generator().manual_seed(seed)
        kept = _subset(victim, generator)
        lesson = _Lesson(smashed_data(kept, kept.images), answers(kept), kept.tail, levels)
        learned = self._learn(lesson, generator)
        text = f"Shredder, learned Laplace noise, scale {self.relative_scale:g} of the rms"
        fitted = zip(learned, levels, strict=True)
        laplace = tuple(fit_laplace(noise, self.relative_scale * rms) for noise, rms in fitted)
        return Defended(victim.head, victim.tail, laplace, text)

    def _learn(self, lesson: _Lesson, generator: torch.Generator) -> list[Tensor]:
        """The collection for each boundary tensor, ``[collection, *shape]``, in its own units."""
        target = math.sqrt(2.0) * self.relative_scale  # Laplace's deviation is √2 of its scale
        noises = [
            _BEGINS * self.relative_scale * standard_laplace(self._empty(z), generator)
            for z in lesson.tensors
        ]
        for noise in noises:
            noise.requires_grad_(True)
        rewards = [self.reward * each for each in lesson.sensitivities()]
        optimiser = torch.optim.Adam(noises, lr=target * _STRIDE)
        each = self.batch // self.collection
        size = each * self.collection
        epochs = -(-self.steps // max(1, len(lesson.classes) // size))
        turns = minibatches(len(lesson.classes), size, epochs, generator)
        for step, (chosen, _) in zip(range(self.steps), turns, strict=False):
            optimiser.zero_grad()
            with torch.enable_grad():
                loss = lesson.cross_entropy(noises, chosen) * self.collection
                for noise, reward in zip(noises, rewards, strict=True):
                    loss = loss - reward * noise.abs().sum()
                loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            _keep_within(noises, target)
            if self.progress is not None:
                self.progress((step + 1) / self.steps)
        units = zip(noises, lesson.levels, strict=True)
        return [noise.detach() * rms for noise, rms in units]

    def _empty(self, z: Tensor) -> Tensor:
        return z.new_empty((self.collection, *z.shape[1:]))


@dataclass(frozen=True)
class _Lesson:
    """Smashed data with its classes, and the tail that is to know them behind noise.

    Noise is in units of ``levels``, the root mean square of each boundary tensor.
    """

    tensors: tuple[Tensor, ...]
    classes: Tensor
    tail: nn.Module
    levels: tuple[float, ...]

    def cross_entropy(self, noises: list[Tensor], chosen: Tensor) -> Tensor:
        """The mean over pictures; the noise tensors take these in turns."""
        owner = torch.arange(len(chosen)) % len(noises[0])
        sent = [
            z[chosen] + rms * noise[owner]
            for z, rms, noise in zip(self.tensors, self.levels, noises, strict=True)
        ]
        return functional.cross_entropy(self.tail(*sent), self.classes[chosen])

    def sensitivities(self) -> list[float]:
        """The mean |∂CE/∂z| of one picture, for each boundary tensor, in units of the noise."""
        count = min(_SENSITIVITY_PICTURES, len(self.classes))
        still = [z.new_zeros((count, *z.shape[1:])).requires_grad_() for z in self.tensors]
        with torch.enable_grad():
            total = self.cross_entropy(still, torch.arange(count)) * count
            gradients = torch.autograd.grad(total, still)
        return [float(gradient.abs().mean()) for gradient in gradients]


@torch.no_grad()
def _keep_within(noises: list[Tensor], target: float) -> None:
    """Scale each noise tensor back to the power asked for, where it has more.

    The paper lowers λ by hand once the power is reached; this keeps it there.
    """
    for noise in noises:
        rms = noise.flatten(1).square().mean(dim=1).sqrt()
        shrink = (target / rms).clamp(max=1.0)
        noise.mul_(shrink.view(-1, *[1] * (noise.ndim - 1)))


def _subset(victim: Victim, generator: torch.Generator) -> Victim:
    """Those pictures, at random, whose smashed data fits into memory."""
    one = smashed_data(victim, victim.images[:1])
    bytes_each = sum(tensor.numel() * tensor.element_size() for tensor in one)
    kept = torch.randperm(len(victim.images), generator=generator)
    kept = kept[: max(_SENSITIVITY_PICTURES, _MOST_BYTES // bytes_each)]
    labels = None if victim.labels is None else victim.labels[kept]
    return Victim(victim.head, victim.tail, victim.images[kept], labels)


def fit_laplace(collection: Tensor, rms_scale: float) -> Perturbation:
    """A Laplace distribution for each element, fitted to a collection of noise tensors.

    Args:
        collection: ``[m, *shape]``, in the units of the smashed data.
        rms_scale: What the root mean square of the scales is brought to.

    Returns:
        The perturbation: location and scale ``[1, *shape]``.

    Raises:
        DefenceError: The noise tensors do not differ.
    """
    ordered, middle = collection.sort(dim=0).values, len(collection) // 2
    location = (ordered[middle : middle + 1] + ordered[~middle].unsqueeze(0)) / 2
    scale = (collection - location).abs().mean(dim=0, keepdim=True)
    rms = float(scale.square().mean().sqrt())
    if not rms > 0:
        raise DefenceError("expected noise tensors that differ, got equal ones: nothing is random")
    return Perturbation("laplace", torch.ones(()), location, scale * (rms_scale / rms))
