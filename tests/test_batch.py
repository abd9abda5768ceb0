"""Requests of several inputs: sums by hand, another network, what is written, what is refused."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from batch_runs import in_batch
from factories import make_report, with_row
from hypothesis import given, settings
from hypothesis import strategies as st

from splitdeploy.partitioner import costs
from splitdeploy.partitioner.case_figures import case_figures
from splitdeploy.partitioner.compare import line_of, name_runs, settings_of
from splitdeploy.partitioner.rebase import with_network
from splitdeploy.partitioner.recommend import recommend
from splitdeploy.partitioner.render_table import render
from splitdeploy.partitioner.schedule import over_trace
from splitdeploy.partitioner.scoring import table_of
from splitdeploy.partitioner.uncertainty import central_cases
from splitdeploy.profiles.bandwidth_trace import TraceSample
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY, CutPoint, TensorSpec
from splitdeploy.profiles.device import find_device
from splitdeploy.profiles.errors import ReportError
from splitdeploy.profiles.measurement import Measurement
from splitdeploy.profiles.network import NETWORKS, NetworkProfile
from splitdeploy.profiles.power import radio_energy_j
from splitdeploy.profiles.report import Constraints, Objective
from splitdeploy.profiles.store import check_schema, cuts_csv, report_from_json, report_to_json
from splitdeploy.profiles.throughput import slowest_stage_s, throughput_per_s

LINK = NetworkProfile("test", 8e6, 16e6, 0.020, "wifi")
FAST = Objective("throughput")
seconds = st.floats(1e-4, 1.0)
batches = st.integers(1, 64)


def cut(name: str = "c", payload: int = 1_000_000) -> CutPoint:
    tensor = TensorSpec("t", (1, payload), "int8")
    return CutPoint(name, 1, (tensor,), payload, 10, 20, 1000, 4000)


def sides(edge_s: float, cloud_s: float) -> costs.Sides:
    edge = Measurement.single(edge_s, "simulated", 1.5 * edge_s)
    return costs.Sides(edge, Measurement.single(cloud_s, "predicted", cloud_s), 0.5)


# --- sums by hand -----------------------------------------------------------------------------


def test_a_request_sends_all_its_inputs_and_pays_the_round_trip_once() -> None:
    stages = costs.stage_latency(cut(), sides(0.008, 0.002), LINK, 2000, 4)
    # 4 MB at 8 Mbit/s and half a round trip; 8 kB at 16 Mbit/s and the other half.
    assert stages.uplink.median == pytest.approx(4.0 + 0.010)
    assert stages.downlink.median == pytest.approx(0.004 + 0.010)
    assert stages.total.median == pytest.approx(0.008 + 4.010 + 0.002 + 0.014)
    alone = costs.stage_latency(cut(EDGE_ONLY), sides(0.008, 0.0), LINK, 2000, 4)
    assert (alone.uplink.median, alone.downlink.median, alone.total.median) == (0.0, 0.0, 0.008)


def test_the_pace_counts_inputs() -> None:
    stages = costs.stage_latency(cut(payload=1000), sides(0.100, 0.002), LINK, 2000, 4)
    assert throughput_per_s(stages, LINK, 4) == pytest.approx(4 / 0.100)
    stages = costs.stage_latency(cut(), sides(0.100, 0.002), LINK, 2000, 4)
    assert throughput_per_s(stages, LINK, 4) == pytest.approx(4 / 4.0)


def test_energy_is_an_inputs_share_and_memory_a_requests() -> None:
    nano = find_device("jetson-nano")
    found = costs.energy(cut(), sides(0.080, 0.0), nano, None, LINK, 2000, 4)
    assert found is not None and nano.idle_w is not None
    full_w = nano.mode(None).active_w
    assert full_w is not None
    assert found.compute == pytest.approx((nano.idle_w + 0.5 * (full_w - nano.idle_w)) * 0.080 / 4)
    assert found.radio == pytest.approx(radio_energy_j(LINK, 4 * 1_000_000, 4 * 2000) / 4)
    assert found.total == found.compute + found.radio
    # 1000 parameters once, 1000 activations of each of four inputs, two bytes each.
    assert costs.edge_memory_bytes(cut(), "fp16", 4) == 2 * 1000 + 4 * 2 * 1000
    assert costs.edge_memory_bytes(cut(CLOUD_ONLY), "fp16", 4) == 0
    assert costs.uplink_needed_bps(cut(), 30.0) == 1_000_000 * 8 * 30


@given(seconds, seconds, st.integers(1, 10**7), st.integers(1, 10**5), batches)
def test_a_request_played_through_a_pipeline_completes_as_many_inputs(
    edge_s: float, cloud_s: float, payload: int, result: int, batch: int
) -> None:
    """The oracle: each stage takes the next request once it and the one before are done."""
    stages = costs.stage_latency(cut(payload=payload), sides(edge_s, cloud_s), LINK, result, batch)
    busy = (edge_s, batch * 8 * payload / 8e6, cloud_s, batch * 8 * result / 16e6)
    count, ready, ends = 300, [0.0] * 4, []
    for _ in range(count):
        arrives = 0.0
        for at, stage_s in enumerate(busy):
            ready[at] = max(arrives, ready[at]) + stage_s
            arrives = ready[at] + (LINK.rtt_s / 2 if at in {1, 3} else 0.0)
        ends.append(arrives)
    assert ends[0] == pytest.approx(stages.total.median)
    pace = batch * (count - 1) / (ends[-1] - ends[0])
    assert throughput_per_s(stages, LINK, batch) == pytest.approx(pace, rel=1e-6)


# --- decisions --------------------------------------------------------------------------------


@given(st.sampled_from(sorted(NETWORKS)), st.sampled_from(sorted(NETWORKS)), batches)
@settings(max_examples=30, deadline=None)
def test_another_network_gives_what_a_run_over_it_has(here: str, there: str, batch: int) -> None:
    moved = with_network(in_batch(make_report(NETWORKS[here]), batch), NETWORKS[there])
    fresh = in_batch(make_report(NETWORKS[there]), batch)
    for mine, other in zip(moved.cuts, fresh.cuts, strict=True):
        assert mine.latency_s is not None and other.latency_s is not None
        assert mine.energy_j is not None and other.energy_j is not None
        for stage in ("edge", "uplink", "cloud", "downlink", "total"):
            for key in ("median", "p95"):
                figures = (getattr(getattr(r.latency_s, stage), key) for r in (mine, other))
                assert next(figures) == pytest.approx(next(figures), rel=1e-9)
        assert mine.energy_j.total == pytest.approx(other.energy_j.total)
    mine, other = (
        recommend(report, constraints=Constraints(), objective=FAST).recommendation
        for report in (moved, fresh)
    )  # fmt: skip
    assert mine is not None and other is not None
    assert mine.cut == other.cut


@given(st.sampled_from(sorted(NETWORKS)), batches)
@settings(max_examples=20, deadline=None)
def test_the_central_case_is_what_the_report_says(network: str, batch: int) -> None:
    report = in_batch(make_report(NETWORKS[network]), batch)
    table = table_of(report)
    figures = case_figures(report, table, central_cases(report))
    for column, row in enumerate(table.rows):
        assert figures.latency_s[0, column] == pytest.approx(row.latency_s)
        assert figures.energy_j[0, column] == pytest.approx(row.energy_j)
        assert figures.slowest_s[0, column] == pytest.approx(row.slowest_s)


def test_the_pick_tells_inputs_a_second() -> None:
    report = recommend(in_batch(make_report(), 8), constraints=Constraints(), objective=FAST)
    assert report.recommendation is not None
    row = report.find(report.recommendation.cut)
    assert row.latency_s is not None
    slowest_s = slowest_stage_s(row.latency_s, report.network, 8)
    assert slowest_s == pytest.approx(max(row.latency_s.edge.median, row.latency_s.cloud.median,
                                          row.latency_s.uplink.median - 0.005) / 8)  # fmt: skip
    assert f"{1 / slowest_s:.3g} a second" in report.recommendation.why[0]
    assert "for 8 inputs" in report.recommendation.why[0]


def test_an_interval_of_the_uplink_is_that_of_the_batch() -> None:
    """Above it another row has the least latency: found by trying rates beyond its ends."""
    report = in_batch(make_report(), 8)
    found = recommend(report, constraints=Constraints(), objective=FAST).recommendation
    assert found is not None
    low, high = found.stable_while["uplink_bps"]
    assert low > 0 and high is not None
    for rate, same in ((1.001 * low, True), (0.999 * high, True), (0.9 * low, False)):
        link = replace(report.network, uplink_bps=rate)
        there = recommend(report, constraints=Constraints(), objective=FAST, network=link)
        assert there.recommendation is not None
        assert (there.recommendation.cut == found.cut) is same


def test_every_input_of_a_request_waits_for_a_switch() -> None:
    """The oracle tries every sequence of two cuts over three samples."""
    report = in_batch(make_report(), 4)
    rates = (1e6, 4e8, 1e6)
    trace = [TraceSample(float(at), rate, 5.0) for at, rate in enumerate(rates)]
    names = ["layer4.1", "edge-only"]
    for cost_s in (0.0, 0.05, 0.2, 5.0):
        found = over_trace(report, names, trace, switch_cost_s=cost_s, requests_per_s=2.0)
        waits = []
        for rate in rates:
            there = with_network(report, replace(report.network, uplink_bps=rate))
            waits.append([there.find(name).latency_s.total.median for name in names])  # type: ignore[union-attr]
        best = min(
            sum(5.0 * 2.0 * waits[step][choice] for step, choice in enumerate(path))
            + 4 * cost_s * sum(a != b for a, b in zip(path, path[1:], strict=False))
            for path in np.ndindex(2, 2, 2)
        )
        assert found.schedule_mean_latency_s == pytest.approx(best / (3 * 5.0 * 2.0))


# --- what is written --------------------------------------------------------------------------


def test_a_report_tells_its_batch_and_one_of_single_inputs_looks_as_before() -> None:
    report = recommend(in_batch(make_report(), 8), constraints=Constraints(), objective=FAST)
    document = json.loads(json.dumps(report_to_json(report)))
    check_schema(document)
    assert document["batch"] == 8
    assert report_from_json(document) == report
    first = document["cuts"][1]
    busy_s = max(first["latency_s"][stage]["median"] for stage in ("edge", "cloud"))
    busy_s = max(busy_s, 8 * 8 * first["payload_bytes"] / report.network.uplink_bps)
    assert first["throughput_per_s"] == pytest.approx(8 / busy_s)
    lines = list(csv.DictReader(io.StringIO(cuts_csv(report))))
    assert {line["batch"] for line in lines} == {"8"}
    assert float(lines[1]["throughput_per_s"]) == pytest.approx(8 / busy_s)
    assert "batch" not in report_to_json(make_report())
    assert report_from_json(report_to_json(make_report())).batch == 1
    assert json.dumps(report_to_json(in_batch(make_report(), 1)))  # N = 1 is no other report
    alone = recommend(in_batch(make_report(), 1), constraints=Constraints(), objective=FAST)
    known = recommend(make_report(), constraints=Constraints(), objective=FAST)
    assert alone.recommendation is not None and known.recommendation is not None
    assert alone.recommendation.why == known.recommendation.why


def test_the_table_says_what_is_of_a_request_and_what_of_an_input() -> None:
    report = recommend(in_batch(make_report(), 8), constraints=Constraints(), objective=FAST)
    note = "8 inputs a request: latency and memory are of a request; energy, payload and"
    text = " ".join(render(report, width=140).split())
    assert "over wifi; 8 inputs a request" in text and note in text
    assert note in render(report, "md")
    assert "a request" not in render(make_report(), width=140)


def test_a_comparison_of_runs_tells_their_batches() -> None:
    reports = [make_report(), in_batch(make_report(), 8)]
    one, many = name_runs([Path("runs/b1"), Path("runs/b8")], reports)
    assert (line_of(one)[1], line_of(many)[1]) == ("resnet18", "resnet18; 8 inputs a request")
    assert ("Batch", "1 input a request", "8 inputs a request") in settings_of(*reports)


@pytest.mark.parametrize(
    ("batch", "told"),
    [(0, "a batch of one input or more, got 0"), (-3, "an integer of zero or more, got -3")],
)
def test_a_report_with_an_impossible_batch_is_refused(batch: int, told: str) -> None:
    document = report_to_json(make_report()) | {"batch": batch}
    with pytest.raises(ReportError, match=rf"\$\.batch: expected {told}"):
        report_from_json(document)


def test_rows_without_a_latency_stay_out() -> None:
    report = with_row(in_batch(make_report(), 4), "maxpool", latency_s=None)
    table = table_of(report)
    places = {row.name: column for column, row in enumerate(table.rows)}
    figures = case_figures(report, table, central_cases(report))
    assert math.isinf(figures.slowest_s[0, places["maxpool"]])
    assert with_network(report, NETWORKS["3g"]).find("maxpool").latency_s is None
