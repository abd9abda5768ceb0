"""Building engines, against the names of four versions of TensorRT. No TensorRT runs here."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from pycuda_fakes import Machine
from tensorrt_cases import head_graph, make_bundle
from tensorrt_fakes import VERSIONS, install

from splitdeploy.edge_runtime.engine_builder import EngineSettings
from splitdeploy.edge_runtime.engine_cache import EngineBuild, build_engine, find_engine
from splitdeploy.edge_runtime.engine_progress import BuildStatus
from splitdeploy.profiles.errors import EngineError, UnknownNameError, UsageError

WEAK = ("8.6.1", "10.3.0", "10.16.1.11")
STRONG = VERSIONS[1:]
FP32 = EngineSettings()


@pytest.fixture(params=VERSIONS)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return install(monkeypatch, request.param)


def header(build: EngineBuild) -> dict[str, object]:
    """What the fake wrote into its plan of how it was asked."""
    plan = build.engine.plan
    found: dict[str, object] = json.loads(plan[12 : 12 + int.from_bytes(plan[8:12], "big")])
    return found


def test_an_engine_is_built_once(machine: Machine, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    first = build_engine(bundle, FP32, root=tmp_path)
    assert first.built and first.notes == () and first.engine.path.read_bytes() == first.engine.plan
    assert first.engine.path.parent.name == f"orin-trt{first.engine.sidecar.tensorrt}"
    assert sorted(p.name for p in first.engine.path.parent.iterdir()) == [
        "head.engine", "head.engine.json", "timing.cache",
    ]  # fmt: skip
    again = build_engine(bundle, FP32, root=tmp_path)
    assert not again.built and again.engine == first.engine
    assert len(machine.called("Builder.build_serialized_network")) == 1
    assert find_engine(bundle, root=tmp_path) == first.engine
    # Nothing was deserialised, and nobody let a plan run code.
    assert machine.called("deserialised") == []
    assert machine.called("Runtime.engine_host_code_allowed=") == []
    assert "VERSION_COMPATIBLE" not in header(first)["flags"]  # type: ignore[operator]


def test_the_limit_and_the_batch_reach_tensorrt(machine: Machine, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", noise=True)
    settings = EngineSettings(workspace_bytes=256_000_000, max_batch=4)
    build = build_engine(bundle, settings, root=tmp_path)
    [(pool, size)] = machine.called("IBuilderConfig.set_memory_pool_limit")
    assert (pool.name, size) == ("WORKSPACE", 256_000_000)
    assert header(build)["profile"] == {
        "x": [[1, 3, 8, 8], [1, 3, 8, 8], [4, 3, 8, 8]],
        "noise.z": [[1, 4, 8, 8], [1, 4, 8, 8], [4, 4, 8, 8]],
    }
    assert build.engine.sidecar.max_batch == 4
    with pytest.raises(EngineError, match=r"has a largest batch of 4, wanted is 2: build it again"):
        find_engine(bundle, max_batch=2, root=tmp_path)


def test_a_fixed_batch_needs_no_profile(machine: Machine, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", batch=1)
    build_engine(bundle, FP32, root=tmp_path)
    assert machine.called("IBuilderConfig.add_optimization_profile") == []
    with pytest.raises(EngineError, match=r"expected a head with a free batch for --max-batch 2"):
        build_engine(bundle, EngineSettings(max_batch=2), root=tmp_path)


def test_timings_are_kept_and_used_again(machine: Machine, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    first = build_engine(bundle, FP32, root=tmp_path)
    kept = (first.engine.path.parent / "timing.cache").read_bytes()
    assert kept.startswith(b"CACHE")
    again = build_engine(bundle, FP32, force=True, root=tmp_path)
    given = [args[0] for args in machine.called("IBuilderConfig.create_timing_cache")]
    assert given == [b"", kept] and again.built and again.notes == ()


@pytest.mark.parametrize("fault", ["none", "raises", "mismatch"])
def test_timings_that_do_not_fit_are_left_out(machine: Machine, tmp_path: Path, fault: str) -> None:
    bundle = make_bundle(tmp_path / "b")
    build_engine(bundle, FP32, root=tmp_path)
    machine.faults.timing_cache = fault
    build = build_engine(bundle, FP32, force=True, root=tmp_path)
    assert build.built and len(build.notes) == 1 and "it is made anew" in build.notes[0]
    place = build.engine.path.parent / "timing.cache"
    place.write_bytes(b"garbage")
    build = build_engine(bundle, FP32, force=True, root=tmp_path)
    assert build.notes == (
        "the timing cache is not the one that the last build left, it is made anew",
    )
    assert place.read_bytes().startswith(b"CACHE")


@pytest.mark.parametrize("version", WEAK)
def test_flags_where_typing_is_weak(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    install(monkeypatch, version)
    build = build_engine(make_bundle(tmp_path / "b"), EngineSettings("fp16"), root=tmp_path)
    assert header(build)["flags"] == ["FP16"] and not header(build)["strongly_typed"]
    assert build.engine.sidecar.graph == "head.onnx"


@pytest.mark.parametrize("sent", ["float16", "int8"])
def test_a_codec_in_the_graph_is_allowed_its_type(
    machine: Machine, tmp_path: Path, sent: str
) -> None:
    build = build_engine(make_bundle(tmp_path / "b", sent=sent), FP32, root=tmp_path)
    if build.engine.sidecar.tensorrt == "8.6.1":
        assert header(build)["flags"] == [{"float16": "FP16", "int8": "INT8"}[sent]]
    else:
        assert header(build)["flags"] == [] and header(build)["strongly_typed"]


@pytest.mark.parametrize("version", STRONG)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_typed_graph_where_typing_is_strong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, precision: str
) -> None:
    install(monkeypatch, version)
    bundle = make_bundle(tmp_path / "b", variants={precision: head_graph()})
    build = build_engine(bundle, EngineSettings(precision), root=tmp_path)
    assert header(build)["strongly_typed"] and header(build)["flags"] == []
    assert build.engine.sidecar.graph == f"head.{precision}.onnx"
    assert build.engine.sidecar.strongly_typed


def test_graphs_that_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    install(monkeypatch, "11.4.0.106")
    with pytest.raises(
        EngineError, match=r"TensorRT 11\.4\.0\.106 takes precisions from the graph alone, .* "
        r"export with --head-precision fp16, or build with --precision fp32"
    ):  # fmt: skip
        build_engine(bundle, EngineSettings("fp16"), root=tmp_path)
    for version in VERSIONS:
        install(monkeypatch, version)
        with pytest.raises(EngineError, match=r"explicit quantisation .*--head-precision int8"):
            build_engine(bundle, EngineSettings("int8"), root=tmp_path)


def test_every_error_of_the_parser_is_told(machine: Machine, tmp_path: Path) -> None:
    machine.faults.parser_errors = [
        (3, "/grid", "GridSample", "unsupported\n  mode"),
        (7, "/loop", "Loop", "no importer registered for op: Foo"),
    ]
    with pytest.raises(EngineError) as caught:
        build_engine(make_bundle(tmp_path / "b"), FP32, root=tmp_path)
    told = str(caught.value)
    assert "has 2 errors: node 3" in told and "\n" not in told
    assert "unsupported mode; node 7" in told and "no importer registered for op: Foo" in told
    names = "'/grid' (GridSample)" in told
    assert names == (machine.called("ParserError.node_name") != [])


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("oom", r"out of memory\): the device ran out of memory: .* try --workspace 500MB "
                r"\(it was 1 GB\)"),
        ("raises", r"std::bad_alloc: the device ran out of memory"),
        ("workspace", r"insufficient workspace.*a layer found no room: try --workspace 2000MB"),
        ("none", r"built no engine: 4: \[network.cpp.*Internal Error: try --precision fp32"),
    ],
)  # fmt: skip
def test_a_build_that_fails(machine: Machine, tmp_path: Path, fault: str, expected: str) -> None:
    machine.faults.build = fault
    bundle = make_bundle(tmp_path / "b")
    with pytest.raises(EngineError, match=expected):
        build_engine(bundle, FP32, root=tmp_path)
    assert not (bundle.folder / "engines").exists() and machine.stack == []
    machine.faults.build = ""
    assert build_engine(bundle, FP32, root=tmp_path).built


def test_a_failed_build_leaves_the_old_engine(machine: Machine, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    first = build_engine(bundle, FP32, root=tmp_path)
    machine.faults.build = "oom"
    with pytest.raises(EngineError, match="out of memory"):
        build_engine(bundle, FP32, force=True, root=tmp_path)
    assert find_engine(bundle, root=tmp_path) == first.engine


def test_progress_comes_from_tensorrt_where_it_tells(machine: Machine, tmp_path: Path) -> None:
    seen: list[BuildStatus] = []
    bundle = make_bundle(tmp_path / "b")
    build_engine(bundle, FP32, watch=seen.append, root=tmp_path)
    assert seen and seen[0].done is None and "first build" in seen[0].basis
    assert (machine.called("going on") == [(True,), (True,)]) == (
        machine.called("IBuilderConfig.progress_monitor=") != []
    )
    build_engine(bundle, FP32, force=True, watch=seen.append, root=tmp_path)
    assert seen[-1].basis in {"the last build of this head", "TensorRT's own steps"}


def test_ctrl_c_ends_a_build(machine: Machine, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    machine.faults.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        build_engine(bundle, FP32, root=tmp_path)
    assert not (bundle.folder / "engines").exists() and machine.stack == []
    # Where TensorRT asks, it is told to stop.
    assert machine.called("going on") in ([], [(False,), (False,)])


def test_settings_that_cannot_be_meant(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    for settings, expected in (
        (EngineSettings("bf16"), r"unknown precision 'bf16'"),
        (EngineSettings(max_batch=0), r"expected a batch of at least 1, got 0"),
        (EngineSettings(workspace_bytes=1), r"expected a workspace of at least 16 MB, got 1 B"),
    ):
        with pytest.raises((UnknownNameError, UsageError), match=expected):
            build_engine(bundle, settings, root=tmp_path)


def test_a_free_size_beside_the_batch(machine: Machine, tmp_path: Path) -> None:
    graph = head_graph()
    graph.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    bundle = make_bundle(tmp_path / "b")
    onnx.save(graph, str(bundle.head))
    with pytest.raises(EngineError, match=r"no free size but the batch, got \[\?, 3, \?, 8\]"):
        build_engine(bundle, FP32, root=tmp_path)
