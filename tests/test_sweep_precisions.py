"""Precisions as an axis of a sweep: the runs that ``recommend`` joins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import MODEL, SMALL, splitdeploy

from splitdeploy.cli.sweep import plan_file
from splitdeploy.partitioner import sweep_batch
from splitdeploy.partitioner.sweep_file import read_sweep_file
from splitdeploy.partitioner.sweep_summary import SummaryRow, write_summary
from splitdeploy.profiles.errors import UnknownNameError, UsageError

KNOWN = {"model": False, "device": False, "precision": False, "power-mode": False}


def test_every_run_is_made_in_every_precision(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(
        "models: [a, b]\ndevices: [jetson-nano]\n"
        "precisions: [fp16, {precision: int8, power-mode: 5W}]\n"
    )
    runs = read_sweep_file(path, KNOWN)
    assert [run.name for run in runs] == [
        "a-jetson-nano-fp16", "a-jetson-nano-int8-5W",
        "b-jetson-nano-fp16", "b-jetson-nano-int8-5W",
    ]  # fmt: skip
    assert runs[3].options == {
        "model": "b", "device": "jetson-nano", "precision": "int8", "power-mode": "5W",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("precisions: [fp16]\nprecision: int8", "expected precisions or precision, got both: keep"),
        ("precisions: fp16", r"expected precisions to be a list such as \[NAME, …\], got 'fp16'"),
        ("precisions: []", "expected precisions to be a list .* got an empty list"),
        ("precisions: [16]\nprecison: 3", "unknown key of fleet.yaml 'precison': did you mean"),
    ],
)
def test_an_axis_that_cannot_be_meant_is_told(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(f"models: [a]\n{text}\n")
    with pytest.raises(UsageError, match=message):
        read_sweep_file(path, KNOWN)


def test_a_precision_that_there_is_not_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("models: [resnet18]\nprecisions: [fp16, int4]\n")
    with pytest.raises((UsageError, UnknownNameError), match="run resnet18-int4: unknown precisio"):
        plan_file(path)


def test_runs_of_different_precisions_do_not_share_what_leaks(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(
        "models: [resnet18]\ndevices: [jetson-nano]\nnetworks: [lte, wifi]\n"
        "precisions: [fp32, fp16, int8]\n"
    )
    planned = plan_file(path)
    heads: dict[str, set[str]] = {}
    for run in planned:
        heads.setdefault(repr(sweep_batch._heads(run.options)), set()).add(run.options.precision)
    assert sorted(map(sorted, heads.values())) == [["fp16"], ["fp32"], ["int8"]]


def test_the_summary_tells_the_precision_of_every_run(tmp_path: Path) -> None:
    rows = [
        SummaryRow(f"run-{kind}", kind, f"run-{kind}", "done", None, 1.0, "here", "resnet18",
                   "jetson-nano", "t4", "lte", "simulated", "act", precision=kind)
        for kind in ("fp16", "int8")
    ]  # fmt: skip
    write_summary(rows, tmp_path)
    shown = splitdeploy("sweep", "--merge", tmp_path, "--format", "md")
    assert shown.code == 0, shown.err
    assert "| int8 |" in " ".join(shown.out.split()) and "prec." in shown.out


def test_a_state_of_another_precision_is_begun_anew(tmp_path: Path) -> None:
    def rows(precision: str, *more: str) -> list[dict[str, object]]:
        shown = splitdeploy(
            "profile", MODEL, *SMALL, "--no-privacy", "--precision", precision, "--device",
            "jetson", "--out", tmp_path / "run", "-q", *more,
        )  # fmt: skip
        assert shown.code == 0, shown.err
        found: list[dict[str, object]] = json.loads((tmp_path / "run/report.json").read_text())[
            "cuts"
        ]
        return found

    assert all(row["codec_loss"] is None for row in rows("fp32"))
    shutil.rmtree(tmp_path / "run/bundle")
    assert all(row["codec_loss"] is not None for row in rows("int8", "--resume"))
