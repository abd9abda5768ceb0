"""Leakage figures of whole heads against closed forms and dense determinants."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from splitdeploy.attacks.leakage import dense_gain as dense_gain_module
from splitdeploy.attacks.leakage.exact import exact_fsinfo, paper_fsinfo
from splitdeploy.attacks.leakage.fsinfo import fsinfo
from splitdeploy.attacks.leakage.gain import Gain, measure_gain
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.measure import measure_leakage, mse_lower_bound
from splitdeploy.attacks.leakage.noise import FixedNoise, Noise, PrecisionNoise, SnrNoise
from splitdeploy.attacks.leakage.prior import default_prior
from splitdeploy.attacks.leakage.sides import Whitened
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import LeakageError
from splitdeploy.profiles.report import LeakageRecord

SIDE = 6
D = 3 * SIDE * SIDE
PRIOR = default_prior((3, SIDE, SIDE))


def on_pixels(module: nn.Module) -> PixelHead:
    return PixelHead(module, (0.0,) * 3, (1.0,) * 3).double().eval()


def linear(k: int, seed: int = 0) -> tuple[PixelHead, Tensor]:
    """A head z = A·x and A."""
    torch.manual_seed(seed)
    layer = nn.Linear(D, k, bias=False).double()
    return on_pixels(nn.Sequential(nn.Flatten(), layer)), layer.weight.detach()


def convolutional(seed: int = 0) -> PixelHead:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU())
    return on_pixels(layers)


def pixels(n: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)


def covariance() -> Tensor:
    half = PRIOR.apply_half(torch.eye(D, dtype=torch.float64))
    return half @ half


def measure(head: PixelHead, noise: Noise, *, n: int = 2, **options: int) -> LeakageRecord:
    return measure_leakage(head, pixels(n), noise=noise, prior=PRIOR, **options)


def dense_gain(jacobian: HeadJacobian, sigma: Tensor) -> list[float]:
    j = jacobian.dense() / sigma.unsqueeze(1)
    gram = torch.eye(j.shape[1], dtype=torch.float64) + j @ covariance() @ j.transpose(1, 2)
    return (torch.linalg.slogdet(gram).logabsdet / (2 * D)).tolist()


def gain_of(head: PixelHead, noise: Noise, *, steps: int, seed: int) -> tuple[Gain, list[float]]:
    jacobian = HeadJacobian(head, pixels())
    sigma = noise.level(jacobian.tensors).sigma
    whitened = Whitened(jacobian, PRIOR, sigma, seed=seed)
    ranks = jacobian.rank_bound(torch.randn_like(jacobian.features))
    gain = measure_gain(whitened, ranks, steps=steps, probes=1, seed=seed + 5)
    return gain, dense_gain(jacobian, sigma)


@pytest.mark.parametrize("k", [40, 300])
def test_gain_of_a_linear_head_is_the_mutual_information(k: int) -> None:
    head, a = linear(k)
    sigma = 0.05
    # I(X; Z) of z = A·x + σ·n with Gaussian x, per input element.
    channel = torch.eye(k, dtype=torch.float64) + a @ covariance() @ a.T / sigma**2
    information = float(torch.linalg.slogdet(channel).logabsdet) / (2 * D)
    found = measure(head, FixedNoise(sigma), steps=200, probes=40)
    assert found.gain.value == pytest.approx(information, abs=4 * found.gain.standard_error)
    assert found.gain.standard_error < 0.1 * information
    # FSInfo with the prior differs by the prior's own: −h(X)/d.
    entropy = 0.5 * math.log(2 * math.pi * math.e) + PRIOR.log_det() / (2 * D)
    assert found.fsinfo.value == pytest.approx(found.gain.value - entropy)


@pytest.mark.parametrize("steps", [4, 12])
def test_brackets_hold_the_dense_determinant(steps: int) -> None:
    head = convolutional()
    inside = 0
    for seed in range(100):
        gain, truth = gain_of(head, SnrNoise(30), steps=steps, seed=10 * seed)
        low = gain.lower - 2 * gain.probe_error
        high = gain.upper + 2 * gain.probe_error
        inside += sum(bool(a <= t <= b) for a, t, b in zip(low, truth, high, strict=True))
    assert inside >= 190  # of two images and 100 seeds


def test_more_steps_narrow_the_bracket() -> None:
    few, _ = gain_of(convolutional(), SnrNoise(30), steps=3, seed=0)
    many, _ = gain_of(convolutional(), SnrNoise(30), steps=30, seed=0)
    assert many.half_width.mean() < 0.5 * few.half_width.mean()


def test_noise_lowers_the_gain() -> None:
    head = convolutional()
    gains = [measure(head, SnrNoise(snr), steps=60).gain.value for snr in (50, 40, 30, 20, 0, -20)]
    assert gains == sorted(gains, reverse=True)
    assert measure(head, SnrNoise(-90)).gain.value == pytest.approx(0, abs=1e-3)


def test_a_contraction_tells_no_more_than_the_picture_at_the_same_noise() -> None:
    whole = measure(on_pixels(nn.Identity()), FixedNoise(0.02))
    pooled = measure(on_pixels(nn.AvgPool2d(2)), FixedNoise(0.02))
    assert pooled.gain.value < whole.gain.value
    expected = 0.5 * float(torch.log1p(PRIOR.variance / 0.02**2).mean())
    assert whole.gain.value == pytest.approx(expected, abs=4 * whole.gain.standard_error + 1e-6)


class Scaled(nn.Module):
    def __init__(self, inner: nn.Module, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.inner(x)


@pytest.mark.parametrize("noise", [PrecisionNoise("fp16"), PrecisionNoise("int8"), SnrNoise(30)])
def test_rescaling_the_smashed_data_changes_nothing(noise: Noise) -> None:
    inner = convolutional().head
    one, other = measure(on_pixels(inner), noise), measure(on_pixels(Scaled(inner, 123.4)), noise)
    assert other.fsinfo.value == pytest.approx(one.fsinfo.value, rel=1e-6)
    assert other.gain.value == pytest.approx(one.gain.value, rel=1e-6)
    assert other.dfil.value == pytest.approx(one.dfil.value, rel=1e-6)


def test_the_published_figure_moves_with_a_noise_that_nobody_adds() -> None:
    jacobian = HeadJacobian(convolutional(), pixels())
    # A ReLU head leaves pixels out, whose 1e-10 stays; the linear one shows FSInfo + ln σ constant.
    full = HeadJacobian(linear(200)[0], pixels())
    for sigma in (0.1, 1.0, 5.0):
        values = paper_fsinfo(full, variance=sigma**2)
        assert values[0] + math.log(sigma) == pytest.approx(
            paper_fsinfo(full, variance=1.0)[0], abs=1e-6
        )
    assert paper_fsinfo(jacobian) == paper_fsinfo(jacobian, variance=0.01)


def test_exact_fsinfo_is_reported_where_it_is_finite() -> None:
    head, a = linear(200)
    found = measure(head, FixedNoise(0.1))
    log_det = float(torch.linalg.slogdet(a.T @ a / 0.01).logabsdet)
    expected = log_det / (2 * D) - 0.5 * math.log(2 * math.pi * math.e)
    assert found.exact_fsinfo is not None
    assert found.exact_fsinfo.value == pytest.approx(expected)
    assert (found.rank_at_most, found.dimensions, found.notes) == (D, D, ())


def test_lost_rank_is_told() -> None:
    head, _ = linear(40)
    found = measure(head, FixedNoise(0.1))
    assert found.exact_fsinfo is None and found.rank_at_most == 40
    assert found.notes == (
        f"FSInfo without a prior is minus infinity: rank at most 40 of {D} in an image",
    )
    assert math.isfinite(found.fsinfo.value)


class Repeated(nn.Module):
    """Twice as many outputs as inputs, and half the rank: no tensor is a bottleneck."""

    def forward(self, x: Tensor) -> Tensor:
        blurred = (x + x.flip(3)) / 2
        return torch.cat([blurred, 2 * blurred], dim=1)


def test_lost_rank_that_no_bottleneck_shows_is_told() -> None:
    head = on_pixels(Repeated())
    found = exact_fsinfo(HeadJacobian(head, pixels()), torch.ones(2 * D).double())
    assert found.ranks == (D // 2, D // 2) and found.values == (-math.inf, -math.inf)
    record = measure(head, FixedNoise(0.1))
    assert record.exact_fsinfo is None and f"rank {D // 2} of {D}" in record.notes[0]


def test_trace_and_largest_eigenvalue() -> None:
    head, a = linear(60)
    found = measure(head, FixedNoise(0.5), n=8)
    eigenvalues = torch.linalg.eigvalsh(a.T @ a / 0.25)
    assert found.dfil.value == pytest.approx(
        float(eigenvalues.sum()) / D, abs=4 * found.dfil.standard_error
    )
    assert 0.5 * float(eigenvalues[-1]) < found.fil_max <= float(eigenvalues[-1]) * (1 + 1e-9)


@pytest.mark.parametrize("k", [20, 300])
def test_no_estimator_beats_the_bound_on_the_error(k: int) -> None:
    head, a = linear(k)
    sigma = 0.05
    jacobian = HeadJacobian(head, pixels(8))
    whitened = Whitened(jacobian, PRIOR, torch.full((k,), sigma, dtype=torch.float64), seed=0)
    posterior = torch.linalg.inv(torch.linalg.inv(covariance()) + a.T @ a / sigma**2)
    best = float(posterior.trace()) / D  # the posterior mean's, which is optimal
    # Eight images and two probes know the diagonal to a few per cent.
    assert 0 < mse_lower_bound(whitened) <= 1.05 * best


def test_a_classifier_tells_less_than_the_features_before_it() -> None:
    features = convolutional().head
    torch.manual_seed(1)
    whole = nn.Sequential(features, nn.Flatten(), nn.Linear(48, 5)).double().eval()
    cloud_only = measure(on_pixels(nn.Identity()), SnrNoise(30))
    cut = measure(on_pixels(features), SnrNoise(30))
    edge_only = measure(on_pixels(whole), SnrNoise(30))
    assert edge_only.gain.value < cut.gain.value < cloud_only.gain.value
    assert edge_only.rank_at_most == 5


def test_a_deadline_leaves_one_step_and_says_so() -> None:
    found = measure_leakage(
        convolutional(), pixels(), noise=SnrNoise(30), prior=PRIOR, steps=20, deadline_s=0.0
    )
    patient = measure(convolutional(), SnrNoise(30), steps=20)
    assert found.steps == 1 and "1 of 20 quadrature steps for lack of time" in found.notes
    assert found.gain.standard_error > patient.gain.standard_error


def test_the_mean_s_determinant_is_there_when_asked_for() -> None:
    head = convolutional()
    assert measure(head, SnrNoise(30)).bayesian_fsinfo is None
    found = measure_leakage(head, pixels(), noise=SnrNoise(30), prior=PRIOR, bayesian=True)
    direct = fsinfo(head, pixels(), noise_sigma=SnrNoise(30), kind="bayesian", prior=PRIOR)
    assert found.bayesian_fsinfo is not None
    assert found.bayesian_fsinfo.value == pytest.approx(direct.value)
    assert found.bayesian_fsinfo.value > found.fsinfo.value - 2 * found.fsinfo.standard_error


def test_steps_end_where_the_error_is_as_small_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_gain_module, "DENSE_LIMIT", 0)
    head = convolutional()
    found = measure_leakage(
        head, pixels(), noise=SnrNoise(30), prior=PRIOR, steps=100, probes=500, relative_error=0.05
    )
    assert 0 < found.steps < 100 and not any("lack of time" in note for note in found.notes)


def test_small_pictures_have_no_error_of_probes_where_an_error_is_asked_for() -> None:
    head = convolutional()
    found = measure_leakage(head, pixels(), noise=SnrNoise(30), prior=PRIOR, relative_error=0.01)
    jacobian = HeadJacobian(head, pixels())
    truth = dense_gain(jacobian, SnrNoise(30).level(jacobian.tensors).sigma)
    assert found.steps == 0
    assert found.gain.value == pytest.approx(sum(truth) / 2, rel=1e-9)
    assert found.gain.standard_error == pytest.approx(abs(truth[0] - truth[1]) / 2, rel=1e-6)


def test_one_image_has_the_error_of_its_probe() -> None:
    found = measure(convolutional(), SnrNoise(30), n=1, steps=100)
    assert 0 < found.gain.standard_error < 0.2 and found.dfil.standard_error > 0
    assert found.images == 1


def test_a_head_that_ignores_the_picture_tells_nothing() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1.0 + 0.0 * x

    found = measure(on_pixels(Constant()), SnrNoise(30))
    assert found.gain.value == 0.0 and found.rank_at_most == 0 and found.fil_max == 0.0
    assert found.mse_lower_bound is not None
    assert found.mse_lower_bound <= float(PRIOR.variance.mean())


def test_the_same_seed_gives_the_same_record() -> None:
    one, other = (measure(convolutional(), SnrNoise(30), seed=7) for _ in range(2))
    assert one == other
    assert measure(convolutional(), SnrNoise(30), seed=8) != one


def test_refusals() -> None:
    head = on_pixels(nn.Identity())
    with pytest.raises(LeakageError, match="at least 1 step and 1 probe, got 0 and 1"):
        measure(head, SnrNoise(30), steps=0)
    with pytest.raises(LeakageError, match=r"prior's shape \(3, 6, 6\), got \(3, 8, 8\)"):
        measure_leakage(head, torch.rand(1, 3, 8, 8), noise=SnrNoise(30), prior=PRIOR)
    large = HeadJacobian(PixelHead(nn.Identity(), (0.0,), (1.0,)), torch.rand(1, 1, 80, 80))
    with pytest.raises(LeakageError, match="at most 4096 input elements .*, got 6400"):
        paper_fsinfo(large)
