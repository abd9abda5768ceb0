"""Sessions: what they take, what they give, and the one line that each mistake gets."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from splitdeploy.edge_runtime.onnxruntime_session import (
    OnnxRuntimeSession,
    granted_threads,
    session_options,
)
from splitdeploy.edge_runtime.session import FREE
from splitdeploy.edge_runtime.timing import time_session
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.errors import MissingExtraError, SessionError


def scaled_sum(batch: int | str = "n") -> onnx.ModelProto:
    """total = a · 3 + b, and the integers as they came."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["a", "three"], ["scaled"]),
            helper.make_node("Add", ["scaled", "b"], ["total"]),
            helper.make_node("Identity", ["k"], ["same"]),
        ],
        "scaled_sum",
        [
            helper.make_tensor_value_info("a", TensorProto.FLOAT, [batch, 4]),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, [batch, 4]),
            helper.make_tensor_value_info("k", TensorProto.INT64, [2]),
        ],
        [
            helper.make_tensor_value_info("total", TensorProto.FLOAT, [batch, 4]),
            helper.make_tensor_value_info("same", TensorProto.INT64, [2]),
        ],
        [numpy_helper.from_array(np.array([3.0], np.float32), "three")],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])


def some_feeds(rows: int = 2) -> dict[str, np.ndarray]:
    a = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
    return {"a": a, "b": a + 1, "k": np.array([5, 7], np.int64)}


@pytest.fixture
def session() -> OnnxRuntimeSession:
    return OnnxRuntimeSession(scaled_sum().SerializeToString(), threads=1)


def test_it_tells_what_it_takes_and_gives(session: OnnxRuntimeSession) -> None:
    assert session.inputs == (
        TensorSpec("a", (FREE, 4)),
        TensorSpec("b", (FREE, 4)),
        TensorSpec("k", (2,), "int64"),
    )
    assert [spec.name for spec in session.outputs] == ["total", "same"]
    assert "a [?, 4] float32" in repr(session)


@pytest.mark.parametrize("rows", [1, 5])
def test_any_batch_runs_through_a_free_dimension(session: OnnxRuntimeSession, rows: int) -> None:
    feeds = some_feeds(rows)
    results = session.run(feeds)
    assert list(results) == ["total", "same"]
    np.testing.assert_array_equal(results["total"], feeds["a"] * 3 + feeds["b"])
    np.testing.assert_array_equal(results["same"], feeds["k"])


def test_strided_arrays_are_read_as_they_look(session: OnnxRuntimeSession) -> None:
    feeds = some_feeds(4) | {"a": np.arange(16, dtype=np.float32).reshape(4, 4).T}
    np.testing.assert_array_equal(session.run(feeds)["total"], feeds["a"] * 3 + feeds["b"])


def test_without_optimisation_the_result_is_the_same(session: OnnxRuntimeSession) -> None:
    plain = OnnxRuntimeSession(scaled_sum().SerializeToString(), threads=1, optimised=False)
    for name, value in plain.run(some_feeds()).items():
        np.testing.assert_array_equal(value, session.run(some_feeds())[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": np.zeros(1)}, r"unknown input 'c': expected a, b, k"),
        ({"a": np.zeros((2, 4))}, r"input 'a': expected float32 \[\?, 4\], got float64 \[2, 4\]"),
        ({"a": np.zeros((2, 3), np.float32)}, r"expected float32 \[\?, 4\], got float32 \[2, 3\]"),
        ({"a": np.zeros(4, np.float32)}, r"expected float32 \[\?, 4\], got float32 \[4\]"),
        ({"a": [1.0, 2.0]}, r"input 'a': expected a NumPy array, got list"),
        ({"b": np.zeros((3, 4), np.float32)}, r"the graph failed: .*"),
    ],
)
def test_a_wrong_feed_is_one_line(
    session: OnnxRuntimeSession, change: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(SessionError, match=message) as caught:
        session.run(some_feeds() | change)
    assert "\n" not in str(caught.value)


def test_a_missing_feed_is_one_line(session: OnnxRuntimeSession) -> None:
    feeds = some_feeds()
    del feeds["b"]
    with pytest.raises(SessionError, match="input 'b' is missing: expected a, b, k, got a, k"):
        session.run(feeds)


def test_a_closed_session_does_not_run() -> None:
    with OnnxRuntimeSession(scaled_sum().SerializeToString()) as session:
        session.run(some_feeds())
    session.close()
    with pytest.raises(SessionError, match="expected an open session, it is closed"):
        session.run(some_feeds())


@pytest.mark.parametrize("garbage", [b"", b"no model at all", b"\x08\x0a" * 40])
def test_garbage_is_one_line(garbage: bytes) -> None:
    with pytest.raises(SessionError, match=r"expected an ONNX model .* got \d+ bytes") as caught:
        OnnxRuntimeSession(garbage)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="expected an ONNX file at .*head.onnx, there is none"):
        OnnxRuntimeSession(tmp_path / "head.onnx")


