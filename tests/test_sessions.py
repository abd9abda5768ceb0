"""What every session has, whatever runs the graph: the same results, and times that add up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tensorrt_fakes import VERSIONS, install
from torch import Tensor, nn

from splitdeploy.edge_runtime.engine_builder import EngineSettings, Route, build_plan
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.session import FREE, Session
from splitdeploy.edge_runtime.tensorrt_api import load_tensorrt, types_strongly
from splitdeploy.edge_runtime.tensorrt_session import TensorRtSession
from splitdeploy.partitioner.torch_session import TorchSession
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.errors import SessionError

WEIGHT = np.arange(6, dtype=np.float32).reshape(3, 2)
X, Y = TensorSpec("x", (FREE, 3)), TensorSpec("y", (FREE, 2))


class Product(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.from_numpy(WEIGHT)


def graph(path: Path) -> Path:
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=9), str(path))
    return path


def engine(onnx_file: Path, max_batch: int) -> TensorRtSession:
    """Of a stand-in for TensorRT: nothing here ran on a GPU."""
    trt = load_tensorrt()
    route = Route(onnx_file, types_strongly(trt), ())
    return TensorRtSession(build_plan(trt, route, EngineSettings(max_batch=max_batch)).plan)


@pytest.fixture(
    params=["onnxruntime", "torch", *(f"tensorrt {version}" for version in VERSIONS),
            "tensorrt 10.3.0 in parts"],
)  # fmt: skip
def session(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Session]:
    onnx_file = graph(tmp_path / "product.onnx")
    kind, _, version = request.param.partition(" ")
    if kind == "tensorrt":
        install(monkeypatch, version.removesuffix(" in parts"))
        made: Session = engine(onnx_file, 2 if "parts" in version else 8)
    elif kind == "torch":
        made = TorchSession(Product(), [X], [Y])
    else:
        made = OnnxRuntimeSession(onnx_file)
    with made:
        yield made


def test_a_timed_run_gives_what_a_run_gives(session: Session) -> None:
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    found, stages = session.run_timed({"x": x})
    # Two float32 products of three terms each: a few units in the last place.
    np.testing.assert_allclose(found["y"], x @ WEIGHT, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["y"], session.run({"x": x})["y"])
    assert min(stages.copy_in_s, stages.compute_s, stages.copy_out_s) >= 0.0
    assert stages.total_s == stages.copy_in_s + stages.compute_s + stages.copy_out_s > 0.0


def test_results_are_the_callers_own(session: Session) -> None:
    first, _ = session.run_timed({"x": np.ones((1, 3), np.float32)})
    kept = first["y"].copy()
    session.run_timed({"x": np.zeros((1, 3), np.float32)})
    np.testing.assert_array_equal(first["y"], kept)


def test_refusals(session: Session) -> None:
    for run in (session.run, session.run_timed):
        with pytest.raises(SessionError, match=r"expected float32 \[\?, 3\], got float32 \[1, 4\]"):
            run({"x": np.zeros((1, 4), np.float32)})
    session.close()
    with pytest.raises(SessionError, match="expected an open session, it is closed"):
        session.run_timed({"x": np.zeros((1, 3), np.float32)})


def test_torch_says_what_is_wrong() -> None:
    with pytest.raises(SessionError, match=r"torch: device 'gpu9' cannot be used"):
        TorchSession(Product(), [X], [Y], device="gpu9")
    wide = TensorSpec("x", (FREE, FREE))
    with pytest.raises(SessionError, match=r"torch: the module failed: .*mat1 and mat2"):
        TorchSession(Product(), [wide], [Y]).run({"x": np.zeros((1, 4), np.float32)})
    with pytest.raises(SessionError, match=r"expected 2 results, the module gave 1"):
        TorchSession(Product(), [X], [Y, Y]).run({"x": np.zeros((1, 3), np.float32)})
