from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import MODEL, SMALL, splitdeploy
from factories import make_report, only
from hypothesis import given, settings
from hypothesis import strategies as st

from splitdeploy.cli.sweep import plan_file
from splitdeploy.partitioner.checks import check_options
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.rebase import with_network
from splitdeploy.partitioner.recommend import recommend
from splitdeploy.partitioner.schedule import (
    cheapest_path,
    network_of_trace,
    over_trace,
    weighted_quantile,
)
from splitdeploy.profiles.bandwidth_trace import TraceSample, read_trace
from splitdeploy.profiles.errors import UsageError
from splitdeploy.profiles.network import NETWORKS
from splitdeploy.profiles.report import Constraints, Objective, SweepReport
from splitdeploy.profiles.store import check_schema, report_from_json, report_to_json, write_report

INNER = ("cloud-only", "layer1.0", "layer3.0", "avgpool", "edge-only")


def slow_edge(factor: float = 60.0) -> SweepReport:
    """A device so slow that the cut depends on the rate."""
    rows = []
    for row in only(make_report(), *INNER).cuts:
        s = row.latency_s
        more = (factor - 1) * s.edge.median
        edge = replace(s.edge, median=factor * s.edge.median, p95=factor * s.edge.p95)
        total = replace(s.total, median=s.total.median + more, p95=s.total.p95 + more)
        rows.append(replace(row, latency_s=replace(s, edge=edge, total=total)))
    return replace(make_report(), cuts=tuple(rows))


def samples(rates: list[float], step: float = 1.0) -> tuple[TraceSample, ...]:
    return tuple(TraceSample(k * step, step, rate) for k, rate in enumerate(rates))


# --- the file -------------------------------------------------------------------------------


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "link.csv"
    path.write_text(text)
    return path


def test_a_trace_is_read_with_and_without_the_optional_columns(tmp_path: Path) -> None:
    short = read_trace(written(tmp_path, "time_s,uplink_bps\n0,1e6\n2,2e6\n3,5e5\n\n"))
    assert [(s.time_s, s.duration_s, s.uplink_bps) for s in short] == [
        (0.0, 2.0, 1e6), (2.0, 1.0, 2e6), (3.0, 1.0, 5e5),
    ]  # fmt: skip
    long = read_trace(written(tmp_path, "time_s,uplink_bps,downlink_bps,rtt_s\n5,1e6,2e6,0\n"))
    assert long == (TraceSample(5.0, 1.0, 1e6, 2e6, 0.0),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a line a sample below the header of the trace .*, got none"),
        ("time_s,uplink_bps\n", "expected a line a sample below the header"),
        ("0,1e6\n1,1e6\n", r"expected the header time_s,uplink_bps.*, got 0,1e6"),
        ("time_s,uplink_bps,uplnk\n0,1,1\n", "expected the header"),
        ("time_s,uplink_bps\n0,1e6\n0,2e6\n", "expected times that rise, got 0 after 0 in line 3"),
        ("time_s,uplink_bps\n1,1e6\n0,2e6\n", "expected times that rise, got 0 after 1 in line 3"),
        ("time_s,uplink_bps\n0,-1e6\n", "expected uplink_bps above zero in line 2 .*'-1e6'"),
        ("time_s,uplink_bps\n0,0\n", "write an outage as a low rate"),
        ("time_s,uplink_bps\n0,fast\n", "expected uplink_bps above zero in line 2 .*'fast'"),
        ("time_s,uplink_bps\nnan,1e6\n", "expected a number for time_s in line 2"),
        ("time_s,uplink_bps\n0,1e6,3\n", "expected 2 fields in line 2 .*, got 3"),
        ("time_s,uplink_bps,rtt_s\n0,1e6,-1\n", "a number of zero or more for rtt_s in line 2"),
    ],
)
def test_a_trace_that_cannot_be_meant_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_trace(written(tmp_path, text))


def test_no_file_and_no_text_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the trace .*No such file"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot read the trace"):
        read_trace(tmp_path / "bytes.csv")


