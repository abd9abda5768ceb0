"""What is written for Triton, judged by NVIDIA's own protobuf of a model's configuration."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tail_bundles
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from splitdeploy.cloud_runtime import triton_install
from splitdeploy.cloud_runtime.triton_config import Serving, config_text
from splitdeploy.cloud_runtime.triton_install import find_triton
from splitdeploy.cloud_runtime.triton_launch import run_triton
from splitdeploy.cloud_runtime.triton_repository import (
    PYTHON_MODEL,
    trtexec_command,
    write_model,
    write_repository,
)
from splitdeploy.edge_runtime.bundle import Bundle, read_bundle
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.errors import OutputError, ServeError

X, Y = TensorSpec("x", (-1, 3, 8, 8)), TensorSpec("y", (-1, 10))
Array = np.ndarray[Any, Any]


def parse(text: str) -> Any:
    return text_format.Parse(text, ModelConfig())


@pytest.fixture
def linear(tmp_path: Path) -> Bundle:
    return read_bundle(tail_bundles.make_bundle(tmp_path / "a", tail_bundles.linear_tail(), "one"))


@pytest.fixture
def double(tmp_path: Path) -> Bundle:
    made = tail_bundles.make_bundle(tmp_path / "b", tail_bundles.two_input_tail(), "two")
    return read_bundle(made)


def test_the_configuration_says_what_was_asked_for() -> None:
    serving = Serving("onnxruntime", 16, 2, (8, 4), 500)
    config = parse(config_text("tail", [X], [Y], serving))
    assert (config.name, config.backend, config.max_batch_size) == ("tail", "onnxruntime", 16)
    assert list(config.input[0].dims) == [3, 8, 8] and list(config.output[0].dims) == [10]
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 1024
    assert config.instance_group[0].count == 2
    assert config.instance_group[0].kind == ModelInstanceGroup.KIND_AUTO
    assert [entry.batch_size for entry in config.model_warmup] == [1, 16]
    warm = config.model_warmup[1].inputs["x"]
    assert warm.zero_data and list(warm.dims) == [3, 8, 8]


def test_a_tail_of_a_fixed_batch_is_not_batched() -> None:
    fixed = [TensorSpec("x", (1, 6), "float16")], [TensorSpec("y", (1, 4))]
    config = parse(config_text("tail", *fixed, Serving()))
    assert config.max_batch_size == 0 and not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [1, 6]
    assert [entry.batch_size for entry in config.model_warmup] == [1]
    mixed = parse(config_text("tail", [X], [TensorSpec("y", (10,))], Serving()))
    assert mixed.max_batch_size == 0 and list(mixed.input[0].dims) == [-1, 3, 8, 8]
    assert list(mixed.model_warmup[0].inputs["x"].dims) == [1, 3, 8, 8]


def test_a_tail_of_any_size_is_not_warmed_up() -> None:
    config = parse(config_text("tail", [TensorSpec("x", (-1, 3, -1, -1))], [Y], Serving()))
    assert list(config.input[0].dims) == [3, -1, -1] and not config.model_warmup
    assert not parse(config_text("tail", [X], [Y], Serving(warmup=False))).model_warmup


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_name_of_a_tensor_survives(name: str, other: str) -> None:
    if "\ud800" <= max(name + other) <= "\udfff":
        return
    specs = [TensorSpec(name, (-1, 2))], [TensorSpec(other, (-1, 2))]
    config = parse(config_text("tail", *specs, Serving()))
    assert config.input[0].name == name and config.output[0].name == other
    assert list(config.model_warmup[0].inputs) == [name]


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "float64", "uint16", "bfloat16"])
def test_every_dtype_that_can_cross_has_a_type(dtype: str) -> None:
    config = parse(config_text("t", [X.with_dtype(dtype)], [Y], Serving()))
    assert config.input[0].data_type != 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "pytorch"}, "unknown backend 'pytorch': available: onnxruntime, python, tens"),
        ({"max_batch": 0}, "expected max_batch of at least 1, got 0"),
        ({"instances": 0}, "expected instances of at least 1, got 0"),
        ({"queue_delay_us": -1}, "expected queue_delay_us of at least 0, got -1"),
        ({"preferred_batches": (64,)}, "preferred batches between 1 and max_batch 32, got 64"),
    ],
)
def test_figures_that_triton_would_refuse(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ServeError, match=message):
        config_text("tail", [X], [Y], replace(Serving(), **change))


def test_tails_lie_side_by_side(tmp_path: Path, linear: Bundle, double: Bundle) -> None:
    write_repository(tmp_path / "models", [linear, double], max_batch=4, preferred_batches=[4])
    for bundle in (linear, double):
        model = tmp_path / "models" / bundle.served_name
        assert (model / "1" / "model.onnx").read_bytes() == bundle.tail.read_bytes()
        config = parse((model / "config.pbtxt").read_text())
        assert config.name == bundle.served_name and config.backend == "onnxruntime"
        assert [entry.name for entry in config.input] == [s.name for s in bundle.tail_inputs]
        assert not (model / "1" / "model.py").exists()


def test_the_python_backend_gets_its_program(tmp_path: Path, linear: Bundle) -> None:
    write_repository(tmp_path / "models", [linear], backend="python")
    model = tmp_path / "models" / "one"
    assert (model / "1" / "model.py").read_bytes() == PYTHON_MODEL.read_bytes()
    config = parse((model / "config.pbtxt").read_text())
    assert config.instance_group[0].kind == ModelInstanceGroup.KIND_CPU


def test_weights_beside_a_graph_come_along(tmp_path: Path, linear: Bundle) -> None:
    (linear.folder / "tail.weights").write_bytes(b"weights")
    write_repository(tmp_path / "models", [linear])
    assert (tmp_path / "models" / "one" / "1" / "tail.weights").read_bytes() == b"weights"


def test_an_engine_is_made_where_it_runs(tmp_path: Path, double: Bundle) -> None:
    write_repository(tmp_path / "models", [double], backend="tensorrt", max_batch=8)
    model = tmp_path / "models" / "two"
    config = parse((model / "config.pbtxt").read_text())
    assert config.backend == "tensorrt"
    assert config.instance_group[0].kind == ModelInstanceGroup.KIND_GPU
    assert trtexec_command(double, model, 8) == [
        "trtexec", f"--onnx={model}/1/model.onnx", f"--saveEngine={model}/1/model.plan",
        "--skipInference", "--minShapes=half:1x3x5,skip:1x3", "--optShapes=half:4x3x5,skip:4x3",
        "--maxShapes=half:8x3x5,skip:8x3",
    ]  # fmt: skip


def test_an_engine_has_one_size(tmp_path: Path, linear: Bundle) -> None:
    free = replace(linear, tail_inputs=(TensorSpec("x", (-1, -1)),))
    with pytest.raises(ServeError, match="a tail of one input size for TensorRT"):
        write_repository(tmp_path / "models", [free], backend="tensorrt")


def test_two_tails_of_one_name_are_refused(tmp_path: Path, linear: Bundle, double: Bundle) -> None:
    twin = replace(double, served_name="one")
    with pytest.raises(ServeError, match=r"a and .*b both serve 'one', expected a name of its own"):
        write_repository(tmp_path / "models", [linear, twin])
    with pytest.raises(ServeError, match="at least one bundle to serve, got none"):
        write_repository(tmp_path / "models", [])
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".", "..", "a b", 'a"b'])
def test_a_name_never_leads_out_of_the_repository(
    tmp_path: Path, linear: Bundle, name: str
) -> None:
    with pytest.raises(ServeError, match="a served name of letters, digits"):
        write_repository(tmp_path / "models", [replace(linear, served_name=name)])


def test_a_repository_is_never_written_over(tmp_path: Path, linear: Bundle) -> None:
    (tmp_path / "models").mkdir()
    write_repository(tmp_path / "models", [linear])
    with pytest.raises(OutputError, match="expected a new or an empty folder"):
        write_repository(tmp_path / "models", [linear])


def test_every_bundle_brings_a_model_along(tmp_path: Path, linear: Bundle) -> None:
    values = {"inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 6]}],
              "outputs": [{"name": "y", "dtype": "float32", "shape": [-1, 4]}]}  # fmt: skip
    write_model(tmp_path / "served", "served", linear.tail, values)
    config = parse((tmp_path / "served" / "config.pbtxt").read_text())
    assert config.max_batch_size == 32 and config.HasField("dynamic_batching")


# The Python backend's program, with a stand-in for the one module that Triton gives it.


class Tensor:
    """As Triton's: a name and an array."""

    def __init__(self, name: str, array: Array) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Array:
        return self._array


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    fake: Any = types.ModuleType("triton_python_backend_utils")
    fake.Tensor = Tensor
    fake.get_input_tensor_by_name = lambda request, name: Tensor(name, request[name])
    fake.TritonError = str
    fake.InferenceResponse = lambda tensors, error=None: (tensors, error)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    spec = importlib.util.spec_from_file_location("tail_program", PYTHON_MODEL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module


def started(program: Any, tmp_path: Path, tail: Any, served: str) -> Any:
    bundle = read_bundle(tail_bundles.make_bundle(tmp_path / served, tail, served))
    write_repository(tmp_path / "m", [bundle], backend="python", max_batch=64)
    config = parse((tmp_path / "m" / served / "config.pbtxt").read_text())
    model = program.TritonPythonModel()
    model.initialize({
        "model_repository": str(tmp_path / "m" / served),
        "model_version": "1",
        "model_config": json.dumps({
            "input": [{"name": entry.name} for entry in config.input],
            "output": [{"name": entry.name} for entry in config.output],
            "instance_group": [{"count": 1}],
            "max_batch_size": config.max_batch_size,
        }),
    })
    return model


def test_requests_that_come_together_run_as_one(program: Any, tmp_path: Path) -> None:
    model = started(program, tmp_path, tail_bundles.two_input_tail(), "two")
    runs: list[int] = []
    inner = model._session
    model._session = types.SimpleNamespace(
        run=lambda names, feeds: runs.append(len(feeds["skip"])) or inner.run(names, feeds)
    )
    rng = np.random.default_rng(2)
    requests = [
        {"half": rng.normal(size=(n, 3, 5)).astype(np.float16),
         "skip": rng.normal(size=(n, 3)).astype(np.float32)}
        for n in (1, 4, 2)
    ]  # fmt: skip
    for request, (tensors, error) in zip(requests, model.execute(requests), strict=True):
        expected = tail_bundles.answer(tmp_path / "two", request)
        assert error is None and [tensor.name() for tensor in tensors] == ["sum", "share"]
        for tensor in tensors:
            np.testing.assert_allclose(
                tensor.as_numpy(), expected[tensor.name()], rtol=1e-5, atol=1e-6
            )
    assert runs == [7]


def test_one_bad_request_spoils_no_other(program: Any, tmp_path: Path) -> None:
    model = started(program, tmp_path, tail_bundles.lookup_tail(), "lookup")
    requests = [{"index": np.array([[n]], np.int64)} for n in (0, 7, 2)]
    good, bad, last = model.execute(requests)
    assert good[1] is None and last[1] is None
    np.testing.assert_array_equal(last[0][0].as_numpy(), [[[4.0, 5.0]]])
    assert bad[0] == [] and "the tail failed: " in bad[1] and "\n" not in bad[1]
    model.finalize()


# Where a Triton is looked for.


def test_the_variable_is_believed_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLITDEPLOY_TRITON", str(tmp_path))
    with pytest.raises(ServeError, match="Triton's folder or an environment with nvidia-pytriton"):
        find_triton()
    fake_triton(tmp_path, "onnxruntime/libtriton_onnxruntime.so", "python/libtriton_python.so")
    found = find_triton()
    assert found is not None and found.server == tmp_path / "bin" / "tritonserver"
    assert found.backend == "onnxruntime" and found.environment == {}


def fake_triton(root: Path, *backends: str) -> None:
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "tritonserver").write_text("")
    (root / "bin" / "tritonserver").chmod(0o755)
    (root / "backends").mkdir()
    for backend in backends:
        (root / "backends" / backend).parent.mkdir(parents=True)
        (root / "backends" / backend).write_text("")


