"""Whatever cannot be meant is one line, an exit code, and nothing half-written."""

from __future__ import annotations

import errno
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import HERE, MODEL, SMALL, Outcome, splitdeploy
from torch import nn

from splitdeploy.partitioner import begin, bundle, models, weights
from splitdeploy.profiles import store


def refused(outcome: Outcome, code: int, words: str) -> None:
    """One line on standard error, nothing on standard output."""
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    lines = outcome.err.splitlines()
    errors = [line for line in lines if line.startswith("error:")]
    assert len(errors) == 1, outcome.err
    assert lines[-1] == errors[0]
    assert re.search(words, errors[0]), errors[0]
    assert "Traceback" not in outcome.err
    assert "unexpected" not in outcome.err


def refused_quietly(outcome: Outcome, code: int, words: str) -> None:
    """The same, where no progress was asked for: that line is all there is."""
    refused(outcome, code, words)
    assert outcome.err.count("\n") == 1


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "run"


def profile(out: Path, *arguments: object, model: str = MODEL) -> Outcome:
    return splitdeploy(
        "profile", model, *SMALL[:4], "--no-privacy", "--budget", "10s", "-q", "--out", out,
        *arguments,
    )  # fmt: skip


def left_nothing(out: Path) -> None:
    assert not out.exists()
    assert not out.parent.exists()


NAMES = [
    (("--device", "jetson-nanno"), 2, "unknown device 'jetson-nanno': did you mean jetson-nano"),
    (("--device", "toaster"), 2, "unknown device 'toaster': available: .*or take local"),
    (("--device", "ssh://me@-oProxyCommand=x"), 2, "expected a device as ssh://user@host"),
    (("--cloud", "t5"), 2, "unknown device 't5': did you mean t4"),
    (
        ("--device", "jetson-nano", "--power-mode", "9W"),
        2,
        "unknown power mode of jetson-nano '9W'",
    ),
    (("--device", "local", "--power-mode", "10W"), 2, "expected no power mode for this machine"),
    (("--precision", "fp8"), 2, "unknown precision 'fp8': did you mean"),
    (("--noise", "snr:loud"), 2, "unknown noise 'snr:loud'.*snr:DB"),
    (("--noise", "white"), 2, "unknown noise 'white'"),
    (("--objective", "speed"), 2, "unknown objective 'speed'.*latency"),
    (("--objective", "energy", "--device", "local"), 2, "needs a device whose power is known"),
    (("--objective", "leakage"), 2, "the objective leakage needs leakage figures"),
    (("--network", "6g"), 2, "unknown network '6g'.*5g"),
    (("--uplink", "0"), 2, "expected a bit rate with a unit such as 10mbit, got '0'"),
    (("--uplink", "0mbit"), 2, "expected a bit rate above zero"),
    (("--uplink", "-5mbit"), 2, "expected a bit rate above zero such as 10mbit, got '-5mbit'"),
    (("--uplink", "10"), 2, "expected a bit rate with a unit"),
    (("--uplink", "10MB"), 2, "expected a bit rate with a unit"),
    (("--downlink", "0bit"), 2, "expected a bit rate above zero"),
    (("--rtt", "-1ms"), 2, "expected a time of zero or more"),
    (("--budget", "soon"), 2, "expected a time with a unit such as 30ms, got 'soon'"),
    (("--budget", "0s"), 2, "expected a time above zero"),
    (("--max-latency", "fast"), 2, "expected a time with a unit"),
    (("--max-energy", "2"), 2, "expected an? energy with a unit"),
    (("--max-edge-memory", "-1MB"), 2, "expected a size above zero"),
    (("--max-ssim", "nan"), 2, "expected a number for --max-ssim, got nan"),
    (("--weight-latency", "-1"), 2, "expected weights of zero or more"),
    (("--fps", "0"), 2, "--fps"),
    (("--image-count", "0"), 2, "--image-count"),
    (("--input-shape", "3by16"), 2, "expected a shape such as 3x224x224, got '3by16'"),
    (("--format", "xml"), 2, "--format"),
    (("--colour", "red"), 2, "No such option"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), NAMES, ids=lambda v: str(v)[:40])
