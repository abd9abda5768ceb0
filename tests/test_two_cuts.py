"""Two cuts: the three parts chained are the whole model, whatever pair of cuts is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_models import MODELS, EarlyResult, Skips, build
from torch import Tensor, nn

from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.partitioner.cuts import find_cuts
from splitdeploy.partitioner.export import boundary_values, export_onnx
from splitdeploy.partitioner.slicing import HELD, Slicer, write_slice
from splitdeploy.partitioner.trace import Trace, trace_module
from splitdeploy.partitioner.two_cuts import as_one_cut, find_return, sees_results, with_return
from splitdeploy.partitioner.verify import compare, run_halves
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY, CutPoint
from splitdeploy.profiles.errors import UnknownNameError, UsageError

Array = NDArray[Any]

MORE = {"skips": Skips, "early": EarlyResult}
NAMES = [*MODELS, *MORE]
PICTURE = (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(2)),)


@dataclass(frozen=True)
class Case:
    trace: Trace
    cuts: tuple[CutPoint, ...]
    slicer: Slicer
    feeds: Mapping[str, Array]
    expected: list[Array]


def make_case(model: nn.Module, example: tuple[object, ...], folder: Path) -> Case:
    trace = trace_module(model, example)
    cuts = find_cuts(trace.graph, "op")
    exported = export_onnx(trace, boundary_values(cuts), folder)
    flat = [leaf for leaf in torch.utils._pytree.tree_leaves(example) if isinstance(leaf, Tensor)]
    feeds = {name: leaf.numpy() for name, leaf in zip(exported.inputs, flat, strict=True)}
    with OnnxRuntimeSession(exported.path) as session:
        found = session.run(feeds)
    return Case(trace, cuts, Slicer(exported), feeds, [found[name] for name in exported.results])


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    made = {}
    for name in NAMES:
        torch.manual_seed(1)
        model, example = (MORE[name]().eval(), PICTURE) if name in MORE else build(name)
        made[name] = make_case(model, example, tmp_path_factory.mktemp(name))
    return made


def chained(case: Case, cut: CutPoint, folder: Path) -> list[Array]:
    halves = case.slicer.cut(cut)
    assert halves.last is not None
    path = case.slicer.exported.path
    with (
        OnnxRuntimeSession(write_slice(halves.head, path, "t.head.onnx")) as head,
        OnnxRuntimeSession(write_slice(halves.tail, path, "t.tail.onnx")) as tail,
        OnnxRuntimeSession(write_slice(halves.last, path, "t.last.onnx")) as last,
    ):
        return run_halves(head, tail, case.feeds, last)


@pytest.mark.parametrize("name", NAMES)
@settings(
    max_examples=8, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(data=st.data())
def test_any_pair_of_cuts_is_the_whole(
    cases: dict[str, Case], tmp_path: Path, name: str, data: st.DataObject
) -> None:
    case = cases[name]
    inner = case.cuts[1:-1]
    back = data.draw(st.sampled_from(inner[1:]), label="back")
    kept = with_return(case.trace.graph, case.cuts, back)
    assert kept[0].name == CLOUD_ONLY and kept[-1] == replace(case.cuts[-1], index=len(kept) - 1)
    cut = data.draw(st.sampled_from(kept[:-1]), label="cut")
    verdict = compare(case.expected, chained(case, cut, tmp_path), 1)
    assert verdict.ok, verdict


def test_what_crosses_both_cuts_stays_at_the_edge(cases: dict[str, Case]) -> None:
    case = cases["skips"]
    graph = case.trace.graph
    back = find_return(graph, "mul")
    rows = {cut.name: cut for cut in with_return(graph, case.cuts, back)}
    assert [tensor.name for tensor in back.tensors] == ["x", "relu", "mul"]
    # Behind relu nothing but relu is read before the return; the input is held, and not sent.
    cut = rows["relu"]
    assert cut.last is not None
    assert [tensor.name for tensor in cut.tensors] == ["relu"]
    assert [tensor.name for tensor in cut.last.held] == ["x", "relu"]
    assert [tensor.name for tensor in cut.last.returned] == ["mul"]
    assert cut.payload_bytes == cut.last.downlink_bytes == 4 * 4 * 8 * 8
    assert {tensor.name for tensor in as_one_cut(cut).tensors} == {"x", "relu"}
    # From cloud-only on, relu is made in the cloud, and comes back.
    last = rows[CLOUD_ONLY].last
    assert last is not None and [tensor.name for tensor in last.returned] == ["relu", "mul"]
    assert rows[EDGE_ONLY].last is None
    halves = case.slicer.cut(cut)
    assert halves.last is not None
    assert [value.name for value in halves.head.graph.output] == ["relu", f"x{HELD}", f"relu{HELD}"]
    assert {value.name for value in halves.last.graph.input} == {"mul", f"x{HELD}", f"relu{HELD}"}
    assert [value.name for value in halves.tail.graph.output] == ["mul"]


@pytest.mark.parametrize("name", NAMES)
def test_both_sides_add_up_to_the_model(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    graph, whole = case.trace.graph, case.cuts[-1]
    back = case.cuts[-2]
    for cut in with_return(graph, case.cuts, back):
        assert cut.head_macs + cut.tail_macs == graph.macs
        assert cut.head_parameters <= whole.head_parameters
        assert cut.head_peak_activation_bytes <= whole.head_peak_activation_bytes
        if cut.last is not None:
            crossing = {*as_one_cut(cut).tensors, *cut.last.returned}
            assert {tensor.name for tensor in back.tensors} <= {tensor.name for tensor in crossing}


def test_a_result_before_the_return_is_told(cases: dict[str, Case]) -> None:
    assert (
        sees_results(cases["skips"].trace.graph, find_return(cases["skips"].trace.graph, "mul"))
        == ()
    )
    graph = cases["early"].trace.graph
    assert sees_results(graph, find_return(graph, "tanh")) == (graph.outputs[1],)


def test_refusals(cases: dict[str, Case]) -> None:
    case = cases["residual"]
    graph = case.trace.graph
    blocks = find_cuts(graph, "block")
    for end in (CLOUD_ONLY, EDGE_ONLY):
        with pytest.raises(
            UsageError, match=rf"to return at a cut between the two ends, got {end}"
        ):
            find_return(graph, end)
    with pytest.raises(UnknownNameError, match="unknown cut 'layer9'"):
        find_return(graph, "layer9")
    with pytest.raises(UnknownNameError, match="nothing can be cut behind fc"):
        find_return(graph, "fc")
    first = find_return(graph, blocks[1].name)
    with pytest.raises(
        UsageError,
        match=rf"got {first.name}, and no cut lies before it \(the first: {first.name}\)",
    ):
        with_return(graph, blocks, first)
