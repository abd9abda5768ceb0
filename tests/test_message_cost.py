"""What a request costs its two ends: by closed form, over a real loopback, and in a run's rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import MODEL, SMALL, splitdeploy
from factories import make_report
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.edge_runtime import message_cost
from splitdeploy.edge_runtime.message_cost import Exchange, costs_of, measure_messages
from splitdeploy.partitioner import kept_times
from splitdeploy.partitioner.costs import with_messages
from splitdeploy.partitioner.device_fit import measured_latencies
from splitdeploy.partitioner.remote.results import read_messages, side_of
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY
from splitdeploy.profiles.errors import SessionError
from splitdeploy.profiles.measurement import Measurement
from splitdeploy.profiles.message_cost import MessageCost
from splitdeploy.profiles.store import read_report, write_report

small = st.floats(1e-5, 1e-2)
slope = st.floats(1e-11, 1e-8)


@given(small, slope, small, slope)
def test_lines_are_found_again(a: float, b: float, c: float, d: float) -> None:
    client, server = MessageCost(a, b), MessageCost(c, d)
    exchanges = [
        Exchange(size, client.of(size) + server.of(size), client.of(size), server.of(size))
        for size in (4_000, 250_000, 1_000_000)
        for _ in range(3)
    ]
    found = costs_of(exchanges)
    for got, want in ((found.client, client), (found.server, server)):
        for size in (0, 500_000, 2_000_000):
            assert got.of(size) == pytest.approx(want.of(size), rel=1e-6, abs=1e-9)


def test_a_pause_of_the_machine_does_not_move_the_line() -> None:
    calm = [Exchange(size, 2e-3 + 2e-9 * size, 1e-3, 1e-3) for size in (0, 10**6) for _ in range(9)]
    paused = [replace(one, seconds=1.0) if at % 4 == 0 else one for at, one in enumerate(calm)]
    assert costs_of(paused).client.of(0) == pytest.approx(costs_of(calm).client.of(0))


def test_neither_part_is_below_zero() -> None:
    falling = [Exchange(0, 4e-3, 1.0, 1.0), Exchange(10**6, 2e-3, 1.0, 1.0)]
    assert costs_of(falling).client == MessageCost(1.5e-3, 0.0)
    steep = [Exchange(10**5, 1e-4, 1.0, 1.0), Exchange(10**6, 2e-2, 1.0, 1.0)]
    assert costs_of(steep).server.request_s == 0.0


def test_a_real_exchange_costs_both_ends_something_and_bytes_cost_more() -> None:
    found = measure_messages()
    for end in (found.client, found.server):
        # A request takes microseconds at the least, and a second would be no loopback.
        assert 1e-6 < end.of(1 << 20) < 1.0
    assert found.client.of(1 << 22) + found.server.of(1 << 22) > (
        found.client.of(0) + found.server.of(0)
    )


def test_a_server_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_cost.sys, "executable", "/bin/false")
    with pytest.raises(SessionError, match="messages cost here cannot be measured: a server"):
        measure_messages()
    monkeypatch.setattr(message_cost.sys, "executable", "/nowhere/python")
    with pytest.raises(SessionError, match="messages cost here cannot be measured: .*No such file"):
        measure_messages()


def test_a_time_with_messages_keeps_its_scatter() -> None:
    computing = Measurement(0.010, 0.012, 0.1, 20, "stable", "measured")
    both = with_messages(computing, 0.010)
    assert (both.median, both.p95) == pytest.approx((0.020, 0.022))
    assert both.spread * both.median == pytest.approx(computing.spread * computing.median)
    assert (both.count, both.stability, both.source) == (20, "stable", "measured")
    nothing = with_messages(Measurement.single(0.0, "predicted"), 0.003)
    assert (nothing.median, nothing.source) == (0.003, "measured")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> message_cost.MessageCosts:
    costs = message_cost.MessageCosts(MessageCost(0.5, 1e-4), MessageCost(0.25, 1e-5))
    monkeypatch.setattr(kept_times, "measure_messages", lambda: costs)
    return costs


def local_run(out: Path, *more: object) -> dict[str, object]:
    done = splitdeploy(
        "profile", MODEL, *SMALL, "--device", "local", "--cloud", "local", "--cuts", "act,blocks.0",
        "--no-privacy", "-q", "--out", out, *more,
    )  # fmt: skip
    assert done.code == 0, done.err
    document: dict[str, object] = json.loads((out / "report.json").read_text())
    return document


def test_rows_of_measured_ends_hold_what_requests_cost(
    known: message_cost.MessageCosts, tmp_path: Path
) -> None:
    local_run(tmp_path)
    report = read_report(tmp_path)
    assert report.edge.messages == known.client and report.cloud.messages == known.server
    result = report.result_bytes
    assert result == 4 * 5
    for row in report.cuts:
        assert row.latency_s is not None
        computing = 0.05  # of a net this small, at the most
        sent = row.cut.payload_bytes + result
        edge, cloud = row.latency_s.edge.median, row.latency_s.cloud.median
        if row.name == EDGE_ONLY:
            assert edge < computing and cloud == 0.0
            continue
        assert known.client.of(sent) <= edge < known.client.of(sent) + computing
        assert known.server.of(sent) <= cloud < known.server.of(sent) + computing
        if row.name == CLOUD_ONLY:
            assert edge == known.client.of(sent) and row.latency_s.edge.source == "measured"
    assert "500 ms a request and 100 s a megabyte for messages" in report.edge.note


def test_a_resumed_run_takes_it_up(
    known: message_cost.MessageCosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = local_run(tmp_path)
    (tmp_path / "report.json").unlink()
    monkeypatch.setattr(kept_times, "measure_messages", lambda: pytest.fail("measured again"))
    assert local_run(tmp_path, "--resume")["cuts"] == first["cuts"]


def test_a_fit_takes_messages_off_again() -> None:
    report = make_report()
    cost = MessageCost(2e-3, 1e-9)
    rows = []
    for row in report.cuts:
        assert row.latency_s is not None
        edge = replace(row.latency_s.edge, source="measured", count=9)
        rows.append(replace(row, latency_s=replace(row.latency_s, edge=edge)))
    plain = replace(report, edge=replace(report.edge, source="measured"), cuts=tuple(rows))
    carried = []
    for row in rows:
        assert row.latency_s is not None
        edge = row.latency_s.edge
        if row.name != EDGE_ONLY:
            result_bytes = plain.result_bytes or plain.find(EDGE_ONLY).cut.payload_bytes
            edge = with_messages(edge, cost.of(row.cut.payload_bytes + result_bytes))
        carried.append(replace(row, latency_s=replace(row.latency_s, edge=edge)))
    loaded = replace(plain, edge=replace(plain.edge, messages=cost), cuts=tuple(carried))
    assert measured_latencies(loaded) == pytest.approx(measured_latencies(plain))


def test_a_report_says_it_and_is_read_again(tmp_path: Path) -> None:
    report = make_report()
    assert report.edge.messages is None
    write_report(report, tmp_path / "report.json")
    assert "messages" not in json.loads((tmp_path / "report.json").read_text())["edge"]
    told = replace(report, edge=replace(report.edge, messages=MessageCost(1e-3, 2e-9)))
    write_report(told, tmp_path / "report.json")
    assert read_report(tmp_path).edge.messages == MessageCost(1e-3, 2e-9)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (None, "told nothing"),
        ({"request_s": -1.0, "byte_s": 0.0}, "did not say why"),
        ({"request_s": float("nan"), "byte_s": 0.0}, "did not say why"),
        ({"request_s": 1.0}, "did not say why"),
        ({"error": "no gRPC here"}, "no gRPC here"),
    ],
)
def test_a_device_that_tells_no_cost_is_told_of(document: object, why: str) -> None:
    assert read_messages({"request_s": 1e-3, "byte_s": 0}) == (MessageCost(1e-3, 0.0), "")
    cost, reason = read_messages(document)
    assert cost is None and why in reason
    side = side_of("ssh://x", {}, [], document)
    assert side.messages is None
    assert f"what a request costs ssh://x is not in its times: {reason}" in side.warnings
