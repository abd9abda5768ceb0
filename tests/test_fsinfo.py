"""FSInfo in three kinds against dense determinants, closed forms and quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import splitdeploy
from splitdeploy.attacks.leakage.fsinfo import fsinfo
from splitdeploy.attacks.leakage.prior import default_prior
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
