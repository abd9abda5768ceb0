"""Reading a bundle: nothing is loaded that its manifest does not vouch for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.edge_runtime.preprocess import Preprocessing
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.digest import file_sha256
from splitdeploy.profiles.errors import ReportError

TENSOR = {"name": "relu", "shape": [1, 4, 2, 2], "dtype": "float16", "bytes": 32}
SENT = {"name": "relu", "shape": [-1, 4, 2, 2], "dtype": "float16"}
INPUT = {"name": "x", "shape": [-1, 3, 8, 8], "dtype": "float32"}
RESULT = {"name": "y", "shape": [-1, 10], "dtype": "float32"}
PREPROCESSING = {
    "channels": 3, "height": 8, "width": 8, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2],
}  # fmt: skip


def make(folder: Path, change: Callable[[dict[str, Any]], None] = lambda manifest: None) -> Path:
    """A bundle whose graphs are a few bytes: a reader never opens them."""
    folder.mkdir()
    for name in ("head.onnx", "tail.onnx", "triton/x/config.pbtxt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    files = [path for path in folder.rglob("*") if path.is_file()]
    manifest = {
        "schema_version": 1, "model": "m", "cut": "c", "tensors": [TENSOR], "payload_bytes": 32,
        "precision": "fp16", "guard_noise": None, "served_name": "m_c_tail",
        "head": {"inputs": [INPUT], "outputs": [SENT]},
        "tail": {"inputs": [SENT], "outputs": [RESULT]}, "preprocessing": PREPROCESSING,
        "files": {p.relative_to(folder).as_posix(): {"sha256": file_sha256(p)} for p in files},
    }  # fmt: skip
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_whole_bundle_is_read(tmp_path: Path) -> None:
    bundle = read_bundle(make(tmp_path / "b"))
    assert bundle.cut.tensors[0].shape == (1, 4, 2, 2) and bundle.precision == "fp16"
    assert bundle.head.read_text() == "head.onnx" and bundle.tail.read_text() == "tail.onnx"
    assert bundle.served_name == "m_c_tail" and bundle.head_outputs == bundle.tail_inputs
    assert bundle.head_inputs == (TensorSpec("x", (-1, 3, 8, 8)),) and bundle.noise == ()
    assert bundle.preprocessing == Preprocessing(3, 8, 8, (0.5,) * 3, (0.2,) * 3)


def test_a_device_may_lack_the_tail_and_a_server_the_head(tmp_path: Path) -> None:
    folder = make(tmp_path / "b")
    (folder / "tail.onnx").unlink()
    assert read_bundle(folder, "edge").head.is_file()
    for part in ("whole", "cloud"):
        with pytest.raises(ReportError, match="lacks tail.onnx, which its manifest tells of"):
            read_bundle(folder, part)  # type: ignore[arg-type]
    (folder / "triton/x/config.pbtxt").write_text("changed")
    with pytest.raises(ReportError, match=r"config.pbtxt was changed"):
        read_bundle(folder, "edge")


def _set(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest.__setitem__(key, value)


def _file(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["files"].__setitem__(name, {"sha256": "0"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("schema_version", 2), "expected schema_version 1, got 2"),
        (_set("precision", "fp8"), "expected a precision among fp32, fp16, int8, got 'fp8'"),
        (_set("preprocessing", PREPROCESSING | {"std": [0.0] * 3}), "a std other than 0"),
        (_set("preprocessing", PREPROCESSING | {"channels": 2}), "no picture is 2x8x8"),
        (_set("tail", {"inputs": []}), "is no manifest of a bundle .KeyError: 'outputs'"),
        (_set("files", []), "is no manifest of a bundle"),
        (_set("tensors", [{}]), "is no manifest of a bundle .KeyError"),
        (_set("tensors", [TENSOR | {"dtype": "x"}]), "unknown dtype 'x'"),
        (lambda m: m["files"].pop("head.onnx"), "'head.onnx', which its manifest does not tell of"),
        (_file("../outside"), "expected files within the bundle, got '../outside'"),
        (_file("/etc/passwd"), "expected files within the bundle, got '/etc/passwd'"),
        (_file("a\\b"), "expected files within the bundle"),
        (_file("gone.onnx"), "lacks gone.onnx, which its manifest tells of"),
        (_file("head.onnx"), "head.onnx was changed: expected SHA-256 0"),
    ],
)
def test_refusals(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    with pytest.raises(ReportError, match=message):
        read_bundle(make(tmp_path / "b", change))


def test_what_is_no_bundle_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"there is no manifest.json in it: make one with"):
        read_bundle(tmp_path)
    for text in ("{", "[]", "[" * 100_000):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ReportError, match=r"is damaged|expected schema_version"):
            read_bundle(tmp_path)


def test_a_link_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "b")
    (tmp_path / "secret").write_text("head.onnx")
    (folder / "head.onnx").unlink()
    (folder / "head.onnx").symlink_to(tmp_path / "secret")
    with pytest.raises(ReportError, match="leads out of the bundle"):
        read_bundle(folder)


def test_a_changed_byte_and_a_file_too_many_are_told(tmp_path: Path) -> None:
    folder = make(tmp_path / "b")
    (folder / "note.txt").write_text("")
    with pytest.raises(ReportError, match="holds 'note.txt', which its manifest does not tell of"):
        read_bundle(folder)
    (folder / "note.txt").unlink()
    (folder / "tail.onnx").write_text("tail.onnX")
    with pytest.raises(ReportError, match="tail.onnx was changed"):
        read_bundle(folder)
