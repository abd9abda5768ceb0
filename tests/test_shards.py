"""The cuts of one run in shards: as many processes, the same report, and nothing done twice."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import HERE, MODEL, SMALL, splitdeploy
from forked_runs import ForkedRuns
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.cli.sweep import plan_file
from splitdeploy.partitioner import sweep_jobs
from splitdeploy.partitioner.comparable import comparable
from splitdeploy.partitioner.handover import inherit, pack, unpack
from splitdeploy.partitioner.progress import Silent
from splitdeploy.partitioner.shard import Shard, deal, parse_shard
from splitdeploy.partitioner.state import DONE
from splitdeploy.partitioner.sweep_backends import Spread, Workers
from splitdeploy.partitioner.sweep_batch import Planned, run_sweep
from splitdeploy.partitioner.sweep_jobs import SHARDS, GroupJob, Home, Outcome, run_group
from splitdeploy.partitioner.sweep_shards import shard_out
from splitdeploy.partitioner.under_way import CRASHES
from splitdeploy.profiles.cut import CutPoint
from splitdeploy.profiles.errors import UsageError

# --- dealing --------------------------------------------------------------------------------

macs = st.integers(0, 10**12)


def cuts_of(heads: Sequence[int], whole: int) -> list[CutPoint]:
    return [
        CutPoint(f"cut{k}", k, (), 1, min(head, whole), whole - min(head, whole))
        for k, head in enumerate(heads)
    ]


@given(st.lists(macs, max_size=40), macs, st.integers(1, 50))
def test_every_cut_is_in_one_shard_and_no_shard_has_much_more_to_do(
    heads: list[int], whole: int, of: int
) -> None:
    cuts = cuts_of(heads, whole)
    shards = deal(cuts, of)
    assert len(shards) == of
    assert sorted(place for shard in shards for place in shard) == list(range(len(cuts)))
    assert all(list(shard) == sorted(shard) for shard in shards)
    costs = [2 * cut.head_macs + cut.tail_macs + 1 for cut in cuts]
    loads = [sum(costs[place] for place in shard) for shard in shards]
    assert max(loads) - min(loads) <= max(costs, default=0)
    assert [Shard(nth, of).places(cuts) for nth in range(1, of + 1)] == list(shards)


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_a_shard_is_read_as_it_is_written(nth: int, of: int) -> None:
    shard = Shard(nth, of)
    if nth > of:
        with pytest.raises(UsageError, match="expected a shard such as 2/4, got"):
            parse_shard(str(shard))
        return
    assert parse_shard(str(shard)) == shard and shard.closes == (nth == 0)


@pytest.mark.parametrize("text", ["", "1", "1/0", "0/0", "-1/2", "1/2/3", "a/b", "1/ 2", "٣/٤x"])
def test_what_is_no_shard_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="expected a shard such as 2/4, got"):
        parse_shard(text)


# --- the command line -----------------------------------------------------------------------


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(f"models: ['{MODEL}']\n")
    out = tmp_path / "out"
    local = ("--device", "local", "--cloud", "local")
    for words, message in (
        (("sweep", fleet, "--shards", 0), "Invalid value for '--shards': 0 is not in the range"),
        (("sweep", fleet, "--shards", "two"), "Invalid value for '--shards': 'two' is not"),
        (("profile", MODEL, "--jobs", 0), "Invalid value for '--jobs': 0 is not in the range"),
        (("profile", MODEL, "--jobs", 2, *local), "expected simulated devices on both sides with"),
    ):
        shown = splitdeploy(*words, "--out", out, "-q")
        assert (shown.code, shown.out) == (2, "") and message in shown.err, shown.err
        assert not out.exists()
    fleet.write_text("models: [resnet18]\njobs: 2\n")
    with pytest.raises(UsageError, match="unknown key of fleet.yaml 'jobs'"):
        plan_file(fleet)


def test_a_run_that_measures_here_is_not_sharded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fleet.yaml").write_text("models: [resnet18]\ndevices: [local, jetson-nano]\n")
    planned = plan_file(tmp_path / "fleet.yaml")
    begun: list[list[str]] = []

    def run(words: list[str], log: Path, starter: object) -> int:
        begun.append(words)
        folder = Path(words[words.index("--out") + 1])
        (folder / "state").mkdir(parents=True, exist_ok=True)
        (folder / "state" / "key.json").write_text('{"key": "k"}')
        (folder / "report.json").write_text("{}")
        return 0

    told: list[str] = []
    reporter = Silent()
    monkeypatch.setattr(reporter, "note", told.append)
    monkeypatch.setattr(sweep_jobs, "run_process", run)
    run_sweep(planned, tmp_path / "out", Spread(shards=2), resume=False, reporter=reporter)
    shards = [words[1] for words in begun if words[0] == "--shard"]
    assert shards == ["1/2", "2/2", "0/2"]
    assert begun[-1][0] == "profile" and "local" in begun[-1]
    assert told == ["measured one at a time, and not in shards: resnet18-local"]


# --- real runs ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forked() -> Iterator[ForkedRuns]:
    with ForkedRuns() as helper:
        yield helper


Patch = Callable[..., None]


@pytest.fixture
def processes(forked: ForkedRuns, monkeypatch: pytest.MonkeyPatch) -> Patch:
    """Have the jobs of a sweep run as forked processes, some of which end badly."""

    def patch(crash_in: str | None = None, end_in: int | None = None) -> None:
        count = iter(range(1000))

        def run(words: list[str], log: Path, starter: object) -> int:
            kill_after_s = 0.8 if next(count) == end_in else None
            done = forked.run(words, crash_in=crash_in, kill_after_s=kill_after_s)
            log.write_text(done["err"])
            if kill_after_s is not None:
                raise KeyboardInterrupt
            return int(done["code"])

        monkeypatch.setattr(sweep_jobs, "run_process", run)

    return patch


def fleet(folder: Path, *lines: str) -> list[Planned]:
    (folder / "fleet.yaml").write_text("\n".join([
        f"models: ['{MODEL}']", "input-shape: 3x16x16", "image-count: 2", "weights: none",
        "cuts: act,blocks.0", "budget: 5m", *lines,
    ]))  # fmt: skip
    return plan_file(folder / "fleet.yaml")


def swept(planned: list[Planned], out: Path, shards: int, *, resume: bool = False) -> list[Outcome]:
    return run_sweep(planned, out, Spread(shards=shards), resume=resume, reporter=Silent())


def report(out: Path, run: Planned) -> dict[str, Any]:
    return comparable(json.loads((out / run.name / "report.json").read_text()))


def finished(out: Path) -> Counter[tuple[str, str | None]]:
    """How often each piece of work on a cut was finished, by whichever process."""
    lines = [line for path in out.rglob(DONE) for line in path.read_text().splitlines()]
    works = [(line["work"], line["cut"]) for line in map(json.loads, lines)]
    return Counter(work for work in works if work[1] is not None)


@pytest.fixture(scope="module")
def whole(forked: ForkedRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in one piece."""
    out = tmp_path_factory.mktemp("whole")
    words = ("profile", MODEL, *SMALL, "--cuts", "act,blocks.0", "--budget", "5m", "-q")
    done = forked.run([*words, "--out", out])
    assert done["code"] == 0, done["err"]
    return out


