"""A sweep with a second cut: its figures, its report, another network, the page, bad input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import splitdeploy
from headless import needs_browser, open_at, start

from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.edge_runtime.segments import SegmentSums, SegmentTimes
from splitdeploy.partitioner.costs import one_after_other
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.profile import profile
from splitdeploy.partitioner.rebase import with_network
from splitdeploy.partitioner.recommend import recommend
from splitdeploy.partitioner.render_html import render_html
from splitdeploy.partitioner.render_table import render
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY
from splitdeploy.profiles.errors import ReportError
from splitdeploy.profiles.measurement import Measurement
from splitdeploy.profiles.network import NETWORKS, NetworkProfile
from splitdeploy.profiles.report import Constraints, Objective, SweepReport
from splitdeploy.profiles.store import check_schema, read_report, report_from_json, report_to_json

MODEL, RETURN = "small_models:skipping", "mul"
SLOW = NetworkProfile("slow", 2e6, 1e5, 0.03, "lte")
OPTIONS = ProfileOptions(
    MODEL, device="jetson-nano", precision="fp16", cuts="all", return_at=RETURN, privacy=False,
    image_count=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "two"
    # The edge alone would be picked; a head of half the size has to be sent somewhere.
    profile(replace(OPTIONS, objective=Objective("latency")), out)
    return out


@pytest.fixture(scope="module")
def report(run: Path) -> SweepReport:
    return read_report(run)


@pytest.fixture(scope="module")
def one_cut(tmp_path_factory: pytest.TempPathFactory) -> SweepReport:
    out = tmp_path_factory.mktemp("runs") / "one"
    return profile(replace(OPTIONS, return_at=None), out)


def test_rows_lie_before_the_return_and_are_verified(
    report: SweepReport, one_cut: SweepReport
) -> None:
    names = [row.name for row in report.cuts]
    before = [row.name for row in one_cut.cuts]
    assert names == [*before[: before.index(RETURN)], EDGE_ONLY]
    assert all(row.verified and row.verified.ok and row.error is None for row in report.cuts)
    assert [row.cut.index for row in report.cuts] == list(range(len(names)))
    for row in report.cuts[:-1]:
        assert row.cut.last is not None and row.cut.last.returned
        assert {tensor.dtype for tensor in row.cut.last.returned} == {"float16"}
        assert row.codec_loss is not None and row.codec_loss.max_rel_error < 1e-2


def test_both_parts_of_the_edge_are_paid(report: SweepReport, one_cut: SweepReport) -> None:
    ends = one_cut.find(RETURN)
    assert ends.latency_s is not None
    for row in report.cuts[1:-1]:
        alone = one_cut.find(row.name)
        assert row.latency_s is not None and alone.latency_s is not None
        assert row.energy_j is not None and alone.energy_j is not None
        assert row.edge_memory_bytes is not None and alone.edge_memory_bytes is not None
        assert row.latency_s.edge.median > alone.latency_s.edge.median
        assert row.latency_s.cloud.median < alone.latency_s.cloud.median
        assert row.energy_j.compute > alone.energy_j.compute
        assert row.edge_memory_bytes > alone.edge_memory_bytes
        assert row.cut.head_macs == alone.cut.head_macs + ends.cut.tail_macs
    first = report.find(CLOUD_ONLY)
    assert first.latency_s is not None and first.latency_s.edge.median > 0
    assert first.edge_memory_bytes and first.cut.head_macs == ends.cut.tail_macs


def test_each_row_has_its_own_downlink(report: SweepReport) -> None:
    assert report.result_bytes == 4 * 5  # five scores in float32
    by_name = {row.name: row.cut.last.downlink_bytes for row in report.cuts if row.cut.last}
    # relu is made in the cloud, and comes back with mul, unless the head made it.
    assert by_name[CLOUD_ONLY] == 2 * by_name["relu"] == 2 * (2 * 4 * 16 * 16)
    for network in (report.network, SLOW, NETWORKS["lte"]):
        for row in with_network(report, network).cuts[:-1]:
            assert row.latency_s is not None
            want = network.downlink_s(by_name[row.name])
            assert row.latency_s.downlink.median == pytest.approx(want)


def test_another_network_is_what_a_run_over_it_says(report: SweepReport, tmp_path: Path) -> None:
    there = profile(replace(OPTIONS, network=SLOW), tmp_path / "there")
    for seen, row in zip(with_network(report, SLOW).cuts, there.cuts, strict=True):
        assert seen.latency_s is not None and row.latency_s is not None
        assert seen.energy_j is not None and row.energy_j is not None
        assert seen.latency_s.total.median == pytest.approx(row.latency_s.total.median)
        assert seen.energy_j.total == pytest.approx(row.energy_j.total)


def test_the_report_tells_of_it(run: Path, report: SweepReport) -> None:
    assert report.return_at == RETURN
    assert "the last layers, behind mul, run at the edge" in render(report)
    assert "the last layers, behind mul, run at the edge" in (run / "report.html").read_text()
    told = " ".join(report.warnings)
    assert "the cloud does not compute the result; but it computes the features at mul" in told
    document = json.loads((run / "report.json").read_text())
    check_schema(document)
    again = report_from_json(document)
    assert again == report and report_to_json(again) == document
    row = document["cuts"][1]
    assert {tensor["name"] for tensor in row["returned"]} >= {"mul"}
    assert row["downlink_bytes"] == sum(tensor["bytes"] for tensor in row["returned"])
    assert "returned" not in document["cuts"][-1]
    row["downlink_bytes"] += 1
    told = r"at \$.cuts\[1\].downlink_bytes: expected \d+, the sum of what is returned"
    with pytest.raises(ReportError, match=told):
        report_from_json(document)


def test_the_recommended_bundle_has_three_parts(tmp_path: Path) -> None:
    limit = Constraints(max_edge_memory_bytes=None, max_latency_s=None)
    options = replace(
        OPTIONS, device="local", cloud="local", precision="fp32", cuts="relu",
        network=NetworkProfile("fast", 1e11, 1e11, 0.0), constraints=limit,
    )  # fmt: skip
    out = tmp_path / "run"
    found = profile(options, out)
    assert found.recommendation is not None
    bundle = read_bundle(out / "bundle")
    picked = found.recommendation.cut
    assert bundle.return_at == (None if picked == EDGE_ONLY else RETURN)
    for row in found.cuts:
        assert row.latency_s is not None and row.latency_s.edge.source in {"measured", "predicted"}
    middle, whole = found.find("relu"), found.find(EDGE_ONLY)
    assert middle.latency_s is not None and whole.latency_s is not None
    # Head, middle and last part are the whole run's operators, and handing out boundaries; what
    # messages take comes on top.
    ends = found.edge.messages, found.cloud.messages
    assert ends[0] is not None and ends[1] is not None and middle.cut.last is not None
    size_bytes = middle.cut.payload_bytes + middle.cut.last.downlink_bytes
    total = middle.latency_s.edge.median + middle.latency_s.cloud.median
    total -= sum(end.of(size_bytes) for end in ends if end is not None)
    assert total == pytest.approx(whole.latency_s.edge.median, rel=0.6)


def test_edge_only_warns_of_its_tail(report: SweepReport) -> None:
    bound = recommend(report, constraints=Constraints(), objective=Objective("latency"))
    assert bound.recommendation is not None and bound.recommendation.cut == EDGE_ONLY
    told = " ".join(bound.recommendation.warnings)
    assert "run the bundle of edge-only with splitdeploy run --local" in told


def test_outer_and_middle_share_a_run() -> None:
    heads = np.array([[1.0, 4.0], [2.0, 6.0]])
    whole = np.array([10.0, 12.0])
    handed = np.array([[0.1, 0.5], [0.2, 0.5]])
    sums = SegmentSums(heads, whole[:, None] + handed - heads, whole, handed)
    times = SegmentTimes.summarise(
        SegmentSums(sums.heads[:1], sums.tails[:1], sums.whole[:1], sums.handovers[:1]), sums, 0.0
    )
    outer, middle = times.around(0, 1)
    assert outer.median == pytest.approx(1.0 + 6.5) and middle.median == pytest.approx(
        9.1 - 6.5 + 0.5
    )
    # What only hands a boundary out comes on top of the whole.
    assert outer.median + middle.median == pytest.approx(10.0 + 0.1 + 0.5)
    outer, middle = times.around(None, 1)
    assert outer.median == pytest.approx(6.5) and middle.median == pytest.approx(10 - 6.5 + 0.5)


def test_two_parts_of_one_device_add_up() -> None:
    first = Measurement.single(0.003, "simulated", 0.004), 0.5
    second = Measurement.single(0.001, "simulated", 0.0015), 0.1
    both, load = one_after_other(first, second)
    assert (both.median, both.p95) == pytest.approx((0.004, 0.0055))
    assert load == pytest.approx((0.003 * 0.5 + 0.001 * 0.1) / 0.004) and both.source == "simulated"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--return-at", "nowhere"), 2, "unknown cut 'nowhere'"),
        (("--return-at", "cloud-only"), 2, "between the two ends, got cloud-only"),
        (("--return-at", "edge-only"), 2, "between the two ends, got edge-only"),
        (("--return-at", "relu", "--cuts", "mul"), 2, "got relu, and no cut lies before it"),
        (("--return-at", "mul", "--cuts", "block,optimal"), 2, "got optimal, which is found for"),
        (("--return-at", "mul", "--device", "ssh://a@b"), 2, "over ssh heads are timed"),
    ],
)
def test_what_cannot_be_meant(
    tmp_path: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    out = tmp_path / "run"
    outcome = splitdeploy("profile", MODEL, "--no-privacy", "-q", "--out", out, *arguments)
    assert outcome.code == code and told in outcome.err
    assert len(outcome.err.splitlines()) == 1 and not out.exists()


def test_rows_of_another_return_are_not_taken_up(tmp_path: Path) -> None:
    options = replace(OPTIONS, cuts="relu")
    profile(options, tmp_path / "run")
    again = profile(replace(options, return_at="cat", resume=True), tmp_path / "run")
    last = again.find("relu").cut.last
    assert last is not None and [tensor.name for tensor in last.returned] == ["cat"]
    assert again.return_at == "cat"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield from start(tmp_path_factory.mktemp("profile"))


ASK = """
const [network, objective] = arguments;
const data = JSON.parse(document.getElementById("report-data").textContent);
const limits = Object.fromEntries(Object.keys(data.constraints).map((key) => [key, null]));
const found = Decide.decide(data, { network, limits, objective });
return found.ranking.map((f) => [f.name, f.latency, f.energy]);
"""


@needs_browser
def test_the_page_prices_each_downlink(
    browser: Any, run: Path, report: SweepReport, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text(render_html(report, run), encoding="utf-8")
    open_at(browser, page, 1280)
    objective = Objective("latency")
    for network in (SLOW, NetworkProfile("asymmetric", 1e9, 2e5, 0.001), NETWORKS["lte"]):
        shown = browser.execute_script(ASK, dict(vars(network)), dict(vars(objective)))
        seen = {row.name: row for row in with_network(report, network).cuts}
        assert {name for name, *_ in shown} == set(seen)
        for name, latency_s, energy_j in shown:
            row = seen[name]
            assert row.latency_s is not None and row.energy_j is not None
            assert latency_s == pytest.approx(row.latency_s.total.median)
            assert energy_j == pytest.approx(row.energy_j.total)
