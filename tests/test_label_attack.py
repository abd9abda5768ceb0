"""``splitdeploy attack --return-at``: what the cloud tells of labels, on nets that are known."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Outcome, splitdeploy
from exported_once import exported_once
from PIL import Image

from splitdeploy.attacks.images import load_photographs
from splitdeploy.attacks.label_probes.registry import find_label_attack, label_attacks_table
from splitdeploy.partitioner import label_attack, models
from splitdeploy.partitioner.cloud_view import CloudView, cloud_view
from splitdeploy.partitioner.label_attack import LabelOptions, attack_labels
from splitdeploy.partitioner.lent import Lent
from splitdeploy.partitioner.models import LoadedModel
from splitdeploy.profiles.cut import CLOUD_ONLY
from splitdeploy.profiles.errors import AttackError, CutError, ImagesError, OutputError, UsageError

COLOURS = "small_models:colours"
CUTS = ("--cut", "act", "--return-at", "pool")


@pytest.fixture(autouse=True, scope="module")
def _exported_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    def key(model: LoadedModel, given: dict[str, Any]) -> str:
        return f"{model.name} {[given[name] for name in ('cuts', 'precision', 'return_at')]}"

    with exported_once(label_attack, tmp_path_factory, key):
        yield


def put_colours(
    folder: Path, each: int, seed: int, names: tuple[str, ...] = ("0", "1", "2")
) -> Path:
    """Pictures of one colour each, in noise: a sub-folder a class."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            levels = rng.uniform(60, 120, (8, 8, 3))
            levels[:, :, label] += 80 + rng.uniform(0, 40)
            Image.fromarray(levels.round().astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_colours(tmp_path_factory.mktemp("data") / "test", 12, 0)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_colours(tmp_path_factory.mktemp("data") / "mine", 6, 1)


def attack(*arguments: object, model: str = COLOURS) -> Outcome:
    return splitdeploy("attack", model, "--weights", "none", "-q", *arguments)


@pytest.fixture(scope="module")
def known(pictures: Path, mine: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The document of a run with everything."""
    out = tmp_path_factory.mktemp("runs") / "new" / "run"
    outcome = attack(
        *CUTS, "--images", pictures, "--aux-images", mine, "--format", "json", "--out", out
    )
    assert outcome.code == 0, outcome.err
    document: dict[str, Any] = json.loads(outcome.out)
    assert document == json.loads((out / "labels.json").read_text())
    return document


def test_a_model_that_is_right_is_told_to_the_last_label(known: dict[str, Any]) -> None:
    assert known["model_accuracy"]["share"] == 1.0 and known["classes"] == 3
    assert known["images"] == 36 and known["labelled"] and not known["result_seen"]
    assert known["most_frequent_class"]["labels"]["share"] == pytest.approx(1 / 3)
    assert known["auxiliary"] == "18 labelled pictures, unknown"
    assert [t["shape"] for t in known["features"]] == [[1, 3]] and known["withheld"] == []
    assert known["return_at"] == "pool" and known["cut"] == "act"
    rows = {row["name"]: row for row in known["attacks"]}
    assert list(rows) == [row["name"] for row in label_attacks_table()] and not known["not_run"]
    for row in rows.values():
        assert row["labels"]["share"] == row["answers"]["share"] == 1.0
        assert row["labels"]["chance"] >= 1 / 3 and row["verdict"] and row["threat_model"]
        assert row["oracle"] == (row["name"] == "clusters")
        assert row["labels"]["ci95"][1] == 1.0 and row["labels"]["ci95"][0] > 0.85
    assert rows["linear-probe"]["own_pictures"] == 18 and rows["linear-probe"]["penalty"] > 0
    few = rows["nearest-mean"]["few_shot"]
    assert [one["pictures_a_class"] for one in few] == [1, 2, 5]
    assert [one["pictures"] for one in few] == [3, 6, 15] and few[2]["mean"] == 1.0
    assert known["strongest_attack"] == "linear-probe"


def test_the_verdict_says_that_weights_are_enough(known: dict[str, Any]) -> None:
    of_whole, of_others = known["verdict"]
    assert "the return hides nothing" in of_whole and "(100.0% the same here)" in of_whole
    assert "linear-probe with 18 pictures of the attacker's own tells 100.0% of the labels" in (
        of_others
    )
    assert "33.3% come for nothing" in of_others


def test_the_table_stands_between_what_is_for_nothing_and_the_result(
    pictures: Path, mine: Path, tmp_path: Path
) -> None:
    outcome = attack(
        *CUTS, "--images", pictures, "--aux-images", mine, "--out", tmp_path / "run"
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    for words in ("most frequent class", "last-layers", "clusters*", "the result itself"):
        assert words in outcome.out
    assert "own pictures a class" in outcome.out and "the return hides nothing" in outcome.out
    assert "* an oracle: the groups got the names that fit the truth best" in outcome.err
    assert "by construction" in outcome.err and "labelled pictures of his own" in outcome.err
    markdown = attack(
        *CUTS, "--images", pictures, "--attack", "last-layers,clusters,last-layers", "--format",
        "md", "--out", tmp_path / "md",
    ).out  # fmt: skip
    assert markdown.count("| last-layers |") == 1 and "| clusters* |" in markdown


def test_comma_separated_values_hold_the_same(
    known: dict[str, Any], pictures: Path, mine: Path, tmp_path: Path
) -> None:
    outcome = attack(
        *CUTS, "--images", pictures, "--aux-images", mine, "--format", "csv", "--out", tmp_path
    )
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    assert [row["name"] for row in rows] == [row["name"] for row in known["attacks"]]
    for row, other in zip(rows, known["attacks"], strict=True):
        assert float(row["labels"]) == other["labels"]["share"]
        assert float(row["answers_low"]) == other["answers"]["ci95"][0]
        assert row["oracle"] == str(other["oracle"])


def test_pictures_without_labels_are_judged_by_the_answers(tmp_path: Path, mine: Path) -> None:
    outcome = attack(
        *CUTS, "--image-count", 9, "--aux-images", mine, "--format", "json", "--out", tmp_path
    )
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert not document["labelled"] and document["model_accuracy"] is None
    assert document["images"] == 9
    assert all(row["labels"] is None and row["answers"] for row in document["attacks"])
    assert "of the answers" in document["verdict"][1]
    assert any("crops of a few photographs" in note for note in document["notes"])


def test_pictures_of_the_attackers_own_without_labels_take_a_device(
    tmp_path: Path, pictures: Path, mine: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for place, file in enumerate(sorted(mine.rglob("*.png"))):
        (flat / f"{place}.png").write_bytes(file.read_bytes())
    outcome = attack(
        *CUTS, "--images", pictures, "--aux-images", flat, "--format", "json",
        "--out", tmp_path / "run",
    )  # fmt: skip
    document = json.loads(outcome.out)
    reasons = {row["attack"]: row["reason"] for row in document["not_run"]}
    assert set(reasons) == {"linear-probe", "nearest-mean", "named-clusters"}
    assert "needs labels of the attacker's own pictures" in reasons["linear-probe"]
    assert document["strongest_attack"] == "linear-probe-answers"
    by_answers = document["attacks"][1]
    assert "a device's answers" in by_answers["threat_model"]
    assert by_answers["labels"]["share"] == 1.0


def test_tables_of_labels_do_as_well_as_folders(
    known: dict[str, Any], tmp_path: Path, pictures: Path, mine: Path
) -> None:
    tables = []
    for folder in (pictures, mine):
        table = tmp_path / f"{folder.name}.csv"
        files = sorted(file.relative_to(folder) for file in folder.rglob("*.png"))
        lines = [f"{file.as_posix()},{file.parent.name}" for file in files]
        table.write_text("\n".join(["file,label", *lines]) + "\n")
        tables.append(table)
    outcome = attack(
        *CUTS, "--images", pictures, "--labels", tables[0], "--aux-images", mine, "--aux-labels",
        tables[1], "--format", "json", "--out", tmp_path / "run",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    shares = [
        [(row["name"], row["labels"], row["answers"]) for row in document["attacks"]]
        for document in (known, json.loads(outcome.out))
    ]
    assert shares[0] == shares[1]


def test_nobody_who_learns_is_told(tmp_path: Path, pictures: Path) -> None:
    outcome = attack(*CUTS, "--images", pictures, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "Nobody who learns from pictures of his own was tried: give some with" in outcome.out
    assert "not run: linear-probe needs pictures of the attacker's own" in outcome.err
    alone = attack(
        *CUTS, "--images", pictures, "--attack", "clusters", "--out", tmp_path / "alone"
    )  # fmt: skip
    assert "Whoever has the whole model has the result by running the last layers" in alone.out


def test_what_stays_at_the_edge_is_not_seen(tmp_path: Path) -> None:
    outcome = attack(
        "--cut", "relu", "--return-at", "mul", "--image-count", 8, "--format", "json",
        "--out", tmp_path / "run", model="small_models:skipping",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    # The input is read behind the return, and never sent; relu goes up too.
    assert document["withheld"] == ["x"]
    assert [tensor["name"] for tensor in document["features"]] == ["mul", "relu"]
    assert document["not_run"][0] == {
        "attack": "last-layers",
        "reason": "needs what the edge holds back (x), which the last layers read",
    }
    assert "cannot simply run the last layers: x stays at the edge" in document["verdict"][0]


def test_a_result_that_crosses_is_told(tmp_path: Path, pictures: Path) -> None:
    outcome = attack(
        "--cut", "act", "--return-at", "squash", "--images", pictures, "--out", tmp_path / "run",
        model="small_models:early_scores",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "The result itself crosses squash: the cloud has it." in outcome.out
    assert "the cloud may see of the result what the model has before squash" in outcome.err


@contextmanager
def seen_of(
    model: LoadedModel, folder: Path, cut: str, back: str, precision: str = "fp32"
) -> Iterator[tuple[CloudView, torch.Tensor]]:
    plan = label_attack.make_plan(
        model, cuts=cut, precision=precision, images=None, image_count=2, seed=0, folder=folder,
        return_at=back,
    )  # fmt: skip
    place = next(i for i, one in enumerate(plan.cuts) if one.name == cut)
    shape = tuple(plan.model.input.shape[1:])
    pixels = torch.from_numpy(load_photographs("photos", shape=shape, count=40).pixels)  # type: ignore[arg-type]
    with cloud_view(plan, place) as view:
        yield view, pixels


@pytest.mark.parametrize(
    ("cut", "precision"), [(CLOUD_ONLY, "fp32"), ("act", "fp16"), ("act", "int8")]
)
def test_the_cloud_sees_what_torch_computes(tmp_path: Path, cut: str, precision: str) -> None:
    model = models.load_model("small_models:small_resnet", input_shape=(3, 16, 16))
    net = model.module
    assert net is not None
    with seen_of(model, tmp_path, cut, "blocks.0", precision) as (view, pixels):
        shares: list[float] = []
        seen = view.see(pixels, shares.append)
        again = view.see((pixels * 255).round().to(torch.uint8), shares.append)
    assert sum(shares) == pytest.approx(2.0) and len(shares) == 4
    inputs = torch.from_numpy(model.input.normalise(pixels.numpy()))
    with torch.no_grad():
        maps = net.blocks[0](net.act(net.stem(inputs)))  # type: ignore[index,operator,union-attr]
        answers = net(inputs).argmax(1)
    error = {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.2}[precision] * float(maps.abs().max())
    assert float((seen.views["coarse"] - maps.mean((2, 3))).abs().max()) < error
    assert float((seen.views["fine"] - maps.flatten(1)).abs().max()) < 2 * error
    # The answers are the deployed model's: rounding may change those that are all but ties.
    least = {"fp32": 1.0, "fp16": 0.95, "int8": 0.8}[precision]
    assert float((seen.answers == answers).double().mean()) >= least
    assert seen.finished is not None
    assert float((seen.finished == seen.answers).double().mean()) >= least
    assert float((again.views["coarse"] - seen.views["coarse"]).abs().max()) < 0.1


def test_features_are_those_before_the_way_back_is_encoded(tmp_path: Path) -> None:
    model = models.load_model("small_models:small_resnet", input_shape=(3, 16, 16))
    with seen_of(model, tmp_path, "act", "blocks.0", "fp16") as (view, pixels):
        fine = view.see(pixels[:2], lambda _: None).views["fine"]
    assert not torch.equal(fine, fine.half().float())


def test_names_must_be_those_of_the_models_classes(tmp_path: Path, mine: Path) -> None:
    model = models.load_model(COLOURS, weights="none")
    two = put_colours(tmp_path / "two", 2, 3, ("cat", "dog"))
    named = put_colours(tmp_path / "named", 2, 3, ("blue", "cat", "dog"))
    high = put_colours(tmp_path / "high", 2, 3, ("0", "1", "7"))

    def run(images: Path, own: Path | None = None) -> None:
        options = LabelOptions("pool", images=images, lent=Lent(own))
        attack_labels(model, "act", options, tmp_path / "run")

    with pytest.raises(ImagesError, match=r"outputs, 0 to 2, or one name .* got 2 in .*two .cat, "):
        run(two)
    with pytest.raises(ImagesError, match=r"got 3 in .*high .0, 1, 7.: write the numbers"):
        run(high)
    with pytest.raises(ImagesError, match=r"the same for all pictures, got 3 in .*named .blue"):
        run(named, mine)
    assert not (tmp_path / "run").exists()
    run(named, put_colours(tmp_path / "more", 2, 4, ("blue", "cat", "dog")))
    document = json.loads((tmp_path / "run" / "labels.json").read_text())
    assert document["model_accuracy"]["share"] == 1.0


REFUSED = [
    ((*CUTS, "--attack", "rmle"), 2, "unknown attack on labels 'rmle'"),
    ((*CUTS, "--attack", "clusters,"), 2, "names of attacks with commas between them"),
    ((*CUTS, "--attack", "linear-probe"), 2, "linear-probe cannot run here: it needs pictures"),
    ((*CUTS, "--budget", "5s"), 2, "expected no --budget with --return-at"),
    ((*CUTS, "--resume"), 2, "expected no --resume with --return-at"),
    ((*CUTS, "--prior", "x.npz"), 2, "expected no --prior with --return-at"),
    ((*CUTS, "--preset", "fast"), 2, "expected no --preset with --return-at"),
    ((*CUTS, "--labels", "x.csv"), 2, "expected --images DIR with the pictures"),
    ((*CUTS, "--aux-images", "nowhere"), 1, "a folder of the attacker's pictures, got nowhere"),
    (("--cut", "edge-only", "--return-at", "pool"), 2, "one cut before pool, got 'edge-only'"),
    (("--cut", "block", "--return-at", "pool"), 2, "one cut before pool, got 'block'"),
    (("--cut", "act", "--return-at", "nowhere"), 2, "nowhere"),
    (("--cut", "act", "--return-at", "edge-only"), 2, "at a cut between the two ends"),
    (("--cut", "pool", "--return-at", "act"), 2, "expected to return behind a cut"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), REFUSED)
def test_refusals(tmp_path: Path, arguments: tuple[object, ...], code: int, message: str) -> None:
    outcome = attack(*arguments, "--out", tmp_path / "run")
    assert (outcome.code, outcome.out) == (code, ""), outcome.err
    assert message in outcome.err and len(outcome.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_an_attack_that_fails_does_not_end_the_others(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AttackError("no groups")

    monkeypatch.setattr(find_label_attack("clusters"), "_run", fail)
    given = (*CUTS, "--images", pictures, "--format", "json", "--out", tmp_path / "run")
    document = json.loads(attack(*given).out)
    assert {"attack": "clusters", "reason": "failed: no groups"} in document["not_run"]
    alone = attack(*CUTS, "--attack", "clusters", "--out", tmp_path / "alone")
    assert alone.code == 1 and "clusters failed: no groups" in alone.err
    assert not (tmp_path / "alone").exists()


def test_what_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    model = models.load_model(COLOURS, weights="none")
    plan = label_attack.make_plan(
        model, cuts="act", precision="fp32", images=None, image_count=1, seed=0, folder=tmp_path,
        return_at="pool", labels=None,
    )  # fmt: skip
    maps = replace(plan, expected=(np.zeros((2, 3, 8, 8), np.float32),))
    with (
        pytest.raises(
            AttackError, match=r"first result scores classes, \[n, classes\], got \[2, 3, 8"
        ),
        cloud_view(maps, 1),
    ):
        pass
    once = replace(plan, cuts=tuple(replace(cut, last=None) for cut in plan.cuts))
    with pytest.raises(CutError, match="a second cut behind act, got none"), cloud_view(once, 1):
        pass
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OutputError, match="expected a folder at"):
        attack_labels(model, "act", LabelOptions("pool"), file)
    with pytest.raises(UsageError, match="names of attacks with commas"):
        label_attack.parse_label_attacks("a,,b")


def test_the_list_of_attacks_names_them_with_what_they_need() -> None:
    rows = json.loads(splitdeploy("attacks", "--format", "json").out)
    needs = {row["name"]: row["needs"] for row in rows}
    assert needs["last-layers"] == needs["clusters"] == "--return-at"
    assert needs["linear-probe"] == "--return-at --aux-images --aux-labels"
    assert needs["linear-probe-answers"] == "--return-at --aux-images"
    assert "linear-probe" in splitdeploy("attacks").out
