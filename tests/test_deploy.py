"""Bundles put on a device behind a real sshd: whatever fails, the old version goes on."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command_line import Outcome, splitdeploy
from hypothesis import given
from hypothesis import strategies as st
from remote_board import options, small_disk
from split_bundles import make_bundle
from sshd import Sshd, free_port, running_sshd

from splitdeploy.edge_runtime.installation import Installation
from splitdeploy.edge_runtime.recorded_outputs import difference, tolerance_of
from splitdeploy.edge_runtime.service import Service, lingers, quoted
from splitdeploy.partitioner.remote import board as board_module
from splitdeploy.partitioner.remote import package as package_module
from splitdeploy.partitioner.remote import transfer
from splitdeploy.partitioner.remote.deploy import DeployOptions, deploy_step, on_device
from splitdeploy.partitioner.remote.package import pack
from splitdeploy.profiles.errors import OutputError, UsageError

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    folder = tmp_path_factory.mktemp("sshd")
    programs = folder / "programs"
    programs.mkdir()
    fake = programs / "systemctl"
    fake.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE}/fake_systemctl.py "$@"\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    with running_sshd(
        folder / "server",
        PATH=f"{programs}:/usr/bin:/bin",
        XDG_CONFIG_HOME=str(folder / "config"),
    ) as found:
        yield found


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return make_bundle(folder / "one"), make_bundle(folder / "two", classes=7)


def deploy(server: Sshd, to: Path, *arguments: object) -> Outcome:
    return splitdeploy(
        "deploy", "-q", "--ssh-config", server.config, "--remote-python", sys.executable,
        "--to", to, "--format", "json", *arguments,
    )  # fmt: skip


def told(outcome: Outcome) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(outcome.out)
    return found


def current(to: Path) -> str | None:
    """What runs by the link itself; whole, if it is there."""
    link = to / "current"
    if not link.is_symlink():
        return None
    assert (link / "bundle/manifest.json").is_file()
    assert (link / "bundle/head.onnx").is_file()
    return link.readlink().name


def test_a_device_gets_versions_one_after_the_other(
    server: Sshd, bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    to = tmp_path / "device"
    [first] = told(deploy(server, to, bundles[0], server.url))
    assert (first["done"], first["error"], first["previous"]) == ("deployed", None, None)
    assert first["current"] == current(to)
    assert first["ran_in"].startswith("onnxruntime")
    assert any("no TensorRT there" in note for note in first["notes"])
    assert not (to / "current/bundle/tail.onnx").exists()
    assert not (to / "incoming").exists()

    [again] = told(deploy(server, to, bundles[0], server.url))
    assert (again["current"], again["sent_bytes"]) == (first["current"], 0)

    [second] = told(deploy(server, to, bundles[1], server.url, "--local-tail"))
    assert second["previous"] == first["current"] != second["current"] == current(to)
    assert (to / "current/bundle/tail.onnx").exists()

    [status] = told(deploy(server, to, "--status", server.url))
    assert (status["done"], status["current"]) == ("looked", second["current"])
    assert status["record"]["model"] == "tiny"
    assert status["record"]["local_tail"] is True

    outcome = deploy(server, to, "--rollback", server.url)
    [back] = told(outcome)
    assert outcome.code == 0
    assert (back["done"], back["current"]) == ("rolled back", first["current"])
    assert current(to) == first["current"]
    [back] = told(deploy(server, to, "--rollback", server.url))
    assert back["current"] == current(to) == second["current"]


def test_one_device_that_fails_does_not_stop_the_others(
    server: Sshd, bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    gone = f"ssh://127.0.0.1:{free_port()}"
    outcome = splitdeploy(
        "deploy", bundles[0], gone, server.url, "-q", "--ssh-config", server.config,
        "--remote-python", sys.executable, "--to", tmp_path / "device",
    )  # fmt: skip
    assert outcome.code == 1
    assert "failed" in outcome.out
    assert "deployed" in outcome.out
    assert f"error: {gone}: cannot reach {gone}" in outcome.err
    assert current(tmp_path / "device") is not None


def test_a_first_rollback_has_nowhere_to_go(
    server: Sshd, bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    outcome = deploy(server, tmp_path / "device", "--rollback", server.url)
    assert outcome.code == 1
    assert "holds no version before the current one" in outcome.err


def test_a_head_that_answers_otherwise_there_is_not_made_current(
    server: Sshd, bundles: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "device"
    [first] = told(deploy(server, to, bundles[0], server.url))
    write = package_module.write_recorded

    def other(folder: Path, feeds: Any, outputs: Any, *rest: Any) -> None:
        write(folder, feeds, {name: 1.1 * value for name, value in outputs.items()}, *rest)

    monkeypatch.setattr(package_module, "write_recorded", other)
    outcome = deploy(server, to, bundles[1], server.url)
    assert outcome.code == 1
    assert "gives another 'z' here than on the workstation" in outcome.err
    assert current(to) == first["current"]
    assert told(outcome)[0]["current"] == first["current"]
    monkeypatch.undo()
    [second] = told(deploy(server, to, bundles[1], server.url))
    assert second["done"] == "deployed"
    assert second["previous"] == first["current"]


def test_a_copy_that_was_cut_off_leaves_the_old_version_and_goes_on(
    server: Sshd, tmp_path: Path
) -> None:
    to = tmp_path / "device"
    [first] = told(deploy(server, to, make_bundle(tmp_path / "old"), server.url))
    bundle = make_bundle(tmp_path / "new", classes=5)
    weigh_down(bundle, 6 << 20)
    given = DeployOptions(remote=options(server, to))
    (tmp_path / "aside").mkdir()
    package = pack(bundle, tmp_path / "aside", local_tail=False)
    copied: list[float] = []

    def advance(amount: float) -> None:
        copied.append(amount)
        if sum(copied) > 2 << 20:
            server.cut()

    cut = on_device(server.url, given, deploy_step(package, given, advance, copied_note))
    assert cut.error is not None
    assert "broke" in cut.error
    assert (cut.done, cut.current) == ("failed", first["current"])
    assert current(to) == first["current"]
    [status] = told(deploy(server, to, "--status", server.url))
    assert any("unfinished" in note for note in status["notes"])
    done = on_device(server.url, given, deploy_step(package, given, lambda _: None, copied_note))
    assert done.error is None
    assert 0 < done.sent_bytes < package.size_bytes
    assert current(to) == package.version
    assert (to / "previous").readlink().name == first["current"]
    assert not (to / "incoming").exists()


def copied_note(_: str) -> None:
    """Nobody reads notes here."""


def weigh_down(bundle: Path, size: int) -> None:
    """Let the head carry a constant of so many bytes that nothing reads."""
    import onnx
    from onnx import numpy_helper

    from splitdeploy.profiles.digest import file_sha256

    head = onnx.load(str(bundle / "head.onnx"))
    noise = np.random.default_rng(1).integers(0, 255, size, dtype=np.uint8)
    head.graph.initializer.append(numpy_helper.from_array(noise, "ballast"))
    onnx.save(head, str(bundle / "head.onnx"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["head.onnx"]["sha256"] = file_sha256(bundle / "head.onnx")
    (bundle / "manifest.json").write_text(json.dumps(manifest))


FAKE_TENSORRT = """
import pathlib, sys, time
if "build" in sys.argv:
    pathlib.Path(__file__).with_name("begun").touch()
    time.sleep({sleep_s})
