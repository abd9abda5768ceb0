"""A bundle of three parts: written, checked, served, run by the client, refused where damaged."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import splitdeploy
from numpy.typing import NDArray
from PIL import Image

from splitdeploy.cloud_runtime.server import TailServer
from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.edge_runtime.bundle_part import copy_edge_part
from splitdeploy.edge_runtime.client import SplitClient
from splitdeploy.edge_runtime.opened import OpenedBundle
from splitdeploy.edge_runtime.recorded_outputs import run_self_test
from splitdeploy.partitioner.api import split
from splitdeploy.partitioner.defend import DefendOptions, defend
from splitdeploy.partitioner.head_variants import add_head_variants
from splitdeploy.partitioner.models import LoadedModel, load_model
from splitdeploy.partitioner.remote.package import pack
from splitdeploy.profiles.errors import (
    CutError,
    DefenceError,
    ReportError,
    SessionError,
    UnknownNameError,
    UsageError,
)

MODEL = "small_models:skipping"
CUT, RETURN = "relu", "mul"
FEATURE_BYTES = 4 * 4 * 16 * 16

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(MODEL)


@pytest.fixture(scope="module")
def folder(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "three"
    found = split(model, CUT, out, return_at=RETURN)
    assert found.row.verified is not None and found.row.verified.ok
    return out


@pytest.fixture(scope="module")
def cloud(folder: Path) -> Iterator[str]:
    with TailServer([read_bundle(folder, "cloud")], port=0, threads=1) as server:
        yield f"127.0.0.1:{server.port}"


def arrays(count: int) -> list[Array]:
    rng = np.random.default_rng(4)
    return [rng.normal(size=(1, 3, 16, 16)).astype(np.float32) for _ in range(count)]


def whole(model: LoadedModel, x: Array) -> Array:
    """The model that came, in torch."""
    assert model.module is not None
    with torch.no_grad():
        found: Array = model.module(torch.from_numpy(x)).numpy()
    return found


def test_the_manifest_tells_of_all_three(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["schema_version"] == 2 and manifest["return_at"] == RETURN
    assert {"head.onnx", "tail.onnx", "last.onnx"} <= set(manifest["files"])
    assert [tensor["name"] for tensor in manifest["tensors"]] == [CUT]
    assert [tensor["name"] for tensor in manifest["returned"]] == [RETURN]
    assert manifest["payload_bytes"] == manifest["downlink_bytes"] == FEATURE_BYTES
    bundle = read_bundle(folder)
    assert [spec.name for spec in bundle.held] == ["x__held", "relu__held"]
    assert [spec.name for spec in bundle.tail_outputs] == [RETURN]
    assert [spec.shape for spec in bundle.results] == [(-1, 5)]
    # A server that has both cuts of a layer offers them under two names.
    assert bundle.served_name.endswith("relu_to_mul_tail")
    config = (folder / "triton" / bundle.served_name / "config.pbtxt").read_text()
    assert f'name: "{RETURN}"' in config
    assert not any(spec.name in config for spec in bundle.results)


def test_three_parts_over_a_server_answer_as_the_model(
    model: LoadedModel, folder: Path, cloud: str
) -> None:
    pictures = arrays(5)
    with SplitClient(folder, cloud, threads=1) as client:
        for x in pictures:
            answer = client.infer({"x": x}).raise_if_refused()
            assert answer.answered_by == "cloud" and answer.payload_bytes == FEATURE_BYTES
            assert answer.outputs is not None
            [got] = answer.outputs.values()
            np.testing.assert_allclose(got, whole(model, x), rtol=1e-4, atol=1e-5)
            times = answer.times
            assert times.last_s is not None and 0 < times.last_s < times.total_s
        together = client.infer_batch([{"x": x} for x in pictures])
        for x, answer in zip(pictures, together, strict=True):
            assert answer.outputs is not None
            [got] = answer.outputs.values()
            np.testing.assert_allclose(got, whole(model, x), rtol=1e-4, atol=1e-5)
        streamed = list(client.stream({"x": x} for x in pictures))
        assert [one.answered_by for one in streamed] == ["cloud"] * 5


def test_alone_the_device_runs_tail_and_last_part(model: LoadedModel, folder: Path) -> None:
    [x] = arrays(1)
    with SplitClient(folder, None, fallback="local", threads=1) as client:
        answer = client.infer({"x": x})
    assert answer.answered_by == "local" and answer.outputs is not None
    [got] = answer.outputs.values()
    np.testing.assert_allclose(got, whole(model, x), rtol=1e-4, atol=1e-5)
    assert answer.times.tail_s is not None and answer.times.last_s is not None


def test_a_device_gets_head_and_last_part(
    model: LoadedModel, folder: Path, cloud: str, tmp_path: Path
) -> None:
    part = copy_edge_part(read_bundle(folder), tmp_path / "edge").folder
    assert {path.name for path in part.iterdir()} == {"head.onnx", "last.onnx", "manifest.json"}
    [x] = arrays(1)
    with SplitClient(part, cloud, threads=1) as client:
        outputs = client.infer({"x": x}).raise_if_refused().outputs
    assert outputs is not None
    np.testing.assert_allclose(next(iter(outputs.values())), whole(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("precision", "dtype", "share"), [
    ("fp16", "float16", 5e-3), ("int8", "int8", 5e-2),
])  # fmt: skip
def test_what_comes_back_has_the_codec_too(
    model: LoadedModel, tmp_path: Path, precision: str, dtype: str, share: float
) -> None:
    found = split(model, CUT, tmp_path / "b", precision=precision, return_at=RETURN)
    bundle = read_bundle(tmp_path / "b")
    assert {spec.dtype for spec in (*bundle.tail_inputs, *bundle.tail_outputs)} == {dtype}
    assert {spec.dtype for spec in (*bundle.held, *bundle.results)} == {"float32"}
    assert found.row.cut.last is not None
    item = np.dtype(dtype).itemsize
    assert found.row.cut.last.downlink_bytes == FEATURE_BYTES // 4 * item
    assert found.loss is not None and 0 < found.loss.max_rel_error < share
    with TailServer([read_bundle(tmp_path / "b", "cloud")], port=0, threads=1) as server:
        # Pixels, so that values lie in the range that int8 was calibrated to.
        pixels = np.random.default_rng(2).integers(0, 256, (16, 16, 3)).astype(np.uint8)
        with SplitClient(tmp_path / "b", f"127.0.0.1:{server.port}", threads=1) as client:
            answer = client.infer(Image.fromarray(pixels)).raise_if_refused()
            assert bundle.preprocessing is not None and answer.outputs is not None
            x = bundle.preprocessing([Image.fromarray(pixels)])
            want, got = whole(model, x), next(iter(answer.outputs.values()))
            assert np.abs(got - want).max() <= share * np.abs(want).max()


def test_cloud_only_sends_the_input_and_returns(model: LoadedModel, tmp_path: Path) -> None:
    found = split(model, "cloud-only", tmp_path / "b", return_at=RETURN)
    assert found.row.verified is not None and found.row.verified.ok
    [x] = arrays(1)
    with SplitClient(tmp_path / "b", None, fallback="local", threads=1) as client:
        outputs = client.infer({"x": x}).raise_if_refused().outputs
    assert outputs is not None
    np.testing.assert_allclose(next(iter(outputs.values())), whole(model, x), rtol=1e-4, atol=1e-5)


def damaged(folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_a_changed_last_part_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = damaged(folder, tmp_path, lambda manifest: None)
    data = bytearray((copy / "last.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "last.onnx").write_bytes(data)
    for part in ("whole", "edge", "cloud"):
        with pytest.raises(ReportError, match=r"last.onnx was changed: expected SHA-256"):
            read_bundle(copy, part)  # type: ignore[arg-type]
    with pytest.raises(ReportError, match=r"last.onnx was changed"):
        SplitClient(copy, "127.0.0.1:1")
    (copy / "last.onnx").unlink()
    with pytest.raises(ReportError, match=r"lacks last.onnx"):
        read_bundle(copy, "edge")
    assert read_bundle(copy, "cloud").return_at == RETURN  # a server needs the tail alone


@pytest.mark.parametrize(
    ("change", "told"),
    [
        # What a reader of one cut knows: it would take the features for the result.
        (lambda m: m.update(schema_version=1), "expected schema_version 2, got 1"),
        (lambda m: m.pop("last"), "expected schema_version 1, got 2"),
        (lambda m: m.pop("return_at"), "no manifest of a bundle"),
        (lambda m: m["files"].pop("last.onnx"), "holds 'last.onnx', which its manifest does not"),
        (lambda m: m["last"]["inputs"][0].update(name="y"), "got 'y', which neither gives so"),
        (lambda m: m["last"]["inputs"][0].update(shape=[-1, 1]), "which neither gives so"),
    ],
)
def test_a_manifest_that_tells_otherwise_is_refused(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], told: str
) -> None:
    with pytest.raises(ReportError, match=told):
        read_bundle(damaged(folder, tmp_path, change))


def test_the_last_part_takes_nothing_else(folder: Path) -> None:
    with contextlib.closing(OpenedBundle(folder, threads=1)) as bundle:
        feeds = bundle.joined([bundle.feed({"x": arrays(1)[0]})])
        held = bundle.run_head(feeds).held
        with pytest.raises(SessionError, match=r"input 'mul': expected float32 \[\?, 4, 16, 16\]"):
            bundle.run_last({"mul": np.zeros((1, 4, 2, 2), np.float32)}, held)


def test_a_failing_last_part_is_a_refusal_that_says_so(
    folder: Path, cloud: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise SessionError("out of memory")

    for address, fallback in ((cloud, "refuse"), (None, "local")):
        with SplitClient(folder, address, fallback=fallback, threads=1) as client:  # type: ignore[arg-type]
            with monkeypatch.context() as patch:
                patch.setattr(OpenedBundle, "run_last", fails)
                answer = client.infer({"x": arrays(1)[0]})
            assert answer.answered_by == "refused" and answer.kind == "refused"
            assert answer.error == "the last part failed on what came back: out of memory"
            assert client.infer({"x": arrays(1)[0]}).outputs is not None


def test_what_cannot_be_split_is_refused(model: LoadedModel, tmp_path: Path) -> None:
    out = tmp_path / "b"
    with pytest.raises(CutError, match="expected a cut before mul, got edge-only"):
        split(model, "edge-only", out, return_at=RETURN)
    with pytest.raises(UsageError, match=r"got relu, and no cut lies before it \(the first: mul\)"):
        split(model, RETURN, out, return_at=CUT)
    with pytest.raises(UsageError, match="between the two ends, got cloud-only"):
        split(model, CUT, out, return_at="cloud-only")
    with pytest.raises(UnknownNameError, match="unknown cut 'nowhere'"):
        split(model, CUT, out, return_at="nowhere")
    assert not out.exists()


def test_defend_takes_one_cut_alone(folder: Path) -> None:
    with pytest.raises(DefenceError, match="one cut, got .*behind mul, run at the edge"):
        defend(folder, DefendOptions(form="gaussian", strength=0.1))


def test_a_head_in_another_precision_is_judged_on_results(folder: Path, tmp_path: Path) -> None:
    copy = damaged(folder, tmp_path, lambda manifest: None)
    [made] = add_head_variants(copy, ["fp16"])
    assert made.loss is not None and 0 < made.loss.max_rel_error < 1e-2
    assert read_bundle(copy).return_at == RETURN


def test_a_deployed_last_part_is_tried_on_the_device(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path, local_tail=True)
    told = run_self_test(tmp_path)
    [result] = read_bundle(folder).results
    assert told["errors"][result.name] < 1e-4


def test_export_and_run_from_the_command_line(tmp_path: Path, cloud: str) -> None:
    out = tmp_path / "b"
    outcome = splitdeploy("export", MODEL, "--cut", CUT, "--return-at", RETURN, "--out", out, "-q")
    assert outcome.code == 0, outcome.err
    assert "relu to mul: 4.1 kB up and 4.1 kB down an inference" in outcome.err
    picture = tmp_path / "p.png"
    Image.fromarray(np.full((20, 20, 3), 90, np.uint8)).save(picture)
    run = splitdeploy("run", out, "--cloud", cloud, picture, "--format", "json")
    assert run.code == 0, run.err
    document = json.loads(run.out)
    assert document["answered_by"] == "cloud" and document["times"]["last_s"] > 0
    assert "last       median" in run.err
    local = splitdeploy("run", out, "--local", picture, "--format", "csv", "-q")
    [row] = csv.DictReader(io.StringIO(local.out))
    assert row["answered_by"] == "local" and float(row["last_s"]) > 0
    assert [int(label) for label in row["classes"].split(";")] == [
        one["class"] for one in document["top"]
    ]
    refused = splitdeploy("export", MODEL, "--cut", RETURN, "--return-at", CUT, "--out", out, "-q")
    assert refused.code == 2 and len(refused.err.splitlines()) == 1
    assert "no cut lies before it" in refused.err