def whole_report(whole: Path) -> dict[str, Any]:
    return comparable(json.loads((whole / "report.json").read_text()))


def test_shards_give_what_one_process_gives(processes: Patch, whole: Path, tmp_path: Path) -> None:
    """Leakage and attacks to the digit; a second device takes them up, and has no shards."""
    processes()
    planned = fleet(tmp_path, "devices: [jetson-orin-nano, jetson-nano]")
    out = tmp_path / "out"
    outcomes = swept(planned, out, 3)
    assert [outcome.status for outcome in outcomes] == ["done", "done"]
    assert report(out, planned[0]) == whole_report(whole)
    assert finished(out) == finished(whole)
    assert [path.name for path in (out / SHARDS).iterdir()] == [planned[0].name]
    pictures = {path.name for path in (out / planned[0].name).glob("reconstructions/*/*.png")}
    assert pictures == {path.name for path in whole.glob("reconstructions/*/*.png")}
    leaks = [[row["leakage"] for row in report(out, run)["cuts"]] for run in planned]
    assert leaks[0] == leaks[1]


def test_more_shards_than_cuts_without_leakage(processes: Patch, tmp_path: Path) -> None:
    processes()
    planned = fleet(tmp_path, "no-privacy: true")
    swept(planned, tmp_path / "one", 1)
    swept(planned, tmp_path / "five", 5)
    assert report(tmp_path / "one", planned[0]) == report(tmp_path / "five", planned[0])
    assert finished(tmp_path / "one") == finished(tmp_path / "five")


def test_a_crash_costs_its_shard_that_cut(processes: Patch, whole: Path, tmp_path: Path) -> None:
    processes(crash_in="blocks.0")
    planned, out = fleet(tmp_path), tmp_path / "out"
    (outcome,) = swept(planned, out, 2)
    assert outcome.status == "done", outcome.error
    rows = {row["name"]: row for row in report(out, planned[0])["cuts"]}
    assert rows["blocks.0"]["error"] == (
        "the process crashed in leakage and the quick attack on blocks.0: Segmentation fault"
    )
    expected = {row["name"]: row for row in whole_report(whole)["cuts"]}
    for name in ("cloud-only", "act", "edge-only"):
        assert rows[name]["attacks"] == expected[name]["attacks"]


