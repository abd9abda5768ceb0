"""How long each head, or each tail, takes in every case.

The time of a row is F H G. The factor F is common to all rows of the side, H to those that compute
in one precision; both are log-normal with median 1. G is the time of the row by a gamma process in
the row's time, one process a precision: heads of one precision are nested, so that a longer one
takes longer in every case; those of two precisions are different kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from splitdeploy.profiles.certainty import UncertainPart
from splitdeploy.profiles.cut import PRECISIONS

Array: TypeAlias = NDArray[np.float64]

_PROCESS, _FACTOR = 5, 6
"""Seeds of their own."""


def side_cases(
    times: Array,
    precisions: Sequence[str],
    part: UncertainPart,
    draws: int,
    seed: tuple[int, int],
    kept: Sequence[int],
) -> Array:
    """The times of a side's rows in every case.

    Args:
        times: Their central times.
        precisions: What each of them computes in.
        part: How uncertain they are.
        draws: How many cases.
        seed: Of the random numbers.
        kept: The rows that are asked for; their cases do not depend on which these are.

    Returns:
        Cases by rows, of those that are asked for.
    """
    common = np.exp(part.common * normal(seed, (draws, 1)))
    groups = list(dict.fromkeys(precisions))
    found = np.empty((draws if part.own else 1, len(times)))
    apart = np.ones((draws if part.by_precision else 1, len(times)))
    for group in groups:
        places = [k for k, kind in enumerate(precisions) if kind == group]
        # A precision has the same cases whichever others stand beside it.
        code = () if len(groups) == 1 else (1 + list(PRECISIONS).index(group),)
        found[:, places] = _grown(times[places], part.own, draws, (*seed, _PROCESS, *code))
        spread = part.by_precision.get(group, 0.0)
        if spread:
            apart[:, places] = np.exp(spread * normal((*seed, _FACTOR, *code), (draws, 1)))
    cases: Array = (found * apart)[:, kept] * common
    return cases


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
