"""Sweeps from a file: what it may say, what becomes of it, and how the picks are summed up."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from command_line import HERE, MODEL, splitdeploy
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.partitioner import sweep_backends, sweep_batch, sweep_jobs, sweep_process
from splitdeploy.partitioner.comparable import comparable
from splitdeploy.partitioner.handover import inherit, unpack
from splitdeploy.partitioner.progress import Silent
from splitdeploy.partitioner.sweep_backends import Spread, connected
from splitdeploy.partitioner.sweep_file import SweepRun, read_sweep_file
from splitdeploy.partitioner.sweep_jobs import GroupJob, Home, Outcome, RunJob, run_group
from splitdeploy.partitioner.sweep_process import Starter
from splitdeploy.partitioner.sweep_summary import (
    SummaryRow,
    merge,
    read_summary,
    write_summary,
)
from splitdeploy.profiles.errors import (
    MissingExtraError,
    ReportError,
    SplitdeployError,
    UsageError,
)

KNOWN = {"model": False, "device": False, "network": False, "uplink": False, "no-privacy": True,
         "budget": False, "seed": False}  # fmt: skip


def runs_of(text: str, folder: Path) -> tuple[SweepRun, ...]:
    path = folder / "fleet.yaml"
    path.write_text(text, encoding="utf-8")
    return read_sweep_file(path, KNOWN)


def test_every_model_meets_every_device_and_network(tmp_path: Path) -> None:
    runs = runs_of(
        "models: [resnet18, {model: a/b.pt2, seed: 3}]\n"
        "devices: [jetson-nano, {device: jetson-tx2, budget: 9s}]\n"
        "networks: [lte, {uplink: 1mbit}]\n"
        "budget: 2m\nno-privacy: true\n",
        tmp_path,
    )
    assert [run.name for run in runs] == [
        "resnet18-jetson-nano-lte", "resnet18-jetson-nano-1mbit",
        "resnet18-jetson-tx2-9s-lte", "resnet18-jetson-tx2-9s-1mbit",
        "a-b.pt2-3-jetson-nano-lte", "a-b.pt2-3-jetson-nano-1mbit",
        "a-b.pt2-3-jetson-tx2-9s-lte", "a-b.pt2-3-jetson-tx2-9s-1mbit",
    ]  # fmt: skip
    assert runs[0].arguments() == [
        "--budget", "2m", "--no-privacy", "--device", "jetson-nano", "--network", "lte",
        "--", "resnet18",
    ]  # fmt: skip
    assert runs[-1].options == {
        "budget": "9s", "no-privacy": True, "model": "a/b.pt2", "seed": "3",
        "device": "jetson-tx2", "uplink": "1mbit",
    }  # fmt: skip


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    names = [run.name for run in runs_of("models: [a/b, a-b, A-B, a-b-2, '/']\n", tmp_path)]
    assert names[0] == "a-b"
    assert len({name.lower() for name in names}) == 5
    assert names[-1] == "run"


WRONG = [
    ("modles: [a]", r"unknown key of fleet.yaml 'modles': did you mean models"),
    ("models: [a]\nbugdet: 2m", r"unknown key of fleet.yaml 'bugdet': did you mean budget"),
    ("models: [{modle: a}]", r"unknown key of fleet.yaml in models 'modle': did you mean model"),
    ("models: [a]\nno_privacy: true", r"unknown key .* 'no_privacy': did you mean no-privacy"),
    ("models: [a]\n3: 4", r"unknown key of fleet.yaml '3'"),
    ("budget: 2m", r"expected models: \[NAME, …\], which is missing"),
    ("models: a", r"expected models to be a list such as \[NAME, …\], got 'a'"),
    ("models: []", r"expected models to be a list .* got an empty list"),
    ("models:", r"expected models to be a list .* got nothing"),
    ("models: [{seed: 1}]", r"expected a model in every entry of models"),
    ("models: [a]\ndevices: [{}]", r"expected a name in every entry of devices"),
    ("models: [a]\ndevices: [[b]]", r"expected device to be a text or a number, got a list"),
    ("models: [a]\nnetworks: [no]", r"expected network to be a text or a number, got False"),
    ("models: [a]\nno-privacy: 1", r"expected no-privacy to be true or false, got 1"),
    ("models: [a]\nbudget: {a: b}", r"expected budget to be a text or a number, got a mapping"),
    ("models: [a]\nbudget: null", r"expected budget to be a text or a number, got nothing"),
    ("models: [a]\ndevices: [b]\ndevice: c", r"expected devices or device, got both"),
    ("models: [a]\nmodels: [b]", r"fleet.yaml, line 2: the key 'models' stands there twice"),
    ("models: [{model: a, model: b}]", r"line 1: the key 'model' stands there twice"),
    ("", r"to hold models and options .* got nothing"),
    ("- a", r"to hold models and options .* got a list"),
    ("models: [a", r"is no YAML: while parsing"),
    ("models: [!!python/object:os.system {}]", r"is no YAML: .*python/object"),
    ("a: &a [*a]", r"unknown key"),
    ("models: &m [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v]\n"
     "devices: *m\nnetworks: *m", r"expected at most 10000 runs, got 10648"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), WRONG, ids=[text[:40] for text, _ in WRONG])
def test_a_file_that_cannot_be_meant_is_told(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        runs_of(text, tmp_path)


@given(st.text(max_size=80) | st.text(alphabet="models: []{},-&*!\n\t'\"|>a1", max_size=60))
def test_whatever_a_file_holds_is_runs_or_one_line(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            runs = runs_of(text, Path(folder))
        except UsageError:
            return
        assert runs and all(run.options["model"] for run in runs)


def test_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a sweep file at .*gone.yaml, there is none"):
        read_sweep_file(tmp_path / "gone.yaml", KNOWN)
    with pytest.raises(UsageError, match="cannot read the sweep file"):
        read_sweep_file(tmp_path, KNOWN)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: [resnet18]\nbugdet: 2m", "did you mean budget"),
        ("models: [resnet18]\nbudget: soon", "run resnet18: expected a time with a unit"),
        ("models: [resnet18]\ndevices: [jetson-nanno]", "run resnet18-jetson-nanno: unknown"),
        ("models: [resnet18]\nfps: 0", "run resnet18: Invalid value for '--fps'"),
        ("models: [resnet18]\nout: here", "unknown key of fleet.yaml 'out'"),
        ("models: [resnet18]\nnoise: loud", "unknown noise 'loud'"),
    ],
)
def test_the_command_refuses_before_anything_runs(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(text)
    outcome = splitdeploy("sweep", tmp_path / "fleet.yaml", "--out", tmp_path / "out", "-q")
    assert (outcome.code, outcome.out) == (2, "")
    assert words in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_options_of_the_command_are_checked(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("models: [resnet18]\n")
    for arguments, words in (
        (("--backend", "spark"), "unknown backend 'spark'"),
        ((tmp_path / "a.yaml",), "expected one file, got 2: add --merge"),
        (("--merge", "--resume"), "expected --merge or --resume, got both"),
        (("--cluster", "tcp://127.0.0.1:1"), "expected --backend ray or dask with --cluster"),
    ):
        outcome = splitdeploy(
            "sweep", tmp_path / "a.yaml", "-q", "--out", tmp_path / "o", *arguments
        )
        assert outcome.code == 2 and words in outcome.err, outcome.err


FAKE = """
import json, os, sys, time
from pathlib import Path
words = sys.argv[2:]
out = Path(words[words.index("--out") + 1])
state = out / "state"
state.mkdir(parents=True, exist_ok=True)
with (out.parent / "calls.txt").open("a") as file:
    file.write(f"{out.name} {'--resume' in words} {os.environ['OMP_NUM_THREADS']}\\n")