def test_a_wrong_option_is_told_before_anything_is_loaded(
    arguments: tuple[str, ...],
    code: int,
    words: str,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    if "leakage" not in words and "power is known" not in words:
        monkeypatch.setattr(begin, "load_model", load)
    refused_quietly(profile(out, *arguments), code, words)
    left_nothing(out)


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        ("resnet81", 2, "unknown model 'resnet81': did you mean .*resnet18"),
        ("small_models:data_dependent", 1, "control flow depends on data"),
        ("small_models:failing", 1, "failed: RuntimeError: no such checkpoint"),
        ("small_models:no_module", 1, "expected a torch.nn.Module"),
        ("no_such_module:make", 1, "cannot find 'make' in module 'no_such_module'"),
        ("gone.onnx", 1, "expected a model file at gone.onnx, there is none"),
        ("gone.pt2", 1, "expected a model file at gone.pt2, there is none"),
    ],
)
def test_a_model_that_is_none_is_told(model: str, code: int, words: str, out: Path) -> None:
    outcome = splitdeploy("profile", model, "-q", "--no-privacy", "--out", out)
    refused_quietly(outcome, code, words)
    left_nothing(out)
    refused_quietly(splitdeploy("cuts", model), code, words)


def test_progress_aside_it_is_one_line_too(out: Path) -> None:
    outcome = splitdeploy("profile", "small_models:data_dependent", "--no-privacy", "--out", out)
    refused(outcome, 1, "control flow depends on data")
    assert "GraphModule" not in outcome.err
    assert "def forward" not in outcome.err


