"""``splitdeploy leakage --prior``: learned from a folder, kept, and taken from the file again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import MODEL, splitdeploy
from PIL import Image

from splitdeploy.attacks.leakage.score_file import save_prior
from splitdeploy.attacks.leakage.score_prior import fit_score_prior


def leakage(*arguments: object) -> Any:
    return splitdeploy(
        "leakage", MODEL, "--cut", "act", "--input-shape", "3x16x16", "--weights", "none", "-q",
        "--image-count", 2, "--format", "json", *arguments,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty blurred pictures."""
    found = tmp_path / "pictures"
    found.mkdir()
    draw = np.random.default_rng(0)
    for i in range(40):
        small = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((16, 16), Image.Resampling.BICUBIC).save(found / f"{i:02d}.png")
    return found


def test_a_prior_is_learned_kept_and_taken_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fitted = leakage(
        "--prior", "fit", "--prior-images", folder, "--budget", "1s", "--out", out, "--seed", 1
    )
    assert fitted.code == 0, fitted.err
    document = json.loads(fitted.out)
    assert "learned from 32 pictures" in document["prior"]
    assert any("prior's entropy is not known" in note for note in document["notes"])
    assert (out / "prior.npz").is_file()
    again = leakage("--prior", out / "prior.npz", "--seed", 1)
    assert json.loads(again.out)["prior"] == document["prior"]
    figures = {f["name"]: f for f in json.loads(again.out)["figures"]}
    default = {f["name"]: f for f in json.loads(leakage("--seed", 1).out)["figures"]}
    assert figures["mse_van_trees"]["value"] != default["mse_van_trees"]["value"]
    assert figures["dfil"]["value"] == default["dfil"]["value"]


def test_refusals(folder: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.npz"
    save_prior(fit_score_prior(torch.rand(40, 3, 8, 8), smoothing=0.1, epochs=1), small)
    few = tmp_path / "few"
    few.mkdir()
    (folder / "00.png").rename(few / "00.png")
    for arguments, code, message in [
        (("--prior", "fit"), 2, "expected --prior-images DIR with --prior fit"),
        (("--prior-images", folder), 2, "expected --prior fit with --prior-images"),
        (("--prior", tmp_path / "no.npz"), 1, "no.npz, which does not exist: learn one"),
        (("--prior", small), 1, "prior of pictures of (3, 16, 16), got"),
        (("--prior", folder / "01.png"), 1, "expected a learned prior as fit_score_prior makes"),
        (
            ("--prior", "fit", "--prior-images", folder, "--images", folder),
            2,
            "--prior-images other than --images",
        ),
        (("--prior", "fit", "--prior-images", few), 1, "at least 32 pictures to learn a prior"),
        (("--prior", "fit", "--prior-images", tmp_path / "none"), 1, "none"),
    ]:
        outcome = leakage(*arguments)
        assert (outcome.code, outcome.out) == (code, ""), outcome.err
        assert message in outcome.err and len(outcome.err.strip().splitlines()) == 1
