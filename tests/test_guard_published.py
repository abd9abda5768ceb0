"""The published guard: it hits its target, and its σ leaks as the score's covariance says."""

from __future__ import annotations

import math

import pytest
import torch
from guard_cases import (
    D,
    convolutional_victim,
    head_matrix,
    linear_victim,
    on_pixels,
    pictures,
    two_tensor_victim,
)
from torch import Tensor, nn
from torch.func import grad, jacrev, vmap

from splitdeploy.attacks.defences import sigma_leak as sigma_leak_module
from splitdeploy.attacks.defences.guard_published import GuardPublished, published_sigma
from splitdeploy.attacks.defences.sigma_leak import sigma_leak
from splitdeploy.attacks.defences.target import Target, fsinfo_to_mse
from splitdeploy.attacks.leakage.fsinfo import fsinfo
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import DefenceError


def curved_head(activation: nn.Module, seed: int = 0) -> PixelHead:
    """Four pixels to six elements."""
    torch.manual_seed(seed)
    return on_pixels(nn.Sequential(nn.Flatten(), nn.Linear(4, 6), activation, nn.Linear(6, 6)))


def test_sigma_is_the_closed_form_and_hits_the_target() -> None:
    victim = linear_victim(20)
    sigma = published_sigma(victim.head, victim.images, -1.0)
    singular = torch.linalg.svdvals(head_matrix(victim))
    expected = math.exp(float(singular.log().mean()) + 1.0) / math.sqrt(2 * math.pi * math.e)
    assert sigma.tolist() == pytest.approx([expected] * len(victim.images), rel=1e-9)
    defended = GuardPublished(Target("fsinfo", -1.0)).fit(victim)
    measured = fsinfo(victim.head, victim.images, noise_sigma=defended.typical_sigma)
    assert measured.value == pytest.approx(-1.0, abs=1e-9)
    by_error = GuardPublished(Target("mse", fsinfo_to_mse(-1.0))).fit(victim)
    assert by_error.typical_sigma == pytest.approx(defended.typical_sigma)


def test_what_is_sent_has_the_sigma_of_its_picture() -> None:
    victim = convolutional_victim()
    defended = GuardPublished(Target("fsinfo", 0.0)).fit(victim)
    pixels = victim.images[:2]
    sigma = defended.sigma_of(pixels)
    assert float(sigma[0]) != float(sigma[1])
    (clean,) = victim.head(pixels)
    generator = torch.Generator().manual_seed(0)
    sent = torch.stack([defended.send(pixels, generator)[0] for _ in range(300)])
    # 300 draws of 32 elements: a standard deviation to 0.7 %, three times and a bit.
    spread = (sent - clean).flatten(2).square().mean(dim=(0, 2)).sqrt()
    torch.testing.assert_close(spread.detach(), sigma, rtol=0.025, atol=0)


def test_sigma_is_computed_once_for_each_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    victim = convolutional_victim()
    defended = GuardPublished(Target("fsinfo", 0.0)).fit(victim)
    before = defended.sigma_of(victim.images)
    monkeypatch.setattr(
        "splitdeploy.attacks.defences.guard_published.published_sigma",
        lambda *_: pytest.fail("computed again"),
    )
    order = torch.tensor([3, 1, 5])
    torch.testing.assert_close(defended.sigma_of(victim.images[order]), before[order])


def test_the_rank_of_several_tensors_counts_together() -> None:
    victim = two_tensor_victim()
    with pytest.raises(DefenceError, match=f"full rank {D} at every picture .* got 12: its sigma"):
        GuardPublished(Target("fsinfo", 0.0)).fit(victim)


def test_a_rank_that_is_not_full_is_refused_with_the_rank() -> None:
    # The published σ would be 0: what passes would pass in full.
    with pytest.raises(DefenceError, match=f"full rank {D} .* got 5: .* sent without noise"):
        GuardPublished(Target("fsinfo", -1.0)).fit(linear_victim(5))


def test_large_pictures_and_gains_are_refused() -> None:
    head = on_pixels(nn.Identity())
    with pytest.raises(DefenceError, match="at most 4096 elements .* got 4900"):
        published_sigma(head, pictures(1, side=70), 0.0)
    with pytest.raises(DefenceError, match="no prior to gain upon; take the form 'bayesian'"):
        GuardPublished(Target("gain", 0.5))


