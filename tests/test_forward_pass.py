"""Figures from one pass forward, for every cut, against each cut's own head; queries; targets."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import MODEL, splitdeploy
from PIL import Image
from torch import nn

from splitdeploy.attacks.defences.reached import noise_for
from splitdeploy.attacks.defences.target import Target, parse_target
from splitdeploy.attacks.leakage.class_radius import class_radius
from splitdeploy.attacks.leakage.distance_correlation import distance_correlation
from splitdeploy.attacks.leakage.family import measure_family
from splitdeploy.attacks.leakage.noise import FixedNoise, SnrNoise, repeated, repetition_caveats
from splitdeploy.attacks.leakage.noise import noise_named as named
from splitdeploy.attacks.leakage.prior import default_prior
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.partitioner import forward_pass
from splitdeploy.partitioner.api import find_cuts
from splitdeploy.partitioner.forward_pass import Samples, load_samples, sample_cuts
from splitdeploy.partitioner.head_module import torch_head
from splitdeploy.partitioner.models import LoadedModel, load_model
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.profile import profile
from splitdeploy.profiles.cut import CLOUD_ONLY
from splitdeploy.profiles.errors import LeakageError

SHAPE = (3, 16, 16)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(MODEL, weights="none", input_shape=SHAPE, seed=0)


@pytest.fixture(scope="module")
def samples() -> Samples:
    found = load_samples(None, None, shape=SHAPE, measured=2, seed=0)
    return Samples(found.pixels[:12], torch.arange(12) % 3, 2, found.source)


def test_one_pass_says_what_each_head_says_alone(
    model: LoadedModel, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts, prior = find_cuts(model)[:4], default_prior(SHAPE)
    together = sample_cuts(model, cuts, samples, noise=SnrNoise(40), prior=prior)
    monkeypatch.setattr(forward_pass, "_MOST_ELEMENTS", 1)
    apart = sample_cuts(model, cuts, samples, noise=SnrNoise(40), prior=prior)
    assert set(together) == {cut.index for cut in cuts}
    for cut in cuts:
        inner = nn.Identity() if cut.name == CLOUD_ONLY else torch_head(
            model.trace.program, [tensor.name for tensor in cut.tensors]
        )  # fmt: skip
        head = PixelHead(inner, model.input.mean, model.input.std)
        with torch.no_grad():
            features = head.features(samples.pixels)
        found = {figure.name: figure for figure in together[cut.index].figures}
        expected = distance_correlation(samples.pixels, features)
        assert found["distance_correlation"].value == pytest.approx(expected.value, abs=1e-5)
        assert found["distance_correlation"].images == 12
        radius = class_radius(features, samples.labels)  # type: ignore[arg-type]
        assert found["class_radius"].value == pytest.approx(radius.share, rel=1e-4)
        assert found["information_covariance"].binds == "any"
        # Groups of cuts differ by float32 alone.
        for name, other in ((f.name, f) for f in apart[cut.index].figures):
            assert other.value == pytest.approx(found[name].value, rel=1e-3, abs=1e-9)


def test_without_time_each_cut_says_so(model: LoadedModel, samples: Samples) -> None:
    prior = default_prior(SHAPE)
    for sampled in sample_cuts(
        model, find_cuts(model), samples, noise=SnrNoise(40), prior=prior, deadline_s=0.0
    ).values():
        assert sampled.figures == () and "for lack of time" in sampled.notes[0]


def test_the_pictures_that_are_measured_come_first() -> None:
    found = load_samples(None, None, shape=SHAPE, measured=3, seed=0)
    again = load_samples(None, None, shape=SHAPE, measured=40, seed=0)
    assert (len(found.pixels), found.measured, len(again.pixels)) == (32, 3, 40)
    assert torch.equal(found.pixels, again.pixels[:32])


def linear(outputs: int = 40) -> tuple[PixelHead, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    layer = nn.Linear(48, outputs, bias=False).double()
    head = PixelHead(nn.Sequential(nn.Flatten(), layer), (0.0,) * 3, (1.0,) * 3).double().eval()
    pixels = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    return head, layer.weight.detach(), pixels


def closed_form(a: torch.Tensor, sigma: float) -> float:
    """(1/2d)·ln det(1 + C^½AᵀAC^½/σ²), by the prior's own square root."""
    half = default_prior((3, 4, 4)).apply_half(torch.eye(48, dtype=torch.float64))
    inner = torch.eye(48, dtype=torch.float64) + half @ a.T @ a @ half / sigma**2
    return float(torch.linalg.slogdet(inner).logabsdet) / 96


@pytest.mark.parametrize("queries", [1, 7])
def test_queries_multiply_the_information_of_a_linear_head(queries: int) -> None:
    head, a, pixels = linear()
    prior, sigma = default_prior((3, 4, 4)), 0.2
    many = measure_family(
        head, pixels, noise=repeated(FixedNoise(sigma), queries), prior=prior
    )  # fmt: skip
    less = measure_family(
        head, pixels, noise=FixedNoise(sigma / math.sqrt(queries)), prior=prior
    )  # fmt: skip
    expected = closed_form(a, sigma / math.sqrt(queries))
    assert many.record.gain.value == pytest.approx(less.record.gain.value, rel=1e-9)
    # Within the interval that the quadrature and its probes tell.
    assert many.record.gain.value == pytest.approx(
        expected, abs=4 * many.record.gain.standard_error + 1e-9
    )
    assert many.record.bayesian_fsinfo is not None
    own = many.record.fsinfo.value - many.record.gain.value
    assert many.record.bayesian_fsinfo.value - own == pytest.approx(expected, rel=1e-6)
    assert ("7 queries with fresh noise" in many.record.noise) == (queries == 7)


