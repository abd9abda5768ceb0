"""Heads measured on a device behind a real sshd: through, cut off, taken up again, refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
from command_line import MODEL, SMALL, Outcome, splitdeploy
from remote_board import board_on, options, small_disk
from split_bundles import SIZE, make_bundle
from sshd import Sshd, free_port, make_key, running_sshd
from tensorrt_cases import head_graph
from tensorrt_fakes import VERSIONS, install

from splitdeploy.edge_runtime.head_energy import EnergyGauge
from splitdeploy.edge_runtime.head_opener import HeadFiles, open_for_measuring
from splitdeploy.edge_runtime.measure_job import JOB_FILE, HeadJob, Settings
from splitdeploy.edge_runtime.power.reader import (
    NotMeasured,
    PowerReader,
    PowerSample,
    RailReading,
)
from splitdeploy.edge_runtime.received import Sent
from splitdeploy.edge_runtime.session import Session
from splitdeploy.partitioner.measured import MeasuredSide
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.places import check_energy
from splitdeploy.partitioner.remote import transfer
from splitdeploy.partitioner.remote.board import Board
from splitdeploy.partitioner.remote.options import RemoteOptions
from splitdeploy.partitioner.remote.reach import reach
from splitdeploy.partitioner.remote.results import read_joules, read_latency, side_of
from splitdeploy.partitioner.remote.transfer import files_to_send, send
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.errors import MissingExtraError, RemoteError, UsageError, WireError
from splitdeploy.profiles.report import Objective
from splitdeploy.profiles.store import report_schema

MB = 1 << 20
SENT = (TensorSpec("z", (1, 3, SIZE, SIZE)),)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd") / "server") as found:
        yield found


def remote_profile(server: Sshd, out: Path, *more: object) -> Outcome:
    return splitdeploy(
        "profile", MODEL, *SMALL, "--no-privacy", "--device", server.url, "--remote-python",
        sys.executable, "--ssh-config", server.config, "--out", out, "--budget", "5s", "-q", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(server: Sshd, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("runs") / "sweep"
    outcome = remote_profile(server, out, "--format", "json")
    assert outcome.code == 0, outcome.err
    document: dict[str, Any] = json.loads(outcome.out)
    return out, document


def test_every_head_is_measured_there(server: Sshd, run: tuple[Path, dict[str, Any]]) -> None:
    document = run[1]
    jsonschema.validate(document, report_schema())
    assert document["edge"]["device"] == server.url
    assert document["edge"]["source"] == "measured"
    assert "onnxruntime" in document["edge"]["note"]
    assert document["cloud"]["source"] == "predicted"
    assert [row["error"] for row in document["cuts"]] == [None] * len(document["cuts"])
    messages = document["edge"]["messages"]
    assert messages["request_s"] + messages["byte_s"] > 0
    heads = {head["name"]: head for head in document["environment"]["edge"]["heads"]}
    result_bytes = document["cuts"][-1]["payload_bytes"]
    for row in document["cuts"]:
        edge = row["latency_s"]["edge"]
        assert edge["source"] == "measured"
        name = row["name"]
        head_s = 0.0 if name == "cloud-only" else heads[name]["latency"]["median"]
        size_bytes = row["payload_bytes"] + result_bytes
        cost_s = messages["request_s"] + messages["byte_s"] * size_bytes
        assert edge["median"] == pytest.approx(head_s + (name != "edge-only") * cost_s)
        if name == "cloud-only":
            continue
        assert head_s > 0
        assert edge["count"] >= 1
        assert edge["stability"] in {"stable", "unstable", "too few samples"}


def test_the_conditions_are_on_record(run: tuple[Path, dict[str, Any]]) -> None:
    told = run[1]["environment"]["edge"]
    assert {"board", "machine", "power_mode", "clocks_mhz", "temperatures_c"} <= told.keys()
    heads = {head["name"] for head in told["heads"]}
    assert heads == {row["name"] for row in run[1]["cuts"]} - {"cloud-only"}
    assert all({"before", "after"} <= head.keys() for head in told["heads"])


def test_energy_is_measured_or_told_missing_never_zero(run: tuple[Path, dict[str, Any]]) -> None:
    document = run[1]
    rows = [row for row in document["cuts"] if row["name"] != "cloud-only"]
    if any("not measured" in warning for warning in document["warnings"]):
        assert all(row["energy_j"] is None for row in document["cuts"])
        whys = [head["energy"]["why"] for head in document["environment"]["edge"]["heads"]]
        assert any(whys)
    else:
        assert all(row["energy_j"]["compute"] > 0 for row in rows)


def test_the_device_is_left_clean(server: Sshd, run: tuple[Path, dict[str, Any]]) -> None:
    jobs = server.folder / "home/.local/share/splitdeploy/jobs"
    assert list(jobs.iterdir()) == []


def test_a_resumed_sweep_measures_nothing_again(
    server: Sshd, run: tuple[Path, dict[str, Any]]
) -> None:
    outcome = remote_profile(server, run[0], "--format", "json", "--resume")
    assert outcome.code == 0, outcome.err
    again = json.loads(outcome.out)
    assert again["environment"]["edge"]["heads"] == run[1]["environment"]["edge"]["heads"]


def test_energy_as_objective_needs_a_figure() -> None:
    wanted = ProfileOptions(MODEL, device="ssh://board", objective=Objective("energy"))
    check_energy(MeasuredSide({}, "", joules={"a": 1.0}), wanted)
    with pytest.raises(UsageError, match="needs a device whose power is known: no sensor"):
        check_energy(MeasuredSide({}, "no sensor"), wanted)


@pytest.mark.parametrize("version", VERSIONS)
def test_where_tensorrt_is_an_engine_is_built_and_timed(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = install(monkeypatch, version)
    (tmp_path / "0000.onnx").write_bytes(head_graph().SerializeToString())
    [graph] = files_to_send({"0000.onnx": tmp_path / "0000.onnx"})
    head = HeadFiles(graph, (), SENT)
    for _ in range(2):
        with open_for_measuring(tmp_path, head, Settings(backend="auto")) as opened:
            assert opened.backend.startswith("tensorrt")
    assert len(machine.called("Builder.build_serialized_network")) == 1


def test_tensorrt_that_is_not_there_is_told_where_it_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "0000.onnx").write_bytes(b"")
    [graph] = files_to_send({"0000.onnx": tmp_path / "0000.onnx"})
    given = open_for_measuring(tmp_path, HeadFiles(graph, (), SENT), Settings(backend="tensorrt"))
    with pytest.raises(MissingExtraError, match="expected TensorRT's Python module"), given:
        pass


class Job:
    """Heads without torch: the same small graph under several names."""

    def __init__(self, folder: Path, count: int, **settings: Any) -> None:
        head = make_bundle(folder / "bundle") / "head.onnx"
        graphs = {f"{place:04d}.onnx": folder / f"{place:04d}.onnx" for place in range(count)}
        for place, path in enumerate(graphs.values()):
            # A field of its own at the end, so that no two have one digest.
            path.write_bytes(head.read_bytes() + bytes([0x32, 1, 65 + place]))
        names = tuple(f"cut{place}" for place in range(count))
        chosen = Settings(energy_s=0.0, threads=1, **settings)
        self.job = HeadJob(names, tuple(files_to_send(graphs)), (SENT,) * count, (), chosen)
        job_file = folder / JOB_FILE
        job_file.write_text(json.dumps(self.job.to_json()))
        self.files = {**graphs, JOB_FILE: job_file}


def measured(board: Board, place: Path, *words: str) -> dict[str, dict[str, Any]]:
    events = board.follow("measure", str(place), *words, doing="measuring")
    return {event["name"]: event for event in events if event["event"] == "head"}


def test_a_measurement_that_was_cut_off_goes_on(server: Sshd, tmp_path: Path) -> None:
    made = Job(tmp_path, 3, repeats=100_000, warmup=0, budget_s=0.4)
    place = tmp_path / "device"
    first: list[str] = []
    with board_on(server) as board:
        send(board, made.files, str(place))
        with pytest.raises(RemoteError, match="broke") as caught:
            for event in board.follow("measure", str(place), doing="measuring"):
                if event["event"] == "head":
                    first.append(event["name"])
                    server.cut()
    assert caught.value.kind == "cut"
    assert first == ["cut0"]
    with board_on(server) as board:
        assert send(board, made.files, str(place)) == 0
        found = measured(board, place)
    assert list(found) == ["cut0", "cut1", "cut2"]
    assert found["cut0"]["kept"]
    assert not found["cut2"]["kept"]
    assert all(read_latency(event["latency"]).count >= 1 for event in found.values())
    # Nothing is kept where all is asked anew.
    with board_on(server) as board:
        assert not any(event["kept"] for event in measured(board, place, "--fresh").values())
        board.ask("forget-job", str(place), doing="tidying up")
    assert not place.exists()


def test_a_head_that_fails_does_not_end_the_job(server: Sshd, tmp_path: Path) -> None:
    made = Job(tmp_path, 2, repeats=5, budget_s=0.2)
    (tmp_path / "0000.onnx").write_bytes(b"no graph")
    heads = files_to_send({name: made.files[name] for name in ("0000.onnx", "0001.onnx")})
    made.job = HeadJob(made.job.names, tuple(heads), (SENT,) * 2, (), made.job.settings)
    made.files[JOB_FILE].write_text(json.dumps(made.job.to_json()))
    with board_on(server) as board:
        send(board, made.files, str(tmp_path / "device"))
        found = measured(board, tmp_path / "device")
    side = side_of(server.url, {}, list(found.values()))
    assert set(side.times) == {"cut1"}
    assert "expected an ONNX model" in side.failures["cut0"]


def test_a_power_mode_needs_a_jetson(server: Sshd, tmp_path: Path) -> None:
    if shutil.which("nvpmodel") is not None:
        pytest.skip("this machine has power modes")
    made = Job(tmp_path, 1, power_mode="15W")
    with board_on(server) as board:
        send(board, made.files, str(tmp_path / "device"))
        with pytest.raises(RemoteError, match="nvpmodel cannot be run"):
            measured(board, tmp_path / "device")


def test_a_file_that_was_changed_there_is_refused(server: Sshd, tmp_path: Path) -> None:
    made = Job(tmp_path, 1, repeats=5, budget_s=0.2)
    with board_on(server) as board:
        send(board, made.files, str(tmp_path / "device"))
        (tmp_path / "device" / "0000.onnx").write_bytes(b"changed")
        with pytest.raises(RemoteError, match="is not the file that the job tells of"):
            measured(board, tmp_path / "device")


def test_a_copy_that_was_cut_off_goes_on(server: Sshd, tmp_path: Path) -> None:
    content = bytes(range(256)) * (12 * MB // 256)
    (tmp_path / "big").write_bytes(content)
    files = {"heads/big": tmp_path / "big"}
    told = []

    def advance(amount: float) -> None:
        told.append(amount)
        if sum(told) > 4 * MB:
            server.cut()

    with (
        board_on(server) as board,
        pytest.raises(RemoteError, match="broke while copying big"),
    ):
        send(board, files, str(tmp_path / "device"), advance=advance)
    assert not (tmp_path / "device/heads/big").exists()
    [part] = (tmp_path / "device/heads").iterdir()
    there = part.stat().st_size
    assert 0 < there < len(content)
    with board_on(server) as board:
        assert send(board, files, str(tmp_path / "device")) == len(content) - there
        assert (tmp_path / "device/heads/big").read_bytes() == content
        assert list((tmp_path / "device/heads").iterdir()) == [tmp_path / "device/heads/big"]
        assert send(board, files, str(tmp_path / "device")) == 0


def test_a_damaged_part_is_sent_anew(server: Sshd, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"right" * 1000)
    [sent] = files_to_send({"file": tmp_path / "file"})
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / sent.part).write_bytes(b"wrong" * 100)
    with board_on(server) as board:
        send(board, {"file": tmp_path / "file"}, str(tmp_path / "device"))
    assert (tmp_path / "device/file").read_bytes() == b"right" * 1000


def test_a_full_disk_is_told_before_and_in_the_middle(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "big").write_bytes(b"x" * (3 * MB))
    with small_disk(tmp_path / "device", 1024) as disk, board_on(server) as board:
        with pytest.raises(RemoteError, match=r"expected .* free at .*, got .*free some") as caught:
            send(board, {"big": tmp_path / "big"}, str(disk))
        assert caught.value.kind == "space"
        assert list(disk.iterdir()) == []
        monkeypatch.setattr(transfer, "_SPARE_BYTES", -100 * MB)
        with pytest.raises(RemoteError, match="no space left") as caught:
            send(board, {"big": tmp_path / "big"}, str(disk))
        assert caught.value.kind == "space"
        assert not (disk / "big").exists()


def reached(server: Sshd, tmp_path: Path, config: Path, *, python: str = sys.executable) -> None:
    given = RemoteOptions(python, str(tmp_path), config)
    with reach(server.url, given):
        pass


def test_a_key_that_is_not_accepted(server: Sshd, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    config = server.configured("wrong-key", IdentityFile=str(tmp_path / "other"))
    with pytest.raises(RemoteError, match="accepted none of your keys.*ssh-copy-id") as caught:
        reached(server, tmp_path, config)
    assert caught.value.kind == "denied"


def test_a_host_key_that_changed_or_is_unknown(server: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{server.port} {make_key(tmp_path / 'another')}")
    config = server.configured("changed", UserKnownHostsFile=str(known))
    with pytest.raises(RemoteError, match="has changed.*ssh-keygen -R") as caught:
        reached(server, tmp_path, config)
    assert caught.value.kind == "host-key"
    config = server.configured("unknown", UserKnownHostsFile=str(tmp_path / "none"))
    with pytest.raises(RemoteError, match="is not known: connect once by hand"):
        reached(server, tmp_path, config)


def test_nobody_there(server: Sshd, tmp_path: Path) -> None:
    url = f"ssh://127.0.0.1:{free_port()}"
    with (
        pytest.raises(RemoteError, match="cannot reach .*refused") as caught,
        reach(url, options(server, tmp_path)),
    ):
        pass
    assert caught.value.kind == "unreachable"


def test_what_is_missing_there_is_told_with_its_mend(server: Sshd, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="a program is missing there.*--remote-python") as caught:
        reached(server, tmp_path, server.config, python="/no/such/python")
    assert caught.value.kind == "missing"
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    python = str(bare / "bin/python")
    with pytest.raises(RemoteError, match="splitdeploy is not there.*pip install") as caught:
        reached(server, tmp_path, server.config, python=python)
    assert caught.value.kind == "missing"
    with pytest.raises(UsageError, match="expected the path of a Python"):
        reached(server, tmp_path, server.config, python="-c")


def test_an_old_python_is_refused(server: Sshd, tmp_path: Path) -> None:
    fake = tmp_path / "python3"
    facts = {
        "event": "facts", "python": "3.8.10", "executable": "x", "machine": "aarch64", "board": "",
        "home": "/", "user": "", "root": False, "systemctl": "", "packages": {}, "protocol": 0,
        "time_s": 0,
    }  # fmt: skip
    fake.write_text(f"#!/bin/sh\ncat >/dev/null\necho '{json.dumps(facts)}'\n")
    fake.chmod(0o755)
    with pytest.raises(RemoteError, match=r"expected Python 3.10 or newer .* is 3.8.10"):
        reached(server, tmp_path, server.config, python=str(fake))
    fake.write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(RemoteError, match="told nothing: is it a Python"):
        reached(server, tmp_path, server.config, python=str(fake))


@pytest.mark.parametrize(
    "document",
    [
        None, {}, {"median": 1.0}, {"median": "x", "p95": 1, "spread": 0, "count": 1},
        {"median": -1.0, "p95": 1.0, "spread": 0.0, "count": 3, "stability": "stable"},
        {"median": float("nan"), "p95": 1.0, "spread": 0.0, "count": 3, "stability": "stable"},
        {"median": 1.0, "p95": 1.0, "spread": 0.0, "count": 0, "stability": "stable"},
        {"median": 1.0, "p95": 1.0, "spread": 0.0, "count": 3, "stability": "perfect"},
    ],
)  # fmt: skip
def test_a_time_that_cannot_be_one_is_refused(document: Any) -> None:
    with pytest.raises(RemoteError, match="the device tells"):
        read_latency(document)


@pytest.mark.parametrize("joules", [0, 0.0, -1.0, float("nan"), None, "1"])
def test_an_energy_of_nothing_is_no_energy(joules: Any) -> None:
    assert read_joules({"joules": joules, "why": "no sensor"}) == (None, "no sensor")
    assert read_joules(None)[0] is None


class Draw(PowerReader):
    """5 W, and 15 W for as long as something was run a moment ago."""

    name, covers, total_rails, interval_s = "draw", "the board", ("VDD_IN",), 0.001

    def __init__(self) -> None:
        self.last_run_s = 0.0

    def sample(self) -> PowerSample:
        now_s = time.perf_counter()
        power_w = 15.0 if now_s - self.last_run_s < 0.1 else 5.0
        return PowerSample(now_s, (RailReading("VDD_IN", power_w),), power_w)


def test_energy_of_a_run_is_power_times_time(tmp_path: Path) -> None:
    reader = Draw()

    class Busy:
        def run(self, _: object) -> None:
            time.sleep(0.02)
            reader.last_run_s = time.perf_counter()

    found = EnergyGauge(reader, 2.0).measure(cast(Session, Busy()), {})
    run_s = found["window_s"] / found["inferences"]
    assert found["joules"] == pytest.approx(15.0 * run_s, rel=0.1)
    assert found["energy_j"] == pytest.approx(10.0 * run_s, rel=0.15)
    assert read_joules(found) == (found["joules"], "")
    nothing = EnergyGauge(NotMeasured("no sensor"), 2.0).measure(cast(Session, Busy()), {})
    assert nothing == {"joules": None, "why": "no sensor"}


def test_some_heads_without_energy_leave_all_without() -> None:
    time_s = {"median": 0.01, "p95": 0.01, "spread": 0.0, "count": 9, "stability": "stable"}
    heads = [
        {"name": "a", "error": None, "latency": time_s, "energy": {"joules": 0.5}},
        {"name": "b", "error": None, "latency": time_s, "energy": {"joules": 0.7}},
    ]
    assert side_of("ssh://x", {}, heads).joules == {"a": 0.5, "b": 0.7, "cloud-only": 0.0}
    heads[1]["energy"] = {"joules": None, "why": "no sensor"}
    side = side_of("ssh://x", {"power_mode": "15W"}, heads)
    assert side.joules == {}
    assert side.power_mode == "15W"
    assert any("not measured: no sensor" in warning for warning in side.warnings)


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a\\b", ".hidden", "-x", "x.part", "a\nb"]
)
def test_files_lie_within_their_folder(name: str) -> None:
    with pytest.raises(WireError, match="expected"):
        Sent.read({"name": name, "sha256": "0" * 64, "bytes": 1})


def test_ssh_is_told_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with (
        pytest.raises(MissingExtraError, match="needs OpenSSH's ssh"),
        reach("ssh://x", RemoteOptions()),
    ):
        pass
