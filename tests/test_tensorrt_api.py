"""The layer over TensorRT's versions, and the strictness of the fakes that it is checked with."""

from __future__ import annotations

import ast
import importlib.util
import json
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycuda_fakes import Machine
from tensorrt_fakes import VERSIONS, describe, fake_tensorrt, install

from splitdeploy.edge_runtime.engine_progress import BuildProgress, Interrupted, make_monitor
from splitdeploy.edge_runtime.tensorrt_api import (
    create_network,
    deserialise,
    load_tensorrt,
    make_logger,
    types_strongly,
    types_weakly,
)
from splitdeploy.profiles.errors import MissingExtraError, SessionError

ROOT = Path(__file__).parents[1]


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest) -> ModuleType:
    return fake_tensorrt(request.param, Machine())


def describer() -> Any:
    spec = importlib.util.spec_from_file_location(
        "describe_tensorrt", ROOT / "benchmarks" / "describe_tensorrt.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_fakes_know_what_each_version_has() -> None:
    has = {v: fake_tensorrt(v, Machine()) for v in VERSIONS}
    old, ten, late, new = (has[v] for v in VERSIONS)
    assert not hasattr(old.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    assert not hasattr(new.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")
    assert [hasattr(m.BuilderFlag, "FP16") for m in has.values()] == [True, True, True, False]
    assert [hasattr(m, "IProgressMonitor") for m in has.values()] == [False, True, True, True]
    assert hasattr(old.ICudaEngine, "num_bindings") and not hasattr(ten.ICudaEngine, "num_bindings")
    with pytest.raises(AttributeError, match=r"module 'tensorrt' 10\.16\.1\.11 has no attribute"):
        _ = late.NoSuchThing


def test_the_fakes_are_strict(trt: ModuleType) -> None:
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    with pytest.raises(TypeError):
        builder.create_network(0, 0)
    with pytest.raises(TypeError):
        builder.create_network(options=0)
    with pytest.raises(AttributeError):
        builder.build_everything(1)
    with pytest.raises(AttributeError):
        builder.made_up = 1
    with pytest.raises(TypeError):
        trt.Builder(None)
    with pytest.raises(TypeError, match="No constructor defined"):
        trt.IPluginRegistry()


def test_typing_by_what_there_is(trt: ModuleType) -> None:
    version = trt.__version__
    assert types_weakly(trt) == (version != "11.4.0.106")
    assert types_strongly(trt) == (version != "8.6.1")
    builder = trt.Builder(make_logger(trt))
    for strong in (False, True) if types_strongly(trt) else (False,):
        network = create_network(trt, builder, strongly_typed=strong)
        assert network._do.explicit
        assert network._do.strongly_typed == (strong or not types_weakly(trt))


def test_the_logger_keeps_what_matters(trt: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    logger = make_logger(trt)
    for level in ("VERBOSE", "INFO", "WARNING", "ERROR", "INTERNAL_ERROR"):
        logger.log(getattr(trt.ILogger, level), f"{level}\n  of two lines")
    assert logger.errors == ["ERROR of two lines", "INTERNAL_ERROR of two lines"]
    assert logger.warnings == ["WARNING of two lines"]
    for _ in range(1000):
        logger.log(trt.ILogger.ERROR, "x" * 10_000)
    assert len(logger.errors) == 200 and len(logger.errors[-1]) == 300
    assert capsys.readouterr() == ("", "")


def test_a_runtime_that_would_run_code_is_refused(
    trt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt.Runtime, "engine_host_code_allowed", True)
    with pytest.raises(SessionError, match="this one is set to: unset engine_host_code_allowed"):
        deserialise(trt, b"", make_logger(trt))


def test_nothing_lets_a_plan_run_code() -> None:
    """No assignment to the switch, and no flag for plans that need it, anywhere in the program."""
    for room in ("edge_runtime", "partitioner", "cloud_runtime", "profiles", "src"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                targets = node.targets if isinstance(node, ast.Assign) else []
                names = [t.attr for t in targets if isinstance(t, ast.Attribute)]
                assert "engine_host_code_allowed" not in names, path
                if isinstance(node, ast.Constant | ast.Attribute):
                    word = node.value if isinstance(node, ast.Constant) else node.attr
                    assert word not in {"VERSION_COMPATIBLE", "engine_host_code_allowed="}, path


def test_a_tensorrt_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "8.6.1", without=("ICudaEngine.num_io_tensors",))
    with pytest.raises(MissingExtraError, match=r"expected TensorRT 8\.5 or later, got 8\.6\.1"):
        load_tensorrt()


def test_progress_is_the_share_of_steps() -> None:
    progress = BuildProgress()
    assert progress.status(1.0).done is None and progress.status(1.0).remaining_s is None
    progress.start("build", None, 4)
    progress.step("build", 0)
    assert progress.status(2.0).done == 0.25 and progress.status(2.0).remaining_s == 6.0
    progress.start("tactics", "build", 2)
    progress.step("tactics", 0)
    # One of four steps is done, and half of the second.
    assert progress.status(3.0).done == 0.375 and progress.status(3.0).phase == "tactics"
    assert progress.status(3.0).remaining_s == pytest.approx(5.0)
    progress.finish("tactics")
    assert progress.status(3.0).done == 0.375
    progress.finish("build")
    assert progress.status(9.0).done == 1.0 and progress.status(9.0).remaining_s == 0.0


def test_an_earlier_build_gives_an_estimate() -> None:
    progress = BuildProgress(last_s=40.0)
    assert (progress.status(10.0).done, progress.status(10.0).remaining_s) == (0.25, 30.0)
    assert (progress.status(50.0).done, progress.status(50.0).remaining_s) == (1.0, 0.0)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["start", "step", "finish"]), st.sampled_from("abc"),
              st.sampled_from([None, "a", "b"]), st.integers(-2, 5)),
    max_size=30,
)  # fmt: skip


@given(EVENTS)
def test_any_order_of_events(events: list[tuple[str, str, str | None, int]]) -> None:
    progress, last = BuildProgress(), 0.0
    for kind, phase, parent, number in events:
        if kind == "start":
            progress.start(phase, parent, number)
        elif kind == "step":
            progress.step(phase, number)
        else:
            progress.finish(phase)
        status = progress.status(5.0)
        assert status.done is None or last <= status.done <= 1.0
        assert status.remaining_s is None or status.remaining_s >= 0.0
        last = status.done or last


def test_an_interrupt_ends_a_build_without_an_exception(trt: ModuleType) -> None:
    interrupted = Interrupted()
    monitor = make_monitor(trt, BuildProgress(), interrupted)
    assert (monitor is None) == (trt.__version__ == "8.6.1")
    before = signal.getsignal(signal.SIGINT)
    with interrupted.listening():
        signal.raise_signal(signal.SIGINT)
        assert interrupted.asked
        if monitor is not None:
            assert monitor.step_complete("any", 0) is False
    assert signal.getsignal(signal.SIGINT) is before


def test_signatures_are_read_from_listings() -> None:
    arguments = describer().arguments
    assert arguments("get(self: A, index: int) -> B") == ["index"]
    assert arguments("f(self: A, a: List[Tuple[int, int]], b: str = None) -> None") == ["a", "b="]
    assert arguments("f(self: A, s: S = <S.STATIC: 0>) -> B") == ["s="]
    assert arguments("f(*args, **kwargs)") is None
    assert arguments("reset(self: A) -> None") == []


def test_a_module_can_be_listed(trt: ModuleType) -> None:
    """The listing of a module that is installed: here of a fake, whose classes are made first."""
    described = describe(trt.__version__)
    for name in (*described["enums"], *described["classes"]):
        getattr(trt, name)
    found = describer().compact(describer().list_module(trt))
    assert found["version"] == trt.__version__
    assert found["enums"] == described["enums"]
    assert found["classes"]["Builder"]["attributes"] == [
        *sorted([*described["classes"]["Builder"]["attributes"],
                 *described["classes"]["Builder"]["methods"]]),
    ]  # fmt: skip


def test_what_ships_can_be_made_again(tmp_path: Path) -> None:
    tool = describer()
    for version in VERSIONS:
        shipped = (ROOT / "tests" / "data" / f"tensorrt_{version}.json").read_text()
        assert tool._one_line_a_name(json.loads(shipped)) == shipped
