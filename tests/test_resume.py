"""A killed sweep goes on where it stopped: the same report, and nothing computed twice."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import MODEL, SMALL
from forked_runs import ForkedRuns

from splitdeploy.partitioner.comparable import comparable
from splitdeploy.partitioner.state import DONE, State, alone_in
from splitdeploy.partitioner.under_way import CRASHES, FAULT, UNDER_WAY, Watch
from splitdeploy.profiles.errors import OutputError

SWEEP = ("profile", MODEL, *SMALL, "--cuts", "act,blocks.0", "--budget", "10m", "-q", "--out")
WORK = {"verification", "leakage", "quick attack", "pass forward"}


@pytest.fixture(scope="module")
def runs() -> Iterator[ForkedRuns]:
    with ForkedRuns() as helper:
        yield helper


def report(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / "report.json").read_text())
    return document


def finished(out: Path) -> Counter[tuple[str, str | None]]:
    """How often each piece of work was finished."""
    lines = (out / "state" / DONE).read_text().splitlines()
    return Counter((line["work"], line["cut"]) for line in map(json.loads, lines))


@pytest.fixture(scope="module")
def whole(runs: ForkedRuns, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An uninterrupted run, and how long it takes."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = runs.run([*SWEEP, out])
    assert done["code"] == 0, done["err"]
    return out, done["seconds"]


def test_an_uninterrupted_run_writes_down_what_it_finishes(whole: tuple[Path, float]) -> None:
    done = finished(whole[0])
    assert {work for work, _ in done} == WORK
    assert set(done.values()) == {1}
    assert {cut for work, cut in done if work == "leakage"} == {
        "cloud-only", "act", "blocks.0", "edge-only",
    }  # fmt: skip


@pytest.mark.parametrize("moment", range(3))
def test_a_killed_sweep_goes_on_and_repeats_nothing(
    moment: int, runs: ForkedRuns, whole: tuple[Path, float], tmp_path: Path
) -> None:
    out, expected = tmp_path / "run", whole[0]
    after_s = random.Random(moment).uniform(0.3, 0.98) * whole[1]
    killed = runs.run([*SWEEP, out], kill_after_s=after_s)
    assert killed["code"] in {-9, 0}
    resumed = runs.run([*SWEEP, out, "--resume"])
    assert resumed["code"] == 0, resumed["err"]
    assert comparable(report(out)) == comparable(report(expected))
    assert finished(out) == finished(expected)
    pictures = {path.relative_to(out) for path in out.glob("reconstructions/**/*.png")}
    assert pictures == {p.relative_to(expected) for p in expected.glob("reconstructions/**/*.png")}
    assert not (out / "state" / UNDER_WAY).exists()


def test_timings_on_this_machine_are_taken_up(runs: ForkedRuns, tmp_path: Path) -> None:
    sweep = [*SWEEP, tmp_path, "--device", "local", "--cloud", "local", "--no-privacy"]
    assert runs.run(sweep)["code"] == 0
    first = report(tmp_path)
    (tmp_path / "report.json").unlink()
    assert runs.run([*sweep, "--resume"])["code"] == 0
    assert finished(tmp_path)["timing on this machine", None] == 1
    assert [row["latency_s"] for row in report(tmp_path)["cuts"]] == [
        row["latency_s"] for row in first["cuts"]
    ]


def test_a_cut_that_crashes_the_process_is_a_row(
    runs: ForkedRuns, tmp_path: Path, whole: tuple[Path, float]
) -> None:
    assert runs.run([*SWEEP, tmp_path], crash_in="blocks.0")["code"] == -11
    assert runs.run([*SWEEP, tmp_path, "--resume"], crash_in="blocks.0")["code"] == 0
    rows = {row["name"]: row for row in report(tmp_path)["cuts"]}
    assert rows["blocks.0"]["error"] == (
        "the process crashed in leakage and the quick attack on blocks.0: Segmentation fault"
    )
    expected = {row["name"]: row for row in comparable(report(whole[0]))["cuts"]}
    found = {row["name"]: row for row in comparable(report(tmp_path))["cuts"]}
    for name in ("cloud-only", "act", "edge-only"):
        assert found[name]["attacks"] == expected[name]["attacks"]


def test_a_silent_end_counts_when_it_comes_back(tmp_path: Path) -> None:
    for times in (1, 2, 3):
        (tmp_path / UNDER_WAY).write_text('{"work": "the attack on act"}')
        watch = Watch(tmp_path)
        assert (watch.crashed("the attack on act") is None) == (times < 3)
    assert watch.crashed("the attack on act") == (
        "the process was killed 3 times in the attack on act: too little memory, perhaps"
    )
    assert watch.crashed("the attack on pool") is None
    assert Watch(tmp_path).crashed("the attack on act") is not None


def test_work_that_raises_is_no_crash(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    with pytest.raises(KeyboardInterrupt), watch.on("the attack on act"):
        assert (tmp_path / UNDER_WAY).exists()
        raise KeyboardInterrupt
    assert Watch(tmp_path).crashed("the attack on act") is None
    assert not (tmp_path / FAULT).exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"work": 3}', "null"])
def test_a_damaged_note_of_what_was_under_way_is_passed_over(text: str, tmp_path: Path) -> None:
    (tmp_path / UNDER_WAY).write_text(text)
    (tmp_path / CRASHES).write_text(text)
    assert Watch(tmp_path).crashed("the attack on act") is None
    assert not (tmp_path / UNDER_WAY).exists()


def test_two_sweeps_never_write_into_one_folder(tmp_path: Path) -> None:
    with (
        alone_in(tmp_path / "state"),
        pytest.raises(OutputError, match="for this sweep alone, another process is writing"),
        alone_in(tmp_path / "state", patience_s=0.2),
    ):
        raise AssertionError("never")
    with alone_in(tmp_path / "state", patience_s=0.0):
        pass


def test_parts_that_cannot_be_read_are_done_again(tmp_path: Path) -> None:
    state = State(tmp_path, {}, resume=False)
    state.save_part("sampled", {"a": 1})
    assert state.load_part("sampled") == {"a": 1}
    (tmp_path / "part-sampled.json").write_text("{")
    (tmp_path / "part-leakage-0001.json").write_text("[1]")
    assert state.load_part("sampled") is None
    assert state.load_row_part("leakage", 1) is None
    State(tmp_path, {}, resume=False)
    assert not list(tmp_path.glob("part-*.json"))
