"""The command line end to end, on a small net: every verb, every format, every file it writes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from command_line import HERE, MODEL, SMALL, Outcome, splitdeploy
from PIL import Image

from splitdeploy.attacks.images import load_photographs
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.partitioner import attack_set, exposure, privacy
from splitdeploy.partitioner import profile as profiling
from splitdeploy.partitioner.models import load_model
from splitdeploy.partitioner.plan import make_plan
from splitdeploy.profiles.errors import AttackError
from splitdeploy.profiles.store import CSV_COLUMNS, report_schema

BLOCKS = ["cloud-only", "act", "blocks.0", "blocks.1", "pool", "edge-only"]
VERBS = (
    "profile", "sweep", "cuts", "export", "leakage", "attack", "defend", "recommend", "report",
    "devices", "networks", "attacks", "prior", "serve", "run", "doctor", "build", "deploy",
    "manifests",
)  # fmt: skip


def process(*arguments: object, cwd: Path = HERE) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, as users do."""
    return subprocess.run(
        [sys.executable, "-m", "splitdeploy", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def profile(out: Path, *arguments: object) -> Outcome:
    return splitdeploy("profile", MODEL, *SMALL, "--budget", "2m", "--out", out, *arguments)


@pytest.fixture(scope="module", autouse=True)
def few_attacks() -> Iterator[None]:
    """One strong attack, so that a sweep is done before its time is over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attack_set, "STRONGEST", ("rmle",))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """One sweep in this process, without progress, which many tests look at."""
    out = tmp_path_factory.mktemp("runs") / "sweep"
    outcome = profile(out, "--device", "jetson-nano", "--format", "json", "-q", "--fps", 30)
    return out, outcome


def read(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / "report.json").read_text())
    return document


def check_bundle(folder: Path, model: str, *, tolerance: float = 1e-5) -> dict[str, Any]:
    """The manifest is true, and the halves in a row equal the whole model in torch."""
    import torch

    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(manifest["files"]) == files - {"manifest.json"}
    for name, record in manifest["files"].items():
        body = (folder / name).read_bytes()
        assert record == {"sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body)}
    served = folder / "triton" / manifest["served_name"]
    assert (served / "1" / "model.onnx").read_bytes() == (folder / "tail.onnx").read_bytes()
    check_config((served / "config.pbtxt").read_text(), manifest)
    for name in files:
        assert str(folder.parent).encode() not in (folder / name).read_bytes()
        assert b"/tmp/" not in (folder / name).read_bytes()
    loaded = load_model(model, weights="none", input_shape=(3, 16, 16))
    pictures = load_photographs("photos", shape=(3, 16, 16), count=3, seed=1)
    batch = loaded.input.normalise(pictures.pixels)
    assert loaded.module is not None
    with (
        OnnxRuntimeSession(folder / "head.onnx") as head,
        OnnxRuntimeSession(folder / "tail.onnx") as tail,
    ):
        sent = head.run({head.inputs[0].name: batch})
        by_name = {tensor["name"]: tensor for tensor in manifest["tensors"]}
        for name, value in sent.items():
            if name in by_name:
                assert list(value.shape[1:]) == by_name[name]["shape"][1:]
                assert str(value.dtype) == by_name[name]["dtype"]
        got = next(iter(tail.run({s.name: sent[s.name] for s in tail.inputs}).values()))
    expected = loaded.module(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    return manifest


def check_config(text: str, manifest: dict[str, Any]) -> None:
    """Balanced, and of the tail's inputs and outputs."""
    assert text.count("{") == text.count("}")
    assert text.count("[") == text.count("]")
    names = re.findall(r'name: "([^"]+)"', text)
    assert manifest["served_name"] in names
    for value in (*manifest["tail"]["inputs"], *manifest["tail"]["outputs"]):
        assert value["name"] in names
    assert set(re.findall(r"TYPE_\w+", text)) <= {"TYPE_FP32", "TYPE_FP16", "TYPE_INT8"}


def test_a_run_ends_well_and_prints_the_report_alone(run: tuple[Path, Outcome]) -> None:
    out, outcome = run
    assert outcome.code == 0
    assert json.loads(outcome.out) == read(out)
    assert outcome.err == f"report: {out / 'report.html'}\n"


def test_the_report_follows_the_shipped_schema(run: tuple[Path, Outcome]) -> None:
    document = read(run[0])
    jsonschema.validate(document, report_schema())
    assert document["schema_version"] == 1
    assert document["edge"]["source"] == "simulated"
    assert document["network"]["name"] == "wifi"
    assert document["model"]["input"]["shape"] == [1, 3, 16, 16]


def test_every_row_is_verified_priced_measured_and_attacked(run: tuple[Path, Outcome]) -> None:
    document = read(run[0])
    assert [row["name"] for row in document["cuts"]] == BLOCKS
    for row in document["cuts"]:
        assert row["error"] is None
        assert row["verified"]["ok"]
        stages = row["latency_s"]
        parts = sum(stages[key]["median"] for key in ("edge", "uplink", "cloud", "downlink"))
        assert stages["total"]["median"] == pytest.approx(parts)
        energy = row["energy_j"]
        assert energy["total"] == pytest.approx(energy["compute"] + energy["radio"])
        assert row["uplink_bps_needed"] == row["payload_bytes"] * 8 * 30
        assert row["leakage"]["fsinfo"]["standard_error"] >= 0
        assert row["leakage"]["images"] == row["attacks"][0]["images"] == 2
        assert not row["attacks"][0]["oracle"]
        assert row["baseline"]["ssim"] < 1
    sent = {row["name"]: row["payload_bytes"] for row in document["cuts"]}
    assert sent["cloud-only"] == 3 * 16 * 16 * 2  # fp16 on a Jetson
    assert sent["act"] == 8 * 8 * 8 * 2


def test_the_input_itself_is_recovered_where_it_is_sent(run: tuple[Path, Outcome]) -> None:
    rows = {row["name"]: row for row in read(run[0])["cuts"]}
    assert rows["cloud-only"]["attacks"][0]["ssim"] > 0.99
    assert rows["pool"]["attacks"][0]["ssim"] < rows["act"]["attacks"][0]["ssim"]
    gains = [rows[name]["leakage"]["fsinfo"]["value"] for name in ("cloud-only", "act", "pool")]
    assert gains == sorted(gains, reverse=True)


def test_the_table_of_cuts_is_csv(run: tuple[Path, Outcome]) -> None:
    rows = list(csv.DictReader((run[0] / "cuts.csv").open()))
    assert [row["name"] for row in rows] == BLOCKS
    assert tuple(rows[0]) == CSV_COLUMNS
    assert sum(row["recommended"] == "yes" for row in rows) == 1


def test_the_page_is_one_file_that_needs_no_network(run: tuple[Path, Outcome]) -> None:
    page = (run[0] / "report.html").read_text()
    assert "<script src" not in page
    assert not re.findall(r'(?:src|href)="https?://', page)
    for name in BLOCKS:
        assert name in page


def test_every_attack_left_a_picture(run: tuple[Path, Outcome]) -> None:
    out, _ = run
    for row in read(out)["cuts"]:
        with Image.open(out / row["attacks"][0]["picture"]) as picture:
            assert picture.size[0] >= row["attacks"][0]["images"] * 16
    assert len(list(out.glob("reconstructions/*/*.png"))) == len(BLOCKS)


def test_the_recommended_cut_is_a_bundle_that_runs(run: tuple[Path, Outcome]) -> None:
    out, _ = run
    manifest = check_bundle(out / "bundle", MODEL, tolerance=1e-2)
    document = read(out)
    assert manifest["cut"] == document["recommendation"]["cut"]
    assert manifest["precision"] == "fp16"
    row = next(row for row in document["cuts"] if row["name"] == manifest["cut"])
    assert manifest["leakage"] == row["leakage"]
    assert manifest["tensors"] == row["tensors"]


def test_the_state_holds_every_row(run: tuple[Path, Outcome]) -> None:
    names = sorted(path.name for path in (run[0] / "state").glob("cut-*.json"))
    assert names == [f"cut-{index:04d}.json" for index in range(len(BLOCKS))]


def test_random_weights_are_told_in_the_report(run: tuple[Path, Outcome]) -> None:
    assert any("not trained" in text for text in read(run[0])["recommendation"]["warnings"])


def test_a_real_process_measures_this_machine(tmp_path: Path) -> None:
    done = process(
        "profile", MODEL, *SMALL, "--device", "local", "--cloud", "local", "--no-privacy",
        "--budget", "2m", "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = read(tmp_path / "run")
    jsonschema.validate(document, report_schema())
    assert document["edge"]["source"] == "measured"
    edge = {row["name"]: row["latency_s"]["edge"] for row in document["cuts"]}
    # The input is handed over, which takes the edge what its messages take.
    messages = document["edge"]["messages"]
    sizes = {row["name"]: row["payload_bytes"] for row in document["cuts"]}
    handed_over = sizes["cloud-only"] + sizes["edge-only"]
    assert edge["cloud-only"]["median"] == pytest.approx(
        messages["request_s"] + messages["byte_s"] * handed_over
    )
    assert edge["edge-only"]["median"] > 0
    assert edge["edge-only"]["source"] == "measured"
    assert all(row["energy_j"] is None for row in document["cuts"])
    check_bundle(tmp_path / "run" / "bundle", MODEL)
    assert "local (measured" in done.stdout
    assert "verifying the cuts" in done.stderr
    assert "verifying the cuts" not in done.stdout
    assert f"report: {tmp_path / 'run' / 'report.html'}" in done.stderr


@pytest.mark.parametrize("form", ["table", "csv", "md", "json"])
def test_a_report_is_shown_again(form: str, run: tuple[Path, Outcome]) -> None:
    before = (run[0] / "report.json").read_bytes()
    outcome = splitdeploy("report", run[0], "--format", form)
    assert (outcome.code, outcome.err) == (0, "")
    if form == "json":
        assert json.loads(outcome.out) == read(run[0])
    elif form == "csv":
        assert outcome.out == (run[0] / "cuts.csv").read_text()
    else:
        assert "edge-only" in outcome.out
        assert "simulated" in outcome.out
    assert (run[0] / "report.json").read_bytes() == before


def test_a_page_is_drawn_again(run: tuple[Path, Outcome]) -> None:
    page = run[0] / "report.html"
    before = page.read_text()
    page.unlink()
    outcome = splitdeploy("report", run[0], "--html")
    assert outcome == Outcome(0, f"{page}\n", "")
    assert page.read_text() == before


def test_recommend_decides_anew_and_leaves_the_run_alone(run: tuple[Path, Outcome]) -> None:
    out, _ = run
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    picks = {}
    for uplink in ("1kbit", "1gbit"):
        outcome = splitdeploy(
            "recommend", out, "--uplink", uplink, "--rtt", "0ms", "--objective", "latency",
            "--format", "json",
        )  # fmt: skip
        assert (outcome.code, outcome.err) == (0, "")
        picks[uplink] = json.loads(outcome.out)["cut"]
    assert picks == {"1kbit": "edge-only", "1gbit": "cloud-only"}
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("form", ["table", "csv", "md"])
def test_recommend_shows_the_table_over_the_new_network(
    form: str, run: tuple[Path, Outcome]
) -> None:
    outcome = splitdeploy("recommend", run[0], "--network", "3g", "--format", form)
    assert (outcome.code, outcome.err) == (0, "")
    assert "pool" in outcome.out


def test_a_constraint_that_nothing_meets_is_three_and_names_what_binds(tmp_path: Path) -> None:
    outcome = profile(tmp_path / "run", "--no-privacy", "--max-latency", "1us", "-q")
    assert outcome.code == 3
    assert outcome.out == ""
    assert re.fullmatch(r"error: .*--max-latency.*\n", outcome.err)
    document = read(tmp_path / "run")
    jsonschema.validate(document, report_schema())
    assert document["recommendation"] is None
    assert not any(row["feasible"] for row in document["cuts"])
    assert (tmp_path / "run" / "report.html").is_file()
    assert not (tmp_path / "run" / "bundle").exists()


def test_recommend_tells_what_binds_too(run: tuple[Path, Outcome]) -> None:
    outcome = splitdeploy("recommend", run[0], "--max-energy", "1uJ")
    assert (outcome.code, outcome.out) == (3, "")
    assert re.fullmatch(r"error: .*--max-energy.*\n", outcome.err)


@pytest.mark.parametrize(
    ("grain", "least"), [("block", 6), ("layer", 8), ("all", 12), ("blocks.0,pool", 4)]
)
def test_cuts_are_listed_at_every_grain(grain: str, least: int) -> None:
    outcome = splitdeploy("cuts", MODEL, *SMALL[:2], "--cuts", grain, "--format", "json")
    assert (outcome.code, outcome.err) == (0, "")
    cuts = json.loads(outcome.out)
    assert len(cuts) >= least
    assert [cut["index"] for cut in cuts] == list(range(len(cuts)))
    for cut in cuts:
        assert cut["payload_bytes"] == sum(t["bytes"] for t in cut["tensors"])
        assert cut["head_macs"] + cut["tail_macs"] == cuts[-1]["head_macs"]


@pytest.mark.parametrize("form", ["table", "csv", "md"])
def test_cuts_are_listed_in_every_form(form: str) -> None:
    outcome = splitdeploy("cuts", MODEL, "--format", form)
    assert (outcome.code, outcome.err) == (0, "")
    for name in BLOCKS:
        assert name in outcome.out
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(outcome.out)))
        assert [row["name"] for row in rows] == BLOCKS


# Rounding once to 11 bits or to 255 steps costs so much of the largest answer.
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 5e-3), ("int8", 0.1)]
)
def test_a_cut_is_exported_in_every_precision(
    precision: str, tolerance: float, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    arguments = ("export", MODEL, *SMALL, "--cut", "blocks.0", "--out", out, "-q")
    outcome = splitdeploy(*arguments, "--precision", precision)
    assert (outcome.code, outcome.out) == (0, f"{out}\n")
    manifest = check_bundle(out, MODEL, tolerance=tolerance)
    assert manifest["cut"] == "blocks.0"
    assert manifest["precision"] == precision
    assert manifest["payload_bytes"] == 8 * 8 * 8 * {"fp32": 4, "fp16": 2, "int8": 1}[precision]
    again = splitdeploy(*arguments, "--precision", precision)
    assert again.code == 0, again.err
    assert json.loads((out / "manifest.json").read_text()) == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("verb", ["devices", "networks", "attacks"])
@pytest.mark.parametrize("form", ["table", "json", "csv", "md"])
def test_what_there_is_is_listed_in_every_form(verb: str, form: str) -> None:
    outcome = splitdeploy(verb, "--format", form)
    assert (outcome.code, outcome.err) == (0, "")
    expected = {"devices": "jetson-nano", "networks": "lte", "attacks": "rmle"}[verb]
    assert expected in outcome.out
    if form == "json":
        assert len(json.loads(outcome.out)) >= 2
    if form == "csv":
        rows = list(csv.reader(io.StringIO(outcome.out)))
        assert len({len(row) for row in rows}) == 1


def test_one_device_is_shown_with_its_provenance() -> None:
    outcome = splitdeploy("devices", "jetson-nano", "--format", "json")
    assert json.loads(outcome.out)["name"] == "jetson-nano"
    assert "bandwidth_bytes_per_s" in splitdeploy("devices", "jetson-nano").out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    outcome = splitdeploy(verb, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert "Example:" in outcome.out
    assert f"splitdeploy {verb}" in outcome.out.split("Example:")[1]


def test_no_verb_is_forgotten_here() -> None:
    from splitdeploy.cli.main import cli

    assert set(cli.commands or ()) | set(cli.list_commands(None)) == set(VERBS)  # type: ignore[arg-type]


def test_a_real_process_says_its_version() -> None:
    done = process("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"splitdeploy, version \d+\.\d+\.\d+\n", done.stdout)


class Ample:
    """Leakage and quick attacks alone, without a deadline, so that two runs of them agree."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.attacked: list[int] = []
        self.stop_at: int | None = None
        self.failure: BaseException = KeyboardInterrupt()
        self._attack: Callable[..., Any] = privacy.attack
        self._leakage: Callable[..., Any] = privacy.leakage
        monkeypatch.setattr(privacy, "attack", self.attack)
        monkeypatch.setattr(privacy, "leakage", self.leakage)
        monkeypatch.setattr(exposure, "ALL_SHARE", 1e6)
        monkeypatch.setattr(profiling, "deepen", lambda _, report, *__: list(report.cuts))

    def attack(self, head: Any, seen: Any, pixels: Any, **given: Any) -> Any:
        if len(self.attacked) == self.stop_at:
            self.stop_at = None
            raise self.failure
        self.attacked.append(len(seen[0]))
        record, found = self._attack(head, seen, pixels, **{**given, "deadline_s": None})
        return replace(record, seconds=0.0), found

    def leakage(self, *given: Any, **named: Any) -> Any:
        return self._leakage(*given, **{**named, "deadline_s": None})


def without_times(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in {"created", "command"}}


def test_an_interrupted_sweep_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ample = Ample(monkeypatch)
    few = ("--cuts", "act,blocks.0,pool", "-q")
    assert profile(tmp_path / "whole", *few).code == 0
    assert len(ample.attacked) == 5
    ample.attacked.clear()
    ample.stop_at = 2
    stopped = profile(tmp_path / "run", *few)
    assert stopped.code == 130
    assert "add --resume to go on" in stopped.err
    assert stopped.err.endswith("interrupted\n")
    assert not (tmp_path / "run" / "report.json").exists()
    assert len(list((tmp_path / "run" / "state").glob("cut-*.json"))) == 2
    ample.attacked.clear()
    resumed = profile(tmp_path / "run", *few, "--resume")
    assert resumed.code == 0, resumed.err
    assert len(ample.attacked) == 3
    assert without_times(read(tmp_path / "run")) == without_times(read(tmp_path / "whole"))


def test_rows_of_other_settings_are_not_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ample = Ample(monkeypatch)
    few = ("--cuts", "pool", "-q")
    assert profile(tmp_path / "run", *few).code == 0
    ample.attacked.clear()
    assert profile(tmp_path / "run", *few, "--resume", "--noise", "int8").code == 0
    assert len(ample.attacked) == 3
    ample.attacked.clear()
    assert profile(tmp_path / "run", *few, "--resume", "--noise", "int8").code == 0
    assert ample.attacked == []


def test_a_cut_that_fails_is_a_row_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ample = Ample(monkeypatch)
    ample.stop_at, ample.failure = 1, AttackError("the attacker lost heart")
    outcome = profile(tmp_path / "run", "--cuts", "act,pool", "-q")
    assert outcome.code == 0, outcome.err
    rows = read(tmp_path / "run")["cuts"]
    (failed,) = (row for row in rows if row["error"] is not None)
    assert failed["error"] == "the attacker lost heart"
    assert not failed["feasible"]
    assert failed["latency_s"] is not None
    assert len(rows) == 4
    assert "the attacker lost heart" in outcome.out


def test_a_plan_in_the_same_folder_twice_is_the_same(tmp_path: Path) -> None:
    model = load_model(MODEL, weights="none", input_shape=(3, 16, 16))
    plans = [
        make_plan(model, cuts="pool", precision="fp32", images=None, image_count=2, seed=0,
                  folder=tmp_path)
        for _ in range(2)
    ]  # fmt: skip
    np.testing.assert_array_equal(plans[0].expected[0], plans[1].expected[0])
