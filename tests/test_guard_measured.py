"""What a defended model leaks, measured: closed forms of linear heads, one query and many."""

from __future__ import annotations

import math

import pytest
import torch
from guard_cases import (
    PRIOR,
    D,
    closed_gain,
    convolutional_victim,
    head_matrix,
    linear_victim,
    pictures,
    two_tensor_victim,
)

from splitdeploy.attacks.defences import leverage as leverage_module
from splitdeploy.attacks.defences.base import Defended, Perturbation, additive
from splitdeploy.attacks.defences.defended_leakage import deployed_noise, measure_defended
from splitdeploy.attacks.defences.guard_bayesian import GuardBayesian
from splitdeploy.attacks.defences.leverage import image_error, leverages
from splitdeploy.attacks.defences.target import Target
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.mean_information import MeanWhitened, mean_gain
from splitdeploy.attacks.leakage.noise import PrecisionNoise
from splitdeploy.profiles.errors import DefenceError, LeakageError


@pytest.mark.parametrize("queries", [1, 25])
def test_queries_of_one_picture_leak_as_one_with_weaker_noise(queries: int) -> None:
    victim = linear_victim(12)
    guarded = GuardBayesian(Target("gain", 0.2)).fit(victim)
    record = measure_defended(guarded, pictures(3, seed=5), PRIOR, queries=queries)
    sigma = guarded.sigma(victim.head(victim.images)) / math.sqrt(queries)
    assert record.bayesian_fsinfo is not None
    shift = record.fsinfo.value - record.gain.value
    assert record.bayesian_fsinfo.value - shift == pytest.approx(
        closed_gain(victim, sigma), abs=1e-6
    )
    # Image by image it is the same for a linear head; that figure comes from probes.
    assert record.gain.value == pytest.approx(
        closed_gain(victim, sigma), abs=4 * record.gain.standard_error + 1e-6
    )
    assert ("queries" in record.noise) == (queries > 1)
    assert "FSInfoGuard for gain:0.2" in record.noise
    if queries == 1:
        assert closed_gain(victim, sigma) == pytest.approx(0.2, abs=1e-6)


def test_information_grows_with_the_queries() -> None:
    guarded = GuardBayesian(Target("gain", 0.3)).fit(convolutional_victim())
    one, nine = (measure_defended(guarded, pictures(4, seed=5), PRIOR, queries=q) for q in (1, 9))
    assert nine.dfil.value == pytest.approx(9 * one.dfil.value, rel=1e-6)
    assert nine.fil_max == pytest.approx(9 * one.fil_max, rel=1e-6)
    assert one.mse_lower_bound is not None
    assert nine.mse_lower_bound is not None
    assert nine.mse_lower_bound < one.mse_lower_bound
    with pytest.raises(LeakageError, match="at least 1 query, got 0"):
        measure_defended(guarded, pictures(1), PRIOR, queries=0)


def test_a_gate_counts_for_the_signal_and_rounding_for_the_noise() -> None:
    victim = two_tensor_victim()
    gate = torch.tensor([[1.0, 0.5, 0.0, 0.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    first = Perturbation("gaussian", gate, torch.ones(()), torch.tensor(0.3))
    defended = Defended(victim.head, victim.tail, (first, additive("gaussian", 0.0)), "by hand")
    images = pictures(3)
    noise = deployed_noise(defended, images, rounding=PrecisionNoise("int8"))
    with torch.no_grad():
        a, b = victim.head(images)
    step_a, step_b = (PrecisionNoise("int8").tensor_sigma(t) for t in (gate * a, b))
    assert noise.sigmas[0].flatten().tolist() == pytest.approx([math.hypot(0.3, step_a)] * 7)
    assert noise.sigmas[1].flatten().tolist() == pytest.approx([step_b] * 5)
    record = measure_defended(defended, images, PRIOR, rounding=PrecisionNoise("int8"))
    gates = torch.cat([gate[0], torch.ones(5, dtype=torch.float64)])
    sigma = torch.tensor([math.hypot(0.3, step_a)] * 7 + [step_b] * 5, dtype=torch.float64)
    # A gate of g on the signal is a noise of σ/g; one of 0 leaves nothing.
    expected = closed_gain(victim, sigma / gates.clamp_min(1e-30))
    assert record.bayesian_fsinfo is not None
    shift = record.fsinfo.value - record.gain.value
    assert record.bayesian_fsinfo.value - shift == pytest.approx(expected, abs=1e-6)


def test_other_noise_has_no_fisher_information() -> None:
    victim = linear_victim(3)
    defended = Defended(victim.head, victim.tail, (additive("laplace", 0.1),), "Laplace noise")
    with pytest.raises(DefenceError, match="got Laplace noise: judge it by attacks"):
        measure_defended(defended, pictures(1), PRIOR)


def whitened(k: int, sigma: float) -> MeanWhitened:
    victim = linear_victim(k)
    jacobian = HeadJacobian(victim.head, victim.images[:2])
    return MeanWhitened(jacobian, PRIOR, torch.full((k,), sigma, dtype=torch.float64), seed=0)


@pytest.mark.parametrize("k", [5, 30])
def test_leverages_are_the_gradient_of_the_determinant(k: int) -> None:
    victim, step = linear_victim(k), 1e-5
    found = leverages(whitened(k, 0.1)).sum(dim=0)
    for i in (0, 3):
        up, down = (torch.full((k,), 0.1, dtype=torch.float64) for _ in range(2))
        up[i] *= math.exp(step)
        down[i] *= math.exp(-step)
        slope = (closed_gain(victim, up) - closed_gain(victim, down)) / (2 * step)
        # ln det = 2d·gain, and ln σ² = 2·ln σ.
        assert -slope * D == pytest.approx(float(found[i]), rel=1e-6)


@pytest.mark.parametrize("k", [5, 30])
def test_leverages_by_probes_are_the_exact_ones(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = leverages(whitened(k, 0.1))
    monkeypatch.setattr(leverage_module, "_DENSE_ELEMENTS", 0)
    probed = leverages(whitened(k, 0.1), probes=150)
    # Each is a mean of 150 squares of Gaussians: 12 %, four times.
    torch.testing.assert_close(probed, exact, rtol=0.48, atol=1e-4)
    assert float(probed.sum()) == pytest.approx(float(exact.sum()), rel=0.07)


def test_the_error_of_the_choice_of_pictures() -> None:
    victim = convolutional_victim()
    values, errors = [], []
    for seed in range(16):
        jacobian = HeadJacobian(victim.head, pictures(12, seed=seed))
        sigma = torch.full((jacobian.outputs,), 0.05, dtype=torch.float64)
        values.append(mean_gain(jacobian, PRIOR, sigma).estimate.value)
        whole = MeanWhitened(jacobian, PRIOR, sigma, seed=0)
        errors.append(image_error(leverages(whole), D))
    # A spread over 16 repetitions is known to 18 %, nearly three times.
    found = sum(errors) / len(errors)
    assert found == pytest.approx(float(torch.tensor(values).std()), rel=0.5)
    assert image_error(torch.ones(1, 3), D) == 0.0


def test_dead_heads_have_no_largest_direction() -> None:
    victim = linear_victim(3)
    with torch.no_grad():
        victim.head.head[1].weight.zero_()
        assert float(head_matrix(victim).abs().max()) == 0.0
    jacobian = HeadJacobian(victim.head, victim.images)
    nothing = MeanWhitened(jacobian, PRIOR, torch.ones(3, dtype=torch.float64), seed=0)
    assert leverage_module.largest_information(nothing) == 0.0
