"""Timing all cuts in one profiled run: which operator belongs where, and that nothing is lost."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.utils import Extractor

from splitdeploy.edge_runtime.calibration import SlicedCut, calibrate
from splitdeploy.edge_runtime.graph_reader import Graph, GraphNode, read_graph
from splitdeploy.edge_runtime.node_profile import NodeProfile, kernel_times
from splitdeploy.edge_runtime.segments import SegmentTimes, attribute, time_segments
from splitdeploy.profiles.errors import SessionError

SHAPE = [1, 4, 16, 16]


def chain(outputs: tuple[str, ...] = ("c",), crossing: tuple[str, ...] = ("a", "b")) -> bytes:
    """x → a → b → c, each a convolution and a ReLU that ONNX Runtime likes to fuse."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for before, after in (("x", "a"), ("a", "b"), ("b", "c")):
        kernel = rng.standard_normal((4, 4, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{after}"))
        nodes.append(
            helper.make_node("Conv", [before, f"w{after}"], [f"{after}0"], pads=[1, 1, 1, 1])
        )
        nodes.append(helper.make_node("Relu", [f"{after}0"], [after]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE)
        for name in (*outputs, *crossing)
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        ends,
        weights,
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def image() -> dict[str, Any]:
    return {"x": np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)}


def assert_nothing_is_lost(times: SegmentTimes) -> None:
    """Every operator of a run is in the head or in the tail of each cut, and in no other place."""
    for sums in (times.samples, times.typical):
        np.testing.assert_allclose(
            sums.heads + sums.tails, sums.whole[:, None] + sums.handovers, rtol=1e-12
        )
    for head, tail, handover in zip(
        times.heads, times.tails, times.typical.handovers[0], strict=True
    ):
        assert head.median + tail.median == pytest.approx(times.whole.median + handover)


def test_heads_and_tails_add_up_run_by_run() -> None:
    times = time_segments(chain(), [["a"], ["b"]], image(), threads=1, warmup=1, runs=6)
    assert_nothing_is_lost(times)
    assert times.whole.count == 6
    assert all(part.count == 6 for part in (*times.heads, *times.tails))
    assert times.whole.source == "measured"
    core = times.samples.heads - times.samples.handovers
    assert (core[:, 0] <= core[:, 1]).all()
    assert (core[:, 1] <= times.samples.whole).all()


def test_the_ends_have_one_side() -> None:
    times = time_segments(
        chain(), [["x"], ["c"]], image(), outputs=["c"], threads=1, warmup=0, runs=5
    )
    assert (times.heads[0].median, times.tails[1].median) == (0.0, 0.0)
    np.testing.assert_allclose(times.samples.tails[:, 0], times.samples.whole)
    np.testing.assert_allclose(times.samples.heads[:, 1], times.samples.whole)


def test_a_correction_scales_every_sample() -> None:
    times = time_segments(chain(), [["a"], ["b"]], image(), threads=1, warmup=0, runs=5)
    corrected = times.corrected(head_ratio=2.0, tail_ratio=0.5)
    assert corrected.heads[1].median == pytest.approx(2 * times.heads[1].median)
    assert corrected.tails[0].p95 == pytest.approx(times.tails[0].p95 / 2)
    assert corrected.heads[0].spread == pytest.approx(times.heads[0].spread)


def test_the_budget_ends_the_runs() -> None:
    times = time_segments(chain(), [["a"]], image(), threads=1, runs=10**6, budget_s=1e-9)
    assert times.whole.count == 1


def test_the_profile_does_not_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    time_segments(chain(), [["a"]], image(), threads=1, runs=1)
    with pytest.raises(SessionError, match="the graph failed"):
        time_segments(chain(), [["a"]], {"x": np.zeros((2, 2), np.float32)}, runs=1)
    assert list(tmp_path.iterdir()) == []


def test_a_boundary_that_is_no_output_is_told() -> None:
    with pytest.raises(SessionError, match="boundary value 'a0' is no output of the graph: avail"):
        time_segments(chain(), [["a0"]], image(), threads=1, runs=1)


def test_outputs_that_all_cross_must_be_named() -> None:
    with pytest.raises(SessionError, match="every output of the graph crosses a cut"):
        time_segments(chain(crossing=()), [["c"]], image(), threads=1, runs=1)


@pytest.mark.parametrize("numbers", [{"warmup": -1}, {"runs": 0}, {"budget_s": 0.0}])
def test_numbers_out_of_range_are_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(SessionError, match="expected warmup >= 0, runs >= 1 and budget_s > 0"):
        time_segments(chain(), [["a"]], image(), **numbers)


def test_what_only_hands_a_boundary_out_is_charged_to_its_own_head() -> None:
    graph = Graph(
        (
            GraphNode("conv1", "Conv", ("x",), ("t1",)),
            GraphNode("out1", "ReorderOutput", ("t1",), ("a",)),
            GraphNode("conv2", "Conv", ("t1",), ("t2",)),
            GraphNode("out2", "ReorderOutput", ("t2",), ("b",)),
            GraphNode("conv3", "Conv", ("t2",), ("y",)),
        ),
        ("x",),
        ("y", "a", "b"),
    )
    kernel_s = np.array([[1.0, 0.1, 2.0, 0.2, 4.0]])
    samples = attribute(NodeProfile(graph, kernel_s, kernel_s.sum(axis=1)), [["a"], ["b"]]).samples
    np.testing.assert_allclose(samples.heads, [[1.1, 3.2]])
    np.testing.assert_allclose(samples.tails, [[6.0, 4.0]])
    np.testing.assert_allclose(samples.handovers, [[0.1, 0.2]])
    np.testing.assert_allclose(samples.whole, [7.0])


def line(count: int, *crossing: str) -> Graph:
    """v0 → v1 → … through as many operators."""
    nodes = tuple(GraphNode(f"n{i}", "Relu", (f"v{i}",), (f"v{i + 1}",)) for i in range(count))
    return Graph(nodes, ("v0",), (f"v{count}", *crossing))


def test_what_no_operator_accounts_for_is_spread_evenly() -> None:
    profile = NodeProfile(line(4, "v1"), np.full((2, 4), 1.0), np.array([4.4]))
    times = attribute(profile, [["v1"]])
    assert times.correction_s == pytest.approx(0.4)
    np.testing.assert_allclose(times.samples.heads[:, 0], [1.1, 1.1])
    np.testing.assert_allclose(times.samples.tails[:, 0], [3.3, 3.3])
    assert times.whole.median == pytest.approx(4.4), "what a run takes without the profiler"


def test_what_the_profiler_adds_is_taken_off_and_no_operator_falls_below_zero() -> None:
    kernel_s = np.array([[5.0, 0.5, 3.0, 1.0]])
    profile = NodeProfile(line(4), kernel_s, np.array([5.0]))
    np.testing.assert_allclose(profile.operator_s, [3.5, 0.0, 1.5, 0.0])
    assert profile.correction_s == pytest.approx(-4.5)


@given(
    st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=20),
    st.floats(1e-6, 100.0),
)
def test_operators_add_up_to_a_run(medians: list[float], run: float) -> None:
    profile = NodeProfile(line(len(medians)), np.array([medians]), np.array([run]))
    operator_s = profile.operator_s
    assert operator_s.sum() == pytest.approx(run)
    assert (operator_s >= 0).all()
    moved = operator_s - np.array(medians)
    untouched = moved[operator_s > 0]
    np.testing.assert_allclose(untouched, untouched[0], rtol=1e-6, atol=1e-9)


def test_a_pause_in_one_operator_of_a_run_does_not_move_the_medians() -> None:
    kernel_s = np.ones((3, 3)) + 10 * np.eye(3)
    times = attribute(NodeProfile(line(3, "v2"), kernel_s, np.array([3.0])), [["v2"]])
    assert (times.heads[0].median, times.tails[0].median) == (2.0, 1.0)
    assert times.whole.p95 == pytest.approx(13.0), "the samples keep it"


@given(data=st.data())
def test_no_operator_is_lost_in_any_graph(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    nodes = tuple(
        GraphNode(
            f"n{i}",
            "Op",
            tuple(f"v{j}" for j in data.draw(st.sets(st.integers(0, i), min_size=1, max_size=3))),
            (f"v{i + 1}",),
        )
        for i in range(count)
    )
    crossing = [f"v{i}" for i in data.draw(st.sets(st.integers(1, count), min_size=1))]
    graph = Graph(nodes, ("v0",), (f"v{count}", *crossing))
    kernel_s = np.random.default_rng(count).uniform(0.5, 2.0, (3, count))
    profile = NodeProfile(graph, kernel_s, kernel_s.sum(axis=1) + 0.25)
    times = attribute(profile, [[name] for name in crossing], outputs=[f"v{count}"])
    assert_nothing_is_lost(times)
    assert (times.samples.heads >= times.samples.handovers).all()


def kernel(name: str, op_type: str, duration_us: int) -> dict[str, Any]:
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "dur": duration_us,
        "args": {"op_name": op_type},
    }


RUN = {"cat": "Session", "name": "model_run", "dur": 100}
LOOPED = Graph(
    (GraphNode("a", "Relu", ("x",), ("y",)), GraphNode("", "Loop", ("y",), ("z",))), ("x",), ("z",)
)


def test_the_bodies_of_loops_are_not_counted_twice() -> None:
    events = [
        {"cat": "Session", "name": "session_initialization", "dur": 1},
        *(kernel("a", "Relu", 3), kernel("body", "Relu", 1), kernel("body", "Add", 1)),
        *(kernel("Loop_7", "Loop", 9), RUN),
        *(kernel("a", "Relu", 4), kernel("Loop_7", "Loop", 8), RUN),
    ]
    assert kernel_times(LOOPED, events) == [
        pytest.approx([3e-6, 9e-6]),
        pytest.approx([4e-6, 8e-6]),
    ]


def test_a_profile_that_lacks_an_operator_is_refused() -> None:
    with pytest.raises(SessionError, match="expected 2 operators .* got 1: Loop '' is missing"):
        kernel_times(LOOPED, [kernel("a", "Relu", 3), RUN])


def test_a_real_loop_is_one_operator() -> None:
    """y = relu(x), then doubled three times in a Loop whose body captures nothing but its state."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["state", "state"], ["doubled"]),
            helper.make_node("Mul", ["doubled", "one"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [4]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [4]),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["y"], name="first"),
            helper.make_node("Abs", ["x"], ["one"], name="captured"),
            helper.make_node("Loop", ["times", "yes", "y"], ["z"], name="loop", body=body),
        ],
        "looped",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [
            helper.make_tensor_value_info("z", TensorProto.FLOAT, [4]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [4]),
        ],
        [
            numpy_helper.from_array(np.array(3, np.int64), "times"),
            numpy_helper.from_array(np.array(True), "yes"),
        ],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    read = read_graph(model.SerializeToString())
    assert read.ancestors({"z"}) == {0, 1, 2}, "what the body captures is an ancestor too"
    feeds = {"x": np.ones(4, np.float32)}
    times = time_segments(model.SerializeToString(), [["y"]], feeds, threads=1, warmup=0, runs=3)
    assert_nothing_is_lost(times)


def test_the_reader_agrees_with_the_onnx_package() -> None:
    data = chain()
    graph = onnx.load_from_string(data).graph
    read = read_graph(data)
    assert [(n.name, n.op_type, list(n.inputs), list(n.outputs)) for n in read.nodes] == [
        (n.name, n.op_type, list(n.input), list(n.output)) for n in graph.node
    ]
    assert list(read.inputs) == [value.name for value in graph.input]
    assert list(read.outputs) == [value.name for value in graph.output]


@given(st.binary(max_size=200))
def test_the_reader_refuses_or_reads_any_bytes(data: bytes) -> None:
    try:
        read_graph(data)
    except SessionError as error:
        assert "expected an ONNX model" in str(error)


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_the_reader_survives_a_flipped_byte(place: int, value: int) -> None:
    data = bytearray(chain())
    data[place % len(data)] = value
    try:
        read_graph(bytes(data))
    except SessionError as error:
        assert "expected an ONNX model" in str(error)


@pytest.fixture(scope="module")
def resnet() -> onnx.ModelProto:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    program = torch.onnx.export(
        model, (torch.zeros(1, 3, 64, 64),), dynamo=True, external_data=False, verbose=False
    )
    assert program is not None
    return program.model_proto


BLOCKS = ["max_pool2d", "relu_2", "add_2", "relu_6", "relu_10", "relu_16"]


def test_resnet_cuts_are_ordered_and_add_up(resnet: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(resnet)
    shapes = {value.name: value for value in resnet.graph.value_info}
    model.graph.output.extend(shapes[name] for name in BLOCKS)
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)}
    times = time_segments(
        model.SerializeToString(), [[name] for name in BLOCKS], feeds, threads=1, warmup=1, runs=5
    )
    assert_nothing_is_lost(times)
    core = times.samples.heads - times.samples.handovers
    assert (np.diff(core, axis=1) >= 0).all(), "a later cut holds every operator of an earlier one"
    assert (core[:, 0] > 0).all()
    assert (core[:, -1] <= times.samples.whole).all()


def test_calibration_times_cuts_whole(resnet: onnx.ModelProto) -> None:
    names = ["relu_2", "relu_10"]
    extractor = Extractor(resnet)
    cuts = [
        SlicedCut(
            place,
            extractor.extract_model(["x"], [name]).SerializeToString(),
            extractor.extract_model([name], ["linear"]).SerializeToString(),
        )
        for place, name in enumerate(names)
    ]
    model = onnx.ModelProto()
    model.CopyFrom(resnet)
    shapes = {value.name: value for value in resnet.graph.value_info}
    model.graph.output.extend(shapes[name] for name in names)
    feeds = {"x": np.zeros((1, 3, 64, 64), np.float32)}
    boundaries = [["x"], *([name] for name in names)]
    times = time_segments(model.SerializeToString(), boundaries, feeds, threads=1, runs=5)
    cuts = [SlicedCut(cut.boundary + 1, cut.head, cut.tail) for cut in cuts]
    found = calibrate(times, cuts, feeds, threads=1, repeats=5)
    assert found.boundaries == (1, 2)
    assert [part.count for part in (*found.heads, *found.tails)] == [5] * 4
    assert found.head_ratio == pytest.approx(
        sum(part.median for part in found.heads) / sum(times.heads[i].median for i in (1, 2))
    )
    assert found.tail_ratio > 0
    assert found.worst_error >= 0
    assert found.stable == all(p.stability == "stable" for p in (*found.heads, *found.tails))
    with pytest.raises(SessionError, match="boundary 0 has no operators on one side"):
        calibrate(times, [SlicedCut(0, b"", b"")], feeds)
    with pytest.raises(SessionError, match="expected at least one cut"):
        calibrate(times, [], feeds)
