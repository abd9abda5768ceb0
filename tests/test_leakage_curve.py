"""One decomposition for every strength of the noise, against a determinant at each."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from splitdeploy.attacks.leakage.curve import GainCurve, gain_curve
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.mean_information import mean_gain
from splitdeploy.attacks.leakage.prior import default_prior
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import LeakageError

SIDE = 6
PRIOR = default_prior((3, SIDE, SIDE))


def jacobian(n: int = 3, k: int = 8) -> HeadJacobian:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, k, 3), nn.ReLU(), nn.Conv2d(k, k, 3), nn.Tanh())
    head = PixelHead(layers, (0.0,) * 3, (1.0,) * 3).double().eval()
    return HeadJacobian(head, torch.rand(n, 3, SIDE, SIDE, dtype=torch.float64))


def shape(j: HeadJacobian) -> torch.Tensor:
    return torch.linspace(0.01, 0.05, j.outputs, dtype=torch.float64)


def dense(mean: bool) -> tuple[HeadJacobian, GainCurve]:
    j = jacobian()
    return j, gain_curve(j, PRIOR, shape(j), mean=mean)


@pytest.mark.parametrize("factor", [1e-2, 1.0, 30.0])
def test_the_mean_s_curve_is_its_determinant_at_every_noise(factor: float) -> None:
    j, curve = dense(mean=True)
    expected = mean_gain(j, PRIOR, factor * shape(j)).estimate.value
    assert curve.gain(factor).value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("factor", [1e-2, 1.0, 30.0])
def test_the_images_curve_is_the_mean_of_theirs(factor: float) -> None:
    j, curve = dense(mean=False)
    half = PRIOR.apply_half(torch.eye(j.inputs, dtype=torch.float64))
    whitened = j.dense() @ half / (factor * shape(j)).unsqueeze(1)
    grams = torch.eye(j.outputs) + whitened @ whitened.transpose(1, 2)
    values = torch.linalg.slogdet(grams).logabsdet / (2 * j.inputs)
    found = curve.gain(factor)
    assert found.value == pytest.approx(float(values.mean()), rel=1e-9)
    assert found.standard_error == pytest.approx(float(values.std()) / 3**0.5, rel=1e-6)


def test_a_target_gives_its_noise_back() -> None:
    _, curve = dense(mean=True)
    factor = curve.factor_for(gain=0.2)
    assert curve.gain(factor).value == pytest.approx(0.2, rel=1e-9)
    wanted = curve.fsinfo(3.0).value
    assert curve.factor_for(fsinfo=wanted) == pytest.approx(3.0, rel=1e-6)


def test_a_target_that_no_noise_reaches_tells_the_nearest() -> None:
    _, curve = dense(mean=True)
    with pytest.raises(LeakageError, match="expected a gain between .* nearest that noise reaches"):
        curve.factor_for(gain=-0.1)
    nearest = f"nearest that noise reaches is {curve.shift:.4g}"
    with pytest.raises(LeakageError, match=f"expected a FSInfo between .* {nearest}"):
        curve.factor_for(fsinfo=curve.shift - 1)


def test_refusals() -> None:
    j, curve = dense(mean=True)
    with pytest.raises(LeakageError, match="a positive factor on the noise, got 0"):
        curve.gain(0)
    with pytest.raises(LeakageError, match="a gain or an fsinfo, got None and None"):
        curve.factor_for()
    with pytest.raises(LeakageError, match=r"positive sigma for each of 32 .* shape \(3,\)"):
        gain_curve(j, PRIOR, torch.ones(3), mean=True)
    with pytest.raises(LeakageError, match="prior's shape"):
        gain_curve(j, default_prior((3, 8, 8)), shape(j), mean=True)
