"""``splitdeploy attack`` end to end, on a small net: figures, pictures, words, refusals."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import MODEL, splitdeploy
from exported_once import exported_once
from PIL import Image
from torch import nn

from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.generator import Generator
from splitdeploy.attacks.images import load_photographs
from splitdeploy.attacks.rmle import Rmle
from splitdeploy.partitioner import cut_attack
from splitdeploy.partitioner.arsenal import load_arsenal
from splitdeploy.partitioner.lent import Lent
from splitdeploy.partitioner.models import LoadedModel
from splitdeploy.profiles.errors import AttackError

SMALL = ("--input-shape", "3x16x16", "--weights", "none", "--image-count", 2, "-q")
CUT = ("--cut", "act")


@pytest.fixture(autouse=True, scope="module")
def _exported_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    def key(model: LoadedModel, given: dict[str, Any]) -> str:
        return f"{model.input.shape} {model.weights.sha256} {given}"

    with exported_once(cut_attack, tmp_path_factory, key):
        yield


def attack(*arguments: object, out: Path | None = None) -> Any:
    place = () if out is None else ("--out", out)
    return splitdeploy("attack", MODEL, *SMALL, *arguments, *place)


def put_photographs(folder: Path, count: int, size: int = 20) -> Path:
    folder.mkdir(parents=True)
    found = load_photographs("photos", shape=(3, size, size), count=count, seed=5)
    for i, picture in enumerate(found.pixels):
        levels = (picture.transpose(1, 2, 0) * 255).round().astype(np.uint8)
        Image.fromarray(levels).save(folder / f"{i:03d}.png")
    return folder


def test_figures_pictures_and_words(tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    outcome = attack(*CUT, "--attack", "rmle,noise-aware:fast", out=out)
    assert outcome.code == 0, outcome.err
    document = json.loads((out / "attacks.json").read_text())
    assert [a["name"] for a in document["attacks"]] == ["rmle", "noise-aware"]
    for row in document["attacks"]:
        assert row["ssim"] > document["baseline"]["ssim"] and not row["oracle"]
        assert row["psnr_ci95_db"][0] <= row["psnr_db"] <= row["psnr_ci95_db"][1]
        assert row["identified_chance"] == pytest.approx(1 / document["gallery"])
        assert row["verdict"] and row["class_kept"] is not None
        with Image.open(out / row["picture"]) as picture:
            # Two pictures of 16 pixels beside each other; original, reconstruction, guess.
            assert picture.size == (2 * 16 + 2, 3 * 16 + 2 * 2)
    with Image.open(out / "overview.png") as sheet:
        assert sheet.height > 4 * 96 and sheet.width > 2 * 96
    best = max(document["attacks"], key=lambda a: a["ssim"])
    assert document["strongest_attack"] == f"{best['name']}:{best['preset']}"
    assert document["verdict"] == best["verdict"] and best["verdict"] in outcome.out
    assert "no attack" in outcome.out and "rmle:fast" in outcome.out
    assert "overview.png" in outcome.err and "the victim's own model" in outcome.err


def test_every_format_tells_the_same(tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = (*CUT, "--attack", "rmle", "--resume")
    document = json.loads(attack(*given, "--format", "json", out=out).out)
    assert document == json.loads((out / "attacks.json").read_text())
    rows = list(csv.DictReader(io.StringIO(attack(*given, "--format", "csv", out=out).out)))
    assert [row["name"] for row in rows] == ["guess", "rmle"]
    assert float(rows[1]["ssim"]) == document["attacks"][0]["ssim"]
    markdown = attack(*given, "--format", "md", out=out).out
    assert "| in words |" in markdown and "| rmle:fast |" in markdown


def test_the_strongest_set_says_what_it_left_out(tmp_path: Path) -> None:
    out = tmp_path / "run"
    outcome = attack(*CUT, "--budget", "12s", out=out)
    assert outcome.code == 0, outcome.err
    document = json.loads((out / "attacks.json").read_text())
    assert document["attacks"]
    reasons = {row["attack"]: row["reason"] for row in document["not_run"]}
    assert "does not apply to this head" in reasons["least-squares:exact"]
    assert "not run: least-squares:exact does not apply" in outcome.err


def test_a_linear_cut_is_solved_and_told_as_a_copy(tmp_path: Path) -> None:
    outcome = attack("--cut", "cloud-only", "--attack", "least-squares", out=tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "least-squares: The cloud can recover a near copy" in outcome.out


def test_an_interrupted_run_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    real = cut_attack.run_attack

    def run(attacking: Attack, *given: Any, **named: Any) -> Any:
        if attacking.name == "noise-aware" and not ran.count("interrupted"):
            ran.append("interrupted")
            raise KeyboardInterrupt
        ran.append(attacking.name)
        return real(attacking, *given, **named)

    monkeypatch.setattr(cut_attack, "run_attack", run)
    given, out = (*CUT, "--attack", "rmle,noise-aware", "--budget", "none"), tmp_path / "run"
    stopped = attack(*given, out=out)
    assert stopped.code == 130 and "add --resume to go on" in stopped.err
    kept = json.loads((out / "attacks.json").read_text())
    assert [a["name"] for a in kept["attacks"]] == ["rmle"]
    assert attack(*given, "--resume", out=out).code == 0
    assert ran == ["rmle", "interrupted", "noise-aware"]
    whole = json.loads((out / "attacks.json").read_text())
    assert whole["attacks"][0] == kept["attacks"][0] and len(whole["attacks"]) == 2
    # Other settings: nothing is taken up.
    other = ("--resume", "--aux-images", put_photographs(tmp_path / "own", 2))
    assert attack(*given, *other, out=out).code == 0
    assert ran[3:] == ["rmle", "noise-aware"]


def test_more_time_is_for_those_that_had_not_converged(tmp_path: Path) -> None:
    out, given = tmp_path / "run", (*CUT, "--attack", "rmle-he2019:code")
    assert attack(*given, "--budget", "1ms", out=out).code == 0
    (short,) = json.loads((out / "attacks.json").read_text())["attacks"]
    assert attack(*given, "--budget", "4s", "--resume", out=out).code == 0
    (longer,) = json.loads((out / "attacks.json").read_text())["attacks"]
    assert not short["converged"] and longer["steps"] > short["steps"]


def test_an_attack_that_fails_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(Rmle, "_run", fail)
    out = tmp_path / "run"
    assert attack(*CUT, "--attack", "rmle,noise-aware", out=out).code == 0
    document = json.loads((out / "attacks.json").read_text())
    assert document["not_run"] == [{"attack": "rmle:fast", "reason": "failed: out of memory"}]
    alone = attack(*CUT, "--attack", "rmle", out=tmp_path / "alone")
    assert (alone.code, alone.out) == (1, "")
    assert "rmle:fast failed: out of memory" in alone.err
    assert not (tmp_path / "alone").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((*CUT, "--attack", "rmel"), 2, "unknown attack 'rmel': did you mean rmle"),
        ((*CUT, "--attack", "rmle:slow"), 2, "unknown preset of rmle 'slow'"),
        ((*CUT, "--attack", "rmle", "--preset", "slow"), 2, "unknown preset of rmle 'slow'"),
        ((*CUT, "--preset", "fast"), 2, "the attacks whose preset is 'fast', got none by name"),
        ((*CUT, "--attack", "rmle,,"), 2, "names of attacks with commas between them"),
        ((*CUT, "--attack", "least-squares"), 2, "does not apply to this head"),
        ((*CUT, "--budget", "soon"), 2, "soon"),
        ((*CUT, "--aux-kin", "cousin"), 2, "unknown kinship of pictures 'cousin'"),
        ((*CUT, "--aux-labels", "x.csv"), 2, "expected --aux-images DIR with the pictures"),
        ((*CUT, "--aux-images", "nowhere"), 1, "a folder of the attacker's pictures, got nowhere"),
        ((*CUT, "--prior", "nowhere.npz"), 1, "got nowhere.npz"),
        (("--cut", "nowhere"), 2, "nowhere"),
        (("--cut", "block"), 1, "expected the name of one cut, got 'block'"),
        ((), 2, "--cut"),
    ],
)
def test_refusals(tmp_path: Path, arguments: tuple[object, ...], code: int, message: str) -> None:
    outcome = attack(*arguments, out=tmp_path / "run")
    assert (outcome.code, outcome.out) == (code, ""), outcome.err
    assert message in outcome.err and len(outcome.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_what_cannot_run_for_lack_of_knowledge_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splitdeploy.attacks.threat import ThreatModel

    monkeypatch.setattr(Rmle, "threat", ThreatModel(weights=True, auxiliary_data=True))
    outcome = attack(*CUT, "--attack", "rmle", out=tmp_path / "run")
    assert outcome.code == 2 and "rmle:fast cannot run here: it needs pictures" in outcome.err
    assert "--aux-images" in outcome.err
    folder = put_photographs(tmp_path / "own", 3)
    found = attack(
        *CUT, "--attack", "rmle", "--aux-images", folder, "--aux-kin", "other", "--format", "json",
        out=tmp_path / "run",
    )  # fmt: skip
    assert found.code == 0, found.err
    document = json.loads(found.out)
    assert document["auxiliary"] == "3 pictures, other distribution"
    assert document["attacks"][0]["threat_model"].endswith("(3 pictures, other distribution)")


def test_the_attackers_pictures_are_never_those_attacked(tmp_path: Path) -> None:
    folder = put_photographs(tmp_path / "own", 4, size=16)
    pixels = torch.from_numpy(load_photographs(folder, shape=(3, 16, 16), count=4).pixels)
    arsenal, notes = load_arsenal(Lent(folder), pixels[:3], seed=0)
    assert arsenal.auxiliary is not None and len(arsenal.auxiliary) == 1
    assert notes == ("3 of --aux-images are attacked: left out",)
    with pytest.raises(AttackError, match="got only those that are attacked"):
        load_arsenal(Lent(folder), pixels, seed=0)


def test_pictures_too_small_for_the_model_are_told(tmp_path: Path) -> None:
    folder = put_photographs(tmp_path / "own", 2, size=4)
    outcome = splitdeploy(
        "attack", MODEL, "--input-shape", "3x64x64", "--weights", "none", "-q", *CUT,
        "--aux-images", folder, "--out", tmp_path / "run",
    )  # fmt: skip
    assert outcome.code == 1 and "enlarged more than 8 times" in outcome.err


class _Flat(nn.Module):
    def forward(self, state: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (state[0].view(-1, 1, 2, 2).sigmoid(),)


def test_a_generator_of_another_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splitdeploy.attacks.generators import file

    made = Generator([_Flat()], 4, (1, 2, 2))
    monkeypatch.setattr(file, "load_generator", lambda source: made)
    outcome = attack(*CUT, "--prior", "any.npz", out=tmp_path / "run")
    assert outcome.code == 1
    assert "generator of pictures of shape [3, 16, 16], got any.npz of [1, 2, 2]" in outcome.err
