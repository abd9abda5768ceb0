"""The optimal cuts of traced models: against every downset, and through the whole sweep."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_models import build
from torch import Tensor, nn

from splitdeploy.partitioner import costs
from splitdeploy.partitioner.api import find_cuts, profile
from splitdeploy.partitioner.cuts import find_cuts as find_graph_cuts
from splitdeploy.partitioner.downset import downset_cut, merge_cuts
from splitdeploy.partitioner.export import boundary_values, export_onnx
from splitdeploy.partitioner.graph import TracedGraph
from splitdeploy.partitioner.kernels import kernel_groups
from splitdeploy.partitioner.models import load_model
from splitdeploy.partitioner.optimal import Setting, optima_of, price, traced_kernels
from splitdeploy.partitioner.slicing import Slicer
from splitdeploy.partitioner.trace import trace_module
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY
from splitdeploy.profiles.device import find_device
from splitdeploy.profiles.errors import CutError, UsageError
from splitdeploy.profiles.network import NetworkProfile, find_network
from splitdeploy.profiles.report import Constraints, Objective

SLOW = NetworkProfile("slow", 1e6, 1e9, 0.0, "wifi")


class Unlike(nn.Module):
    """Two branches that shrink their input: a costly one that comes first, and a cheap one.

    The least energy goes into the stem and the cheap branch: no cut along the order of execution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        self.costly = nn.Sequential(nn.Conv2d(4, 256, 3, padding=1), nn.Conv2d(256, 256, 3),
                                    nn.Conv2d(256, 64, 3))  # fmt: skip
        self.cheap = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.ReLU())
        self.last = nn.Linear(68, 5)

    def forward(self, x: Tensor) -> Tensor:
        costly = self.costly(self.stem(x)).mean((2, 3))
        cheap = self.cheap(x).mean((2, 3))
        return self.last(torch.cat([costly, cheap], 1))


def unlike() -> tuple[nn.Module, Tensor]:
    """A factory for the command line."""
    return Unlike(), torch.zeros(1, 3, 32, 32)


def graph_of(name: str) -> TracedGraph:
    model, example = build(name)
    return trace_module(model, example).graph


def setting(network: NetworkProfile = SLOW) -> Setting:
    nano, t4 = find_device("jetson-nano"), find_device("t4")
    return Setting(nano, t4, network, "fp32", "fp32")


def test_a_cut_off_the_order_has_two_tensors_and_is_verified(tmp_path: Path) -> None:
    report = profile(
        "test_optimal:unlike", tmp_path / "run", device="jetson-nano", cuts="layer,optimal",
        precision="fp32", network=SLOW, privacy=False, weights="none",
        objective=Objective("energy"), constraints=Constraints(max_latency_s=1.0),
    )  # fmt: skip
    best = report.find("optimal-energy")
    assert len(best.cut.tensors) == 2
    assert best.error is None
    assert best.verified is not None
    assert best.verified.ok
    inner = [row for row in report.cuts[1:-1] if row.name != best.name]
    assert best.energy_j is not None
    assert best.energy_j.total < min(row.energy_j.total for row in inner if row.energy_j)
    assert [row.cut.index for row in report.cuts] == list(range(len(report.cuts)))
    told = [line for line in report.warnings if line.startswith("optimal")]
    assert told == ["optimal-balanced: of all downsets, optimal-latency is the best"]
    assert (tmp_path / "run" / "bundle" / "manifest.json").is_file()


@pytest.mark.parametrize("name", ["branches", "chunked"])
def test_no_cut_behind_any_operation_is_better(name: str, tmp_path: Path) -> None:
    """Priced as a sweep does it: by the kernels of the sliced halves."""
    module, example = build(name)
    trace = trace_module(module, example)
    wifi = find_network("wifi")
    priced_with = setting(wifi)
    whole = traced_kernels(trace, tmp_path)
    (tmp_path / "cut").mkdir()
    optima = optima_of(trace.graph, price(trace.graph, whole, priced_with), priced_with)
    cuts = merge_cuts(find_graph_cuts(trace.graph, "op"), [optima[0].cut])
    slicer = Slicer(export_onnx(trace, boundary_values(cuts), tmp_path / "cut"))
    totals = {}
    for cut in cuts[1:-1]:
        halves = slicer.cut(cut)
        edge, _ = costs.simulated(kernel_groups(halves.head), priced_with.edge, "fp32", None)
        cloud, _ = costs.simulated(kernel_groups(halves.tail), priced_with.cloud, "fp32", None)
        stages = costs.stage_latency(cut, costs.Sides(edge, cloud), wifi, 0)
        totals[frozenset(tensor.name for tensor in cut.tensors)] = stages.total.median
    best = totals[frozenset(tensor.name for tensor in optima[0].cut.tensors)]
    assert best <= min(totals.values()) * (1 + 1e-6)


def test_a_downset_along_the_order_is_the_ordered_cut() -> None:
    for name in ("residual", "branches"):
        graph = graph_of(name)
        cuts = find_graph_cuts(graph, "block")
        for cut in cuts[1:-1]:
            same = downset_cut(graph, [tensor.name for tensor in cut.tensors], cut.name)
            assert same.tensors == cut.tensors
            assert same.payload_bytes == cut.payload_bytes
            assert same.head_macs <= cut.head_macs  # nodes that no boundary tensor needs stay out
            assert same.head_macs + same.tail_macs == graph.macs
            assert same.head_peak_activation_bytes <= cut.head_peak_activation_bytes


def test_the_tail_takes_views_of_what_crosses_itself() -> None:
    graph = graph_of("chunked")
    views = [node.outputs[0] for node in graph.nodes if node.kind == "view"]
    base = next(node.inputs[0] for node in graph.nodes if node.kind == "view")
    made = next(node.outputs[0] for node in graph.nodes if node.kind == "op")
    cut = downset_cut(graph, [made, views[0]], "odd")
    names = {tensor.name for tensor in cut.tensors}
    assert not (base in names and views[0] in names)


def test_cuts_are_merged_by_the_size_of_their_heads() -> None:
    graph = graph_of("branches")
    cuts = find_graph_cuts(graph, "block")
    same = downset_cut(graph, [t.name for t in cuts[1].tensors], "again")
    assert merge_cuts(cuts, [same]) == cuts
    branch = next(node for node in graph.nodes if node.stack and node.stack[-1].name == "b")
    other = downset_cut(graph, branch.outputs, "other")
    merged = merge_cuts(cuts, [other])
    assert [cut.name for cut in merged] == [CLOUD_ONLY, "stem", "other", "join", EDGE_ONLY]
    assert [cut.index for cut in merged] == [0, 1, 2, 3, 4]


def test_a_downset_of_nothing_is_refused() -> None:
    graph = graph_of("branches")
    with pytest.raises(CutError, match="no value 'nowhere': choose among its values"):
        downset_cut(graph, ["nowhere"], "odd")
    with pytest.raises(CutError, match="would send inputs alone: cloud-only does that"):
        downset_cut(graph, [graph.inputs[0].name], "odd")


def test_optimal_needs_to_know_what_runs_where(tmp_path: Path) -> None:
    model = load_model("test_optimal:unlike", weights="none")
    with pytest.raises(UsageError, match="got optimal, which depends on the device"):
        find_cuts(model, "block,optimal")
    with pytest.raises(UsageError, match="simulated devices on both sides.* got local"):
        profile("test_optimal:unlike", tmp_path / "run", device="local", cuts="optimal",
                precision="fp32")  # fmt: skip
