"""One σ for a target, against closed forms of linear heads."""

from __future__ import annotations

import pytest
import torch
from guard_cases import (
    PRIOR,
    D,
    closed_gain,
    convolutional_victim,
    covariance,
    head_matrix,
    linear_victim,
    on_pixels,
    pictures,
    two_tensor_victim,
)
from torch import nn

from splitdeploy.attacks.defences.base import Victim
from splitdeploy.attacks.defences.calibration import Budget
from splitdeploy.attacks.defences.guard_bayesian import GuardBayesian
from splitdeploy.attacks.defences.target import Target, parse_target
from splitdeploy.attacks.leakage.exact import GAUSSIAN_ENTROPY
from splitdeploy.attacks.leakage.fsinfo import fsinfo
from splitdeploy.attacks.leakage.noise import ElementNoise, PrecisionNoise
from splitdeploy.profiles.errors import DefenceError

OWN = -PRIOR.log_det() / (2 * D) - GAUSSIAN_ENTROPY


@pytest.mark.parametrize("text", ["gain:0.5", "gain:0.05", "fsinfo:1.2", "mse:0.01"])
@pytest.mark.parametrize("k", [5, D, 40])
def test_a_linear_head_leaks_as_much_as_was_asked_for(text: str, k: int) -> None:
    target, victim = parse_target(text), linear_victim(k)
    guarded = GuardBayesian(target).fit(victim)
    sigma = guarded.sigma(victim.head(victim.images))
    assert closed_gain(victim, sigma) + OWN == pytest.approx(target.fsinfo(OWN), abs=1e-6)
    found = guarded.calibration
    assert found.fsinfo.value == pytest.approx(target.fsinfo(OWN), abs=1e-6)
    assert found.gain.value == pytest.approx(closed_gain(victim, sigma), abs=1e-6)
    assert found.fsinfo.standard_error < 1e-6  # a linear head is alike at all pictures
    information = (head_matrix(victim) / sigma.unsqueeze(1)).T @ (
        head_matrix(victim) / sigma.unsqueeze(1)
    )
    # Twenty power steps, from below.
    assert found.fil_max == pytest.approx(float(torch.linalg.eigvalsh(information).max()), rel=0.05)
    van_trees = torch.linalg.inv(torch.linalg.inv(covariance()) + information).trace() / D
    # By rings and diagonals it is at most the whole matrix's, up to two probes' error.
    assert 0 < found.mse_lower_bound < 1.3 * float(van_trees)


def test_the_information_of_a_curved_head_is_averaged_before_the_determinant() -> None:
    victim = convolutional_victim()
    guarded = GuardBayesian(Target("gain", 0.4), prior=PRIOR).fit(victim)
    noise = ElementNoise(tuple(p.scale for p in guarded.perturbations), "guard")
    kind = fsinfo(victim.head, victim.images, noise_sigma=noise, kind="bayesian", prior=PRIOR)
    assert kind.value == pytest.approx(0.4 + OWN, abs=1e-6)
    assert guarded.calibration.fsinfo.standard_error == pytest.approx(
        kind.standard_error, rel=0.5
    )  # there by probes, here exactly
    assert guarded.calibration.pictures == 6


def test_each_tensor_has_a_sigma_of_its_size() -> None:
    victim = two_tensor_victim()
    guarded = GuardBayesian(Target("gain", 0.3)).fit(victim)
    a, b = victim.head(victim.images)
    sigma_a, sigma_b = (float(p.scale) for p in guarded.perturbations)
    ratio = float((b.square().mean() / a.square().mean()).sqrt().detach())
    assert sigma_b / sigma_a == pytest.approx(ratio, rel=1e-5)
    rms = float(a.square().mean().sqrt().detach())
    assert guarded.calibration.relative_sigma == pytest.approx(sigma_a / rms, rel=1e-5)
    assert "gain:0.3" in guarded.text


def test_rescaled_features_get_a_rescaled_sigma() -> None:
    victim = linear_victim(12)
    scaled = Victim(
        on_pixels(nn.Sequential(victim.head.head, Scale(7.0))), victim.tail, victim.images
    )
    one, other = (GuardBayesian(Target("gain", 0.3)).fit(v) for v in (victim, scaled))
    assert float(other.perturbations[0].scale) == pytest.approx(
        7.0 * float(one.perturbations[0].scale), rel=1e-5
    )
    assert other.calibration.fil_max == pytest.approx(one.calibration.fil_max, rel=1e-4)


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        (
            "mse:10",
            r"got mse:10: pictures of the prior have mse:0\.0\d+ .* nearest is mse:0",
        ),
        ("fsinfo:-5", r"got fsinfo:-5: pictures .* fsinfo:-?\d.* nearest is fsinfo:.*sigma of \d"),
    ],
)
def test_a_target_that_no_noise_reaches_is_told_with_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(DefenceError, match=nearest):
        GuardBayesian(parse_target(text)).fit(linear_victim(12))


def test_a_target_that_rounding_meets_already_is_told() -> None:
    guard = GuardBayesian(Target("gain", 4.0), rounding=PrecisionNoise("int8"))
    with pytest.raises(DefenceError, match=r"needs noise, got gain:4: without .* leaks gain:\d"):
        guard.fit(linear_victim(12))


def test_a_head_that_tells_nothing_needs_no_guard() -> None:
    victim = linear_victim(3)
    with torch.no_grad():
        victim.head.head[1].weight.zero_()
    with pytest.raises(DefenceError, match="no guard is needed"):
        GuardBayesian(Target("gain", 0.1)).fit(victim)


def test_no_pictures_are_told() -> None:
    victim = linear_victim(3)
    empty = Victim(victim.head, victim.tail, pictures(0))
    with pytest.raises(DefenceError, match="at least 1 picture to calibrate by, got 0"):
        GuardBayesian(Target("gain", 0.1)).fit(empty)
    with pytest.raises(DefenceError, match="got 6 of which 0 may be taken"):
        GuardBayesian(Target("gain", 0.1), budget=Budget(pictures=0)).fit(victim)