rates = st.floats(min_value=1.0, max_value=1e12)


@given(st.lists(st.tuples(st.floats(1e-3, 1e3), rates), min_size=1, max_size=12))
@settings(max_examples=40)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[float, float]]
) -> None:
    times = np.cumsum([step for step, _ in steps]).tolist()
    lines = [f"{t!r},{rate!r}" for t, (_, rate) in zip(times, steps, strict=True)]
    path = tmp_path_factory.mktemp("trace") / "link.csv"
    path.write_text("\n".join(["time_s,uplink_bps", *lines]) + "\n")
    read = read_trace(path)
    assert [(s.time_s, s.uplink_bps) for s in read] == list(
        zip(times, [rate for _, rate in steps], strict=True)
    )
    assert all(sample.duration_s > 0 for sample in read)


# --- the schedule ---------------------------------------------------------------------------


@given(
    st.integers(1, 6).flatmap(
        lambda steps: st.lists(
            st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=steps, max_size=steps
        )
    ),
    st.integers(0, 6),
)
@settings(max_examples=120, deadline=None)
def test_the_schedule_is_the_best_of_all(costs: list[list[int]], switch: int) -> None:
    def cost(path: tuple[int, ...]) -> float:
        changes = sum(a != b for a, b in itertools.pairwise(path))
        return sum(costs[k][c] for k, c in enumerate(path)) + switch * changes

    path, total = cheapest_path(np.array(costs, dtype=float), float(switch))
    every = itertools.product(range(3), repeat=len(costs))
    assert total == cost(tuple(path.tolist())) == min(cost(p) for p in every)


def test_a_schedule_follows_the_rate_until_switching_costs_too_much() -> None:
    report = slow_edge()
    trace = samples([100e6] * 3 + [1e5] * 3 + [100e6] * 3)
    free = over_trace(report, INNER, trace)
    assert [s.cut for s in free.schedule] == ["cloud-only", "edge-only", "cloud-only"]
    assert [(s.from_s, s.to_s) for s in free.schedule] == [(0, 3), (3, 6), (6, 9)]
    dear = over_trace(report, INNER, trace, switch_cost_s=1e3)
    assert len(dear.schedule) == 1
    assert dear.schedule[0].cut == dear.best_single
    best = next(row for row in dear.cuts if row.cut == dear.best_single)
    assert dear.schedule_mean_latency_s == pytest.approx(best.mean_latency_s)
    assert free.schedule_mean_latency_s < dear.schedule_mean_latency_s
    # What a switch costs is shared by the requests: with more of them it pays again.
    busy = over_trace(report, INNER, trace, switch_cost_s=1.0, requests_per_s=1000)
    assert len(busy.schedule) == 3


def test_means_and_percentiles_are_those_of_the_cut_over_each_rate() -> None:
    report = slow_edge()
    trace = (TraceSample(0, 9.0, 5e6), TraceSample(9, 1.0, 1e5, 1e5, 0.2))
    found = over_trace(report, INNER, trace)
    for row in found.cuts:
        seen = []
        for sample in trace:
            up, down, rtt = sample.over(report.network)
            network = replace(report.network, uplink_bps=up, downlink_bps=down, rtt_s=rtt)
            moved = with_network(report, network).find(row.cut)
            seen.append(moved.latency_s.total.median)
        assert row.mean_latency_s == pytest.approx(0.9 * seen[0] + 0.1 * seen[1])
        assert row.p95_latency_s == pytest.approx(seen[1])


def test_weighted_quantiles() -> None:
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([1.0, 5.0, 4.0])
    assert [weighted_quantile(values, weights, q) for q in (0.5, 0.6, 0.9, 0.95)] == [1, 2, 2, 3]


def test_the_middle_of_a_trace_is_its_network() -> None:
    network = network_of_trace(samples([1e6, 3e6, 9e6]), NETWORKS["lte"])
    assert (network.name, network.uplink_bps, network.radio) == ("trace", 3e6, "lte")
    assert network.rtt_s == NETWORKS["lte"].rtt_s