@pytest.mark.parametrize(("end_in", "before", "then"), [(1, 2, 2), (3, 3, 2)])
def test_a_killed_sweep_goes_on_and_repeats_nothing(
    end_in: int, before: int, then: int, processes: Patch, whole: Path, tmp_path: Path
) -> None:
    """In its second shard; or in what closes, and it goes on with fewer shards than before."""
    planned, out = fleet(tmp_path), tmp_path / "out"
    processes(end_in=end_in)
    with pytest.raises(KeyboardInterrupt):
        swept(planned, out, before)
    processes()
    (outcome,) = swept(planned, out, then, resume=True)
    assert outcome.status == "done", outcome.error
    assert report(out, planned[0]) == whole_report(whole)
    assert finished(out) == finished(whole)


def test_profile_deals_its_cuts_to_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real processes, through joblib."""
    monkeypatch.chdir(HERE)
    words = ("profile", MODEL, *SMALL, "--cuts", "act,blocks.0", "--no-privacy", "-q")
    one = splitdeploy(*words, "--out", tmp_path / "one", "--format", "json")
    many = splitdeploy(*words, "--out", tmp_path / "many", "--jobs", 2, "--format", "json")
    assert (one.code, many.code) == (0, 0), many.err
    assert comparable(json.loads(one.out)) == comparable(json.loads(many.out))
    assert finished(tmp_path / "one") == finished(tmp_path / "many")
    assert len(list((tmp_path / "many" / SHARDS / "run").iterdir())) == 2


# --- other machines -------------------------------------------------------------------------


class Elsewhere(Workers):
    """Workers on a machine that has no file of this one's."""

    def run(self, groups: Sequence[GroupJob], reporter: object) -> list[Outcome]:
        outcomes = []
        for group in groups:
            here, there = Path(group.home.out), Path(group.home.out).with_name("there")
            home = replace(group.home, out=str(there))
            outcomes += run_group(replace(group, home=home))
            assert not home.is_here() and here.is_dir()
            shutil.rmtree(there)
        return outcomes


def test_what_shards_elsewhere_have_done_travels(
    processes: Patch, whole: Path, tmp_path: Path
) -> None:
    processes()
    (planned,) = fleet(tmp_path)
    out = tmp_path / "out"
    home = Home.here(out, threads=1, resume=False)
    workers = Elsewhere("loky", Spread(shards=2))
    groups = shard_out([GroupJob(home, (planned.job(),))], workers, Silent())
    parts = groups[0].runs[0].parts
    assert parts is not None and len(parts) < 1_000_000
    outcomes = workers.run(groups, Silent())
    sweep_jobs.bring(out, outcomes)
    assert report(out, planned) == whole_report(whole)
    # Both shards are finished, so that nothing but the closing is left to do.
    resumed = Home.here(out, threads=1, resume=True)
    again = shard_out([GroupJob(resumed, (planned.job(),))], workers, Silent())
    assert again[0].runs[0].parts is not None


def test_what_is_finished_is_inherited_and_own_work_stays(tmp_path: Path) -> None:
    def state(name: str, key: str, **files: str) -> Path:
        folder = tmp_path / name / "state"
        folder.mkdir(parents=True)
        for file, text in {"key": f'{{"key": "{key}"}}', **files}.items():
            (folder / f"{file}.json").write_text(text)
        return tmp_path / name

    one = state("1", "new", **{"cut-0000": "of 1", "crashes": '{"act": {"times": 1}}'})
    two = state("2", "new", **{"cut-0001": "of 2", "crashes": '{"pool": {"times": 2}}'})
    stale = state("3", "old", **{"cut-0002": "stale"})
    own = state("own", "new", **{"cut-0001": "own", "crashes": '{"act": {"times": 3}}'})
    inherit([one, two, stale, tmp_path / "missing"], own)
    found = {path.name: path.read_text() for path in (own / "state").glob("cut-*.json")}
    assert found == {"cut-0000.json": "of 1", "cut-0001.json": "own"}
    crashes = json.loads((own / "state" / CRASHES).read_text())
    assert crashes == {"act": {"times": 3}, "pool": {"times": 2}}
    # A state of other settings than those of the others is of no use any more.
    other = state("other", "older", **{"cut-0009": "old"})
    inherit([one, two], other)
    assert not (other / "state" / "cut-0009.json").exists()
    assert (other / "state" / "cut-0001.json").read_text() == "of 2"
    inherit([tmp_path / "missing"], tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_an_archive_of_patterns(tmp_path: Path) -> None:
    for name in ("1/state/cut-0000.json", "1/state/lock", "2/reconstructions/act/a.png", "2/x"):
        (tmp_path / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "from" / name).write_text(name)
    packed = pack(tmp_path / "from", ["*/state/cut-*.json", "*/reconstructions"])
    assert packed is not None and pack(tmp_path / "none", ["*"]) is None
    unpack(packed, tmp_path / "to", ["1", "2"])
    found = {path.relative_to(tmp_path / "to").as_posix() for path in tmp_path.rglob("to/**/*.*")}
    assert found == {"1/state/cut-0000.json", "2/reconstructions/act/a.png"}
    unpack(packed, tmp_path / "less", ["2"])
    assert [path.name for path in (tmp_path / "less").iterdir()] == ["2"]