def test_smashed_data_alone_cannot_be_perturbed() -> None:
    victim = convolutional_victim()
    defended = GuardPublished(Target("fsinfo", 0.0)).fit(victim)
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(DefenceError, match="expected pictures .* got smashed data: call send"):
        defended.perturb(victim.head(victim.images), generator)
    assert not defended.gaussian
    with pytest.raises(DefenceError, match="expected a defence by Gaussian noise"):
        defended.sigma(victim.head(victim.images))


def log_sigma(head: PixelHead, x: Tensor, target: float) -> Tensor:
    """The closed form by another road: the Jacobian by reverse mode, differentiated as a whole."""
    j = jacrev(lambda p: head.features(p.view(1, 1, 2, 2))[0])(x)
    d = len(x)
    return (
        torch.linalg.slogdet(j.T @ j).logabsdet / (2 * d)
        - target
        - 0.5 * math.log(2 * math.pi * math.e)
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_the_leak_of_sigma_is_the_covariance_of_the_score(seed: int) -> None:
    head, target = curved_head(nn.Tanh(), seed), 0.5
    pixels = pictures(1, side=2, seed=seed)
    x, k, d = pixels.flatten(), 6, 4
    sigma = published_sigma(head, pixels, target)
    assert float(sigma.log()) == pytest.approx(float(log_sigma(head, x, target).detach()), abs=1e-9)
    leak = sigma_leak(head, pixels, sigma)
    expected = grad(lambda p: log_sigma(head, p, target))(x)
    torch.testing.assert_close(leak.gradient[0], expected.detach(), rtol=1e-6, atol=1e-9)

    def log_density(p: Tensor, z: Tensor) -> Tensor:
        s = log_sigma(head, p, target)
        gap = z - head.features(p.view(1, 1, 2, 2))[0]
        return -k * s - gap.square().sum() * (-2.0 * s).exp() / 2.0

    count = 20_000
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, k, generator=generator, dtype=torch.float64)
    z = head.features(pixels).detach() + sigma * noise
    with torch.no_grad():
        score = vmap(grad(log_density), in_dims=(None, 0))(x, z)
    observed = score.T @ score / count
    j = jacrev(lambda p: head.features(p.view(1, 1, 2, 2))[0])(x).detach()
    plain = j.T @ j / sigma.square()
    formula = plain + 2 * k * torch.outer(expected, expected).detach()
    torch.testing.assert_close(observed, formula, rtol=0.05, atol=0.02 * float(formula.max()))
    grown = 0.5 * float(torch.linalg.slogdet(observed).logabsdet - torch.linalg.slogdet(plain)[1])
    # ½·ln det of a covariance from N samples has an error of about √(d/2N) for Gaussian scores; a
    # score has heavier tails, so six times that.
    assert grown == pytest.approx(float(leak.nats[0]), abs=6 * math.sqrt(d / (2 * count)))
    assert float(leak.nats[0]) > 0


def test_a_piecewise_linear_head_leaks_by_sigma_between_pictures_only() -> None:
    head = curved_head(nn.LeakyReLU(0.3))
    pixels = pictures(12, side=2) * 4 - 2
    sigma = published_sigma(head, pixels, 0.0)
    leak = sigma_leak(head, pixels, sigma)
    assert float(leak.gradient.abs().max()) == 0.0
    assert float(leak.nats.max()) == 0.0
    expected = 0.5 * math.log1p(2 * 6 * float(sigma.log().var()))
    assert leak.between_pictures_nats == pytest.approx(expected)
    assert expected > 0.01
    assert math.isnan(sigma_leak(head, pixels[:1], sigma[:1]).between_pictures_nats)


def test_the_leak_does_not_depend_on_how_the_columns_are_grouped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    victim = convolutional_victim(2)
    sigma = published_sigma(victim.head, victim.images, 0.0)
    whole = sigma_leak(victim.head, victim.images, sigma)
    monkeypatch.setattr(sigma_leak_module, "_CHUNK_ELEMENTS", 200)
    torch.testing.assert_close(
        sigma_leak(victim.head, victim.images, sigma).gradient, whole.gradient
    )


def test_no_leak_is_told_where_sigma_is_zero_or_the_jacobian_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    victim = linear_victim(5)
    ones = torch.ones(len(victim.images))
    with pytest.raises(DefenceError, match=f"full rank {D}, got one of 5: the published"):
        sigma_leak(victim.head, victim.images, ones)
    monkeypatch.setattr(sigma_leak_module, "LEAK_ELEMENTS", 10)
    with pytest.raises(DefenceError, match=r"at most 10 elements .* got 5 by 16"):
        sigma_leak(victim.head, victim.images, ones)
