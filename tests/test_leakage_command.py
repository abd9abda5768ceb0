"""``splitdeploy leakage`` end to end, and the family of figures behind it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import MODEL, splitdeploy
from PIL import Image
from torch import nn

from splitdeploy.attacks.leakage.family import measure_curve, measure_family
from splitdeploy.attacks.leakage.noise import FixedNoise, SnrNoise, repeated
from splitdeploy.attacks.leakage.plot import save_curve
from splitdeploy.attacks.leakage.prior import default_prior
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import LeakageError, OutputError

SMALL = ("--input-shape", "3x16x16", "--weights", "none", "-q")


def leakage(*arguments: object) -> Any:
    return splitdeploy("leakage", MODEL, *SMALL, *arguments)


def figures(*arguments: object) -> dict[str, dict[str, Any]]:
    outcome = leakage("--format", "json", *arguments)
    assert outcome.code == 0, outcome.err
    return {figure["name"]: figure for figure in json.loads(outcome.out)["figures"]}


def test_the_family_is_told_with_errors_and_whom_each_binds() -> None:
    found = figures("--cut", "blocks.0", "--image-count", 6)
    assert set(found) >= {
        "gain", "fsinfo", "bayesian_fsinfo", "exact_fsinfo", "paper_fsinfo", "rank_share", "dfil",
        "fil_max", "distance_correlation", "information_prior",
        "information_covariance", "mse_trace",
        "mse_mean_determinant", "mse_van_trees",
        "mse_covariance",
    }  # fmt: skip
    # 8 channels of 8 by 8 for 768 pixels: the rank is not full.
    assert found["exact_fsinfo"]["value"] == "-inf" and found["rank_share"]["value"] < 1
    assert found["mse_trace"]["binds"] == "unbiased"
    assert found["mse_mean_determinant"]["binds"] == "any"
    assert found["gain"]["binds"] == "" and found["gain"]["value"] > 0
    assert 0 < found["distance_correlation"]["value"] <= 1
    assert all(figure["assumes"] for figure in found.values())
    prior = default_prior((3, 16, 16))
    for name, figure in found.items():
        if name.startswith("mse_") and figure["binds"] == "any":
            assert 0 <= figure["value"] <= float(prior.variance.mean())


def test_queries_multiply_the_information() -> None:
    one, many = (figures("--cut", "act", "--sigma", "0.3", "--queries", n) for n in (1, 9))
    assert many["dfil"]["value"] == pytest.approx(9 * one["dfil"]["value"], rel=1e-4)
    assert many["gain"]["value"] > one["gain"]["value"]
    assert repeated(FixedNoise(0.3), 1) == FixedNoise(0.3)
    level = repeated(FixedNoise(0.3), 9).level((torch.ones(1, 2),))
    assert level.sigma.tolist() == pytest.approx([0.1, 0.1])


def test_every_format_tells_the_same() -> None:
    given = ("--cut", "act", "--noise", "snr:30", "--image-count", 2)
    table, markdown = leakage(*given).out, leakage(*given, "--format", "md").out
    rows = list(csv.DictReader(io.StringIO(leakage(*given, "--format", "csv").out)))
    found = figures(*given)
    assert [row["name"] for row in rows] == list(found)
    assert float(rows[0]["value"]) == found["gain"]["value"]
    assert "30 dB" in table and "bayesian_fsinfo" in table and "| gain |" in markdown
    assert found["distance_correlation"]["images"] == 32 and found["gain"]["images"] == 2


def test_out_holds_a_plot_and_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "new" / "here"
    outcome = leakage("--cut", "act", "--image-count", 2, "--out", out)
    assert outcome.code == 0 and f"plot: {out / 'leakage.png'}" in outcome.err
    with Image.open(out / "leakage.png") as picture:
        assert picture.size[0] > 400
    curve = json.loads((out / "leakage.json").read_text())["curve"]
    sigmas = [point["noise_sigma"] for point in curve]
    gains = [point["gain"]["value"] for point in curve]
    assert sigmas == sorted(sigmas) and gains == sorted(gains, reverse=True)
    assert sorted(path.name for path in out.iterdir()) == ["leakage.json", "leakage.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--cut", "act", "--sigma", 0), 2, "expected a positive number for --sigma, got 0"),
        (("--cut", "act", "--sigma", -2), 2, "expected a positive number for --sigma, got -2"),
        (("--cut", "act", "--sigma", 1, "--noise", "fp16"), 2, "--noise or --sigma, got both"),
        (("--cut", "act", "--noise", "loud"), 2, "unknown noise 'loud'"),
        (("--cut", "act", "--queries", 0), 2, "--queries"),
        (("--cut", "nowhere"), 2, "nowhere"),
        ((), 2, "--cut"),
    ],
)
def test_refusals(arguments: tuple[object, ...], code: int, message: str) -> None:
    outcome = leakage(*arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err and len(outcome.err.strip().splitlines()) <= 4


def test_a_place_that_cannot_be_written_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = leakage("--cut", "act", "--out", tmp_path / "file")
    assert outcome.code == 1 and "choose another" in outcome.err
    with pytest.raises(OutputError, match="cannot write the plot"):
        save_curve(tmp_path / "file" / "plot.png", (), "nothing")


def test_one_picture_lacks_what_takes_several() -> None:
    head = PixelHead(nn.Conv2d(3, 4, 3), (0.0,) * 3, (1.0,) * 3).eval()
    pixels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = measure_family(head, pixels, noise=SnrNoise(30), prior=default_prior((3, 8, 8)))
    names = {figure.name for figure in found.figures}
    assert not names & {"distance_correlation", "information_covariance"}
    assert any("at least 2 pictures" in note for note in found.notes)


def test_the_curve_refuses_a_factor_of_nothing() -> None:
    head = PixelHead(nn.Identity(), (0.0,) * 3, (1.0,) * 3).eval()
    with pytest.raises(LeakageError, match="positive factor on the noise, got 0"):
        measure_curve(
            head, torch.rand(1, 3, 8, 8), noise=SnrNoise(30), prior=default_prior((3, 8, 8)),
            factors=(0.0,),
        )  # fmt: skip
    with pytest.raises(LeakageError, match="at least 1 query, got 0"):
        repeated(SnrNoise(30), 0)
