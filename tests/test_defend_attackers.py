"""Attackers who know the defence: what averaging leaves, and the best estimate of linear heads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from splitdeploy.attacks.defences.adaptive import observe_defended
from splitdeploy.attacks.defences.base import Defended, Perturbation, additive
from splitdeploy.attacks.leakage.noise import FixedNoise
from splitdeploy.attacks.leakage.prior import default_prior
from splitdeploy.attacks.noise_aware import NoiseAware
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.registry import find_attack
from splitdeploy.attacks.spectral import SpectralImage
from splitdeploy.attacks.target import AttackTarget
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.profiles.errors import AttackError, DefenceError

SHAPE = (3, 8, 8)
SIZE = 3 * 8 * 8
FREE = (-50.0, 50.0)
"""Bounds that clamp nothing: the Gaussian prior does not end at 0 and 1."""


def linear_head(channels: int = 6, dtype: torch.dtype = torch.float64) -> PixelHead:
    torch.manual_seed(0)
    return PixelHead(nn.Conv2d(3, channels, 3, padding=1), (0.4,) * 3, (0.5,) * 3).eval().to(dtype)


def matrix(head: PixelHead) -> tuple[Tensor, Tensor]:
    """A and b of an affine head."""
    with torch.no_grad():
        base = head.features(torch.zeros(1, *SHAPE, dtype=torch.float64))
        return (head.features(torch.eye(SIZE, dtype=torch.float64).view(-1, *SHAPE)) - base).T, base


def from_prior(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(count, *SHAPE, generator=generator, dtype=torch.float64)
    return SpectralImage(SHAPE, dtype=torch.float64).pixels(white)


@pytest.mark.parametrize("sigma", [1.0, 0.1, 0.02])
def test_it_is_wieners_estimate_for_a_linear_head(sigma: float) -> None:
    head, pixels = linear_head(), from_prior(6)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        clean = head(pixels)[0]
    sent = clean + sigma * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    target = AttackTarget(
        (sent,), head, SHAPE, bounds=FREE, noise_sigma=(torch.tensor(sigma),)
    )  # fmt: skip
    found = NoiseAware(passes=2000, tolerance=1e-9)(target).pixels
    a, base = matrix(head)
    prior = default_prior(SHAPE)
    covariance = prior.apply_half(prior.apply_half(torch.eye(SIZE, dtype=torch.float64)))
    noisy = a @ covariance @ a.T + sigma**2 * torch.eye(len(a), dtype=torch.float64)
    gain = torch.linalg.solve(noisy, a @ covariance)
    mean = torch.full((SIZE,), 0.5, dtype=torch.float64)
    wiener = mean + (sent.flatten(1) - base - a @ mean) @ gain
    # Reconstructions are handed out in float32.
    assert torch.allclose(found.double().flatten(1), wiener, atol=2e-3 * sigma + 1e-5)


def test_no_attacker_is_better_than_the_bound_for_any() -> None:
    head, pixels, sigma = linear_head(), from_prior(200, seed=5), 0.3
    a, _ = matrix(head)
    defended = Defended(head, nn.Identity(), (additive("gaussian", sigma),), "noise")
    target = observe_defended(defended, pixels, rounding=FixedNoise(1e-9))
    target = AttackTarget(
        target.observation, head, SHAPE, bounds=FREE, noise_sigma=target.noise_sigma
    )
    found = NoiseAware(passes=500, tolerance=1e-7)(target).pixels.double()
    each = (found - pixels).square().flatten(1).mean(1)
    # For a linear head and Gaussian pictures the least error of any attacker is known exactly.
    inverse = torch.linalg.inv(
        default_prior(SHAPE).apply_half(
            default_prior(SHAPE).apply_half(torch.eye(SIZE, dtype=torch.float64))
        )
    )
    bound = float(torch.linalg.inv(inverse + a.T @ a / sigma**2).trace()) / SIZE
    error = float(each.std()) / len(each) ** 0.5
    assert abs(float(each.mean()) - bound) < 4 * error  # Wiener's estimate attains it


@pytest.mark.parametrize("queries", [1, 4, 25])
def test_averaging_leaves_sigma_over_the_root_of_n(queries: int) -> None:
    head, pixels = linear_head(dtype=torch.float32), torch.rand(4, *SHAPE)
    gate = torch.linspace(0.5, 2.0, 6).view(1, 6, 1, 1)
    scale = torch.linspace(0.1, 0.4, 6).view(1, 6, 1, 1)
    for kind, factor in (("gaussian", 1.0), ("laplace", 2**0.5)):
        noise = Perturbation(kind, gate, torch.randn(6, 8, 8), scale)  # type: ignore[arg-type]
        defended = Defended(head, nn.Identity(), (noise,), kind)
        target = observe_defended(defended, pixels, queries=queries, seed=3)
        assert target.noise_sigma is not None and target.pixel_head is head
        want = factor * scale / gate / queries**0.5
        assert torch.allclose(target.noise_sigma[0].expand(1, 6, 8, 8), want.expand(1, 6, 8, 8),
                              rtol=1e-5)  # fmt: skip
        with torch.no_grad():
            away = (target.observation[0] - head(pixels)[0]) / want
        # 1,536 elements: the root mean square of unit noise is 1 within 4/√(2·1536) or, for
        # Laplace's kurtosis of 6, 4·√(5/4/1536).
        assert float(away.square().mean().sqrt()) == pytest.approx(1.0, abs=0.12)
        assert abs(float(away.mean())) < 4 / 1536**0.5


def test_elements_that_never_pass_are_left_out() -> None:
    head, pixels = linear_head(dtype=torch.float32), torch.rand(2, *SHAPE)
    gate = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]).view(1, 6, 1, 1)
    pruned = Perturbation("none", gate, torch.zeros(()), torch.zeros(()))
    defended = Defended(head, nn.Identity(), (pruned,), "pruned")
    target = observe_defended(defended, pixels)
    assert target.pixel_head is not None and target.pixel_head is not head
    with torch.no_grad():
        expected = target.pixel_head(pixels)[0]
    assert torch.allclose(target.observation[0], expected, atol=1e-6)
    assert bool((expected[:, [1, 4]] == 0).all()) and bool((expected[:, 0] != 0).any())
    assert find_attack("least-squares").preset().applies(target)


@pytest.mark.parametrize("queries", [1, 3])
def test_what_dropout_let_through_is_known(queries: int) -> None:
    head = PixelHead(
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()), (0.4,) * 3, (0.5,) * 3
    )
    head.eval()
    pixels = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0))
    mask = Perturbation("dropout", torch.ones(()), torch.zeros(()), torch.zeros(()), 0.5)
    target = observe_defended(
        Defended(head, nn.Identity(), (mask,), "dropout"), pixels, queries=queries, seed=2
    )
    with torch.no_grad():
        clean = head(pixels)[0]
    seen = target.observation[0] != 0
    assert torch.allclose(target.observation[0][seen], clean[seen], rtol=1e-5)
    assert float(seen.sum() / (clean != 0).sum()) == pytest.approx(1 - 0.5**queries, abs=0.08)
    assert target.noise_sigma is not None
    hidden = clean[~seen].square().mean().sqrt()
    assert float(target.noise_sigma[0][~seen].mean()) == pytest.approx(float(hidden), rel=0.15)
    assert float(target.noise_sigma[0][seen].max()) < 1e-4 * float(hidden)


def test_a_noise_aware_attack_beats_one_that_is_not() -> None:
    head = PixelHead(
        nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU()), (0.4,) * 3, (0.5,) * 3
    ).eval()
    pixels = from_prior(8).float().clamp(0, 1)
    for sigma in (0.3, 1.0):
        defended = Defended(head, nn.Identity(), (additive("gaussian", sigma),), "noise")
        target = observe_defended(defended, pixels, seed=1)
        aware, other = (
            float((find_attack(name).preset()(target).pixels - pixels).square().mean())
            for name in ("noise-aware", "rmle")
        )
        assert aware < other


def test_sigma_is_granted_with_the_weights_alone() -> None:
    target = AttackTarget(
        (torch.zeros(1, 2),), None, SHAPE, noise_sigma=(torch.ones(()),)
    )  # fmt: skip
    assert target.granted(ThreatModel(weights=True)).noise_sigma is not None
    assert target.granted(ThreatModel(weights=False)).noise_sigma is None


def test_refusals() -> None:
    seen = (torch.zeros(2, 4),)
    with pytest.raises(AttackError, match=r"positive noise sigma for each of 1 .*got \[0.0\]"):
        AttackTarget(seen, None, SHAPE, noise_sigma=(torch.zeros(()),))
    with pytest.raises(AttackError, match=r"broadcasts to \[2, 4\], got \[3\]"):
        AttackTarget(seen, None, SHAPE, noise_sigma=(torch.ones(3),))
    with pytest.raises(AttackError, match="expected at least 2 passes, a history of at least 1"):
        NoiseAware(passes=1)
    head = linear_head(dtype=torch.float32)
    with pytest.raises(AttackError, match="head and observation are of different cuts"):
        NoiseAware()(AttackTarget(seen, head, SHAPE))
    two = Defended(head, nn.Identity(), (additive("gaussian", 1.0),) * 2, "two")
    with pytest.raises(DefenceError, match="expected at least 1 query, got 0"):
        observe_defended(two, torch.rand(1, *SHAPE), queries=0)
    with pytest.raises(DefenceError, match="expected 2 boundary tensors, one for each"):
        observe_defended(two, torch.rand(1, *SHAPE), send=lambda pixels, generator: head(pixels))