def test_the_path_is_looked_at_and_backends_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPLITDEPLOY_TRITON", raising=False)
    fake_triton(tmp_path / "t", "vllm/model.py")
    monkeypatch.setenv("PATH", str(tmp_path / "t" / "bin"))
    found = find_triton()
    assert found is not None and found.server == tmp_path / "t" / "bin" / "tritonserver"
    with pytest.raises(ServeError, match="the onnxruntime or the python backend, .* has vllm"):
        _ = found.backend


def test_an_environment_without_the_stub_is_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "lib" / "python3.11" / "site-packages" / "pytriton" / "tritonserver"
    fake_triton(inside, "python/libtriton_python.so")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setenv("SPLITDEPLOY_TRITON", str(tmp_path))
    with pytest.raises(ServeError, match=r"triton_python_backend_stub .* type  make triton"):
        find_triton()
    (inside / "backends" / "python" / "triton_python_backend_stub").write_text("")
    found = find_triton()
    assert found is not None and found.backend == "python"
    libraries = subprocess.run(
        [sys.executable, "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    assert found.environment["LD_LIBRARY_PATH"].split(":")[0] == libraries
    assert found.environment["PATH"].startswith(str(tmp_path / "bin"))


def test_where_there_is_none_the_message_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPLITDEPLOY_TRITON", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(triton_install, "_USUAL", tmp_path)
    monkeypatch.setattr(triton_install, "_BESIDE", tmp_path)
    assert find_triton() is None
    with pytest.raises(ServeError, match=r"make triton .*docker run .*/b/triton:/models:ro nvcr"):
        run_triton(
            [tmp_path / "b"], host="127.0.0.1", port=0, metrics_port=None, max_batch=8, tls=None,
            grace_s=1.0,
        )  # fmt: skip


def test_a_client_can_tell_the_weights() -> None:
    config = parse(config_text("tail", [X], [Y], Serving(), "abc"))
    assert config.parameters["tail_sha256"].string_value == "abc"
    assert not parse(config_text("tail", [X], [Y], Serving())).parameters
