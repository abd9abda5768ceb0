"""Running engines over the memory of a GPU that is none, against ONNX Runtime's results."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from pycuda_fakes import COMPUTE_MS, COPY_MS, Machine
from tensorrt_cases import head_graph, make_bundle
from tensorrt_fakes import VERSIONS, install, uninstall

from splitdeploy.edge_runtime.bundle import Bundle
from splitdeploy.edge_runtime.engine_builder import EngineSettings
from splitdeploy.edge_runtime.engine_cache import build_engine
from splitdeploy.edge_runtime.onnxruntime_session import (
    CPU,
    CUDA,
    OnnxRuntimeSession,
    pick_providers,
)
from splitdeploy.edge_runtime.open_head import open_head
from splitdeploy.edge_runtime.opened import OpenedBundle
from splitdeploy.edge_runtime.session import FREE, StageTimes
from splitdeploy.edge_runtime.tensorrt_session import TensorRtSession
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.errors import (
    EngineError,
    MissingExtraError,
    SessionError,
    UnknownNameError,
)

RNG = np.random.default_rng(3)


@pytest.fixture(params=VERSIONS)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return install(monkeypatch, request.param)


def opened(bundle: Bundle, root: Path, max_batch: int = 1) -> TensorRtSession:
    build = build_engine(bundle, EngineSettings(max_batch=max_batch), root=root)
    return TensorRtSession(build.engine.plan)


def pictures(count: int) -> np.ndarray:
    return RNG.normal(size=(count, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("sent", ["float32", "float16", "int8"])
@pytest.mark.parametrize("noise", [False, True])
def test_results_are_those_of_onnx_runtime(
    machine: Machine, tmp_path: Path, sent: str, noise: bool
) -> None:
    bundle = make_bundle(tmp_path / "b", sent=sent, noise=noise)
    feeds = {"x": pictures(3)}
    if noise:
        feeds["noise.z"] = RNG.normal(size=(3, 4, 8, 8)).astype(np.float32)
    with opened(bundle, tmp_path, 4) as session, OnnxRuntimeSession(bundle.head) as oracle:
        assert set(session.inputs) == set(oracle.inputs) and session.outputs == oracle.outputs
        assert session.inputs[0].shape[0] == FREE
        np.testing.assert_array_equal(session.run(feeds)["z"], oracle.run(feeds)["z"])
        assert session.run(feeds)["z"].dtype.name == sent


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_a_large_batch_goes_through_in_parts(machine: Machine, tmp_path: Path, batch: int) -> None:
    bundle, x = make_bundle(tmp_path / "b"), pictures(batch)
    with opened(bundle, tmp_path, 3) as session, OnnxRuntimeSession(bundle.head) as oracle:
        np.testing.assert_allclose(session.run({"x": x})["z"], oracle.run({"x": x})["z"], rtol=1e-6)
        runs = machine.called("IExecutionContext.execute_async_v3")
        assert len(runs) == -(-batch // 3)


def test_a_fixed_batch(machine: Machine, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", batch=2)
    with opened(bundle, tmp_path) as session:
        assert session.inputs == (TensorSpec("x", (2, 3, 8, 8)),)
        assert session.run({"x": pictures(2)})["z"].shape == (2, 4, 8, 8)
        with pytest.raises(SessionError, match=r"expected float32 \[2, 3, 8, 8\], got .*\[3, 3"):
            session.run({"x": pictures(3)})


def test_stages_are_told_by_the_gpus_own_clock(machine: Machine, tmp_path: Path) -> None:
    with opened(make_bundle(tmp_path / "b"), tmp_path) as session:
        _, stages = session.run_timed({"x": pictures(1)})
        # The fake's clock counts copies and runs; the host's part comes on top of the copies.
        assert stages.compute_s == pytest.approx(COMPUTE_MS / 1e3)
        assert stages.copy_in_s >= COPY_MS / 1e3 and stages.copy_out_s >= COPY_MS / 1e3
        _, thrice = session.run_timed({"x": pictures(3)})
        assert isinstance(thrice, StageTimes)
        assert thrice.compute_s == pytest.approx(3 * COMPUTE_MS / 1e3)


def test_any_thread_may_run_it(machine: Machine, tmp_path: Path) -> None:
    bundle, x = make_bundle(tmp_path / "b"), pictures(1)
    with opened(bundle, tmp_path) as session, OnnxRuntimeSession(bundle.head) as oracle:
        want, got = oracle.run({"x": x})["z"], []
        threads = [
            threading.Thread(target=lambda: got.append(session.run({"x": x})["z"])) for _ in "1234"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 4 and all(np.array_equal(one, want) for one in got)
    assert machine.stack == []


def test_memory_is_given_back(machine: Machine, tmp_path: Path) -> None:
    session = opened(make_bundle(tmp_path / "b"), tmp_path)
    assert len(machine.memory) == 2
    session.close()
    session.close()
    assert machine.memory == {} and machine.stack == []
    with pytest.raises(SessionError, match="expected an open session, it is closed"):
        session.run({"x": pictures(1)})


def test_the_older_call_binds_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lacking = ("IExecutionContext.execute_async_v3",)
    machine = install(monkeypatch, "8.6.1", without=lacking)
    bundle, feeds = make_bundle(tmp_path / "b", noise=True), {"x": pictures(1)}
    feeds["noise.z"] = RNG.normal(size=(1, 4, 8, 8)).astype(np.float32)
    with opened(bundle, tmp_path) as session, OnnxRuntimeSession(bundle.head) as oracle:
        np.testing.assert_array_equal(session.run(feeds)["z"], oracle.run(feeds)["z"])
    assert len(machine.called("IExecutionContext.execute_async_v2")) == 1


def test_what_tensorrt_refuses(machine: Machine, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    plan = build_engine(bundle, EngineSettings(), root=tmp_path).engine.plan
    machine.faults.deserialize_none = True
    with pytest.raises(SessionError, match=r"does not take the plan: .*magic tag does not match"):
        TensorRtSession(plan)
    machine.faults.deserialize_none, machine.faults.context_none = False, True
    with pytest.raises(SessionError, match=r"no memory for the engine: it told no reason: close"):
        TensorRtSession(plan)
    machine.faults.context_none, machine.faults.allocations = False, 1
    with pytest.raises(SessionError, match=r"CUDA failed: cuMemAlloc failed: out of memory: close"):
        TensorRtSession(plan)
    machine.faults.allocations = None
    assert machine.memory == {} and machine.stack == []
    with TensorRtSession(plan) as session:
        for fault, expected in (
            ("execute_false", "refused the run"),
            ("address_false", "refused the run"),
            ("shape_false", r"refused input 'x' of shape \[1, 3, 8, 8\]"),
            ("launch", "CUDA failed: .*unspecified launch failure"),
        ):
            setattr(machine.faults, fault, True)
            with pytest.raises(SessionError, match=expected):
                session.run({"x": pictures(1)})
            setattr(machine.faults, fault, False)
        assert session.run({"x": pictures(1)})["z"].shape == (1, 4, 8, 8)
        with pytest.raises(SessionError, match="expected a batch of at least 1, got 0"):
            session.run({"x": pictures(0)})


def test_inputs_have_one_batch(machine: Machine, tmp_path: Path) -> None:
    with opened(make_bundle(tmp_path / "b", noise=True), tmp_path, 4) as session:
        noise = np.zeros((3, 4, 8, 8), np.float32)
        with pytest.raises(SessionError, match=r"expected one batch for all inputs, got \[2, 3\]"):
            session.run({"x": pictures(2), "noise.z": noise})


def test_a_plan_with_code_of_its_own_is_refused(machine: Machine, tmp_path: Path) -> None:
    plan = build_engine(make_bundle(tmp_path / "b"), EngineSettings(), root=tmp_path).engine.plan
    held = plan.replace(b'"compatible": false', b'"compatible": true ')
    with pytest.raises(SessionError, match="host code is not allowed"):
        TensorRtSession(held)
    assert machine.called("Runtime.engine_host_code_allowed=") == []


def test_the_best_that_there_is(machine: Machine, tmp_path: Path) -> None:
    bundle, x = make_bundle(tmp_path / "b"), pictures(1)
    with open_head(bundle, root=tmp_path) as session:
        assert session.name == "onnxruntime (CPU)" and isinstance(session, OnnxRuntimeSession)
        assert "expected an engine for orin-trt" in session.note
        want = session.run({"x": x})["z"]
    with pytest.raises(EngineError, match=r"there is none: build it with  splitdeploy build"):
        open_head(bundle, "tensorrt", root=tmp_path)
    build_engine(bundle, EngineSettings(), root=tmp_path)
    with open_head(bundle, root=tmp_path) as session:
        assert session.name.startswith("tensorrt ") and session.name.endswith(" fp32 on Orin")
        assert repr(session).startswith(session.name) and session.note == ""
        np.testing.assert_array_equal(session.run({"x": x})["z"], want)
        whole = OpenedBundle(bundle, tail=True, head=session)
        assert whole.batches
        whole.close()
    with open_head(bundle, "onnxruntime", root=tmp_path) as session:
        assert session.name == "onnxruntime (CPU)" and session.note == ""
    with pytest.raises(UnknownNameError, match="unknown backend 'cuda'"):
        open_head(bundle, "cuda")


def test_an_engine_that_does_not_open_is_passed_over(machine: Machine, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    build_engine(bundle, EngineSettings(), root=tmp_path)
    machine.faults.deserialize_none = True
    with open_head(bundle, root=tmp_path) as session:
        assert session.name == "onnxruntime (CPU)" and "does not take the plan" in session.note


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_the_provider_is_the_one_in_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """CUDA's provider is tried where it is built in; where it does not start, that is told."""
    bundle = make_bundle(tmp_path / "b")
    assert pick_providers() == (CPU,)
    with OnnxRuntimeSession(bundle.head) as session:
        assert session.providers == (CPU,) and session.provider == "CPU"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    assert pick_providers() == (CUDA, CPU)
    with open_head(bundle, "onnxruntime") as session:
        assert session.name == "onnxruntime (CPU)"
        assert "execution provider CUDAExecutionProvider could not be started" in session.note
    with pytest.raises(SessionError, match="CUDAExecutionProvider could not be started"):
        open_head(bundle, "onnxruntime", providers=(CUDA, CPU))
    with pytest.raises(SessionError, match="TensorrtExecutionProvider is not in this onnxruntime"):
        open_head(bundle, "onnxruntime", providers=("TensorrtExecutionProvider",))


def test_without_tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", variants={"fp16": head_graph()})
    install(monkeypatch, "10.3.0")
    uninstall(monkeypatch, "pycuda.driver")
    with pytest.raises(MissingExtraError, match=r"expected pycuda .*'splitdeploy\[jetson\]'"):
        open_head(bundle, "tensorrt")
    uninstall(monkeypatch, "tensorrt")
    with pytest.raises(MissingExtraError, match=r"--system-site-packages ; .*\[tensorrt\]"):
        open_head(bundle, "tensorrt")
    with open_head(bundle) as session:
        assert session.name == "onnxruntime (CPU)" and "tensorrt cannot be imported" in session.note
