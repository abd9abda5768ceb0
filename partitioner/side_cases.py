"""How long each head, or each tail, takes in every case.

The time of a row is F H B G. The factor F is common to all rows of the side, H to those that
compute in one precision, B to those that compute as many inputs at a time; all are log-normal with
median 1. What B is for more inputs begins with what it is for fewer. G is the time of the row by a
gamma process in the row's time, one process a precision and batch: heads of one precision are
nested, so that a longer one takes longer in every case; those of two are different kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from splitdeploy.profiles.certainty import UncertainPart
from splitdeploy.profiles.cut import PRECISIONS

Array: TypeAlias = NDArray[np.float64]

_PROCESS, _FACTOR, _BATCH = 5, 6, 7
"""Seeds of their own."""


def side_cases(
    times: Array,
    precisions: Sequence[str],
    batches: Sequence[int],
    part: UncertainPart,
    draws: int,
    seed: tuple[int, int],
    kept: Sequence[int],
) -> Array:
    """The times of a side's rows in every case.

    Args:
        times: Their central times.
        precisions: What each of them computes in, as `side_precisions` says.
        batches: How many inputs each of them computes at a time.
        part: How uncertain they are.
        draws: How many cases.
        seed: Of the random numbers.
        kept: The rows that are asked for; their cases do not depend on which these are.

    Returns:
        Cases by rows, of those that are asked for.
    """
    common = np.exp(part.common * normal(seed, (draws, 1)))
    found = np.empty((draws if part.own else 1, len(times)))
    apart = np.ones((draws if part.by_precision or part.by_batch else 1, len(times)))
    by_batch = _batch_factors(part, draws, seed)
    several, counts = len(set(precisions)) > 1, set(batches)
    groups = list(zip(precisions, batches, strict=True))
    for kind, batch in dict.fromkeys(groups):
        places = [k for k, other in enumerate(groups) if other == (kind, batch)]
        # A precision has the same cases whichever others stand beside it.
        code = _code(kind) if several else ()
        process = (*code, batch) if len(counts) > 1 else code
        found[:, places] = _grown(times[places], part.own, draws, (*seed, _PROCESS, *process))
        spread = part.by_precision.get(kind, 0.0)
        if spread:
            apart[:, places] = np.exp(spread * normal((*seed, _FACTOR, *code), (draws, 1)))
        if str(batch) in by_batch:
            apart[:, places] *= by_batch[str(batch)]
    cases: Array = (found * apart)[:, kept] * common
    return cases


def _code(kind: str) -> tuple[int, ...]:
    """A precision, or that and the batch of a run, as numbers for a seed."""
    precision, _, batch = kind.partition("@b")
    return (1 + list(PRECISIONS).index(precision), *([int(batch)] if batch else []))


def _batch_factors(part: UncertainPart, draws: int, seed: tuple[int, int]) -> dict[str, Array]:
    """By how much more inputs at a time take more or less: a walk from each number to the next."""
    factors, walk, reached = {}, np.zeros((draws, 1)), 0.0
    for count in sorted(part.by_batch, key=int):
        spread = part.by_batch[count]
        step = math.sqrt(spread**2 - reached**2)
        walk = walk + step * normal((*seed, _BATCH, int(count)), (draws, 1))
        factors[count], reached = np.exp(walk), spread
    return factors


def _grown(times: Array, own: float, draws: int, seed: tuple[int, ...]) -> Array:
    """Nested times by a gamma process."""
    if not own or not len(times) or times.max() <= 0:
        return times[None]
    fractions = tuple(np.round(times / times.max(), 9).tolist())
    longest: float = times.max()
    return longest * _path(fractions, own, draws, seed)


@lru_cache(maxsize=16)
def normal(seed: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """Standard normal numbers; kept, since a search asks for the same ones again and again."""
    numbers = np.random.default_rng(seed).standard_normal(shape)
    numbers.flags.writeable = False
    return numbers


@lru_cache(maxsize=16)
def _path(fractions: tuple[float, ...], own: float, draws: int, seed: tuple[int, ...]) -> Array:
    """A gamma process at these fractions of the longest time: at 1 its deviation is ``own``."""
    order = np.argsort(fractions)
    steps = np.diff(np.array(fractions)[order], prepend=0.0)
    shape = steps / own**2
    numbers = np.random.default_rng(seed)
    grown = np.cumsum(numbers.gamma(np.maximum(shape, 1e-300), size=(draws, len(steps))), axis=1)
    path = np.empty_like(grown)
    path[:, order] = grown * own**2
    path.flags.writeable = False
    return path