@pytest.mark.parametrize("cuts", ["layer9", "act,layer9", ",", "cloud"])
def test_an_unknown_cut_is_told(cuts: str, out: Path) -> None:
    refused_quietly(profile(out, "--cuts", cuts), 2, "unknown cut|expected block, layer, all")
    left_nothing(out)


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        ("blocks.7", "unknown cut 'blocks.7': did you mean blocks"),
        ("act,pool", "expected the name of one cut"),
        ("block", "expected the name of one cut"),
    ],
)
def test_an_unknown_cut_is_no_bundle(cut: str, words: str, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    outcome = splitdeploy("export", MODEL, *SMALL, "--cut", cut, "--out", target, "-q")
    refused_quietly(outcome, 2, words)
    assert not list(tmp_path.iterdir())


def test_weights_of_another_model_are_told(out: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(nn.Linear(2, 2).state_dict(), path)
    refused_quietly(profile(out, "--weights", path), 1, r"other\.pth is not of .*it lacks")
    left_nothing(out)


def test_truncated_weights_are_told(out: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.pth"
    torch.save(nn.Linear(20, 20).state_dict(), path)
    path.write_bytes(path.read_bytes()[:500])
    refused_quietly(profile(out, "--weights", path), 1, r"half\.pth is damaged or no state dict")
    left_nothing(out)


def test_missing_weights_are_told(out: Path) -> None:
    outcome = profile(out, "--weights", "gone.pth")
    refused_quietly(outcome, 1, r"expected a weights file at gone\.pth, there is none")
    left_nothing(out)


@pytest.mark.parametrize("case", ["empty", "missing", "text", "file"])
def test_a_folder_without_pictures_is_told(case: str, out: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    if case == "file":
        folder.write_text("no folder")
    elif case != "missing":
        folder.mkdir()
        (folder / "notes.txt").write_text("no picture")
    if case == "text":
        (folder / "a.jpg").write_text("no picture")
    words = {
        "empty": "no images in",
        "missing": "does not exist",
        "text": r"a\.jpg as an image \(not an image\)",
        "file": "which is a file",
    }[case]
    refused_quietly(profile(out, "--images", folder), 1, words)
    left_nothing(out)


def test_a_place_under_a_file_is_told_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(begin, "load_model", None)
    for place in (tmp_path / "file", tmp_path / "file" / "run", Path("/dev/null")):
        refused_quietly(profile(place), 1, "which is a file: choose another --out")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_place_that_takes_no_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(begin, "load_model", None)
    refused_quietly(profile(Path("/proc/run")), 1, "cannot write into /proc")


@pytest.mark.parametrize("nth", [0, 1, 2, 3])
def test_a_place_that_fills_up_keeps_nothing(
    nth: int, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of the state, the table, the page and the report are written one after the other."""
    calls = []

    def full(_: int) -> None:
        calls.append(nth)
        if len(calls) > nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.os, "fsync", full)
    refused_quietly(profile(out), 1, "cannot write .*No space left on device")
    left_nothing(out)


def test_a_bundle_that_fills_the_disk_keeps_nothing(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(bundle.onnx, "save_model", full)
    refused_quietly(profile(out), 1, "cannot write the bundle .*No space left on device")
    left_nothing(out)


def test_a_full_disk_in_mid_sweep_keeps_the_rows_that_are_finished(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splitdeploy.partitioner import attack_set, privacy

    monkeypatch.setattr(attack_set, "STRONGEST", ())

    def attack(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = privacy.write_picture
    written = []

    def write(*given: Any) -> str:
        written.append(given[1])
        if len(written) == 2:
            attack()
        return real(*given)

    monkeypatch.setattr(privacy, "write_picture", write)
    arguments = ("profile", MODEL, *SMALL, "--cuts", "pool", "--budget", "2m", "-q", "--out", out)
    refused_quietly(splitdeploy(*arguments), 1, "No space left on device")
    assert {path.name for path in out.iterdir()} == {"state", "reconstructions"}
    monkeypatch.setattr(privacy, "write_picture", real)
    assert splitdeploy(*arguments, "--resume").code == 0
    # The cut between the ends is the first, and none of it is done again.
    assert written[0] == "pool" and len(written) == 2
    assert (out / "reconstructions" / "pool").is_dir()


def test_a_failure_leaves_a_folder_that_was_there(out: Path) -> None:
    out.mkdir(parents=True)
    (out / "notes.txt").write_text("mine")
    refused_quietly(profile(out, "--cuts", "nowhere"), 2, "unknown cut 'nowhere'")
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


def test_a_run_beside_other_files_touches_none_of_them(out: Path) -> None:
    (out / "state").mkdir(parents=True)
    (out / "state" / "mine.txt").write_text("mine")
    assert profile(out).code == 0
    assert (out / "state" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("verb", ["export", "profile"])
def test_a_folder_that_is_no_bundle_is_never_replaced(verb: str, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    if verb == "export":
        outcome = splitdeploy("export", MODEL, *SMALL, "--cut", "pool", "--out", target, "-q")
    else:
        outcome = profile(tmp_path)
    refused_quietly(outcome, 1, "holds other things than a bundle")
    assert (target / "thesis.txt").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_under_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    outcome = splitdeploy(
        "export", MODEL, *SMALL, "--cut", "pool", "--out", tmp_path / "file" / "b", "-q"
    )
    refused_quietly(outcome, 1, "which is a file: choose another --out")


@pytest.mark.parametrize("verb", ["recommend", "report"])
def test_a_folder_without_a_report_is_told(verb: str, tmp_path: Path) -> None:
    words = r"expected a run folder with a report\.json"
    refused_quietly(splitdeploy(verb, tmp_path), 1, words)
    refused_quietly(splitdeploy(verb, tmp_path / "gone"), 1, words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["recommend", "report"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no JSON document"),
        (b'{"schema_version": 1, "cu', "is no JSON document"),
        (b"\xff\xfe\x00", "cannot read"),
        (b"[]", "report at"),
        (b'{"schema_version": 1}', "report at"),
        (b'{"schema_version": 99}', "99"),
    ],
)
def test_a_damaged_report_is_told(verb: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(content)
    refused_quietly(splitdeploy(verb, tmp_path), 1, words)


def test_options_of_recommend_are_checked(tmp_path: Path) -> None:
    refused_quietly(splitdeploy("recommend", tmp_path, "--uplink", "5"), 2, "with a unit")
    refused_quietly(splitdeploy("recommend", tmp_path, "--network", "x"), 2, "unknown network")


def test_an_unknown_verb_names_those_there_are() -> None:
    refused_quietly(splitdeploy("profil", MODEL), 2, "Available: profile, sweep, cuts, export")


def test_no_model_is_told() -> None:
    refused_quietly(splitdeploy("profile"), 2, "Missing argument 'MODEL'")


def test_an_unknown_device_is_told_at_once() -> None:
    """Without torch: what takes seconds to load is not needed to look up a name."""
    import subprocess
    import sys

    program = (
        "import sys\n"
        "from splitdeploy.__main__ import main\n"
        "code = main(['profile', 'resnet18', '--device', 'toaster'])\n"
        "print(code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=HERE, capture_output=True, text=True, check=True
    )
    assert done.stdout == "2 False\n"
    assert done.stderr.startswith("error: unknown device 'toaster'")


def test_a_network_that_never_answers_costs_a_few_seconds(
    out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waited = []

    def connect(_: object, timeout: float) -> None:
        waited.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(weights.socket, "create_connection", connect)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    start = time.monotonic()
    model = models.load_model("squeezenet1_1")
    assert waited == [3.0]
    assert time.monotonic() - start < 30
    assert not model.weights.trained