"""


@pytest.mark.parametrize("ends", ["by itself", "cut"])
def test_a_build_that_ends_early_leaves_the_old_version(
    server: Sshd, bundles: tuple[Path, Path], tmp_path: Path, ends: str
) -> None:
    to = tmp_path / "device"
    [first] = told(deploy(server, to, bundles[0], server.url))
    modules = tmp_path / "modules"
    (modules / "pycuda").mkdir(parents=True)
    (modules / "pycuda/__init__.py").touch()
    sleep_s = 8 if ends == "cut" else 0
    (modules / "tensorrt.py").write_text(FAKE_TENSORRT.format(sleep_s=sleep_s))
    with running_sshd(tmp_path / "sshd", PYTHONPATH=str(modules)) as other:
        watcher = threading.Thread(target=cut_once, args=(modules / "begun", other))
        if ends == "cut":
            watcher.start()
        outcome = deploy(other, to, bundles[1], other.url)
        if ends == "cut":
            watcher.join()
    assert outcome.code == 1
    says = (
        "broke while building the engine" if ends == "cut" else "building the engine on .* failed"
    )
    assert re.search(says, outcome.err), outcome.err
    assert current(to) == first["current"]
    [second] = told(deploy(server, to, bundles[1], server.url))
    assert (second["done"], second["sent_bytes"]) == ("deployed", 0)
    assert second["previous"] == first["current"]


def cut_once(sign: Path, server: Sshd) -> None:
    """End all connections when a file appears."""
    deadline = time.monotonic() + 60
    while not sign.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    server.cut()


def test_a_full_disk_leaves_the_old_version(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_SPARE_BYTES", 0)
    small = make_bundle(tmp_path / "small")
    large = make_bundle(tmp_path / "large", classes=6)
    weigh_down(large, 3 << 20)
    with small_disk(tmp_path / "device", 2048) as disk:
        [first] = told(deploy(server, disk, small, server.url))
        outcome = deploy(server, disk, large, server.url)
        assert outcome.code == 1
        assert "free some" in outcome.err
        monkeypatch.setattr(transfer, "_SPARE_BYTES", -(100 << 20))
        outcome = deploy(server, disk, large, server.url)
        assert outcome.code == 1
        assert "no space left" in outcome.err
        assert current(disk) == first["current"]
        # Room for it comes, and the next run goes on.
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        [second] = told(deploy(server, disk, large, server.url))
        assert second["done"] == "deployed"
        assert second["previous"] == first["current"]


@pytest.mark.parametrize(("off_s", "code", "says"), [
    (60.0, 0, "its clock is -60 s off this machine's"),
    (-4000.0, 1, r"the clock of .* is \+4000 s off .*timedatectl"),
])  # fmt: skip
def test_a_clock_that_is_off(
    server: Sshd, bundles: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    off_s: float, code: int, says: str,
) -> None:  # fmt: skip
    shifted = SimpleNamespace(time=lambda: time.time() + off_s, monotonic=time.monotonic)
    monkeypatch.setattr(board_module, "time", shifted)
    outcome = deploy(server, tmp_path / "device", bundles[0], server.url)
    assert outcome.code == code
    seconds = says.replace("-60", "-(59|60|61)").replace("4000", "(399[89]|400[0-2])")
    assert re.search(seconds, outcome.err), outcome.err
    assert (current(tmp_path / "device") is None) == (code == 1)


def test_a_service_that_does_not_stay_up_is_taken_back(
    server: Sshd, bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    to = tmp_path / "device"
    [first] = told(deploy(server, to, bundles[0], server.url))
    outcome = deploy(
        server, to, bundles[1], server.url, "--unit", "user", "--service", "short", "--health",
        "30s", "--cloud", f"127.0.0.1:{free_port()}", "--", str(tmp_path / "no-such-pictures"),
    )  # fmt: skip
    [failed] = told(outcome)
    assert outcome.code == 1
    assert "expected short.service to run for 30 s, it is failed" in outcome.err
    assert f"version {first['current']} is current again" in outcome.err
    assert any("does not reach 127.0.0.1" in note for note in failed["notes"])
    assert current(to) == first["current"]
    units = server.folder.parent / "config/systemd/user"
    assert list(units.glob("short*")) == []


def test_two_cannot_deploy_at_once(
    server: Sshd, bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "device").mkdir()
    with (tmp_path / "device/.lock").open("w") as file:
        file.write("123")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        outcome = deploy(server, tmp_path / "device", bundles[0], server.url)
    assert outcome.code == 1
    assert "process 123 is at work in" in outcome.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("bundle",), "expected a device as ssh://user@host, got none"),
        (("ssh://a",), "expected BUNDLE and then devices"),
        (("bundle", "more", "ssh://a"), "expected BUNDLE and then devices"),
        (("--status", "bundle", "ssh://a"), "expected devices alone"),
        (("--status", "--rollback", "ssh://a"), "expected one of --rollback and --status"),
        (("bundle", "ssh://a", "--", "--camera", "0"), "expected --unit user or --unit system"),
        (("bundle", "ssh://a", "--unit", "user"), "expected what the service is to run"),
        (("bundle", "ssh://a", "ssh://a"), "expected each device once"),
        (("bundle", "ssh://-x"), "is no host's name"),
        (("bundle", "ssh://a", "--cloud", "there"), "expected the cloud as HOST:PORT"),
    ],
)
def test_words_that_cannot_be_meant(words: tuple[str, ...], says: str) -> None:
    outcome = splitdeploy("deploy", "-q", *words)
    assert outcome.code == 2
    assert says in outcome.err


# Services, on this machine itself.


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which the stand-in keeps units and process numbers."""
    programs = tmp_path / "programs"
    programs.mkdir()
    fake = programs / "systemctl"
    fake.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE}/fake_systemctl.py "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    yield tmp_path / "config/systemd"
    for path in (tmp_path / "config/systemd").glob("*.pid"):
        subprocess.run(["kill", "-9", path.read_text()], check=False)