def test_rounding_is_no_fresh_noise() -> None:
    assert repetition_caveats(SnrNoise(40), 9) == repetition_caveats(named("int8"), 1) == ()
    (caveat,) = repetition_caveats(named("int8"), 9)
    assert "rounding is the same at every query" in caveat


@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("text", ["gain:0.5", "fsinfo:2", "mse:1e-4"])
def test_the_noise_that_is_told_reaches_the_target(text: str, queries: int) -> None:
    head, a, pixels = linear()
    prior, target = default_prior((3, 4, 4)), parse_target(text)
    found = noise_for(head, pixels, target, noise=SnrNoise(20), queries=queries, prior=prior)
    gain = closed_form(a, found.sigma[0] / math.sqrt(queries))
    own = -prior.log_det() / 96 - 0.5 * math.log(2 * math.pi * math.e)
    assert gain == pytest.approx(target.fsinfo(own) - own, rel=1e-6)
    z = pixels.flatten(1) @ a.T
    assert found.sigma[0] == pytest.approx(found.relative * float(z.square().mean().sqrt()))
    assert found.relative == pytest.approx(0.1 * found.factor)
    assert str(target) in found.text() and ("4 queries" in found.text()) == (queries == 4)


@pytest.mark.parametrize("target", [Target("fsinfo", -5.0), Target("mse", 0.9)])
def test_a_target_beyond_the_prior_is_told_with_the_nearest(target: Target) -> None:
    head, _, pixels = linear()
    message = (
        rf"expected a target that noise can reach, got {target.kind}:.*: pictures of the prior "
        rf"have {target.kind}:\S+ before anything is sent; the nearest is {target.kind}:\S+, "
        "at a relative sigma of"
    )
    with pytest.raises(LeakageError, match=message):
        noise_for(head, pixels, target, noise=SnrNoise(20), prior=default_prior((3, 4, 4)))


def test_a_target_below_all_noise_is_told() -> None:
    head, _, pixels = linear()
    with pytest.raises(LeakageError, match="the rounding of the head itself; the nearest is gain:"):
        noise_for(
            head, pixels, Target("gain", 99.0), noise=SnrNoise(20), prior=default_prior((3, 4, 4))
        )


def test_profile_reports_the_family_labels_and_queries(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for place in range(12):
        path = tmp_path / "pictures" / f"class{place % 3}" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    out = tmp_path / "run"
    outcome = splitdeploy(
        "profile", MODEL, "--input-shape", "3x16x16", "--weights", "none", "--cuts", "act",
        "--image-count", 2, "--budget", "10m", "--images", tmp_path / "pictures",
        "--queries", 9, "-q", "--out", out,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    rows = {
        row["name"]: row["leakage"] for row in json.loads((out / "report.json").read_text())["cuts"]
    }
    figures = {figure["name"]: figure for figure in rows["act"]["figures"]}
    assert "9 queries with fresh noise" in rows["act"]["noise"]
    assert set(figures) >= {
        "gain", "fsinfo", "bayesian_fsinfo", "information_prior", "exact_fsinfo", "rank_share",
        "dfil", "fil_max", "information_covariance", "distance_correlation", "class_radius",
        "mse_trace", "mse_mean_determinant", "mse_van_trees", "mse_covariance",
    }  # fmt: skip
    assert figures["exact_fsinfo"]["value"] == "-inf" and figures["rank_share"]["value"] < 1
    assert figures["distance_correlation"]["images"] == 12 and figures["gain"]["images"] == 2
    assert figures["mse_van_trees"]["value"] == rows["act"]["mse_lower_bound"]
    assert "of 3 classes" in figures["class_radius"]["text"]
    page, table = (out / "report.html").read_text(), (out / "cuts.csv").read_text()
    assert "Leakage of each cut" in page and "R_c² share" in page and "any attacker" in page
    assert "distance_correlation_standard_error" in table.splitlines()[0]


def test_when_the_budget_is_over_one_cut_has_one_picture_and_the_report_says_so(
    tmp_path: Path,
) -> None:
    options = ProfileOptions(
        MODEL, weights="none", input_shape=SHAPE, cuts="act", image_count=2, budget_s=1.0
    )
    report = profile(options, tmp_path / "run", started=time.perf_counter() - 100)
    assert all(row.error is None for row in report.cuts)
    first, last = report.find("act"), report.find("edge-only")
    assert first.leakage is not None
    assert first.leakage.images == first.attacks[0].images == 1
    assert {"one picture alone, for lack of time"} <= set(first.leakage.notes)
    assert any("no figure of a pass forward" in note for note in first.leakage.notes)
    assert {"gain", "dfil", "mse_van_trees"} <= {f.name for f in first.leakage.figures}
    assert last.leakage is None and last.attacks == ()
    assert last.attack_notes == ("not measured and not attacked for lack of time",)
    told = next(text for text in report.warnings if text.startswith("left out of a budget of 1 s"))
    assert "leakage and attack of 2 cuts (cloud-only, edge-only)" in told
    assert "all pictures but one of 1 cut (act)" in told and "with --resume and --budget" in told
