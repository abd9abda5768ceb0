"""Cut points against brute force on random graphs, and on nets whose cuts can be told by hand."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import build

from splitdeploy.partitioner.cuts import find_cuts, find_named_cuts
from splitdeploy.partitioner.graph import GraphNode, TracedGraph
from splitdeploy.partitioner.trace import trace_module
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY, TensorSpec
from splitdeploy.profiles.errors import UnknownNameError


@st.composite
def graphs(draw: st.DrawFn) -> TracedGraph:
    """A random DAG of 2 to 14 operations, every one of which is read or is a result."""
    count = draw(st.integers(2, 14))
    names = ["x", *(f"v{i}" for i in range(count))]
    nodes = []
    for i in range(count):
        reads = draw(st.lists(st.sampled_from(names[: i + 1]), min_size=1, max_size=3, unique=True))
        nodes.append(GraphNode(f"n{i}", tuple(reads), (f"v{i}",), "op", i, (), ()))
    read = {name for node in nodes for name in node.inputs}
    results = tuple(name for name in names[1:] if name not in read)
    values = {name: TensorSpec(name, (1, 1 + place)) for place, name in enumerate(names)}
    return TracedGraph((values["x"],), tuple(nodes), results, values)


@given(graphs())
@settings(max_examples=200)
def test_boundary_is_the_edge_boundary_of_the_downset(graph: TracedGraph) -> None:
    """The oracle: sources of the edges that leave the downset, by networkx."""
    dag = nx.DiGraph()
    for node in graph.nodes:
        dag.add_edges_from((source, node.outputs[0]) for source in node.inputs)
    dag.add_edges_from((name, "result") for name in graph.outputs)
    for position in range(-1, len(graph.nodes)):
        downset = {"x", *(node.outputs[0] for node in graph.nodes[: position + 1])}
        crossing = {source for source, _ in nx.edge_boundary(dag, downset)}
        assert set(graph.boundary(position)) == crossing
        assert len(set(graph.boundary(position))) == len(graph.boundary(position))


@given(graphs())
@settings(max_examples=100)
def test_costs_along_the_order(graph: TracedGraph) -> None:
    cuts = find_cuts(graph, "op")
    assert [cut.name for cut in cuts][:: len(cuts) - 1] == [CLOUD_ONLY, EDGE_ONLY]
    assert [cut.index for cut in cuts] == list(range(len(cuts)))
    for before, after in zip(cuts, cuts[1:], strict=False):
        assert before.head_macs <= after.head_macs
        assert before.head_peak_activation_bytes <= after.head_peak_activation_bytes
    for cut in cuts:
        assert cut.head_macs + cut.tail_macs == graph.macs
        assert cut.payload_bytes == sum(tensor.bytes for tensor in cut.tensors)
    boundaries = [frozenset(t.name for t in cut.tensors) for cut in cuts[1:-1]]
    assert len(set(boundaries)) == len(boundaries)


def _graph(name: str) -> TracedGraph:
    model, example = build(name)
    return trace_module(model, example).graph


def test_blocks_of_a_residual_net_end_where_its_own_blocks_end() -> None:
    names = [cut.name for cut in find_cuts(_graph("residual"), "block")]
    assert names == [CLOUD_ONLY, "act", "blocks.0", "blocks.1", "pool", EDGE_ONLY]


def test_layers_inside_a_residual_block_send_the_skip_connection_too() -> None:
    cuts = {cut.name: cut for cut in find_cuts(_graph("residual"), "layer")}
    assert [t.shape for t in cuts["blocks.0.conv1"].tensors] == [(1, 8, 8, 8)] * 2
    assert cuts["blocks.0.conv1"].payload_bytes == 2 * 8 * 8 * 8 * 4
    # The activation is one module called twice, so it ends twice.
    assert "blocks.0.relu" in cuts
    assert len(cuts["blocks.0.relu@1"].tensors) == 1


def test_costs_of_a_residual_net_by_hand() -> None:
    cuts = {cut.name: cut for cut in find_cuts(_graph("residual"), "block")}
    stem, block, classifier = 8 * 8 * 8 * 27, 2 * 8 * 8 * 8 * 72, 8 * 5
    assert cuts["act"].head_macs == stem
    assert cuts["blocks.1"].head_macs == stem + 2 * block
    assert cuts["blocks.1"].tail_macs == classifier
    assert cuts["act"].head_parameters == 8 * 27 + 8
    # Most is alive while the second convolution runs: what it reads, what it makes, the skip.
    assert cuts["blocks.0"].head_peak_activation_bytes == 3 * 8 * 8 * 8 * 4


def test_a_view_never_crosses_together_with_its_base() -> None:
    graph = _graph("chunked")
    for cut in find_cuts(graph, "op")[1:-1]:
        elements = sum(tensor.elements for tensor in cut.tensors)
        assert elements <= 8 * 6 * 6, cut.name


def test_branches_cross_each_once() -> None:
    cuts = {cut.name: cut for cut in find_cuts(_graph("branches"), "layer")}
    assert len(cuts["a.1"].tensors) == 2  # the branch, and the stem's output for the two others
    assert [cut.name for cut in find_cuts(_graph("branches"), "block")][1:-1] == ["stem", "join"]


def test_dicts_and_tuples_in_and_out() -> None:
    graph = _graph("dict")
    assert len(graph.inputs) == 2
    assert len(graph.outputs) == 3
    cuts = find_cuts(graph, "op")
    assert len(cuts[0].tensors) == 2
    assert cuts[0].payload_bytes == (6 + 3) * 4


def test_sizes_and_constants_are_no_payload() -> None:
    for cut in find_cuts(_graph("token"), "op")[1:-1]:
        assert all(tensor.dtype == "float32" for tensor in cut.tensors)


def test_named_cuts_take_any_module_that_ends() -> None:
    graph = _graph("residual")
    assert [c.name for c in find_named_cuts(graph, ["blocks.1", "blocks.0"])][1:-1] == [
        "blocks.0",
        "blocks.1",
    ]
    assert find_named_cuts(graph, ["blocks"])[1].tensors == find_cuts(graph, "block")[3].tensors


def test_unknown_cut_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown cut 'blocks\.7'.*blocks\.[01]"):
        find_named_cuts(_graph("residual"), ["blocks.7"])
    with pytest.raises(UnknownNameError, match="unknown grain 'blok': did you mean block"):
        find_cuts(_graph("residual"), "blok")
