"""Throughput of a pipeline of the stages: by hand, played through, and as a pick."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from factories import make_report, with_row
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.partitioner.recommend import recommend
from splitdeploy.partitioner.render_html import render_html
from splitdeploy.partitioner.render_table import render
from splitdeploy.partitioner.scoring import OBJECTIVES
from splitdeploy.profiles.errors import UsageError
from splitdeploy.profiles.measurement import Measurement
from splitdeploy.profiles.network import NETWORKS, NetworkProfile
from splitdeploy.profiles.report import Constraints, Objective, StageLatency
from splitdeploy.profiles.store import check_schema, cuts_csv, report_from_json, report_to_json
from splitdeploy.profiles.throughput import slowest_stage_s, throughput_per_s

LINK = NetworkProfile("test", 8e6, 16e6, 0.020, "wifi")
FAST = Objective("throughput")


def stages(edge: float, up: float, cloud: float, down: float) -> StageLatency:
    parts = [Measurement.single(value, "simulated") for value in (edge, up, cloud, down)]
    return StageLatency(*parts, Measurement.single(edge + up + cloud + down, "simulated"))


def test_the_slowest_stage_sets_the_pace_and_the_round_trip_does_not() -> None:
    assert throughput_per_s(stages(0.004, 0.030, 0.001, 0.011), LINK) == pytest.approx(50.0)
    assert throughput_per_s(stages(0.100, 0.030, 0.001, 0.011), LINK) == pytest.approx(10.0)
    assert throughput_per_s(None, LINK) is None
    assert throughput_per_s(stages(0.0, 0.010, 0.0, 0.010), LINK) is None


seconds = st.floats(1e-4, 1.0)


@given(seconds, seconds, seconds, seconds)
def test_a_pipeline_that_is_played_through_completes_as_many(
    edge: float, up: float, cloud: float, down: float
) -> None:
    """The oracle: each stage takes the next inference once it and the one before are done."""
    trip = LINK.rtt_s / 2
    count, ready = 400, [0.0] * 4
    first = 0.0
    for inference in range(count):
        arrives = 0.0
        for at, busy in enumerate((edge, up, cloud, down)):
            begins = max(arrives, ready[at])
            ready[at] = begins + busy
            arrives = ready[at] + (trip if at in {1, 3} else 0.0)
        if inference == 0:
            first = arrives
    pace = (count - 1) / (arrives - first)
    found = throughput_per_s(stages(edge, up + trip, cloud, down + trip), LINK)
    assert found == pytest.approx(pace, rel=1e-6)


def test_the_pick_has_the_most_inferences_a_second_and_says_so() -> None:
    report = recommend(make_report(), constraints=Constraints(), objective=FAST)
    assert report.recommendation is not None
    pace = {row.name: throughput_per_s(row.latency_s, report.network) or 0.0 for row in report.cuts}
    pick = report.recommendation.cut
    assert pace[pick] == max(pace.values())
    assert "highest throughput" in report.recommendation.why[0]
    assert f"{pace[pick]:.3g} a second" in report.recommendation.why[0]
    assert "throughput" in OBJECTIVES


def test_another_network_changes_the_pace() -> None:
    report = make_report(NETWORKS["wifi"])
    slow = recommend(report, constraints=Constraints(), objective=FAST, network=NETWORKS["3g"])
    row = report.find("maxpool")
    assert row.latency_s is not None
    payload_s = row.cut.payload_bytes * 8 / NETWORKS["3g"].uplink_bps
    over = slow.find("maxpool").latency_s
    assert over is not None
    assert slowest_stage_s(over, NETWORKS["3g"]) == pytest.approx(payload_s)


def test_every_form_of_the_report_tells_it() -> None:
    report = recommend(make_report(), constraints=Constraints(), objective=FAST)
    document = json.loads(json.dumps(report_to_json(report)))
    check_schema(document)
    first = report.cuts[1]
    rate = throughput_per_s(first.latency_s, report.network)
    assert document["cuts"][1]["throughput_per_s"] == pytest.approx(rate)
    assert report_from_json(document) == report
    header, line = (text.split(",") for text in cuts_csv(report).splitlines()[:3:2])
    assert float(line[header.index("throughput_per_s")]) == pytest.approx(rate)
    assert "per s" in render(report, width=140)
    assert f" {rate:.3g} |" in render(report, "md")
    assert "per s" not in render(replace(report, objective=Objective()), width=140)


def test_what_the_set_is_over_is_said_wherever_it_is_marked() -> None:
    for objective, words in ((FAST, "throughput, latency"), (Objective(), "latency")):
        report = recommend(make_report(), constraints=Constraints(), objective=objective)
        note = f"◆ on the Pareto set of {words}, energy and leakage index."
        assert note in render(report) and note in render(report, "md")
        hidden = "" if objective is FAST else " hidden"
        page = render_html(report, ".")
        assert f"set of <span data-throughput{hidden}>throughput, </span>latency, energy" in page
        assert f"set (<span data-throughput{hidden}>throughput, </span>latency, energy" in page
        assert (" a second</title>" in page) == (objective is FAST)


def test_throughput_needs_latency_figures() -> None:
    report = make_report()
    for row in report.cuts:
        report = with_row(report, row.name, latency_s=None)
    with pytest.raises(UsageError, match="objective throughput needs latency figures"):
        recommend(report, constraints=Constraints(), objective=FAST)
    report = with_row(make_report(), "maxpool", latency_s=None)
    judged = recommend(report, constraints=Constraints(), objective=FAST)
    assert judged.find("maxpool").violations == (
        "has no latency figure, which the objective asks for",
    )
