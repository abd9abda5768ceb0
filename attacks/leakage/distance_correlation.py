"""Distance correlation between pictures and smashed data: dependence of any form, from samples.

Its square is dCov²(X, Z)/√(dVar²(X)·dVar²(Z)); the biased estimator goes to one as dimensions grow,
whatever the dependence, so here is the unbiased one (Székely and Rizzo 2014): distance matrices are
U-centred, and inner products divided by n(n − 3). NoPeek (Vepakomma et al. 2020) trains with it.
It is a correlation, not a bound: noise does not enter, and no attacker is bound.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from splitdeploy.profiles.errors import LeakageError
from splitdeploy.profiles.report import Estimate

FEWEST = 5
"""The estimator takes four samples, and the jackknife behind its error leaves one out."""


def distance_correlation(x: Tensor, z: Tensor) -> Estimate:
    """The unbiased estimate of the squared distance correlation.

    Args:
        x: ``[n, …]``: pictures.
        z: ``[n, …]``: their smashed data.

    Returns:
        At most 1; around 0, and negative as often as not, where they are independent; 0 where
        either is constant. The standard error is the jackknife's.

    Raises:
        LeakageError: There are fewer than `FEWEST` samples, or not equally many.
    """
    return of_distances(distances(x), distances(z))


def of_distances(a: Tensor, b: Tensor) -> Estimate:
    """The same from the distances alone, where one side's serve for many of the other.

    Args:
        a: ``[n, n]``: between the pictures, from `distances`.
        b: Between their smashed data.

    Returns:
        As `distance_correlation` tells it.

    Raises:
        LeakageError: There are fewer than `FEWEST` samples, or not equally many.
    """
    n = len(a)
    if n != len(b) or n < FEWEST:
        raise LeakageError(
            f"expected as many smashed data as pictures, at least {FEWEST}, got {len(b)} and {n}: "
            "raise --image-count"
        )
    everyone = torch.arange(n)
    without = [
        _correlation(a[kept][:, kept], b[kept][:, kept])
        for kept in (everyone[everyone != i] for i in range(n))
    ]
    left_out = torch.tensor(without, dtype=torch.float64)
    error = math.sqrt((n - 1) / n * float((left_out - left_out.mean()).square().sum()))
    return Estimate(_correlation(a, b), error)


def distances(x: Tensor) -> Tensor:
    """Euclidean distances between samples.

    Args:
        x: ``[n, …]``.

    Returns:
        ``[n, n]`` float64.
    """
    flat = x.detach().flatten(1).double().cpu()
    # Products are ten times as fast as differences. They lose the digits of near neighbours, of
    # which float64 has enough once the common mean is gone: 1e-8 of the spread.
    centred = flat - flat.mean(dim=0)
    return torch.cdist(centred, centred, compute_mode="use_mm_for_euclid_dist").fill_diagonal_(0.0)


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = _centred(a), _centred(b)
    scale = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0


def _centred(a: Tensor) -> Tensor:
    """U-centring: rows and columns sum to zero, the diagonal is zero."""
    n = len(a)
    rows = a.sum(dim=1, keepdim=True) / (n - 2)
    centred = a - rows - rows.T + a.sum() / ((n - 1) * (n - 2))
    return centred.fill_diagonal_(0.0)