@given(st.floats(1e3, 1e9), st.floats(1.0, 100.0), st.sampled_from(INNER))
@settings(max_examples=50, deadline=None)
def test_more_bandwidth_never_raises_a_latency(rate: float, factor: float, cut: str) -> None:
    report = slow_edge()
    slow = over_trace(report, [cut], samples([rate]))
    fast = over_trace(report, [cut], samples([rate * factor]))
    assert fast.cuts[0].mean_latency_s <= slow.cuts[0].mean_latency_s


# --- the command ----------------------------------------------------------------------------


def test_recommend_tells_what_a_trace_makes_of_the_cuts(tmp_path: Path) -> None:
    write_report(slow_edge(), tmp_path)
    lines = [f"{k},{rate}" for k, rate in enumerate([100e6] * 5 + [2e5] * 4)]
    path = written(tmp_path, "\n".join(["time_s,uplink_bps", *lines]))
    command = ("recommend", tmp_path, "--trace", path, "--switch-cost", "10ms")
    shown = splitdeploy(*command, "--objective", "latency", "--format", "json")
    assert shown.code == 0, shown.err
    document = json.loads(shown.out)
    assert document["cut"] == "cloud-only"
    assert [row["cut"] for row in document["trace"]["schedule"]] == ["cloud-only", "edge-only"]
    assert document["trace"]["switch_cost_s"] == 0.01
    assert any("is the best single cut: mean latency" in text for text in document["why"])
    assert any("switches 1 times between cloud-only and edge-only" in t for t in document["why"])
    # The rates of the trace are what is uncertain of the link.
    assert document["probability_best"] == pytest.approx(5 / 9, abs=0.03)
    assert document["settle"][0]["part"] == "network"
    assert "Choosing the cut by the rate of the moment" in document["settle"][0]["text"]
    # At the median rate cloud-only is best; on the mean the slow stretch outweighs it.
    assert document["least_regret"] == document["trace"]["best_single"] == "edge-only"
    assert any("edge-only is the safer choice: its expected" in t for t in document["why"])


def test_a_bad_trace_is_a_line_and_exit_code_two(tmp_path: Path) -> None:
    write_report(slow_edge(), tmp_path)
    for text in ("", "time_s,uplink_bps\n0,-1\n", "time_s,uplink_bps\n2,1\n1,1\n"):
        shown = splitdeploy("recommend", tmp_path, "--trace", written(tmp_path, text))
        assert (shown.code, shown.out) == (2, "")
        assert len(shown.err.strip().splitlines()) == 1, shown.err


def test_what_contradicts_a_trace_or_needs_one_is_refused(tmp_path: Path) -> None:
    write_report(slow_edge(), tmp_path)
    path = written(tmp_path, "time_s,uplink_bps\n0,1e6\n")
    for options, message in (
        (("--trace", path, "--uplink", "1mbit"), "expected no --uplink here, got 1mbit: a trace"),
        (("--trace", path, "--uplink-spread", "0.2"), "expected no --uplink-spread here"),
        (("--switch-cost", "1s"), "expected no --switch-cost here, got 1s: it needs a --trace"),
        (("--fps", "30"), "expected no --fps here, got 30.0: it needs a --trace"),
    ):
        shown = splitdeploy("recommend", tmp_path, *options)
        assert (shown.code, shown.out) == (2, "")
        assert message in shown.err


DRIVE = "time_s,uplink_bps\n0,40e6\n10,6e6\n30,2e5\n34,9e6\n"


