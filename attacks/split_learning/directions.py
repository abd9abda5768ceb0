"""Grouping by direction: k-means on the unit sphere (Dhillon and Modha 2001)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from splitdeploy.profiles.errors import AttackError

_PASSES = 50
_TINY = 1e-30
"""Below every gradient that float32 tells from zero."""


def unit(rows: Tensor) -> Tensor:
    """Each row, flattened, at length 1; a row of zeros stays one.

    Args:
        rows: ``[n, …]``.

    Returns:
        ``[n, k]``.
    """
    return functional.normalize(rows.flatten(1), dim=1, eps=_TINY)


def grouped(
    points: Tensor, groups: int, generator: torch.Generator, *, restarts: int = 8
) -> Tensor:
    """Group points by their directions.

    Seeds as k-means++ has them; of some restarts that with the largest mean cosine to the centres.

    Args:
        points: ``[n, k]`` of length 1.
        groups: How many, at most n.
        generator: On the CPU.
        restarts: How many times to seed.

    Returns:
        ``[n]`` int64 on [0, groups).

    Raises:
        AttackError: There are fewer points than groups.
    """
    if len(points) < groups:
        raise AttackError(
            f"expected at least {groups} samples to tell {groups} classes apart, got {len(points)}"
        )
    found = [_once(points, _seeds(points, groups, generator)) for _ in range(restarts)]
    closeness = [float(cosines.amax(1).mean()) for cosines in found]
    return found[closeness.index(max(closeness))].argmax(1)


def _seeds(points: Tensor, groups: int, generator: torch.Generator) -> Tensor:
    chosen = [int(torch.randint(len(points), (1,), generator=generator, device="cpu"))]
    far = 1 - points @ points[chosen[0]]
    while len(chosen) < groups:
        weights = far.clamp_min(0).double().cpu() + 1e-12
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
        far = torch.minimum(far, 1 - points @ points[chosen[-1]])
    return points[torch.tensor(chosen, device=points.device)]


def _once(points: Tensor, centres: Tensor) -> Tensor:
    """Cosines ``[n, groups]`` to the centres, once the groups stand."""
    cosines = points @ centres.T
    for _ in range(_PASSES):
        groups = cosines.argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, groups, points)
        kept = sums.norm(dim=1, keepdim=True) > 0
        cosines = points @ torch.where(kept, functional.normalize(sums, dim=1), centres).T
        if bool((cosines.argmax(1) == groups).all()):
            break
    return cosines