model = words[-1]
if model == "fails":
    sys.exit("error: no such model")
if model == "crashes":
    (state / "under-way.json").write_text("{}")
    os.kill(os.getpid(), 11)
if model == "crashes-once" and "--resume" not in words:
    (state / "under-way.json").write_text("{}")
    os.kill(os.getpid(), 6)
if model == "hangs":
    time.sleep(600)
(state / "key.json").write_text('{"key": "of the heads"}')
(state / "cut-0000.json").write_text(out.name)
(out / "report.json").write_text("{}")
(state / "under-way.json").unlink(missing_ok=True)
sys.exit(3 if model == "infeasible" else 0)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the profile, in a module that a process of its own runs."""
    (tmp_path / "fake_profile.py").write_text(FAKE)
    monkeypatch.setattr(sweep_process, "CHILD", "fake_profile")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    out = tmp_path / "out"
    (out / "state").mkdir(parents=True)
    (out / "state" / sweep_jobs.TOKEN).write_text("token")
    return out


def group(out: Path, *models: str, token: str = "token", resume: bool = False) -> GroupJob:
    jobs = tuple(RunJob(f"run-{model}", ("--", model), f"key-{model}") for model in models)
    return GroupJob(Home(str(out), resume, token, Starter.here(2)), jobs)


def calls(out: Path) -> list[str]:
    path = out / "calls.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_a_run_that_fails_or_crashes_is_an_outcome(fake: Path) -> None:
    outcomes = run_group(group(fake, "fails", "crashes", "crashes-once", "infeasible", "good"))
    assert [outcome.status for outcome in outcomes] == [
        "failed", "crashed", "done", "infeasible", "done",
    ]  # fmt: skip
    assert outcomes[0].error == "no such model"
    assert outcomes[1].error is not None and "ended by signal 11" in outcomes[1].error
    counted = [line.split()[0] for line in calls(fake)]
    assert counted.count("run-crashes") == 4
    assert counted.count("run-crashes-once") == 2
    assert {line.split()[2] for line in calls(fake)} == {"2"}


def test_runs_of_the_same_heads_take_up_what_was_measured(fake: Path) -> None:
    run_group(group(fake, "a", "b"))
    assert calls(fake) == ["run-a False 2", "run-b True 2"]
    inherited = fake / "run-b" / "state" / "cut-0000.json"
    assert inherited.exists() and (fake / "run-a" / "state" / "cut-0000.json").exists()


def test_a_finished_run_is_not_repeated_and_a_failed_one_is(fake: Path) -> None:
    run_group(group(fake, "good", "infeasible", "fails"))
    before = calls(fake)
    outcomes = run_group(group(fake, "good", "infeasible", "fails", resume=True))
    assert [outcome.status for outcome in outcomes] == ["done", "infeasible", "failed"]
    assert calls(fake) == [*before, "run-fails True 2"]
    changed = replace(
        group(fake, "good", resume=True), runs=(RunJob("run-good", ("--", "x"), "k"),)
    )
    run_group(changed)
    assert calls(fake)[-1] == "run-good True 2"


def test_a_run_elsewhere_brings_its_report_along(fake: Path, tmp_path: Path) -> None:
    (outcome,) = run_group(group(fake, "good", token="of another machine"))
    assert outcome.files is not None
    unpack(outcome.files, tmp_path / "here", ["report.json"])
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["report.json"]
    (again,) = run_group(group(fake, "good", token="of another machine", resume=True))
    assert again.files is not None and len(calls(fake)) == 1


def test_an_archive_writes_nowhere_else(tmp_path: Path) -> None:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("../out.txt", "/tmp/out.txt", "bundle/../../out.txt", "other", "cuts.csv"):
            archive.writestr(name, "x")
    unpack(packed.getvalue(), tmp_path / "run", ["cuts.csv", "bundle"])
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == [
        "run/cuts.csv"
    ]


def test_a_run_ends_with_the_process_that_started_it() -> None:
    watcher = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import splitdeploy.cli.sweep_child as c,"
        "threading, time; threading.Thread(target=c._end_with_parent, daemon=True).start(); "
        "time.sleep(600)'], stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", watcher], stdout=subprocess.PIPE, text=True, cwd=HERE
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait(10)
    parent.stdout.close()
    assert ended(child)


def ended(process: int) -> bool:
    """Whether a process is gone, or only waits to be counted, within ten seconds."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_state_is_linked_but_pictures_are_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    (source / "state" / "training" / "cut-0001").mkdir(parents=True)
    (source / "state" / "training" / "cut-0001" / "x.npz").write_text("trained")
    (source / "state" / "done.jsonl").write_text("log")
    (source / "reconstructions" / "act").mkdir(parents=True)
    (source / "reconstructions" / "act" / "rmle.png").write_text("picture")
    (source / "state" / "key.json").write_text('{"key": "of the heads"}')
    inherit([source], target)
    picture = target / "reconstructions" / "act" / "rmle.png"
    assert picture.read_text() == "picture" and picture.stat().st_nlink == 1
    assert (target / "state" / "training" / "cut-0001" / "x.npz").stat().st_nlink == 2
    assert not (target / "state" / "done.jsonl").exists()


