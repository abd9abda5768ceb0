"""What an attacker who knows the defence makes of what he sees.

A defence is public: its gate, shift, scale and drop rate are in the head that everyone may read.
So he takes shift and gate off again, averages over every time that the same picture is sent, and
knows how much noise is left, which a noise-aware attack weighs. With dropout he knows besides which
elements came through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from splitdeploy.attacks.defences.base import Defended, Perturbation
from splitdeploy.attacks.leakage.noise import Noise, PrecisionNoise
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.target import AttackTarget
from splitdeploy.profiles.errors import DefenceError

Send = Callable[[Tensor, torch.Generator], tuple[Tensor, ...]]
"""From pixels and a generator of noise to what is sent, one query each: ``Defended.send``."""


def observe_defended(
    defended: Defended,
    pixels: Tensor,
    *,
    queries: int = 1,
    seed: int = 0,
    send: Send | None = None,
    rounding: Noise | None = None,
) -> AttackTarget:
    """Send pictures through a defence, and undo of it what can be undone.

    Args:
        defended: The model under defence.
        pixels: ``[n, c, h, w]`` on [0, 1].
        queries: How often each picture is sent, with fresh noise.
        seed: Of the noise.
        send: What sends, such as an exported head; None for the model itself.
        rounding: Of the number format that is sent; None takes that of fp32.

    Returns:
        The mean of what was sent, in the units of the undefended smashed data, with the σ that is
        left on it, and the head that it is to be explained by: without the elements that the
        defence never sends.

    Raises:
        DefenceError: There are no queries, or another number of tensors than perturbations.
    """
    if queries < 1:
        raise DefenceError(f"expected at least 1 query, got {queries}")
    generator = torch.Generator().manual_seed(seed)
    sums: list[_Sum] = []
    with torch.no_grad():
        query = _queries(defended, pixels) if send is None else partial(send, pixels)
        for _ in range(queries):
            sent = query(generator)
            if len(sent) != len(defended.perturbations):
                raise DefenceError(
                    f"expected {len(defended.perturbations)} boundary tensors, one for each "
                    f"perturbation, got {len(sent)}"
                )
            sums = sums or [_Sum.of(t) for t in sent]
            for held, tensor in zip(sums, sent, strict=True):
                held.add(tensor)
    rule = rounding or PrecisionNoise("fp32")
    found = [
        _undone(held, perturbation, queries, rule)
        for held, perturbation in zip(sums, defended.perturbations, strict=True)
    ]
    channels, height, width = pixels.shape[1:]
    return AttackTarget(
        tuple(view.mean for view in found),
        _masked(defended.head, [view.passes for view in found]),
        (channels, height, width),
        noise_sigma=tuple(view.sigma for view in found),
    )


def _queries(defended: Defended, pixels: Tensor) -> Callable[[torch.Generator], tuple[Tensor, ...]]:
    """What sends the same pictures again and again, through the head once where noise allows it."""
    if type(defended).send is not Defended.send:
        return partial(defended.send, pixels)
    tensors = defended.head(pixels)
    return partial(defended.perturb, tensors)


@dataclass
class _Sum:
    """The sum of what was sent of one tensor, and how often each element was not zero."""

    total: Tensor
    present: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> _Sum:
        return cls(torch.zeros_like(tensor), torch.zeros_like(tensor))

    def add(self, tensor: Tensor) -> None:
        self.total += tensor
        self.present += tensor != 0


@dataclass(frozen=True)
class _View:
    """One boundary tensor as the attacker has it.

    Attributes:
        mean: ``[n, …]``, in the units of the undefended smashed data.
        sigma: Broadcasts to it.
        passes: Broadcasts to ``[1, …]``: 1 where the defence sends an element, 0 where it never
            does.
    """

    mean: Tensor
    sigma: Tensor
    passes: Tensor


def _undone(held: _Sum, perturbation: Perturbation, queries: int, rounding: Noise) -> _View:
    total = held.total
    gate, shift, scale = (
        value.to(total).expand(1, *total.shape[1:])
        for value in (perturbation.gate, perturbation.shift, perturbation.scale)
    )
    passes = (gate != 0).to(total)
    safe = torch.where(gate != 0, gate, torch.ones_like(gate))
    step = rounding.level([total / queries]).sigma.to(total).view(1, *total.shape[1:])
    if perturbation.distribution == "dropout":
        mean, sigma = _filled(held, perturbation.drop_rate, queries, shift, safe)
        return _View(mean * passes, (sigma.square() + (step / safe).square()).sqrt(), passes)
    deviation = scale * (2.0**0.5 if perturbation.distribution == "laplace" else 1.0)
    # Rounding averages out where noise moves it from step to step, and is the same each time else.
    fresh = torch.where(deviation > step, step.square() / queries, step.square())
    variance = deviation.square() / queries + fresh
    mean = (total / queries - shift) / safe
    # What never passes is noise alone, and says nothing whatever its σ.
    return _View(mean * passes, variance.sqrt() / safe.abs(), passes)


def _filled(
    held: _Sum, rate: float, queries: int, shift: Tensor, gate: Tensor
) -> tuple[Tensor, Tensor]:
    """Elements that came through once are known; of the others it is known how large they may be.

    An element that was zero each time was dropped each time, or is zero itself (behind a ReLU many
    are): P(dropped) = p·rate^n/(p·rate^n + 1 − p) with p the share of elements that are not zero,
    taken from how many came through.

    Returns:
        The elements, zero where none came through, and their σ.
    """
    seen = held.present > 0
    # Kept elements were sent divided by 1 − rate.
    kept = held.total / held.present.clamp_min(1) * (1.0 - rate)
    mean = torch.where(seen, (kept - shift) / gate, torch.zeros_like(kept))
    missed = rate**queries
    nonzero = min(1.0, float(seen.double().mean()) / max(1e-12, 1.0 - missed))
    dropped = nonzero * missed / max(1e-12, nonzero * missed + 1.0 - nonzero)
    power = float(mean[seen].double().square().mean()) if bool(seen.any()) else 1.0
    unknown = (dropped * power) ** 0.5
    return mean, torch.where(seen, torch.zeros_like(mean), torch.full_like(mean, unknown))


def _masked(head: PixelHead, passes: list[Tensor]) -> PixelHead:
    """The head without the elements that a defence never sends; itself where all are sent."""
    if all(bool((mask == 1).all()) for mask in passes):
        return head
    masked = PixelHead(_Masked(head.head, passes), (0.0,), (1.0,))
    masked.mean, masked.std = head.mean, head.std
    return masked.eval()


class _Masked(nn.Module):
    """A head whose tensors are multiplied by masks."""

    def __init__(self, head: nn.Module, masks: list[Tensor]) -> None:
        super().__init__()
        self._head, self._masks = head, masks

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        out = self._head(x)
        tensors = tuple(out) if isinstance(out, tuple | list) else (out,)
        return tuple(mask.to(t) * t for mask, t in zip(self._masks, tensors, strict=True))
