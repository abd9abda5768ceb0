"""A real Triton answers as ONNX Runtime does, refuses what is wrong, and ends when told to."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tail_bundles
import triton_process
import tritonclient.grpc as grpcclient
from certificates import Authority
from triton_process import TritonProcess
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from splitdeploy.cloud_runtime.triton_launch import run_triton
from splitdeploy.edge_runtime.session import Array
from splitdeploy.profiles.digest import file_sha256
from splitdeploy.profiles.errors import ReportError, ServeError

pytestmark = pytest.mark.skipif(not triton_process.HAVE_TRITON, reason=triton_process.MISSING)

TAILS = {
    "linear": tail_bundles.linear_tail(),
    "two": tail_bundles.two_input_tail(),
    "lookup": tail_bundles.lookup_tail(),
    "fixed": tail_bundles.linear_tail(batch=1),
    "slow": tail_bundles.slow_tail(width=256),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("triton")
    for name, tail in TAILS.items():
        tail_bundles.make_bundle(made / name, tail, f"{name}_tail")
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[TritonProcess]:
    started = TritonProcess([folder / name for name in TAILS], folder / "work")
    yield started
    assert started.stop() == 0


@pytest.fixture(scope="module")
def client(server: TritonProcess) -> Iterator[Any]:
    with grpcclient.InferenceServerClient(server.address) as made:
        yield made


def ask(client: Any, name: str, feeds: dict[str, Array], **given: Any) -> dict[str, Array]:
    inputs = []
    for key, array in feeds.items():
        datatype = {"float32": "FP32", "float16": "FP16", "int64": "INT64"}[array.dtype.name]
        inputs.append(grpcclient.InferInput(key, list(array.shape), datatype))
        inputs[-1].set_data_from_numpy(array)
    result = client.infer(f"{name}_tail", inputs, client_timeout=30.0, **given)
    return {out.name: result.as_numpy(out.name) for out in result.get_response().outputs}


def feeds_of(name: str, batch: int, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    if name == "two":
        return {
            "half": rng.normal(size=(batch, 3, 5)).astype(np.float16),
            "skip": rng.normal(size=(batch, 3)).astype(np.float32),
        }
    if name == "lookup":
        return {"index": rng.integers(0, 3, (batch, 1))}
    width = {"linear": 6, "fixed": 6, "slow": 256}[name]
    return {"x": rng.normal(size=(batch, width)).astype(np.float32)}


def check(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)


def test_it_says_what_it_serves(server: TritonProcess, client: Any) -> None:
    assert server.names == [f"{name}_tail" for name in TAILS]
    assert client.is_server_live() and client.is_server_ready()
    assert all(client.is_model_ready(name) for name in server.names)
    metadata = client.get_model_metadata("two_tail")
    assert [(e.name, e.datatype, list(e.shape)) for e in metadata.inputs] == [
        ("half", "FP16", [-1, 3, 5]), ("skip", "FP32", [-1, 3])
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "batch"),
    [("linear", 1), ("linear", 16), ("two", 1), ("two", 5), ("lookup", 3), ("fixed", 1)],
)
def test_answers_are_those_of_onnx_runtime(
    client: Any, folder: Path, name: str, batch: int
) -> None:
    feeds = feeds_of(name, batch)
    check(ask(client, name, feeds), tail_bundles.answer(folder / name, feeds))


def test_requests_at_once_are_batched_and_each_gets_its_own_answer(
    client: Any, folder: Path
) -> None:
    sent = [feeds_of("slow", 1 + seed % 3, seed) for seed in range(48)]
    got: dict[int, dict[str, Array]] = {}

    def one(place: int) -> None:
        got[place] = ask(client, "slow", sent[place])

    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(sent))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(got) == len(sent)
    for place, feeds in enumerate(sent):
        check(got[place], tail_bundles.answer(folder / "slow", feeds))
    (counted,) = client.get_inference_statistics("slow_tail").model_stats
    assert counted.inference_count >= sum(len(feeds["x"]) for feeds in sent)
    assert max(entry.batch_size for entry in counted.batch_stats) > 3


@pytest.mark.parametrize(
    ("name", "feeds", "message"),
    [
        ("linear", {"x": np.zeros((1, 7), np.float32)}, "unexpected shape"),
        ("linear", {"x": np.zeros((17, 6), np.float32)}, "batch-size must be <= 16"),
        ("linear", {"x": np.zeros((1, 6), np.float16)}, "data-type is 'FP16'"),
        ("linear", {"z": np.zeros((1, 6), np.float32)}, "input 'z'|inputs"),
        ("two", {"skip": np.zeros((1, 3), np.float32)}, "expected 2 inputs but got 1"),
        ("fixed", {"x": np.zeros((2, 6), np.float32)}, "unexpected shape"),
        ("lookup", {"index": np.full((1, 1), 9)}, "the tail failed"),
        ("absent", {"x": np.zeros((1, 6), np.float32)}, "unknown model"),
    ],
)
def test_a_wrong_request_is_refused_and_it_serves_on(
    client: Any, folder: Path, name: str, feeds: dict[str, Array], message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message):
        ask(client, name, feeds)
    right = feeds_of("linear", 2)
    check(ask(client, "linear", right), tail_bundles.answer(folder / "linear", right))


def test_bytes_that_do_not_fill_the_shape_are_refused(server: TritonProcess) -> None:
    request = pb.ModelInferRequest(model_name="linear_tail")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 6])
    request.raw_input_contents.append(b"\0" * 23)
    with grpc.insecure_channel(server.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request, timeout=10)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_nobody_changes_what_it_serves(client: Any) -> None:
    for change in (
        lambda: client.load_model("linear_tail"),
        lambda: client.unload_model("linear_tail"),
        lambda: client.get_model_repository_index(),
        lambda: client.register_system_shared_memory("region", "/passwd", 8),
        lambda: client.update_log_settings({"log_file": "/nowhere"}),
    ):
        with pytest.raises(InferenceServerException, match="restricted|expecting header"):
            change()
    assert client.is_model_ready("linear_tail")


def test_metrics_are_offered(server: TritonProcess) -> None:
    said = dict(line.split() for line in server.said)
    assert said["grpc"] == server.address
    with urllib.request.urlopen(said["metrics"], timeout=10) as page:
        assert "nv_inference_request_success" in page.read().decode()


def test_without_a_certificate_of_its_authority_nobody_is_answered(
    folder: Path, tmp_path: Path
) -> None:
    ours, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "other")
    end, good, bad = ours.server(), ours.client(), other.client()
    started = TritonProcess(
        [folder / "linear"], tmp_path / "work", [end.cert, end.key, ours.pair.cert]
    )
    try:
        roots = ours.pair.cert.read_bytes()
        feeds = feeds_of("linear", 2)
        for pair, welcome in ((good, True), (bad, False), (None, False)):
            with grpcclient.InferenceServerClient(
                started.address, ssl=True,
                creds=grpc.ssl_channel_credentials(
                    roots, pair and pair.key.read_bytes(), pair and pair.cert.read_bytes()
                ),
            ) as client:  # fmt: skip
                if welcome:
                    check(ask(client, "linear", feeds),
                          tail_bundles.answer(folder / "linear", feeds))  # fmt: skip
                else:
                    with pytest.raises(InferenceServerException):
                        ask(client, "linear", feeds)
        with (
            grpcclient.InferenceServerClient(started.address) as plain,
            pytest.raises(InferenceServerException),
        ):
            ask(plain, "linear", feeds)
    finally:
        assert started.stop(signal.SIGINT) == 0
    assert not list((tmp_path / "work").iterdir())


def test_requests_in_flight_are_answered_before_it_ends(folder: Path, tmp_path: Path) -> None:
    started = TritonProcess([folder / "slow"], tmp_path / "work")
    feeds = feeds_of("slow", 16)
    answered: list[dict[str, Array]] = []
    with grpcclient.InferenceServerClient(started.address) as client:
        threads = [
            threading.Thread(target=lambda: answered.append(ask(client, "slow", feeds)))
            for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        code = started.stop()
        for thread in threads:
            thread.join(timeout=30)
    assert code == 0 and not list((tmp_path / "work").iterdir())
    for values in answered:
        check(values, tail_bundles.answer(folder / "slow", feeds))


def test_where_its_launcher_is_killed_it_ends_too(folder: Path, tmp_path: Path) -> None:
    started = TritonProcess([folder / "fixed"], tmp_path / "work")
    os.kill(started.process.pid, signal.SIGKILL)
    started.process.wait(timeout=10)
    deadline = time.monotonic() + 30
    with grpcclient.InferenceServerClient(started.address) as client:
        while time.monotonic() < deadline:
            try:
                client.is_server_live(client_timeout=1.0)
            except InferenceServerException:
                return
            time.sleep(0.1)
    pytest.fail("Triton still answers")


def test_a_taken_port_and_a_damaged_bundle_are_told(
    server: TritonProcess, folder: Path, tmp_path: Path
) -> None:
    port = int(server.address.split(":")[1])
    settings: dict[str, Any] = {
        "host": "127.0.0.1", "metrics_port": None, "max_batch": 4, "tls": None, "grace_s": 1.0
    }  # fmt: skip
    with pytest.raises(ServeError, match=f"cannot listen on 127.0.0.1:{port}: Address already in"):
        run_triton([folder / "linear"], port=port, **settings)
    broken = tail_bundles.make_bundle(tmp_path / "b", TAILS["linear"], "linear_tail")
    (broken / "tail.onnx").write_bytes(b"other")
    with pytest.raises(ReportError, match=r"tail.onnx was changed"):
        run_triton([broken], port=0, **settings)


def test_a_tail_that_will_not_load_is_told(tmp_path: Path) -> None:
    broken = tail_bundles.make_bundle(tmp_path / "b", TAILS["linear"], "linear_tail")
    (broken / "tail.onnx").write_bytes(b"no graph")
    manifest = json.loads((broken / "manifest.json").read_text())
    manifest["files"]["tail.onnx"]["sha256"] = file_sha256(broken / "tail.onnx")
    (broken / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AssertionError, match=r"error: Triton ended with 1 before it was ready"):
        TritonProcess([broken], tmp_path / "work")
    assert not list((tmp_path / "work").iterdir())
