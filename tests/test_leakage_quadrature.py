"""Quadrature and ceilings against dense linear algebra."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitdeploy.attacks.leakage.gain import rank_ceiling
from splitdeploy.attacks.leakage.lanczos import bidiagonalise, rademacher


def operator(d: int, decades: float, seed: int) -> Tensor:
    """A random d by d matrix with singular values over so many decades."""
    generator = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    return left @ torch.diag(torch.logspace(-decades / 2, decades / 2, d).double()) @ right


def quadratic_form(matrix: Tensor, z: Tensor) -> float:
    """The mean of zᵀ ln(NᵀN) z per dimension, by eigendecomposition."""
    values, vectors = torch.linalg.eigh(matrix.T @ matrix)
    return float(((vectors.T @ z).square() * values.log()).sum() / z.square().sum())


@settings(deadline=None, max_examples=30)
@given(st.integers(5, 40), st.floats(0.5, 4.0), st.integers(0, 1000))
def test_gauss_and_radau_bracket_the_quadratic_form(d: int, decades: float, seed: int) -> None:
    n = operator(d, decades, seed)
    z = rademacher(1, d, seed=seed, like=n)
    truth = quadratic_form(n, z[0])
    floor = float(torch.linalg.svdvals(n)[-1] ** 2) * 0.9
    widths = []
    for (b,) in itertools.islice(bidiagonalise(lambda v: v @ n.T, lambda u: u @ n, z), 12):
        log = b.log_mean(floor)
        assert log.lower - 1e-8 <= truth <= log.upper + 1e-8
        widths.append(log.upper - log.lower)
    assert all(after <= before + 1e-8 for before, after in itertools.pairwise(widths))


def test_an_exhausted_krylov_space_is_exact_and_ends() -> None:
    few = torch.tensor([1.0] * 5 + [2.0] * 4 + [9.0], dtype=torch.float64)
    many = torch.linspace(1, 9, 10, dtype=torch.float64)
    diagonals = torch.stack([few, many])  # a block ends at 3 steps, the other at 10
    z = rademacher(2, 10, seed=0, like=diagonals)
    steps = list(bidiagonalise(lambda v: v * diagonals, lambda u: u * diagonals, z))
    assert len(steps) == 10
    for b, row in zip(steps[-1], diagonals, strict=True):
        log = b.log_mean(0.5)
        # Diagonal operator, probe of signs: the quadratic form is the mean of the logarithms.
        expected = float(2 * row.log().mean())
        assert (log.lower, log.upper) == pytest.approx((expected, expected), abs=1e-9)
    assert len(steps[-1][0].diagonal) == 3


def test_without_reorthogonalisation_the_quadrature_comes_to_the_same() -> None:
    d = 300
    n = operator(d, 2.5, seed=3).float()
    z = rademacher(1, d, seed=3, like=n)
    steps = bidiagonalise(lambda v: v @ n.T, lambda u: u @ n, z, reorthogonalise=False)
    *_, (last,) = itertools.islice(steps, 900)  # three times the dimension: orthogonality is lost
    truth = quadratic_form(n.double(), z[0].double())
    log = last.log_mean(0.9 * float(torch.linalg.svdvals(n)[-1] ** 2))
    assert (log.lower, log.upper) == pytest.approx((truth, truth), abs=1e-3)


def test_a_zero_operator_ends_at_once() -> None:
    z = rademacher(1, 4, seed=0, like=torch.zeros(()))
    (only,) = list(bidiagonalise(lambda v: 0 * v, lambda u: 0 * u, z))
    log = only[0].log_mean(1.0)
    assert (log.lower, log.upper, log.spread) == (0.0, 0.0, 0.0)


def test_float32_keeps_what_a_gram_matrix_would_lose() -> None:
    d = 60
    n = operator(d, 6.0, seed=1)  # NᵀN over twelve decades
    z = rademacher(1, d, seed=1, like=n)
    single = n.float()
    *_, last = bidiagonalise(lambda v: v @ single.T, lambda u: u @ single, z.float())
    log = last[0].log_mean(1e-7)
    assert (log.lower + log.upper) / 2 == pytest.approx(quadratic_form(n, z[0]), abs=0.05)


def test_probe_error_bounds_the_spread_over_probes() -> None:
    d = 50
    n = operator(d, 2.0, seed=2)
    forms, bounds = [], []
    for seed in range(200):
        z = rademacher(1, d, seed=seed, like=n)
        forms.append(quadratic_form(n, z[0]))
        steps = itertools.islice(bidiagonalise(lambda v: v @ n.T, lambda u: u @ n, z), 20)
        *_, last = steps
        bounds.append(last[0].log_mean(1e-3).probe_error(d))
    # 200 draws know a standard deviation to 5 %.
    assert np.std(forms) <= 1.1 * np.mean(bounds)
    assert np.std(forms) >= 0.5 * np.mean(bounds)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 30), st.data())
def test_no_operator_of_that_rank_and_diagonal_exceeds_the_ceiling(
    d: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(1, d))
    decades = data.draw(st.floats(0, 6))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    scale = torch.logspace(-decades / 2, decades / 2, d, dtype=torch.float64)
    m = torch.randn(rank, d, generator=generator, dtype=torch.float64) * scale.sqrt()
    gram = m.T @ m
    truth = torch.linalg.slogdet(torch.eye(d, dtype=torch.float64) + gram).logabsdet / (2 * d)
    assert float(truth) <= rank_ceiling(gram.diagonal(), rank) + 1e-9


def test_the_ceiling_is_reached_by_a_scaled_projection() -> None:
    d, rank = 12, 4
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    gram = 5.0 * q[:, :rank] @ q[:, :rank].T
    flat = torch.full((d,), float(gram.trace()) / d, dtype=torch.float64)
    assert rank_ceiling(flat, rank) == pytest.approx(rank * np.log(6.0) / (2 * d))


def test_the_ceiling_of_nothing_is_zero() -> None:
    assert rank_ceiling(torch.zeros(5, dtype=torch.float64), 5) == 0.0
    assert rank_ceiling(torch.ones(5, dtype=torch.float64), 0) == 0.0


def test_one_kept_basis_is_as_good_as_two() -> None:
    # Ten large singular values converge first, and would come back in single precision.
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(400, 400, generator=generator, dtype=torch.float64))
    values = torch.cat([torch.logspace(3, 4, 10), torch.linspace(0.5, 5, 390)])
    n = q.float() * values
    z = rademacher(1, 400, seed=0, like=n)
    truth = float(values.double().square().log().mean())

    def error(*, both: bool, kept: int = 0) -> float:
        steps = bidiagonalise(
            lambda v: v @ n.T, lambda u: u @ n, z, reorthogonalise=both, kept=kept
        )
        (b,) = next(itertools.islice(steps, 39, None))
        log = b.log_mean(0.2)
        return max(abs(log.upper - truth), abs(log.lower - truth))

    # N has orthogonal columns, so that the mean over the probe is the mean over the spectrum.
    assert error(both=True) < 1e-3 and error(both=False, kept=40) < 1e-3
    assert error(both=False, kept=15) < 1e-2 < error(both=False)
