"""FSInfo in three kinds against dense determinants, closed forms and quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import splitdeploy
from splitdeploy.attacks.leakage.fsinfo import fsinfo
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.mean_information import mean_gain
from splitdeploy.attacks.leakage.noise import SnrNoise
from splitdeploy.attacks.leakage.prior import GaussianPrior, PowerLaw, default_prior
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import LeakageError, UnknownNameError

SIDE = 6
D = 3 * SIDE * SIDE
PRIOR = default_prior((3, SIDE, SIDE))
ENTROPY = 0.5 * math.log(2 * math.pi * math.e)


def images(n: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)


def linear(k: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layer = nn.Linear(D, k, bias=False).double()
    return nn.Sequential(nn.Flatten(), layer), layer.weight.detach()


def curved(channels: int = 12) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, channels, 3)
    ).double()  # fmt: skip


def covariance() -> Tensor:
    half = PRIOR.apply_half(torch.eye(D, dtype=torch.float64))
    return half @ half


def jacobians(head: nn.Module, x: Tensor) -> Tensor:
    """By reverse mode, image by image: an implementation that shares nothing with ours."""
    rows = [
        torch.autograd.functional.jacobian(lambda p: head(p.unsqueeze(0)).flatten(), one)
        for one in x
    ]
    return torch.stack([r.flatten(1) for r in rows])


def dense_bayesian(j: Tensor, sigma: float) -> float:
    mean = (j.transpose(1, 2) @ j).mean(dim=0) / sigma**2
    log_det = torch.linalg.slogdet(torch.linalg.inv(covariance()) + mean).logabsdet
    return float(log_det) / (2 * D) - ENTROPY


@pytest.mark.parametrize("channels", [2, 12])  # more and fewer rows than input elements
def test_bayesian_is_the_dense_determinant_of_the_mean(channels: int) -> None:
    head, x = curved(channels), images(2)
    truth = dense_bayesian(jacobians(head, x), 0.05)
    found = fsinfo(head, x, noise_sigma=0.05, kind="bayesian", prior=PRIOR)
    assert found.value == pytest.approx(truth, abs=1e-9)
    assert (found.method, found.kind, found.dimensions) == ("cholesky", "bayesian", D)


def test_quadrature_holds_the_dense_determinant_within_its_error() -> None:
    head, x = curved(), images(1)  # one image: its error is of quadrature and probes alone
    truth = dense_bayesian(jacobians(head, x), 0.05)
    inside = 0
    for seed in range(100):
        found = fsinfo(
            head, x, noise_sigma=0.05, kind="bayesian", method="slq", prior=PRIOR, seed=seed,
            relative_error=0.1,
        )  # fmt: skip
        assert found.method == "slq"
        inside += abs(found.value - truth) <= 2 * found.standard_error
    assert inside >= 95


@pytest.mark.parametrize("k", [20, 200])
def test_the_gain_of_the_mean_is_the_mutual_information_of_a_linear_head(k: int) -> None:
    head, a = linear(k)
    sigma = 0.05
    channel = torch.eye(k, dtype=torch.float64) + a @ covariance() @ a.T / sigma**2
    information = float(torch.linalg.slogdet(channel).logabsdet) / 2
    jacobian = HeadJacobian(PixelHead(head, (0.0,) * 3, (1.0,) * 3), images())
    sigmas = torch.full((k,), sigma, dtype=torch.float64)
    found = mean_gain(jacobian, PRIOR, sigmas)
    assert D * found.estimate.value == pytest.approx(information, rel=1e-9)
    assert found.estimate.standard_error < 1e-9  # every image has the same Jacobian


def test_bayesian_bounds_the_mean_of_the_images_own_values() -> None:
    head, x = curved(), images(6)
    together = fsinfo(head, x, noise_sigma=0.05, kind="bayesian", prior=PRIOR)
    alone = [
        fsinfo(head, one.unsqueeze(0), noise_sigma=0.05, kind="bayesian", prior=PRIOR).value
        for one in x
    ]
    assert np.mean(alone) < together.value  # Jensen
    assert together.standard_error > 0


def test_the_error_over_images_is_that_of_drawing_them_again() -> None:
    head = nn.Sequential(curved(), nn.Tanh())
    generator = torch.Generator().manual_seed(5)
    contrast = torch.rand(400, 1, 1, 1, generator=generator, dtype=torch.float64)
    drawn = torch.rand(400, 3, SIDE, SIDE, generator=generator, dtype=torch.float64) * contrast
    found = [
        fsinfo(head, drawn[i : i + 10], noise_sigma=0.05, kind="bayesian", prior=PRIOR)
        for i in range(0, 400, 10)
    ]
    spread = float(np.std([one.value for one in found], ddof=1))
    told = float(np.mean([one.standard_error for one in found]))
    # Forty draws know a standard deviation to 11 %, four probes an image's trace to a few more.
    assert 0.6 * spread < told < 1.6 * spread


def test_quadrature_tells_the_same_error_over_images_as_the_matrix() -> None:
    head, x = curved(), images(8)
    one, other = (
        fsinfo(
            head, x, noise_sigma=0.05, kind="bayesian", prior=PRIOR, method=method,
            relative_error=0.002,
        )
        for method in ("cholesky", "slq")
    )  # fmt: skip
    assert other.standard_error >= 0.9 * one.standard_error
    assert abs(one.value - other.value) <= 3 * other.standard_error


def test_exact_is_the_determinant_averaged_after_the_logarithm() -> None:
    head, x = curved(), images(4)
    j = jacobians(head, x)
    logs = torch.linalg.slogdet(j.transpose(1, 2) @ j / 0.05**2).logabsdet / (2 * D) - ENTROPY
    found = fsinfo(head, x, noise_sigma=0.05)
    assert found.value == pytest.approx(float(logs.mean()), abs=1e-9)
    assert found.standard_error == pytest.approx(float(logs.std()) / 2, rel=1e-6)
    assert (found.rank, found.dimensions) == (D, D)


def test_lost_rank_is_minus_infinity_and_told() -> None:
    found = fsinfo(linear(40)[0], images(), noise_sigma=0.1)
    assert found.value == -math.inf and found.standard_error == 0.0
    assert (found.rank, found.dimensions, found.method) == (40, D, "rank")
    finite = fsinfo(linear(40)[0], images(), noise_sigma=0.1, kind="bayesian", prior=PRIOR)
    assert math.isfinite(finite.value) and finite.rank == 40


def test_the_paper_s_kind_plus_ln_sigma_is_constant_and_its_default_is_a_tenth() -> None:
    head, x = linear(200)[0], images()
    constant = [fsinfo(head, x, noise_sigma=s, kind="paper").value + math.log(s) for s in (0.2, 5)]
    assert constant[0] == pytest.approx(constant[1], abs=1e-6)
    default = fsinfo(head, x, kind="paper")
    assert default.value == pytest.approx(constant[0] - math.log(0.1), abs=1e-6)
    j = jacobians(head, x)
    diagonal = (j.square().sum(dim=1) / 0.01 + 1e-10).log().mean() / 2 - ENTROPY
    assert default.value == pytest.approx(float(diagonal), abs=1e-9)
    assert default.value >= fsinfo(head, x, noise_sigma=0.1).value  # Hadamard


def test_n_queries_add_half_the_logarithm_of_n_in_each_direction_that_passes() -> None:
    k, sigma = 30, 1e-5
    head, _ = linear(k)
    one = fsinfo(head, images(), noise_sigma=sigma, kind="bayesian", prior=PRIOR).value
    # n fresh-noise queries: the information is n-fold, as if σ were smaller by √n.
    many = fsinfo(head, images(), noise_sigma=sigma / 4, kind="bayesian", prior=PRIOR).value
    assert many - one == pytest.approx(0.5 * math.log(16) * k / D, rel=1e-4)


def test_rescaling_changes_nothing_under_a_noise_that_follows() -> None:
    head = curved()

    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 123.4 * head(x)

    for kind in ("exact", "bayesian"):
        one, other = (
            fsinfo(h, images(), noise_sigma=SnrNoise(30), kind=kind, prior=PRIOR).value
            for h in (head, Scaled())
        )
        assert one == pytest.approx(other, abs=1e-9)


def mixture() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """A Gaussian mixture inside [0, 1]: grid, density, and the score squared."""
    x = np.linspace(0.0, 1.0, 2001)
    parts = [
        0.5 * np.exp(-((x - m) ** 2) / (2 * s**2)) / (s * math.sqrt(2 * math.pi))
        for m, s in ((0.3, 0.06), (0.7, 0.06))
    ]
    density = parts[0] + parts[1]
    slope = -parts[0] * (x - 0.3) / 0.06**2 - parts[1] * (x - 0.7) / 0.06**2
    return x, density, (slope / density) ** 2


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("gain", [1.0, 3.0, 8.0])
def test_one_dimensional_bounds_hold_by_quadrature(sigma: float, gain: float) -> None:
    x, density, square = mixture()
    dx = x[1] - x[0]
    information = float((density * square).sum() * dx)
    z = np.linspace(-1 - 5 * sigma, 1 + 5 * sigma, 2001)
    dz = z[1] - z[0]
    sent = np.tanh(gain * (x - 0.5))
    likelihood = np.exp(-((z[:, None] - sent) ** 2) / (2 * sigma**2)) / (
        sigma * math.sqrt(2 * math.pi)
    )
    joint = likelihood * density * dx
    evidence = joint.sum(axis=1)
    mean = (joint @ x) / np.maximum(evidence, 1e-300)
    mmse = float(((joint @ x**2) - evidence * mean**2).sum() * dz)
    entropy_x = -float((density * np.log(density)).sum() * dx)
    entropy_z = -float((evidence * np.log(np.maximum(evidence, 1e-300))).sum() * dz)
    mutual = entropy_z - 0.5 * math.log(2 * math.pi * math.e * sigma**2)

    class Squash(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return torch.tanh(gain * (pixels - 0.5))

    # The prior enters by its information alone: a Gaussian of the same one stands for it.
    smoothing = 1e-6
    variance = 1.0 / information
    law = PowerLaw((3.0 * (variance - smoothing**2) * 0.25**2,) * 3, (2.0,) * 3, "mixture")
    prior = GaussianPrior((1, 1, 1), law, smoothing=smoothing)
    assert float(prior.variance) == pytest.approx(variance)
    cumulative = np.cumsum(density) * dx
    points = np.interp((np.arange(4000) + 0.5) / 4000, cumulative, x)  # equal shares of the mass
    pixels = torch.from_numpy(points).view(-1, 1, 1, 1)
    found = fsinfo(Squash(), pixels, noise_sigma=sigma, kind="bayesian", prior=prior)
    tolerance = 1e-3  # of the grids
    assert found.value >= -(entropy_x - mutual) - tolerance
    assert mmse >= math.exp(-2 * found.value) / (2 * math.pi * math.e) - tolerance * mmse
    assert mutual <= entropy_x + found.value + tolerance


def test_a_plain_module_is_neither_moved_nor_changed() -> None:
    head = nn.Sequential(nn.Conv2d(3, 4, 3))
    before = {name: (p.dtype, p.requires_grad) for name, p in head.named_parameters()}
    fsinfo(head, images().float(), noise_sigma=0.1, kind="bayesian", prior=PRIOR)
    assert {name: (p.dtype, p.requires_grad) for name, p in head.named_parameters()} == before
    assert splitdeploy.fsinfo is fsinfo


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach() * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_sigma": 0.0}, "expected a positive noise sigma, got 0.0"),
        ({"noise_sigma": -1.0}, "expected a positive noise sigma, got -1.0"),
        ({}, "expected a noise_sigma for kind='exact', got none"),
        ({"noise_sigma": 0.1, "method": "slq"}, "expected kind='bayesian' for method='slq'"),
        ({"noise_sigma": 0.1, "relative_error": 0.0}, "expected a positive relative error"),
        (
            {"noise_sigma": 0.1, "kind": "bayesian", "prior": default_prior((3, 8, 8))},
            r"prior's shape \(3, 8, 8\), got \(3, 6, 6\)",
        ),
    ],
)
def test_refusals(options: dict[str, object], message: str) -> None:
    with pytest.raises(LeakageError, match=message):
        fsinfo(nn.Identity(), images(), **options)  # type: ignore[arg-type]


def test_refusals_of_heads_and_images() -> None:
    with pytest.raises(LeakageError, match="expected a differentiable head"):
        fsinfo(Halved(), images(), noise_sigma=0.1)
    dropout = nn.Sequential(nn.Flatten(), nn.Dropout(0.5)).train()
    with pytest.raises(LeakageError, match="eval mode, got Dropout"):
        fsinfo(dropout, images(), noise_sigma=0.1)
    with pytest.raises(LeakageError, match=r"images on \[0, 1\], got values from .* to 2"):
        fsinfo(nn.Identity(), 2 * torch.ones(1, 3, 4, 4), noise_sigma=0.1)
    with pytest.raises(LeakageError, match=r"at least one image, .* shape \(3, 4, 4\)"):
        fsinfo(nn.Identity(), torch.ones(3, 4, 4), noise_sigma=0.1)
    with pytest.raises(LeakageError, match="at most 4096 input or smashed-data elements"):
        fsinfo(
            nn.Identity(), torch.rand(1, 1, 80, 80), noise_sigma=0.1, kind="bayesian",
            method="cholesky",
        )  # fmt: skip


def test_unknown_names_are_told() -> None:
    with pytest.raises(UnknownNameError, match="unknown kind of FSInfo 'bayes'.* bayesian"):
        fsinfo(nn.Identity(), images(), kind="bayes")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="unknown method 'qr'"):
        fsinfo(nn.Identity(), images(), noise_sigma=0.1, method="qr")  # type: ignore[arg-type]
