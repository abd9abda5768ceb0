"""Requests of several inputs through the whole sweep: simulated, measured here, and refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import MODEL, SMALL, splitdeploy
from onnx import ModelProto
from small_models import build
from test_kernels import RESIDUAL, WEIGHTS, graph, with_weights
from test_optimal import setting
from test_program import save_program

from splitdeploy.partitioner import costs, local_times
from splitdeploy.partitioner.api import profile
from splitdeploy.partitioner.cuts import find_cuts as find_graph_cuts
from splitdeploy.partitioner.downset import merge_cuts
from splitdeploy.partitioner.export import boundary_values, export_onnx
from splitdeploy.partitioner.head_kernels import head_kernels
from splitdeploy.partitioner.kernels import kernel_groups
from splitdeploy.partitioner.onnx_shapes import graph_shapes, symbolic_size
from splitdeploy.partitioner.optimal import optima_of, price, traced_kernels
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.rebase import with_network
from splitdeploy.partitioner.slicing import Slicer
from splitdeploy.partitioner.state import DONE
from splitdeploy.partitioner.sweep_batch import Planned
from splitdeploy.partitioner.trace import trace_module
from splitdeploy.profiles.device import DeviceProfile, find_device
from splitdeploy.profiles.errors import UsageError
from splitdeploy.profiles.kernel import KernelGroup
from splitdeploy.profiles.network import NETWORKS, find_network
from splitdeploy.profiles.power import radio_energy_j
from splitdeploy.profiles.report import SweepReport
from splitdeploy.profiles.simulate import simulate_latency
from splitdeploy.profiles.store import read_report

SETTINGS: dict[str, Any] = {
    "device": "jetson-nano", "precision": "fp16", "privacy": False, "weights": "none",
    "image_count": 2, "input_shape": (3, 16, 16),
}  # fmt: skip


def by_hand_s(groups: list[KernelGroup], device: DeviceProfile, batch: int) -> float:
    """The formula of the device model with so many times the work, for fp16 in the default mode."""
    c, mode = device.constants, device.mode(None)
    clock = mode.gpu_mhz / device.max_gpu_mhz
    macs_per_s = device.peak_flops["fp16"] * clock * mode.cores_share / 2
    bytes_per_s = device.bandwidth_bytes_per_s * mode.bandwidth_share * c.memory_efficiency
    total_s = c.sync_s
    for g in groups:
        if g.kind == "concat":
            continue
        macs = float(batch * g.macs)
        if g.kind == "conv" and g.kernel_size == 9 and g.stride == 1:
            macs /= c.winograd_gain
        if g.kind in {"conv", "pointwise", "grouped"}:
            macs += c.tail_tiles * 4096 * g.reduction * device.multiprocessors * mode.cores_share
        share = c.depthwise_efficiency if g.kind == "depthwise" else c.compute_efficiency
        arithmetic_s = macs / (macs_per_s * share)
        moved = batch * (g.input_elements + g.output_elements) + g.weight_elements
        traffic_s = 2 * moved / bytes_per_s
        total_s += c.launch_s + (arithmetic_s**c.overlap + traffic_s**c.overlap) ** (1 / c.overlap)
    return total_s


# --- kernels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_kernels_of_a_batch_by_hand(batch: int) -> None:
    main, side = kernel_groups(with_weights(graph(RESIDUAL), *WEIGHTS), batch)
    assert main.macs == batch * 12 * 8 * 8 * 8 * 9
    assert main.input_elements == batch * 8 * 16 * 16
    assert main.output_elements == batch * 12 * 8 * 8
    assert main.weight_elements == 12 * 8 * 9 + 12 + 4 * 12
    assert side.macs == batch * 12 * 8 * 8 * 8
    assert (main.kernel_size, main.stride, main.reduction) == (9, 4, 72)
    assert (side.kind, side.name) == ("pointwise", "y")


@pytest.mark.parametrize("text", ["s0", "2*s0 + 3", "s0//2", "a batch", "other*s0", "other", ""])
def test_a_symbol_stands_for_what_the_inputs_say(text: str) -> None:
    """Exporters leave names of their own in the graph, for sizes that are no batch."""
    by_hand = {"s0": 8, "2*s0 + 3": 19, "s0//2": 4, "a batch": 8, "other*s0": 8}
    assert symbolic_size(text, {"s0": 8, "a batch": 8}) == by_hand.get(text, 1)


def test_names_within_a_graph_are_no_batch() -> None:
    model = with_weights(graph(RESIDUAL), *WEIGHTS)
    info = model.graph.value_info.add(name="sum")
    info.CopyFrom(model.graph.output[0])
    info.name = "sum"
    info.type.tensor_type.shape.dim[2].dim_param = "somewhere_dim_2"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "M"
    shapes = graph_shapes(model, 4)
    assert shapes.of("x") == (4, 8, 16, 16)
    assert shapes.of("sum") == (4, 12, 1, 8)
    assert shapes.of("y") == (4, 12, 8, 8)


@pytest.mark.parametrize("device", ["jetson-nano", "jetson-agx-xavier"])
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_a_device_reads_weights_and_launches_once(device: str, batch: int) -> None:
    model = with_weights(graph(RESIDUAL), *WEIGHTS)
    board = find_device(device)
    found = simulate_latency(kernel_groups(model, batch), board, precision="fp16")
    assert found.latency_s == pytest.approx(by_hand_s(list(kernel_groups(model)), board, batch))


def exported(name: str, folder: Path) -> ModelProto:
    module, example = build(name)
    return export_onnx(trace_module(module, example), (), folder).proto


@pytest.mark.parametrize("name", ["residual", "chunked"])
def test_a_traced_models_kernels_grow_with_the_batch_and_their_weights_do_not(
    name: str, tmp_path: Path
) -> None:
    model = exported(name, tmp_path)
    for one, six in zip(kernel_groups(model), kernel_groups(model, 6), strict=True):
        assert replace(
            one, macs=6 * one.macs, input_elements=6 * one.input_elements,
            output_elements=6 * one.output_elements,
        ) == six  # fmt: skip


def test_what_moves_nothing_for_one_input_may_for_several(tmp_path: Path) -> None:
    """Attention wants the batch behind the sequence: of one input that is the same memory."""
    model = exported("token", tmp_path)
    copies = [
        Counter(group.kind for group in kernel_groups(model, batch))["copy"] for batch in (1, 4, 8)
    ]
    assert copies[0] < copies[1] == copies[2]


# --- simulated runs ---------------------------------------------------------------------------


def run(out: Path, **changes: Any) -> SweepReport:
    return profile(MODEL, out, **(SETTINGS | {"input_shape": None} | changes))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, SweepReport]:
    folder = tmp_path_factory.mktemp("runs")
    return {1: run(folder / "1"), 8: run(folder / "8", batch=8)}


@pytest.fixture(scope="module")
def heads(runs: dict[int, SweepReport]) -> dict[str, tuple[KernelGroup, ...]]:
    """The kernels of every head with one input."""
    return head_kernels(runs[1], [row.name for row in runs[1].cuts])


def test_every_figure_of_a_run_is_that_of_its_batch(
    runs: dict[int, SweepReport], heads: dict[str, tuple[KernelGroup, ...]]
) -> None:
    nano, wifi = find_device("jetson-nano"), find_network("wifi")
    assert runs[8].batch == 8
    for one, many in zip(runs[1].cuts, runs[8].cuts, strict=True):
        assert one.latency_s is not None and many.latency_s is not None
        assert one.energy_j is not None and many.energy_j is not None
        assert many.cut == one.cut and many.verified == one.verified
        result = 0 if one.name == "edge-only" else runs[1].result_bytes or 0
        payload = 0 if one.name == "edge-only" else one.cut.payload_bytes
        if one.name != "cloud-only":
            expected = by_hand_s(list(heads[one.name]), nano, 8)
            assert many.latency_s.edge.median == pytest.approx(expected)
        if payload:
            assert many.latency_s.uplink.median == pytest.approx(8 * 8 * payload / 18.88e6 + 0.005)
            assert many.latency_s.downlink.median == pytest.approx(8 * 8 * result / 54.97e6 + 0.005)
            assert one.latency_s.cloud.median < many.latency_s.cloud.median
            assert many.latency_s.cloud.median < 8 * one.latency_s.cloud.median
        assert many.energy_j.radio == pytest.approx(radio_energy_j(wifi, payload, result))
        assert many.energy_j.compute <= one.energy_j.compute
        if one.name != "cloud-only":
            peak = one.cut.head_peak_activation_bytes // 2
            assert many.edge_memory_bytes == (one.edge_memory_bytes or 0) + 7 * peak


def test_the_cloud_computes_a_batch_too(
    runs: dict[int, SweepReport], heads: dict[str, tuple[KernelGroup, ...]]
) -> None:
    for batch, report in runs.items():
        latency = report.find("cloud-only").latency_s
        expected = by_hand_s(list(heads["edge-only"]), find_device("t4"), batch)
        assert latency is not None and latency.cloud.median == pytest.approx(expected)


def test_over_another_network_a_run_is_what_a_run_there_finds(
    runs: dict[int, SweepReport], tmp_path: Path
) -> None:
    there = run(tmp_path / "lte", batch=8, network=NETWORKS["lte"])
    for moved, fresh in zip(with_network(runs[8], NETWORKS["lte"]).cuts, there.cuts, strict=True):
        assert moved.latency_s is not None and fresh.latency_s is not None
        for stage in ("edge", "uplink", "cloud", "downlink", "total"):
            mine, other = getattr(moved.latency_s, stage), getattr(fresh.latency_s, stage)
            assert mine.median == pytest.approx(other.median)
        assert moved.energy_j is not None and fresh.energy_j is not None
        assert moved.energy_j.total == pytest.approx(fresh.energy_j.total)


def test_a_second_cut_sends_a_batch_back(tmp_path: Path) -> None:
    found = profile(
        "small_models:skipping", tmp_path / "run", **(SETTINGS | {"input_shape": None}), cuts="all",
        return_at="mul", batch=4,
    )  # fmt: skip
    for network in ("wifi", "lte"):
        link, rows = NETWORKS[network], with_network(found, NETWORKS[network]).cuts
        for row in rows[:-1]:
            assert row.latency_s is not None and row.cut.last is not None
            bits = 4 * 8 * row.cut.last.downlink_bytes
            expected = bits / link.downlink_bps + link.rtt_s / 2
            assert row.latency_s.downlink.median == pytest.approx(expected)


@pytest.mark.parametrize(("name", "batch"), [("branches", 4), ("chunked", 32)])
def test_no_cut_behind_any_operation_is_better_than_the_optimal_one(
    name: str, batch: int, tmp_path: Path
) -> None:
    """Priced as a sweep does it: by the kernels of the sliced halves, for the whole request."""
    module, example = build(name)
    trace = trace_module(module, example)
    wifi = find_network("wifi")
    priced_with = replace(setting(wifi), batch=batch)
    priced = price(trace.graph, traced_kernels(trace, tmp_path, batch), priced_with)
    optima = optima_of(trace.graph, priced, priced_with)
    cuts = merge_cuts(find_graph_cuts(trace.graph, "op"), [one.cut for one in optima])
    (tmp_path / "cut").mkdir()
    slicer = Slicer(export_onnx(trace, boundary_values(cuts), tmp_path / "cut"))
    result = sum(trace.graph.values[value].bytes for value in trace.graph.outputs)
    times, joules = {}, {}
    for cut in cuts[1:-1]:
        halves = slicer.cut(cut)
        head, tail = (kernel_groups(half, batch) for half in (halves.head, halves.tail))
        edge, load = costs.simulated(head, priced_with.edge, "fp32", None)
        cloud, _ = costs.simulated(tail, priced_with.cloud, "fp32", None)
        sides = costs.Sides(edge, cloud, load)
        key = frozenset(tensor.name for tensor in cut.tensors)
        times[key] = costs.stage_latency(cut, sides, wifi, result, batch).total.median
        spent = costs.energy(cut, sides, priced_with.edge, None, wifi, result, batch)
        assert spent is not None
        joules[key] = spent.total
    for kind, figures in (("optimal-latency", times), ("optimal-energy", joules)):
        best = next(one.cut for one in optima if kind in one.best_for)
        found = figures[frozenset(tensor.name for tensor in best.tensors)]
        assert found <= min(figures.values()) * (1 + 1e-6)


def test_a_stream_is_told_how_long_its_first_input_waits(tmp_path: Path) -> None:
    done = splitdeploy("profile", MODEL, *SMALL, "--device", "jetson-nano", "--no-privacy",
                       "--batch", 5, "--fps", 20, "--objective", "throughput", "--format", "json",
                       "-q", "--out", tmp_path / "run")  # fmt: skip
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["batch"] == 5
    assert ("the latency of a request begins when all its 5 inputs are there: at 20 a second the "
            "first one waits 200 ms for them") in document["warnings"]  # fmt: skip
    assert any("nothing was compared with what 5 at once take" in w for w in document["warnings"])
    row = document["cuts"][1]
    assert row["uplink_bps_needed"] == 8 * 20 * row["payload_bytes"]
    moved = splitdeploy("recommend", tmp_path / "run", "--network", "3g", "--format", "csv",
                        "--objective", "throughput")  # fmt: skip
    assert moved.code == 0, moved.err
    header, first = (line.split(",") for line in moved.out.splitlines()[:3:2])
    up_s = float(first[header.index("uplink_s")])
    assert up_s == pytest.approx(5 * 8 * row["payload_bytes"] / 1.1e6 + 0.05)


# --- measured here ----------------------------------------------------------------------------


def test_timings_on_this_machine_are_of_a_batch_and_kept_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[list[Any]] = []
    known = {name: getattr(local_times, name) for name in ("time_segments", "calibrate")}

    def watch(name: str) -> None:
        def watched(*args: Any, **options: Any) -> Any:
            fed.append(list(args[2].values()))
            return known[name](*args, **options)

        monkeypatch.setattr(local_times, name, watched)

    watch("time_segments")
    watch("calibrate")
    here = {"device": "local", "cloud": "local", "precision": "fp32", "image_count": 3}
    first = run(tmp_path, **here, batch=5)
    pictures = fed[0][0]
    assert all(np.array_equal(given, pictures) for (given,) in fed)
    # There are three pictures for five inputs: they come over again.
    assert len(pictures) == 5 and len(np.unique(pictures, axis=0)) == 3
    assert np.array_equal(pictures[3:], pictures[:2])
    assert first.batch == 5 and first.edge.source == "measured"
    run(tmp_path, **here, batch=5, resume=True)
    run(tmp_path, **here, batch=2, resume=True)
    done = Counter(json.loads(line)["work"] for line in (tmp_path / "state" / DONE).open())
    assert done["timing on this machine"] == 2  # once for five at a time, once for two
    assert done["verification"] == len(first.cuts)  # which does not depend on it
    assert np.array_equal(fed[-1][0], pictures[:2])
    assert read_report(tmp_path).batch == 2


# --- other runs and commands ------------------------------------------------------------------


def test_runs_that_differ_in_batch_share_their_leakage_and_no_result() -> None:
    jobs = [
        Planned("run", (), ProfileOptions(MODEL, batch=batch, cuts=cuts)).job()
        for cuts in ("block", "block,optimal")
        for batch in (1, 8)
    ]
    assert jobs[0].heads == jobs[1].heads and jobs[0].key != jobs[1].key
    # Which downset is the best depends on the batch, and so do the rows.
    assert jobs[2].heads != jobs[3].heads


def test_a_device_is_fitted_to_the_kernels_of_the_batch(
    runs: dict[int, SweepReport], heads: dict[str, tuple[KernelGroup, ...]]
) -> None:
    many = head_kernels(runs[8], ["pool"])["pool"]
    assert [8 * group.macs for group in heads["pool"]] == [group.macs for group in many]


# --- refusals ---------------------------------------------------------------------------------


def test_a_model_with_a_batch_of_its_own_is_refused(tmp_path: Path) -> None:
    save_program(tmp_path / "net.pt2")
    with pytest.raises(UsageError, match=r"batch may vary with --batch 4, got net, whose graph has "
                       "a fixed batch: leave --batch out"):  # fmt: skip
        profile(str(tmp_path / "net.pt2"), tmp_path / "run", device="jetson-nano", privacy=False,
                batch=4)  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_device_behind_ssh_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"one input a request with ssh://me@board, got --batch 8: "
                       "over ssh heads are timed with one; leave --batch out"):  # fmt: skip
        profile(MODEL, tmp_path / "run", device="ssh://me@board", batch=8)


def test_a_batch_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a batch of one input or more, got 0"):
        profile(MODEL, tmp_path / "run", device="jetson-nano", batch=0)
    done = splitdeploy("profile", MODEL, "--batch", 0)
    assert done.code == 2 and "--batch" in done.err