def test_weights_beside_the_file_are_found(tmp_path: Path) -> None:
    model = scaled_sum()
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size > 0
    feeds = some_feeds()
    np.testing.assert_array_equal(
        OnnxRuntimeSession(path).run(feeds)["total"], feeds["a"] * 3 + feeds["b"]
    )


@pytest.mark.parametrize("providers", [["MadeUpProvider"], ["CPUExecutionProvider", "Nonesuch"]])
def test_a_provider_is_never_replaced(providers: list[str]) -> None:
    match = r"(MadeUpProvider|Nonesuch) is not in this onnxruntime: available: .*CPUExecution"
    with pytest.raises(SessionError, match=match):
        OnnxRuntimeSession(scaled_sum().SerializeToString(), providers=providers)


def test_a_provider_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = importlib.import_module("onnxruntime")
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(runtime, "get_available_providers", lambda: there)
    monkeypatch.setattr(
        runtime.InferenceSession, "get_providers", lambda _: ["CPUExecutionProvider"]
    )
    original = runtime.InferenceSession
    monkeypatch.setattr(
        runtime,
        "InferenceSession",
        lambda source, options, providers: original(source, options, providers=providers[-1:]),
    )
    with pytest.raises(SessionError, match="CUDAExecutionProvider could not be started"):
        OnnxRuntimeSession(scaled_sum().SerializeToString(), providers=there)


def test_no_provider_is_an_error() -> None:
    with pytest.raises(SessionError, match="expected an execution provider, got none"):
        OnnxRuntimeSession(scaled_sum().SerializeToString(), providers=[])


@pytest.mark.parametrize(
    ("bound", "told", "granted"),
    [
        (8, "", None),
        (8, "64", None),
        (2, "", 2),
        (8, "3", 3),
        (2, "3", 2),
        (8, "4,2", 4),
        (8, "many", None),
        (8, "0", None),
    ],
)
def test_a_session_takes_no_more_threads_than_its_process_was_granted(
    bound: int, told: str, granted: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)))
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert granted_threads() == granted
    assert session_options().intra_op_num_threads == (granted or 0)
    assert session_options(threads=5).intra_op_num_threads == 5


def test_threads_are_counted_from_one() -> None:
    with pytest.raises(SessionError, match="expected at least 1 thread, got 0"):
        session_options(threads=0)


def test_without_onnxruntime_the_line_to_type_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"type  pip install 'splitdeploy\[cpu\]'"):
        OnnxRuntimeSession(b"")


def test_what_is_no_tensor_is_told() -> None:
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["a"], ["list"])],
        "listed",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [2])],
        [helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    with pytest.raises(SessionError, match=r"'list': expected a tensor of .*, got seq"):
        OnnxRuntimeSession(model.SerializeToString())


def test_timing_counts_its_runs(session: OnnxRuntimeSession) -> None:
    measurement = time_session(session, some_feeds(), warmup=1, repeats=7)
    assert (measurement.count, measurement.source) == (7, "measured")
    assert 0 < measurement.median <= measurement.p95


def test_timing_ends_with_its_budget_after_one_run(session: OnnxRuntimeSession) -> None:
    assert time_session(session, some_feeds(), repeats=10**9, budget_s=1e-9).count == 1


@pytest.mark.parametrize("numbers", [{"warmup": -1}, {"repeats": 0}, {"budget_s": 0.0}])
def test_timing_refuses_numbers_out_of_range(
    session: OnnxRuntimeSession, numbers: dict[str, int]
) -> None:
    with pytest.raises(SessionError, match="expected warmup >= 0, repeats >= 1 and budget_s > 0"):
        time_session(session, some_feeds(), **numbers)
