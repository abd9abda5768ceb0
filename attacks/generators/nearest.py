"""How near a generator comes to pictures: what a prior is worth to an attack."""

from __future__ import annotations

import torch
from torch import Tensor

from splitdeploy.attacks.generator import Generator
from splitdeploy.attacks.lbfgs import BatchedLbfgs
from splitdeploy.attacks.quality import psnr_db

_HISTORY = 10
_FIRST_STEP = 0.05


def nearest_latents(
    generator: Generator,
    pictures: Tensor,
    *,
    passes: int = 150,
    start: Tensor | None = None,
    weight: float = 0.0,
) -> Tensor:
    """Latents whose pictures come closest in mean squared error, by a batched L-BFGS.

    Args:
        generator: The generator.
        pictures: ``[n, c, h, w]`` on [0, 1].
        passes: Through the generator, forward and back.
        start: Where the search begins, ``[n, k]``; the latents' mean where None.
        weight: Of the latents' mean square beside the mean squared error.

    Returns:
        ``[n, k]``.
    """

    def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
        latent = points.detach().requires_grad_()
        with torch.enable_grad():
            errors = (generator(latent) - pictures).square().flatten(1).mean(1)
            errors = errors + weight * latent.square().mean(1)
            (gradient,) = torch.autograd.grad(errors.sum(), latent)
        return errors.detach(), gradient

    if start is None:
        start = torch.zeros(len(pictures), generator.latent_size, device=pictures.device)
    search = BatchedLbfgs(evaluate, start, history=_HISTORY, first_step=_FIRST_STEP)
    for _ in range(passes - 1):
        search.advance()
    return search.point


def nearest_psnr_db(generator: Generator, pictures: Tensor, *, passes: int = 150) -> float:
    """The PSNR of the nearest pictures that the generator gives, from the same start for each.

    Args:
        generator: The generator.
        pictures: ``[n, c, h, w]`` on [0, 1].
        passes: Of the search; more come closer.

    Returns:
        Decibels, averaged over the pictures.
    """
    with torch.no_grad():
        found = generator(nearest_latents(generator, pictures, passes=passes))
    return float(psnr_db(found, pictures).mean())