def arrived(folder: Path, version: str) -> None:
    (folder / "incoming" / version / "bundle").mkdir(parents=True)


SLEEPS, ENDS = ("/bin/sleep", "600"), ("/bin/false",)
ONE, TWO, THREE = "1" * 12, "2" * 12, "3" * 12


def test_a_service_follows_its_version(systemctl: Path, tmp_path: Path) -> None:
    folder = tmp_path / "device"
    here = Installation(folder)
    unit = systemctl / "user/s.service"

    def service(words: tuple[str, ...]) -> Service:
        return Service("user", "s", words, folder)

    arrived(folder, ONE)
    first = here.activate(ONE, {}, service(SLEEPS), 0.5)
    assert first == {"current": ONE, "previous": None, "service": "active"}
    text = unit.read_text()
    pid = (systemctl / "s.service.pid").read_text()

    arrived(folder, TWO)
    with pytest.raises(
        OutputError, match=f"s.service to run for 5 s.*version {ONE} is current again"
    ):
        here.activate(TWO, {}, service(ENDS), 5.0)
    assert here.linked("current") == ONE
    assert here.linked("previous") is None
    assert unit.read_text() == text
    assert here.status()["service"] == "active"
    assert (systemctl / "s.service.pid").read_text() != pid  # it was started anew

    # A version without a service of its own is run by the one that is there.
    arrived(folder, THREE)
    assert here.activate(THREE, {}, None, 0.0)["service"] == "active"
    assert (here.linked("current"), here.linked("previous")) == (THREE, ONE)
    assert not (folder / "versions" / TWO).exists()
    assert here.rollback(0.0)["current"] == ONE


