"""One decomposition for every strength of the noise, against a determinant at each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from splitdeploy.attacks.leakage import dense_spectrum, mean_information
from splitdeploy.attacks.leakage.curve import GainCurve, gain_curve
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.lanczos import rademacher
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


def shape(j: HeadJacobian) -> Tensor:
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
    with pytest.raises(LeakageError, match=f"expected an FSInfo between .* {nearest}"):
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


def white_informations(j: HeadJacobian) -> Tensor:
    """G_x of each image, by dense algebra: ``[n, d, d]``."""
    half = PRIOR.apply_half(torch.eye(j.inputs, dtype=torch.float64))
    rows = j.dense() @ half / shape(j).unsqueeze(1)
    return rows.transpose(1, 2) @ rows


@pytest.fixture
def no_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_spectrum, "DENSE_LIMIT", 0)


@pytest.mark.usefixtures("no_matrices")
@pytest.mark.parametrize("steps", [6, 12, 40])
def test_one_quadrature_is_within_its_error_at_every_noise(steps: int) -> None:
    j = jacobian(n=1)
    eigenvalues = torch.linalg.eigvalsh(white_informations(j)[0]).clamp_min(0)
    factors = torch.logspace(-1, 2, 7, dtype=torch.float64)
    truth = torch.log1p(eigenvalues / factors.square().unsqueeze(1)).sum(dim=1) / (2 * j.inputs)
    inside = 0
    for seed in range(30):
        curve = gain_curve(j, PRIOR, shape(j), mean=False, steps=steps, seed=seed)
        assert curve.method == "slq"
        found = [curve.gain(float(f)) for f in factors]
        inside += sum(
            abs(e.value - float(t)) <= 2 * e.standard_error
            for e, t in zip(found, truth, strict=True)
        )
    # Two standard errors hold 95 in 100; a seed that misses does so at most factors at once.
    assert inside >= 0.9 * 30 * len(factors)


@pytest.mark.usefixtures("no_matrices")
def test_quadrature_finds_the_noise_for_a_target() -> None:
    j = jacobian(n=2)
    curve = gain_curve(j, PRIOR, shape(j), mean=True, steps=60, probes=10)
    found = curve.gain(4.0)
    truth = mean_gain(j, PRIOR, 4.0 * shape(j)).estimate.value
    assert found.value == pytest.approx(truth, abs=3 * found.standard_error)
    assert curve.factor_for(gain=found.value) == pytest.approx(4.0, rel=1e-6)


@pytest.mark.usefixtures("no_matrices")
def test_a_deadline_leaves_one_step_and_a_wide_bracket() -> None:
    j = jacobian(n=1)
    late = gain_curve(j, PRIOR, shape(j), mean=False, steps=30, deadline_s=0.0)
    patient = gain_curve(j, PRIOR, shape(j), mean=False, steps=30)
    assert len(late.spectra[0].upper[0].values) == 1
    assert late.spectra[0].nats(1.0).half_width > 100 * patient.spectra[0].nats(1.0).half_width
    assert late.gain(1.0).standard_error > patient.gain(1.0).standard_error


@pytest.mark.parametrize("k", [4, 8])
def test_the_images_own_shares_are_the_traces(k: int) -> None:
    # k = 4 gives fewer rows than pixels, so that the matrix is made on the other side.
    j = jacobian(n=3, k=k)
    curve = gain_curve(j, PRIOR, shape(j), mean=True)
    response = curve.spectra[0].response
    assert response is not None
    each = white_informations(j)
    inverse = torch.linalg.inv(4.0 * torch.eye(j.inputs) + each.mean(dim=0))
    expected = torch.einsum("ij,nji->n", inverse, each)
    found = torch.from_numpy(response.parts @ (1.0 / (4.0 + response.values)))
    # By rows it is exact; one probe of 108 signs knows a trace to a few parts in ten.
    torch.testing.assert_close(found, expected, rtol=1e-9 if k == 4 else 0.5, atol=0.0)


@pytest.mark.usefixtures("no_matrices")
def test_the_images_own_shares_by_quadrature_are_those_of_its_probe() -> None:
    j = jacobian(n=3)
    curve = gain_curve(j, PRIOR, shape(j), mean=True, steps=j.inputs)
    response = curve.spectra[0].response
    assert response is not None
    each = white_informations(j)
    z = PRIOR.transform(each).inverse(rademacher(1, j.inputs, seed=0, like=each))[0]
    inverse = torch.linalg.inv(4.0 * torch.eye(j.inputs) + each.mean(dim=0))
    expected = torch.einsum("i,ij,njk,k->n", z, inverse, each, z)
    found = torch.from_numpy(response.parts @ (1.0 / (4.0 + response.values)))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)


def test_a_matrix_that_would_be_late_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged by one product: the first picture's rows alone may take minutes."""
    j = jacobian()
    sigma = shape(j)

    def never(*_: object) -> None:
        raise AssertionError("begun")

    monkeypatch.setattr(mean_information, "_products_s", lambda _: 60.0)
    whole = mean_gain(j, PRIOR, sigma)
    assert whole.method == "cholesky"
    monkeypatch.setattr(mean_information, "white_jacobian", never)
    monkeypatch.setattr(mean_information, "information", never)
    hurried = mean_gain(j, PRIOR, sigma, deadline_s=30.0)
    assert hurried.method == "slq"
    error = max(hurried.estimate.standard_error, 0.01 * whole.estimate.value)
    assert abs(hurried.estimate.value - whole.estimate.value) < 4 * error
    # However late it is, there are a value and an error.
    late = mean_gain(j, PRIOR, sigma, deadline_s=0.0)
    assert late.estimate.value > 0 and late.estimate.standard_error > 0
