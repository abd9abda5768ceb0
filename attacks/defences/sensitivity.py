"""How much the tail minds noise on each element of the smashed data.

For small noise of covariance Σ the tail's answer p moves by KL(p ‖ p') ≈ ½·tr(HΣ), with H the
Gauss-Newton matrix Jᵀ(diag p − ppᵀ)J of its logits, J = ∂logits/∂z. For noise that is not small,
∂E[L]/∂Σ_ii = ½·E[∂²L/∂z_i²] at the noisy z (Price 1958), so H is taken where the noise will be.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from splitdeploy.attacks.defences.base import Defended, Victim, standard_normal
from splitdeploy.attacks.leakage.lanczos import rademacher
from splitdeploy.profiles.errors import DefenceError, UnknownNameError
from splitdeploy.profiles.report import Estimate

Share = Literal["element", "channel", "tensor"]
SHARES: tuple[Share, ...] = ("element", "channel", "tensor")

_BATCH = 32


def tail_sensitivity(
    victim: Victim, sigmas: Sequence[Tensor] | None = None, *, draws: int = 8, seed: int = 0
) -> tuple[Tensor, ...]:
    """The diagonal of H for each boundary tensor, averaged over the victim's pictures.

    With A = diag(√p) − p√pᵀ, AAᵀ = diag p − ppᵀ, so that the squares of JᵀAr with random signs r
    estimate the diagonal of H without bias (Hutchinson 1990): one backward pass a draw, and less
    spread than labels drawn from p, which a confident net draws alike.

    Args:
        victim: The tail must give logits ``[n, classes]``.
        sigmas: Of Gaussian noise under which H is taken, one for each tensor, each broadcasting to
            ``[1, *shape]``; None takes it without noise.
        draws: Of signs (and noise), averaged.
        seed: Of both.

    Returns:
        For each tensor ``[*shape]`` float64, in nats by the square of the tensor's unit.

    Raises:
        DefenceError: The tail gives something else, or answers without a gradient.
    """
    totals: tuple[Tensor, ...] = ()
    generator = torch.Generator().manual_seed(seed)
    for tensors in _boundaries(victim):
        for _ in range(draws):
            noisy = [
                t if sigmas is None else t + sigmas[i].to(t) * standard_normal(t, generator)
                for i, t in enumerate(tensors)
            ]
            squares = _squared_gradients(victim.tail, noisy, generator)
            before = totals or tuple(torch.zeros_like(s) for s in squares)
            totals = tuple(a + b for a, b in zip(before, squares, strict=True))
    return tuple(t / (draws * len(victim.images)) for t in totals)


def pool(values: Tensor, share: Share) -> Tensor:
    """The mean over the elements that are to have one σ.

    Args:
        values: ``[*shape]`` of a boundary tensor: channels first, or embeddings last where it has
            two dimensions (tokens of a transformer).
        share: ``element``: none are pooled; ``channel``: the positions of each channel, or the
            tokens of each embedding; ``tensor``: all.

    Returns:
        ``[1, …]`` with pooled dimensions of 1, so that it broadcasts to ``[1, *shape]``.

    Raises:
        UnknownNameError: There is no such way of sharing.
    """
    if share not in SHARES:
        raise UnknownNameError("way of sharing sigma", share, SHARES)
    every = tuple(range(values.dim()))
    pooled: tuple[int, ...] = ()
    if share == "tensor":
        pooled = every
    elif share == "channel" and values.dim() > 1:
        pooled = (0,) if values.dim() == 2 else every[1:]
    return (values.mean(dim=pooled, keepdim=True) if pooled else values).unsqueeze(0)


def predicted_divergence(sensitivity: Sequence[Tensor], sigmas: Sequence[Tensor]) -> float:
    """½·tr(HΣ): how far the tail's answer moves, to second order.

    Args:
        sensitivity: Of each tensor, as `tail_sensitivity` gives it.
        sigmas: For each tensor, broadcasting to ``[1, *shape]``.

    Returns:
        Nats a picture.
    """
    pairs = zip(sensitivity, sigmas, strict=True)
    return 0.5 * sum(float((h.unsqueeze(0) * s.to(h).square()).sum()) for h, s in pairs)


def measured_divergence(
    defended: Defended, victim: Victim, *, draws: int = 4, seed: int = 0
) -> Estimate:
    """KL(p ‖ p') of the defended answer p' from the undefended p, over the victim's pictures.

    Args:
        defended: The model under defence.
        victim: The model without it.
        draws: Of noise for each picture.
        seed: Of the noise.

    Returns:
        Nats a picture, with the standard error over the pictures.
    """
    generator = torch.Generator().manual_seed(seed)
    each = []
    with torch.no_grad():
        for start in range(0, len(victim.images), _BATCH):
            pixels = victim.images[start : start + _BATCH]
            clean = _log_answer(victim.tail, victim.head(pixels)).double()
            total = clean.new_zeros(len(pixels))
            for _ in range(draws):
                noisy = _log_answer(defended.tail, defended.send(pixels, generator)).double()
                total += (clean.exp() * (clean - noisy)).sum(dim=1)
            each.append(total / draws)
    values = torch.cat(each)
    n = len(values)
    error = float(values.std()) / math.sqrt(n) if n > 1 else 0.0
    return Estimate(float(values.mean()), error)


def _boundaries(victim: Victim) -> Iterator[tuple[Tensor, ...]]:
    for start in range(0, len(victim.images), _BATCH):
        with torch.no_grad():
            yield victim.head(victim.images[start : start + _BATCH])


def _log_answer(tail: nn.Module, tensors: Sequence[Tensor]) -> Tensor:
    logits = tail(*tensors)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < 2:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise DefenceError(
            f"expected a tail that answers with logits [n, classes], got {got}: shaped noise needs "
            "a classifier; take the form 'bayesian'"
        )
    return logits.log_softmax(dim=1)


def _squared_gradients(
    tail: nn.Module, tensors: Sequence[Tensor], generator: torch.Generator
) -> list[Tensor]:
    """(JᵀAr)², summed over the batch, for each tensor."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    with torch.inference_mode(False), torch.enable_grad():
        answer = _log_answer(tail, leaves)
    if answer.grad_fn is None:
        raise DefenceError(
            "expected a differentiable tail, got one whose answer has no gradient: take the form "
            "'bayesian'"
        )
    root = (answer.detach() / 2).exp()
    seed = int(torch.randint(2**62, (1,), generator=generator))
    signs = rademacher(len(root), root.shape[1], seed=seed, like=root)
    cotangent = root * signs - root.square() * (root * signs).sum(dim=1, keepdim=True)
    # The log-softmax's own derivative, 1 − 1pᵀ, leaves A as it is: the columns of A sum to zero.
    gradients = torch.autograd.grad(answer, leaves, cotangent, allow_unused=True)
    return [
        torch.zeros_like(t[0], dtype=torch.float64) if g is None else g.double().square().sum(dim=0)
        for g, t in zip(gradients, leaves, strict=True)
    ]