def row(name: str, key: str, status: str = "done", cut: str | None = "act") -> SummaryRow:
    return SummaryRow(
        name, key, name, status, None if status == "done" else "why", 1.5, "here", "resnet18",
        "jetson-nano", "t4", "lte", "simulated", cut, latency_s=0.25, payload_bytes=7,
    )  # fmt: skip


def summary(folder: Path, *rows: SummaryRow) -> Path:
    folder.mkdir(parents=True)
    write_summary(rows, folder)
    return folder


def test_a_summary_reads_as_it_was_written(tmp_path: Path) -> None:
    rows = (row("a", "1"), row("b", "2", "failed", None))
    assert read_summary(summary(tmp_path / "s", *rows)) == rows


def test_summaries_of_several_machines_become_one(tmp_path: Path) -> None:
    one = summary(tmp_path / "one", row("a", "1"), row("b", "2", "crashed", None), row("c", "3"))
    two = summary(tmp_path / "two", row("a", "1"), row("b", "2"), row("c", "4", cut="pool"))
    merged = merge([one, two], tmp_path)
    assert [(r.name, r.key, r.status, r.folder) for r in merged] == [
        ("a", "1", "done", "one/a"),
        ("b", "2", "done", "two/b"),
        ("one/c", "3", "done", "one/c"),
        ("two/c", "4", "done", "two/c"),
    ]
    outcome = splitdeploy(
        "sweep", "--merge", one, two, "--out", tmp_path / "all", "--format", "csv"
    )
    assert outcome.code == 0 and len(outcome.out.splitlines()) == 5
    assert [r.key for r in read_summary(tmp_path / "all")] == ["1", "2", "3", "4"]


