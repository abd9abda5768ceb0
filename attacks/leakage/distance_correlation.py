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
    n = len(x)
    if n != len(z) or n < FEWEST:
        raise LeakageError(
            f"expected as many smashed data as pictures, at least {FEWEST}, got {len(z)} and {n}: "
            "raise --image-count"
        )
    a, b = _distances(x), _distances(z)
    everyone = torch.arange(n)
    without = [
        _correlation(a[kept][:, kept], b[kept][:, kept])
        for kept in (everyone[everyone != i] for i in range(n))
    ]
    left_out = torch.tensor(without, dtype=torch.float64)
    error = math.sqrt((n - 1) / n * float((left_out - left_out.mean()).square().sum()))
    return Estimate(_correlation(a, b), error)


def _distances(x: Tensor) -> Tensor:
    flat = x.detach().flatten(1).double().cpu()
    # Without the detour by products, which loses the digits of near neighbours.
    return torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")


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
