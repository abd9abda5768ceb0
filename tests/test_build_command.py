"""``splitdeploy build``, with a stand-in for TensorRT and without any."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import splitdeploy
from tensorrt_cases import head_graph, make_bundle
from tensorrt_fakes import VERSIONS, install, uninstall


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "b", variants={"fp16": head_graph()}).folder


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_is_built_and_then_found(
    monkeypatch: pytest.MonkeyPatch, folder: Path, version: str
) -> None:
    machine = install(monkeypatch, version)
    done = splitdeploy("build", folder, "--workspace", "512MB", "--max-batch", 2)
    engine = folder / "engines" / f"orin-trt{version}" / "head.engine"
    assert (done.code, done.out) == (0, f"{engine}\n")
    assert f"fp32 engine for Orin, TensorRT {version}" in done.err and "built in" in done.err
    again = splitdeploy("build", folder, "--max-batch", 2)
    assert (again.code, again.out) == (0, f"{engine}\n")
    assert "nothing to do: the fp32 engine" in again.err and "--force builds it anew" in again.err
    assert len(machine.called("Builder.build_serialized_network")) == 1
    other = splitdeploy("build", folder, "--precision", "fp16", "--quiet")
    assert other.code == 0 and "note: the engine has precision fp32, wanted is fp16" in other.err
    assert "building the engine" not in other.err and "built in" in other.err
    forced = splitdeploy("build", folder, "--precision", "fp16", "--force")
    assert forced.code == 0 and "built in" in forced.err


def test_without_tensorrt(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    uninstall(monkeypatch, "tensorrt")
    failed = splitdeploy("build", folder)
    assert failed.code == 1 and failed.out == ""
    assert failed.err.startswith("error: ") and len(failed.err.strip().splitlines()) == 1
    for part in ("tensorrt", "JetPack", "--system-site-packages", "'splitdeploy[tensorrt]'"):
        assert part in failed.err


def test_failures_are_one_line(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    machine = install(monkeypatch, "10.3.0")
    machine.faults.parser_errors = [(0, "a", "Foo", "one"), (1, "b", "Bar", "two")]
    failed = splitdeploy("build", folder, "--quiet")
    assert failed.code == 1 and len(failed.err.strip().splitlines()) == 1
    assert "'a' (Foo): one; node 1 'b' (Bar): two" in failed.err
    machine.faults.parser_errors, machine.faults.build = [], "oom"
    failed = splitdeploy("build", folder, "--quiet", "--workspace", "600MB")
    assert failed.code == 1 and "try --workspace 300MB" in failed.err


def test_what_cannot_be_meant(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    install(monkeypatch, "10.3.0")
    for arguments, expected in (
        (("--precision", "fp8"), "unknown precision 'fp8'"),
        (("--workspace", "lots"), "expected a size with a unit such as 512MB"),
        (("--workspace", "1MB"), "expected a workspace of at least 16 MB"),
        (("--max-batch", "0"), "0 is not in the range"),
    ):
        failed = splitdeploy("build", folder, *arguments)
        assert failed.code == 2 and expected in failed.err
    failed = splitdeploy("build", folder / "none")
    assert failed.code == 1 and "expected a bundle at" in failed.err
