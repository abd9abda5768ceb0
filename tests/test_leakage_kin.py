"""Distance correlation, mutual information, error bounds and class radius against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from splitdeploy.attacks.leakage.class_radius import class_radius
from splitdeploy.attacks.leakage.distance_correlation import distance_correlation
from splitdeploy.attacks.leakage.error_bounds import (
    from_bayesian,
    from_dfil,
    from_exact,
    from_information,
    from_van_trees,
)
from splitdeploy.attacks.leakage.fsinfo import fsinfo
from splitdeploy.attacks.leakage.mutual_information import covariance_bound
from splitdeploy.attacks.leakage.prior import default_prior
from splitdeploy.profiles.errors import LeakageError
from splitdeploy.profiles.report import Estimate


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute_force(x: Tensor, z: Tensor) -> float:
    """The unbiased estimator as it is written down, element by element."""
    n = len(x)

    def centred(v: Tensor) -> list[list[float]]:
        a = [[float((v[i] - v[j]).square().sum().sqrt()) for j in range(n)] for i in range(n)]
        whole = sum(map(sum, a)) / ((n - 1) * (n - 2))
        return [
            [
                0.0 if i == j else
                a[i][j] - sum(a[i]) / (n - 2) - sum(row[j] for row in a) / (n - 2) + whole
                for j in range(n)
            ]
            for i in range(n)
        ]  # fmt: skip

    a, b = centred(x), centred(z)

    def product(p: list[list[float]], q: list[list[float]]) -> float:
        return sum(p[i][j] * q[i][j] for i in range(n) for j in range(n)) / (n * (n - 3))

    return product(a, b) / math.sqrt(product(a, a) * product(b, b))


def test_distance_correlation_is_the_estimator_as_written_down() -> None:
    x, noise = normal(12, 3), normal(12, 2, seed=1)
    z = x[:, :2] ** 2 + 0.3 * noise
    assert distance_correlation(x, z).value == pytest.approx(brute_force(x, z), rel=1e-12)
    assert distance_correlation(x, 3 * x).value == pytest.approx(1.0)
    assert distance_correlation(x, torch.ones(12, 1)).value == 0.0


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_distance_correlation_of_normal_variables(rho: float) -> None:
    x = normal(250, 1)
    z = rho * x + math.sqrt(1 - rho**2) * normal(250, 1, seed=1)
    # Székely, Rizzo and Bakirov 2007, theorem 7.
    top = rho * math.asin(rho) + math.sqrt(1 - rho**2)
    top -= rho * math.asin(rho / 2) + math.sqrt(4 - rho**2) - 1
    expected = top / (1 + math.pi / 3 - math.sqrt(3))
    found = distance_correlation(x, z)
    assert abs(found.value - expected) < 3 * found.standard_error + 1e-3
    assert found.standard_error < 0.08


def test_distance_correlation_of_independent_wide_data_is_around_zero() -> None:
    found = [distance_correlation(normal(10, 500, seed=i), normal(10, 500, seed=99 + i))
             for i in range(40)]  # fmt: skip
    values = np.array([one.value for one in found])
    # The biased estimator would say about 0.9.
    assert abs(values.mean()) < 3 * values.std(ddof=1) / math.sqrt(40)


def test_covariance_bound_is_the_mutual_information_of_a_gaussian_channel() -> None:
    k, sigma = 6, 0.3
    mixing = normal(k, k, seed=3)
    covariance = mixing @ mixing.T
    truth = 0.5 * float(torch.linalg.slogdet(torch.eye(k) + covariance / sigma**2).logabsdet)
    z = normal(4000, k) @ mixing.T
    found = covariance_bound([z], torch.full((k,), sigma))
    assert abs(found.value - truth) < 4 * found.standard_error
    assert found.standard_error < 0.02 * truth


def test_covariance_bound_of_few_images_stays_an_upper_bound() -> None:
    channels, side, sigma = 4, 6, 0.3
    mixing = normal(channels * side**2, channels * side**2, seed=3) / side
    truth = 0.5 * float(
        torch.linalg.slogdet(torch.eye(len(mixing)) + mixing @ mixing.T / sigma**2).logabsdet
    )
    noise = torch.full((len(mixing),), sigma)
    for seed in range(10):
        z = (normal(8, len(mixing), seed=seed) @ mixing.T).view(8, channels, side, side)
        assert covariance_bound([z], noise).value > truth
    # Equal variances without correlation: then it is no larger than it must be.
    z = normal(200, channels, side, side)
    flat = 0.5 * len(mixing) * math.log1p(1 / sigma**2)
    found = covariance_bound([z[:, :2], z[:, 2:]], noise)
    assert found.value == pytest.approx(flat, abs=4 * found.standard_error)


def test_bounds_on_the_error_of_a_linear_head_hold_and_are_ordered() -> None:
    side, sigma = 5, 0.05
    d = 3 * side * side
    prior = default_prior((3, side, side))
    half = prior.apply_half(torch.eye(d, dtype=torch.float64))
    torch.manual_seed(0)
    layer = nn.Linear(d, 2 * d, bias=False).double()
    head, a = nn.Sequential(nn.Flatten(), layer), layer.weight.detach()
    x = torch.rand(2, 3, side, side, dtype=torch.float64)
    information = a.T @ a / sigma**2
    # Unbiased: least squares is the best of them. Any: the posterior mean is.
    least_squares = float(torch.linalg.inv(information).trace()) / d
    posterior = float(torch.linalg.inv(torch.linalg.inv(half @ half) + information).trace()) / d
    exact = from_exact(fsinfo(head, x, noise_sigma=sigma))
    trace = from_dfil(Estimate(float(information.trace()) / d, 0.0))
    assert least_squares >= exact.mse.value >= trace.mse.value > 0
    assert exact.binds == trace.binds == "unbiased"
    bayesian = from_bayesian(fsinfo(head, x, noise_sigma=sigma, kind="bayesian", prior=prior))
    drawn = normal(4000, d) @ half @ a.T
    by_covariance = from_information(covariance_bound([drawn], torch.full((2 * d,), sigma)), prior)
    assert posterior >= bayesian.mse.value > 0 and posterior >= by_covariance.mse.value > 0
    # Both are the mutual information of this channel.
    assert by_covariance.mse.value == pytest.approx(bayesian.mse.value, rel=0.05)
    assert bayesian.binds == by_covariance.binds == from_van_trees(0.1).binds == "any"


def test_nothing_that_passes_bounds_an_unbiased_attacker_by_infinity() -> None:
    assert from_dfil(Estimate(0.0, 0.0)).mse.value == math.inf


def test_class_radius_of_known_spreads() -> None:
    d, spread = 20, 0.5
    centres = 3 * normal(10, d, seed=5)
    labels = torch.arange(10).repeat_interleave(5)
    radii = [
        class_radius(centres[labels] + spread * normal(50, d, seed=i), labels) for i in range(20)
    ]
    mean = float(np.mean([r.squared.value for r in radii]))
    told = float(np.mean([r.squared.standard_error for r in radii]))
    assert mean == pytest.approx(d * spread**2, abs=4 * told / math.sqrt(20))
    assert radii[0].classes == 10 and 0 < radii[0].share < 0.2
    lonely = torch.cat([labels[:-1], torch.tensor([77])])
    assert class_radius(normal(50, d), lonely).classes == 10
    alike = class_radius(normal(50, d), labels)
    assert alike.share == pytest.approx(1.0, abs=0.2)


def test_refusals() -> None:
    with pytest.raises(LeakageError, match="at least 5, got 4 and 4"):
        distance_correlation(normal(4, 2), normal(4, 2))
    with pytest.raises(LeakageError, match="at least 2 images for a covariance, got 1"):
        covariance_bound([normal(1, 3)], torch.ones(3))
    with pytest.raises(LeakageError, match="two images of some class, got 3 of 3 classes"):
        class_radius(normal(3, 2), torch.arange(3))
    with pytest.raises(LeakageError, match=r"a label for each of 3 images, got \(2,\)"):
        class_radius(normal(3, 2), torch.arange(2))