def test_two_picks_for_the_same_settings_are_a_conflict(tmp_path: Path) -> None:
    one = summary(tmp_path / "one", row("a", "1"))
    two = summary(tmp_path / "two", row("a", "1", cut="pool"))
    with pytest.raises(SplitdeployError, match="pick different cuts: .*one/a picks act, .*two/a"):
        merge([one, two], None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no JSON document"),
        ("{}", "expected the key 'schema_version'"),
        ('{"schema_version": 9}', r"at \$.schema_version: expected 1, got 9"),
        ('{"schema_version": 1, "runs": [{"name": 3}]}', r"at \$.runs\[0\].name: expected"),
        ('{"schema_version": 1, "runs": {}}', r"at \$.runs: expected an array"),
    ],
)
def test_a_damaged_summary_is_told(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="expected the folder of a sweep"):
        read_summary(tmp_path)
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(ReportError, match=words):
        read_summary(tmp_path)


@pytest.mark.parametrize("backend", ["ray", "dask"])
def test_a_backend_that_is_not_installed_tells_how_to_get_it(
    backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray" if backend == "ray" else "distributed", None)
    with (
        pytest.raises(
            MissingExtraError, match=rf"pip install 'splitdeploy\[workstation,{backend}\]'"
        ),
        connected(Spread(backend, 2)) as workers,
    ):
        workers.run([group(tmp_path, "a")], Silent())


def test_sweeps_group_runs_of_the_same_heads_and_keep_timings_apart(tmp_path: Path) -> None:
    from splitdeploy.cli.sweep import plan_file

    (tmp_path / "fleet.yaml").write_text(
        "models: [resnet18, resnet34]\n"
        "devices: [jetson-nano, jetson-orin-nano, {device: jetson-nano, precision: fp32}, local]\n"
        "networks: [lte, wifi]\n"
    )
    planned = plan_file(tmp_path / "fleet.yaml")
    home = Home(str(tmp_path), False, "token", Starter.here(1))
    apart, here = sweep_batch._groups(planned, home)
    assert [len(job.runs) for job in apart] == [4, 2, 4, 2]
    assert [len(job.runs) for job in here] == [2, 2]
    bare = [replace(p, options=replace(p.options, privacy=False)) for p in planned]
    apart, here = sweep_batch._groups(bare, home)
    assert [len(job.runs) for job in (*apart, *here)] == [1] * 16


def test_processes_side_by_side_give_what_one_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real thing, in real processes: two models, one of which cannot be cut."""
    monkeypatch.chdir(HERE)
    options = {
        "input-shape": "3x16x16", "image-count": "2", "weights": "none", "cuts": "act",
        "device": "jetson-nano",
    }  # fmt: skip
    lines = [f"models: ['{MODEL}', 'small_models:data_dependent']", "no-privacy: true"]
    lines += [f"{name}: {value}" for name, value in options.items()]
    (tmp_path / "fleet.yaml").write_text("\n".join(lines))
    out = tmp_path / "out"
    outcome = splitdeploy(
        "sweep", tmp_path / "fleet.yaml", "-q", "--out", out, "--jobs", 2, "--threads", 1,
        "--format", "json",
    )  # fmt: skip
    assert outcome.code == 1, outcome.err
    rows = json.loads(outcome.out)["runs"]
    assert [row["status"] for row in rows] == ["done", "failed"]
    assert "control flow depends on data" in rows[1]["error"]
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    alone = splitdeploy(
        "profile", MODEL, *words, "--no-privacy", "-q", "--out", tmp_path / "alone",
        "--format", "json",
    )  # fmt: skip
    swept = json.loads((out / rows[0]["folder"] / "report.json").read_text())
    assert comparable(swept) == comparable(json.loads(alone.out))
    assert rows[0]["cut"] == swept["recommendation"]["cut"]


def test_outcomes_are_kept_without_their_files(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    sweep_jobs.write_outcome(tmp_path, Outcome("a", "k", "done", None, 1.0, "here", b"zip"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "report.json").write_text("{}")
    found = sweep_jobs.read_outcome(tmp_path, RunJob("a", (), "k"))
    assert found == Outcome("a", "k", "done", None, 1.0, "here")
    assert sweep_jobs.read_outcome(tmp_path, RunJob("a", (), "other")) is None
    assert sweep_backends.BACKENDS == ("processes", "ray", "dask")