def test_profile_decides_over_a_trace_as_recommend_does(tmp_path: Path) -> None:
    trace = ("--trace", written(tmp_path, DRIVE), "--switch-cost", "3ms", "--fps", "20")
    command = ("profile", MODEL, *SMALL, "--no-privacy", "-q", "--device", "jetson-nano",
               "--network", "lte", "--max-latency", "400ms", "--confidence", "0.5")  # fmt: skip
    shown = splitdeploy(*command, *trace, "--out", tmp_path / "driven", "--format", "json")
    assert shown.code == 0, shown.err
    found = json.loads(shown.out)
    check_schema(found)
    assert (found["network"]["name"], found["network"]["uplink_bps"]) == ("trace", 6e6)
    drive = found["recommendation"]["trace"]
    assert (drive["samples"], drive["requests_per_s"], drive["switch_cost_s"]) == (4, 20, 0.003)
    # What recommend makes of a run over the plain network is the same, to rounding.
    assert splitdeploy(*command, "--out", tmp_path / "plain").code == 0
    limits = ("--max-latency", "400ms", "--confidence", "0.5", "--network", "lte")
    anew = splitdeploy("recommend", tmp_path / "plain", *limits, *trace, "--format", "json")
    expected = json.loads(anew.out)
    assert expected["cut"] == found["recommendation"]["cut"]
    assert expected["trace"]["schedule"] == drive["schedule"]
    assert expected["trace"]["schedule_mean_latency_s"] == pytest.approx(
        drive["schedule_mean_latency_s"], rel=1e-9
    )


def test_what_contradicts_a_trace_in_profile_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, DRIVE)
    for options, message in (
        (("--trace", path, "--uplink", "1mbit"), "expected no --uplink here, got 1mbit: a trace"),
        (("--switch-cost", "1s"), "expected no --switch-cost here, got 1s: it needs a --trace"),
        (("--trace", path, "--switch-cost", "soon"), "expected a time with a unit"),
        (("--trace", tmp_path / "no.csv"), "cannot read the trace .*No such file"),
    ):
        shown = splitdeploy("profile", MODEL, *SMALL, "--out", tmp_path / "run", *options)
        assert (shown.code, shown.out) == (2, "")
        assert re.search(message, shown.err) and not (tmp_path / "run").exists()
    for wrong in (ProfileOptions("m", trace=()), ProfileOptions("m", switch_cost_s=-1.0)):
        with pytest.raises(UsageError, match="expected a trace of at least one sample and"):
            check_options(wrong)


def test_a_trace_stands_in_a_sweep_file(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(
        f"models: [resnet18]\nnetworks: [lte, {{trace: {written(tmp_path, DRIVE)}, "
        "switch-cost: 20ms, fps: 5}]\n"
    )
    lte, driven = plan_file(tmp_path / "fleet.yaml")
    assert lte.options.trace is None
    assert len(driven.options.trace or ()) == 4 and driven.options.switch_cost_s == 0.02
    (tmp_path / "fleet.yaml").write_text("models: [resnet18]\nswitch-cost: 20ms\n")
    with pytest.raises(UsageError, match="run resnet18: expected no --switch-cost here"):
        plan_file(tmp_path / "fleet.yaml")


def test_the_spread_of_the_link_is_given_on_the_command_line(tmp_path: Path) -> None:
    write_report(slow_edge(), tmp_path)
    command = ("recommend", tmp_path, "--uplink", "12mbit", "--objective", "latency")
    shares = []
    for spread in ("0.01", "0.6"):
        shown = splitdeploy(*command, "--uplink-spread", spread, "--format", "json")
        assert shown.code == 0, shown.err
        document = json.loads(shown.out)
        part = next(p for p in document["uncertain_parts"] if p["name"] == "network")
        assert part["common"] == float(spread)
        shares.append(document["probability_best"])
    assert shares[0] > shares[1]


def test_a_report_with_a_trace_survives_the_file() -> None:
    decided = recommend(
        slow_edge(),
        constraints=Constraints(),
        objective=Objective("latency"),
        trace=samples([1e6, 5e7, 2e5]),
    )
    document = json.loads(json.dumps(report_to_json(decided), allow_nan=False))
    check_schema(document)
    assert report_from_json(document) == decided


def test_a_report_without_latencies_has_nothing_over_a_trace() -> None:
    rows = tuple(replace(row, latency_s=None) for row in make_report().cuts)
    with pytest.raises(UsageError, match="--trace needs latencies, and no cut"):
        over_trace(replace(make_report(), cuts=rows), INNER, samples([1e6]))
