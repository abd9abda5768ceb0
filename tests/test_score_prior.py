"""The learned prior against closed forms and quadrature; its file; what is refused."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid
from torch import Tensor, nn

from splitdeploy.attacks.leakage.family import measure_family
from splitdeploy.attacks.leakage.fsinfo import fsinfo
from splitdeploy.attacks.leakage.measure import measure_leakage
from splitdeploy.attacks.leakage.noise import FixedNoise
from splitdeploy.attacks.leakage.prior import GaussianPrior, PowerLaw, Transform
from splitdeploy.attacks.leakage.score_file import load_prior, save_prior
from splitdeploy.attacks.leakage.score_network import train_predictor
from splitdeploy.attacks.leakage.score_prior import (
    Origin,
    RingInformation,
    ScorePrior,
    digest,
    explained_noise,
    fit_score_prior,
    measure_information,
)
from splitdeploy.attacks.leakage.sides import frequency_rings
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import LeakageError, OutputError
from splitdeploy.profiles.report import Estimate

ENTROPY = 0.5 * math.log(2 * math.pi * math.e)


def over_rings(values: Tensor, shape: tuple[int, int, int]) -> Tensor:
    ring = frequency_rings(shape)
    sums = torch.zeros(int(ring.max()) + 1, dtype=torch.float64)
    return sums.index_add_(0, ring, values.flatten()) / torch.bincount(ring).clamp_min(1)


def gaussian_field(n: int, smoothing: float) -> tuple[Tensor, Tensor, GaussianPrior]:
    """Pictures of a power law that stay inside [0, 1], and the covariance of smoothed ones."""
    law = PowerLaw((4e-4,) * 3, (2.0,) * 3, "made up")
    prior = GaussianPrior((1, 8, 8), law, smoothing=0.01)
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(n, 64, generator=generator, dtype=torch.float64)
    pictures = 0.5 + prior.apply_half(white).view(n, 1, 8, 8)
    assert bool(((pictures >= 0) & (pictures <= 1)).all())
    return pictures.float(), prior.variance + smoothing**2, prior


def test_of_a_gaussian_field_it_is_the_inverse_covariance_ring_by_ring() -> None:
    smoothing = 0.03
    pictures, variance, _ = gaussian_field(1000, smoothing)
    found = fit_score_prior(pictures, smoothing=smoothing, epochs=2)
    truth = over_rings(1.0 / variance, found.shape)
    used = torch.bincount(frequency_rings(found.shape)) > 0
    off = (found.rings.information - truth)[used].abs()
    # 14 rings: none is four standard errors off; 2 % of the network's shortfall besides.
    assert bool((off <= 4 * found.rings.standard_error[used] + 0.02 * truth[used]).all())
    assert float((found.rings.standard_error / truth)[used].median()) < 0.08
    total = float((1.0 / variance).mean())
    assert abs(found.rings.mean.value - total) <= 4 * found.rings.mean.standard_error + 0.02 * total
    # What is declared is never outside what always holds.
    assert bool((found.variance <= over_rings_back(found) + 1e-12).all())
    assert bool((found.variance >= smoothing**2 - 1e-12).all())


def over_rings_back(prior: ScorePrior) -> Tensor:
    return prior.rings.variance[frequency_rings(prior.shape)].view(prior.shape)


def information_of_mixture(centres: float, deviation: float) -> tuple[float, float]:
    """Of ½N(−centres, deviation²) + ½N(centres, deviation²): E[score²] and entropy, by quadrature.

    Returns:
        Both.
    """
    x = np.linspace(-centres - 9 * deviation, centres + 9 * deviation, 40_001)
    parts = [np.exp(-((x - m) ** 2) / (2 * deviation**2)) for m in (-centres, centres)]
    density = (parts[0] + parts[1]) / (2 * deviation * math.sqrt(2 * math.pi))
    score = np.gradient(np.log(density), x)
    return (
        float(trapezoid(density * score**2, x)),
        float(-trapezoid(density * np.log(density), x)),
    )


CENTRES, WIDTH = 0.2, 0.05


@cache
def two_grey_levels(n: int = 1200) -> Tensor:
    """Every pixel is dark or bright by itself: J is the same in any basis."""
    generator = torch.Generator().manual_seed(1)
    signs = torch.randint(0, 2, (n, 1, 4, 4), generator=generator) * 2.0 - 1.0
    spread = WIDTH * torch.randn(n, 1, 4, 4, generator=generator)
    return (0.5 + CENTRES * signs + spread).clamp(0, 1)


@cache
def learned_levels() -> ScorePrior:
    return fit_score_prior(two_grey_levels(), smoothing=0.08, epochs=18)


def test_of_pixels_of_two_grey_levels_it_is_that_of_quadrature() -> None:
    truth, _ = information_of_mixture(CENTRES, math.hypot(WIDTH, 0.08))
    found = learned_levels()
    gaussian = 1.0 / (CENTRES**2 + WIDTH**2 + 0.08**2)
    assert truth > 3 * gaussian  # what a Gaussian prior misses
    # From below, but for chance; the network falls short by 5 % at most.
    assert found.rings.mean.value <= truth + 4 * found.rings.mean.standard_error
    assert found.rings.mean.value >= 0.95 * truth - 4 * found.rings.mean.standard_error
    used = torch.bincount(frequency_rings(found.shape)) > 0
    off = (found.rings.information - truth)[used]
    assert bool((off.abs() <= 4 * found.rings.standard_error[used] + 0.08 * truth).all())


def test_of_bright_and_dark_pictures_the_mean_alone_is_not_gaussian() -> None:
    smoothing, spread, contrast = 0.05, 0.02, 0.5
    generator = torch.Generator().manual_seed(2)
    signs = torch.randint(0, 2, (600, 1, 1, 1), generator=generator) * 2.0 - 1.0
    noise = spread * torch.randn(600, 1, 4, 4, generator=generator)
    found = fit_score_prior(0.5 + contrast / 4 * signs + noise, smoothing=smoothing, epochs=16)
    deviation = math.hypot(spread, smoothing)
    # The constant's coefficient is four times the mean of a 4 by 4 picture.
    truth, _ = information_of_mixture(contrast, deviation)
    constant, error = found.rings.information[0], found.rings.standard_error[0]
    assert abs(constant - truth) <= 4 * error + 0.1 * truth
    assert truth > 50 / (contrast**2 + deviation**2)
    rest = found.rings.information[1:][torch.bincount(frequency_rings(found.shape))[1:] > 0]
    assert rest.tolist() == pytest.approx([deviation**-2] * len(rest), rel=0.05)


def test_a_network_that_falls_short_tells_too_little_never_too_much() -> None:
    smoothing = 0.08
    truth, _ = information_of_mixture(CENTRES, math.hypot(WIDTH, smoothing))
    network, steps = train_predictor(two_grey_levels(64), smoothing=smoothing, epochs=1, seed=0)
    assert steps == 2
    poor = measure_information(network, two_grey_levels()[1000:])
    assert poor.mean.value < 0.8 * truth
    with torch.no_grad():  # an output of any size, which its own mean square would call information
        for parameter in network.correction.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator()))
    wild = measure_information(network, two_grey_levels()[1000:])
    assert wild.mean.value < poor.mean.value
    prior = ScorePrior((1, 4, 4), smoothing, wild, Origin("", 64, 1, 2, 0))
    assert bool((prior.variance <= over_rings_back(prior) + 1e-12).all())


def test_little_noise_is_bounded_by_what_is_known_under_more() -> None:
    smoothing = 0.02
    network, _ = train_predictor(two_grey_levels(320), smoothing=smoothing, epochs=6, seed=0)
    assert network.levels == pytest.approx((0.02, 0.04, 0.08, 0.16))
    held_out = two_grey_levels()[400:]
    found = measure_information(network, held_out)
    alone = explained_noise(network, held_out, smoothing).mean(dim=0)
    assert bool((found.information >= alone - 2 * found.standard_error).all())
    prior = ScorePrior((1, 4, 4), smoothing, found, Origin("", 320, 6, 60, 0))
    for place, level in enumerate(network.levels[1:], start=1):
        # Smoothed pictures, sent with noise of variance t² − s²: what a denoiser makes of them.
        square = level**2 - smoothing**2
        size = torch.bincount(frequency_rings((1, 4, 4))).double()
        each = explained_noise(network, held_out, level, seed=place) @ size / 16
        error = square * (1 - square * float(each.mean()))
        spread = square**2 * float(each.std()) / math.sqrt(len(each))
        bound = float((1.0 / (1.0 / prior.variance + 1.0 / square)).mean())
        assert bound <= error + 3 * spread
    # Gaussian pictures have equality, whatever the level: 1/(v + t²) becomes 1/(v + s²).
    pictures, variance, _ = gaussian_field(300, smoothing)
    network, _ = train_predictor(pictures[:100], smoothing=smoothing, epochs=1, seed=0)
    every = measure_information(network, pictures[100:])
    truth = float((1.0 / variance).mean())
    assert abs(every.mean.value - truth) <= 4 * every.mean.standard_error + 0.05 * truth


def test_entropy_lies_between_its_bounds() -> None:
    smoothing = 0.08
    information, entropy = information_of_mixture(CENTRES, math.hypot(WIDTH, smoothing))
    _, _, gaussian = gaussian_field(1, smoothing)
    assert gaussian.entropy == gaussian.entropy_at_most == gaussian.entropy_at_least
    size = torch.bincount(frequency_rings((1, 4, 4)))
    exact = RingInformation(
        torch.full((len(size),), information, dtype=torch.float64),
        torch.zeros(len(size), dtype=torch.float64),
        (size > 0) * (CENTRES**2 + WIDTH**2 + smoothing**2),
        Estimate(information, 0.0),
        1,
    )
    prior = ScorePrior((1, 4, 4), smoothing, exact, Origin("", 1, 1, 1, 0))
    assert prior.entropy is None
    assert prior.entropy_at_least < 16 * entropy < prior.entropy_at_most
    assert prior.entropy_at_least == pytest.approx(16 * (ENTROPY - 0.5 * math.log(information)))


def on_pixels(module: nn.Module) -> PixelHead:
    return PixelHead(module, (0.0,), (1.0,)).double().eval()


def test_every_figure_takes_it() -> None:
    prior, sigma = learned_levels(), 0.1
    pixels = two_grey_levels()[:6].double()
    head = on_pixels(nn.Identity())
    information = 1.0 / prior.variance + sigma**-2
    expected = 0.5 * float(information.log().mean()) - ENTROPY
    found = fsinfo(head, pixels, noise_sigma=sigma, kind="bayesian", prior=prior)
    assert found.value == pytest.approx(expected, abs=1e-9)
    record = measure_leakage(head, pixels, noise=FixedNoise(sigma), prior=prior, steps=30)
    assert record.fsinfo.value == pytest.approx(expected, abs=4 * record.fsinfo.standard_error)
    # Two probes of six pictures know a ring's information to some 20 %, the rest is the prior's.
    assert record.mse_lower_bound == pytest.approx(float((1.0 / information).mean()), rel=0.15)
    assert "learned from 960 pictures" in record.prior and "taken as diagonal" in record.prior
    family = measure_family(head, pixels, noise=FixedNoise(sigma), prior=prior)
    assert any("prior's entropy is not known" in note for note in family.notes)
    figures = {figure.name: figure.value for figure in family.figures}
    deviation = math.hypot(WIDTH, 0.08)
    _, before = information_of_mixture(CENTRES, deviation)
    _, after = information_of_mixture(CENTRES, math.hypot(deviation, sigma))
    mutual = after - (ENTROPY + math.log(sigma))  # of a pixel: h(z) − h(z|x)
    # The determinant rests on the learned J, from below by 5 %: so much it may be too low.
    assert figures["information_prior"] >= mutual - 0.03
    assert before <= prior.entropy_at_most / 16


def test_an_attacker_beats_the_gaussian_s_bound_and_not_the_learned_one() -> None:
    # Pixels z = y + σ·n of smoothed y: the posterior mean of a pixel by quadrature is the best.
    smoothing, sigma = 0.08, 0.1
    y = np.linspace(-0.9, 0.9, 1201)
    deviation = math.hypot(WIDTH, smoothing)
    density = sum(np.exp(-((y - m) ** 2) / (2 * deviation**2)) for m in (-CENTRES, CENTRES))
    density = density / density.sum()
    z = np.linspace(-1.3, 1.3, 1201)
    joint = density * np.exp(-((z[:, None] - y) ** 2) / (2 * sigma**2))
    joint /= joint.sum()
    evidence = joint.sum(axis=1)
    mmse = float((joint @ y**2 - (joint @ y) ** 2 / evidence).sum())
    gaussian = 1.0 / (1.0 / (CENTRES**2 + deviation**2) + sigma**-2)
    learned = float((1.0 / (1.0 / learned_levels().variance + sigma**-2)).mean())
    assert learned < mmse < gaussian


def test_the_seed_repeats_it_and_the_file_keeps_it(tmp_path: Path) -> None:
    pictures = two_grey_levels(40)
    told: list[tuple[int, float]] = []
    one, again, other = (
        fit_score_prior(
            pictures, smoothing=0.1, epochs=2, seed=seed, progress=lambda *a: told.append(a)
        )
        for seed in (3, 3, 4)
    )  # fmt: skip
    assert torch.equal(one.variance, again.variance)
    assert not torch.equal(one.rings.information, other.rings.information)
    assert [epoch for epoch, _ in told] == [1, 2] * 3
    path = tmp_path / "prior.npz"
    save_prior(one, path)
    kept = load_prior(path)
    assert torch.equal(kept.variance, one.variance) and kept.origin == one.origin
    assert kept.describe() == one.describe() and kept.rings.mean == one.rings.mean
    assert one.origin == Origin(digest(pictures), 32, 2, 2, 3)
    assert digest(pictures) != digest(pictures.flip(0))
    assert digest(pictures.view(40, 1, 2, 8)) != digest(pictures)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["prior.npz"]
    with pytest.raises(OutputError, match="cannot write"):
        save_prior(one, tmp_path / "nowhere" / "prior.npz")


def test_a_deadline_ends_training_after_a_step() -> None:
    found = fit_score_prior(two_grey_levels(80), smoothing=0.1, epochs=50, deadline_s=1e-9)
    assert (found.origin.steps, found.origin.epochs) == (1, 50)


def test_large_pictures_are_trained_on_in_crops() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(34, 1, 66, 80, generator=generator)
    network, steps = train_predictor(pictures[:30], smoothing=0.2, epochs=1, seed=0)
    assert steps == 1
    found = measure_information(network, pictures[30:])
    # White pictures: a Gaussian of variance 1/12 would have this much, they have a little more.
    assert found.mean.value == pytest.approx(1 / (1 / 12 + 0.04), rel=0.1)


def test_rings_are_of_the_opponent_colours() -> None:
    generator = torch.Generator().manual_seed(0)
    grey = 0.5 + 0.1 * torch.randn(200, 1, 4, 4, generator=generator).clamp(-4, 4)
    found = fit_score_prior(grey.expand(-1, 3, -1, -1), smoothing=0.05, epochs=3)
    luminance, *colours = (1.0 / found.variance).mean(dim=(1, 2)).tolist()
    # Grey pictures: luminance has three times a pixel's variance, the colours have none.
    assert luminance == pytest.approx(1 / (3 * 0.01 + 0.0025), rel=0.15)
    assert colours == pytest.approx([400.0, 400.0], rel=0.02)
    coefficients = Transform((3, 4, 4), grey).forward(grey.expand(-1, 3, -1, -1).flatten(1))
    assert float(coefficients[:, 1:].abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.rand(31, 1, 4, 4), {}, "at least 32 pictures to learn a prior from, got 31"),
        (2 * torch.ones(40, 1, 4, 4), {}, r"pictures on \[0, 1\], got values from 2 to 2"),
        (torch.full((40, 1, 4, 4), math.nan), {}, r"pictures on \[0, 1\], got values from nan"),
        (torch.rand(40, 4, 4), {}, r"pictures \[n, c, h, w\], got .* of shape \(40, 4, 4\)"),
        (torch.zeros(40, 1, 4, 4, dtype=torch.uint8), {}, "floating-point pictures .* torch.uint8"),
        (torch.rand(40, 1, 4, 4), {"smoothing": 0.0}, r"smoothing .* on \(0, 1\].* got 0.0"),
        (torch.rand(40, 1, 4, 4), {"smoothing": math.nan}, r"smoothing .* got nan"),
        (torch.rand(40, 1, 4, 4), {"epochs": 0}, "at least 1 epoch .* got 0 and None"),
        (torch.rand(40, 1, 4, 4), {"deadline_s": 0.0}, "positive time to train, got 40 and 0.0"),
    ],
)
def test_refusals(images: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(LeakageError, match=message):
        fit_score_prior(images, **options)


def test_one_picture_held_out_is_refused() -> None:
    network, _ = train_predictor(torch.rand(8, 1, 4, 4), smoothing=0.1, epochs=1, seed=0)
    with pytest.raises(LeakageError, match="at least 2 pictures held out, got 1"):
        measure_information(network, torch.rand(1, 1, 4, 4))


def tampered(path: Path, **changed: Any) -> Path:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    arrays.update(changed)
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"information": None}, "information"),
        ({"information": np.zeros(3)}, "24 finite float64 values of information"),
        ({"variance": np.full(24, math.nan)}, "24 finite float64 values of variance"),
        ({"standard_error": np.full(24, -1.0)}, "a negative variance or standard error"),
        ({"settings": np.array("{}")}, "version"),
        ({"settings": np.array('{"version": 2}')}, "version 2, not 1"),
        ({"settings": np.array("[]")}, "list indices"),
        ({"settings": np.array({"version": 1}, dtype=object)}, "allow_pickle=False"),
    ],
)
def test_a_file_that_is_no_prior_is_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    path = tmp_path / "prior.npz"
    save_prior(learned_levels(), path)
    with pytest.raises(LeakageError, match=f"expected a learned prior.*{message}.*learn it anew"):
        load_prior(tampered(path, **changed))


@settings(max_examples=20)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_prior_are_refused(content: bytes) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder) / "prior.npz"
        path.write_bytes(content)
        with pytest.raises(LeakageError, match="expected a learned prior"):
            load_prior(path)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(LeakageError, match="which does not exist: learn one with splitdeploy"):
        load_prior(tmp_path / "prior.npz")