def test_another_service_of_the_same_version_is_taken_back_too(
    systemctl: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "device"
    here = Installation(folder)
    arrived(folder, ONE)
    here.activate(ONE, {"model": "m"}, Service("user", "s", SLEEPS, folder), 0.0)
    with pytest.raises(OutputError, match=f"version {ONE} is current again"):
        here.activate(ONE, {"model": "n"}, Service("user", "s", ENDS, folder), 5.0)
    assert here.status()["service"] == "active"
    assert here.record(ONE)["model"] == "m"
    assert "/bin/sleep" in (systemctl / "user/s.service").read_text()


def test_a_first_service_that_fails_leaves_nothing(systemctl: Path, tmp_path: Path) -> None:
    folder = tmp_path / "device"
    arrived(folder, ONE)
    with pytest.raises(OutputError, match="nothing is current"):
        Installation(folder).activate(ONE, {}, Service("user", "s", ENDS, folder), 5.0)
    assert Installation(folder).linked("current") is None
    assert list((systemctl / "user").iterdir()) == []


def test_the_unit_of_another_installation_is_left_alone(systemctl: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        arrived(tmp_path / name, ONE)
    mine = Service("user", "s", SLEEPS, tmp_path / "a")
    Installation(tmp_path / "a").activate(ONE, {}, mine, 0.0)
    text = (systemctl / "user/s.service").read_text()
    other = Service("user", "s", SLEEPS, tmp_path / "b")
    with pytest.raises(OutputError, match=r"is not the unit of .*--service"):
        Installation(tmp_path / "b").activate(ONE, {}, other, 0.0)
    assert (systemctl / "user/s.service").read_text() == text


def test_a_link_to_what_is_gone_is_no_version(tmp_path: Path) -> None:
    here = Installation(tmp_path)
    (tmp_path / "current").symlink_to("versions/" + ONE)
    assert here.linked("current") is None
    assert here.status()["current"] is None


WORDS = st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", codec="utf-8"))


@given(WORDS)
def test_a_quoted_word_reads_back(word: str) -> None:
    # Within double quotes systemd and a POSIX shell agree on \\ and \", and % and $ are doubled.
    text = quoted(word)
    assert text.replace("%%", "").count("%") == 0
    undoubled = text.replace("%%", "%").replace("$$", "$")
    # What a shell would replace is no matter of systemd's.
    assert shlex.split(undoubled) == [word]


def test_what_cannot_stand_in_a_unit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without control characters"):
        quoted("a\nExecStartPre=/bin/evil")
    with pytest.raises(UsageError, match="of printable letters"):
        Service("user", "s", SLEEPS, tmp_path / "a\nb").text()
    with pytest.raises(UsageError, match="with a plain name"):
        Service("user", "../s", SLEEPS, tmp_path)
    with pytest.raises(UsageError, match="its program in full"):
        Service("user", "s", ("sleep",), tmp_path)
    with pytest.raises(UsageError, match="name of a user"):
        Service("system", "s", SLEEPS, tmp_path, "a\nb")


@pytest.mark.parametrize("scope", ["user", "system"])
def test_systemd_takes_the_unit(scope: str, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed (Debian, Ubuntu: systemd)")
    words = ("/bin/echo", "--camera", "0", "50 %i", 'a "b" $HOME \\n', "")
    service = Service(scope, "edge", words, tmp_path, "root" if scope == "system" else "")
    path = tmp_path / service.unit
    path.write_text(service.text())
    done = subprocess.run(
        [program, f"--{scope}", "verify", "--man=no", str(path)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "edge.service" not in done.stderr


def test_services_of_a_user_need_to_linger(tmp_path: Path) -> None:
    assert not lingers("me", tmp_path)
    (tmp_path / "var/lib/systemd/linger").mkdir(parents=True)
    (tmp_path / "var/lib/systemd/linger/me").touch()
    assert lingers("me", tmp_path)


def test_an_engine_may_differ_by_what_it_computes_in() -> None:
    assert tolerance_of("fp32", "onnxruntime (CPU)") == 1e-3
    assert tolerance_of("fp32", "tensorrt 10.3.0 fp16 on Orin") == 1e-2
    assert tolerance_of("int8", "tensorrt 10.3.0 fp16 on Orin") == 5e-2


def test_a_difference_is_of_length() -> None:
    a = np.ones(100, np.float32)
    assert difference(a, a) == 0.0
    assert difference(a, 1.01 * a) == pytest.approx(0.01, rel=1e-4)
    assert difference(a, a[:50]) == float("inf")
    assert difference(a, a * np.float32("nan")) == float("inf")
    assert difference(a, a.astype(np.float64)) == float("inf")
    assert difference(0 * a, a) == float("inf")
