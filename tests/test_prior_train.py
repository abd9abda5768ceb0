"""``splitdeploy prior``: a generator from a folder, kept, shown, gone on with, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import splitdeploy
from PIL import Image

from splitdeploy.attacks.generators import nearest, residual
from splitdeploy.attacks.generators.file import load_generator
from splitdeploy.attacks.generators.small import SmallGenerator
from splitdeploy.partitioner import prior_training


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty blurred pictures."""
    found = tmp_path / "pictures"
    found.mkdir()
    draw = np.random.default_rng(0)
    for i in range(40):
        small = Image.fromarray(draw.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        small.resize((16, 16), Image.Resampling.BICUBIC).save(found / f"{i:02d}.png")
    return found


@pytest.fixture(autouse=True)
def _few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure that is measured at the end is tested elsewhere."""
    search = nearest.nearest_latents

    def short(generator: Any, pictures: Any, **given: Any) -> Any:
        return search(generator, pictures, **{**given, "passes": 1})

    for module in (nearest, residual):
        monkeypatch.setattr(module, "nearest_latents", short)


def train(folder: Path, out: Path, *arguments: object) -> Any:
    return splitdeploy(
        "prior", "train", "--images", folder, "--out", out, "--size", "16x16",
        "--latent-size", 6, "--width", 4, "-q", *arguments,
    )  # fmt: skip


def test_a_generator_is_trained_kept_and_shown(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "prior.npz"
    done = train(folder, out, "--steps", 3, "--seed", 1)
    assert done.code == 0, done.err
    assert "autoencoding, 3 steps on 38 pictures" in done.out
    assert sorted(f.name for f in out.parent.iterdir()) == ["prior.npz", "prior.png"]
    generator = load_generator(out)
    assert generator(torch.zeros(1, 6)).shape == (1, 3, 16, 16)
    shown = splitdeploy("prior", "show", out, "--out", tmp_path / "samples.png")
    assert shown.code == 0, shown.err
    assert "pictures of 3x16x16 from 6 numbers" in shown.out
    assert done.out.strip() in shown.out
    pictures = [tmp_path / "samples.png", out.with_suffix(".png")]
    assert len({Image.open(picture).size for picture in pictures}) == 1


def test_an_adversarial_one_begins_with_another(folder: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    assert train(folder, first, "--steps", 1).code == 0
    done = train(folder, second, "--steps", 2, "--method", "adversarial", "--start", first)
    assert done.code == 0, done.err
    assert "adversarial, 2 steps" in done.out


def test_an_interrupted_training_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.npz", tmp_path / "prior.npz"
    assert train(folder, whole, "--steps", 6).code == 0
    told = prior_training._told_to

    def interrupting(reporter: Any) -> Any:
        tell = told(reporter)

        def progress(share: float) -> None:
            tell(share)
            if share >= 0.5:
                raise KeyboardInterrupt

        return progress

    with monkeypatch.context() as patch:
        patch.setattr(prior_training, "_told_to", interrupting)
        stopped = train(folder, out, "--steps", 6)
    assert stopped.code == 130
    assert "prior.npz.training: add --resume to go on" in stopped.err
    assert not out.exists()
    again = train(folder, out, "--steps", 6)
    assert (again.code, again.out) == (2, "")
    assert "an interrupted training lies in" in again.err
    other = train(folder, out, "--resume", "--latent-size", 7)
    assert other.code == 1
    assert "expected a checkpoint of an autoencoder" in other.err
    done = train(folder, out, "--resume")
    assert done.code == 0, done.err
    assert not out.with_name("prior.npz.training").exists()
    one, two = load_generator(whole), load_generator(out)
    assert isinstance(one, SmallGenerator) and isinstance(two, SmallGenerator)
    assert all(torch.equal(t, two.state_dict()[name]) for name, t in one.state_dict().items())


def test_a_budget_decides_the_steps(folder: Path, tmp_path: Path) -> None:
    done = train(folder, tmp_path / "prior.npz", "--budget", "50ms")
    assert done.code == 0, done.err
    generator = load_generator(tmp_path / "prior.npz")
    assert isinstance(generator, SmallGenerator) and generator.origin is not None
    assert generator.origin.steps >= 1


def test_refusals(folder: Path, tmp_path: Path) -> None:
    empty, few, taken = tmp_path / "empty", tmp_path / "few", tmp_path / "taken"
    empty.mkdir()
    few.mkdir()
    taken.mkdir()
    (folder / "00.png").rename(few / "00.png")
    Image.new("RGB", (1, 1)).save(taken / "dot.png")
    out = tmp_path / "prior.npz"
    for images, where, arguments, code, message in [
        (empty, out, (), 1, "no images in"),
        (tmp_path / "none", out, (), 1, "which does not exist"),
        (few, out, (), 1, "at least 32 pictures to train a generator, got 1"),
        (taken, out, (), 1, "of 1x1: enlarged more than 8 times"),
        (folder, taken, (), 1, "expected a file's name for the generator, got the folder"),
        (folder, few / "00.png" / "prior.npz", (), 1, "which is a file"),
        (folder, out, ("--steps", 3, "--budget", "1s"), 2, "expected --steps or --budget"),
        (folder, out, ("--input-shape", "3x16x16"), 2, "expected --size or --input-shape"),
        (folder, out, ("--size", "4x4"), 1, "at least 8 pixels a side"),
        (folder, out, ("--size", "16"), 2, "expected --size HxW or --input-shape CxHxW"),
        (folder, out, ("--resume",), 2, "expected an interrupted training in"),
        (folder, out, ("--start", few / "00.png"), 2, "expected --method adversarial"),
        (
            folder, out, ("--start", few / "00.png", "--method", "adversarial"), 1,
            "expected a generator as splitdeploy prior train writes it",
        ),
    ]:  # fmt: skip
        outcome = train(images, where, *arguments)
        assert (outcome.code, outcome.out) == (code, ""), (message, outcome.err)
        assert message in outcome.err and len(outcome.err.strip().splitlines()) == 1
    assert not out.exists()
    own = splitdeploy("prior", "show", "test_generators:Halves")
    assert own.code == 0 and "a user's own" in own.out
    shown = splitdeploy("prior", "show", few / "00.png")
    assert shown.code == 1 and "expected a generator as" in shown.err
