from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from factories import make_report, with_row

from splitdeploy.partitioner.case_figures import case_figures, case_scores, limit_values
from splitdeploy.partitioner.scoring import balanced_score, table_of
from splitdeploy.partitioner.uncertainty import (
    OWN_SHARE,
    Z95,
    central_cases,
    draw_cases,
    uncertain_parts,
)
from splitdeploy.profiles.bandwidth_trace import TraceSample
from splitdeploy.profiles.measurement import Measurement
from splitdeploy.profiles.network import NETWORKS, USUAL_SPREAD
from splitdeploy.profiles.report import Constraints, Objective, SweepReport


def part(report: SweepReport, name: str, **more: object):
    return next(p for p in uncertain_parts(report, **more) if p.name == name)


def cases_of(report: SweepReport, draws: int = 4000, **more: object):
    return draw_cases(report, uncertain_parts(report), draws=draws, **more)


def test_a_simulated_side_has_the_stated_error_of_its_device() -> None:
    edge = part(make_report(), "edge")
    # The factory states that 95 of 100 lie within 10 %.
    stated = math.log(1.1) / Z95
    assert edge.common**2 + edge.own**2 == pytest.approx(stated**2)
    assert edge.own**2 == pytest.approx(OWN_SHARE * stated**2)
    assert "jetson-orin-nano, simulated: the stated error" in edge.text
    drawn = cases_of(make_report()).edge_s[:, -1] / 3.85e-3
    assert np.median(drawn) == pytest.approx(1, abs=0.01)
    assert np.quantile(np.abs(np.log(drawn)), 0.95) == pytest.approx(math.log(1.1), rel=0.06)


def test_a_side_without_a_stated_error_has_none_and_says_so() -> None:
    cloud = part(make_report(), "cloud")
    assert (cloud.common, cloud.own) == (0.0, 0.0)
    assert "no error is stated" in cloud.text


def test_a_measured_side_has_the_spread_of_its_repetitions() -> None:
    report = make_report()
    for row in report.cuts[1:]:
        steady = Measurement(row.latency_s.edge.median, 1.0, 0.04, 25, "stable", "measured")
        report = with_row(report, row.name, latency_s=replace(row.latency_s, edge=steady))
    edge = part(report, "edge")
    assert edge.common == pytest.approx(0.04 / 1.349)
    assert edge.own == pytest.approx(1.2533 * 0.04 / 1.349 / 5)
    assert "measured: the spread of its repetitions" in edge.text
    for row in report.cuts[1:]:
        shaky = replace(row.latency_s.edge, stability="unstable")
        report = with_row(report, row.name, latency_s=replace(row.latency_s, edge=shaky))
    assert part(report, "edge").common == 0.1


def test_a_longer_head_takes_longer_in_every_case() -> None:
    cases = cases_of(make_report())
    assert (np.diff(cases.edge_s, axis=1) >= 0).all()
    assert (np.diff(cases.cloud_s, axis=1) <= 1e-18).all()
    # What is common stays common: neighbours move together.
    assert np.corrcoef(np.log(cases.edge_s[:, 5]), np.log(cases.edge_s[:, 6]))[0, 1] > 0.9


def test_the_network_is_common_to_all_rows_and_its_spread_is_told() -> None:
    assert part(make_report(), "network").common == USUAL_SPREAD["wifi"]
    assert "assumed" in part(make_report(), "network").text
    given = make_report(replace(NETWORKS["wifi"], uplink_spread=0.3))
    assert "given" in part(given, "network").text
    up, _, rtt = cases_of(given).rates(given.network)
    assert np.std(np.log(up)) == pytest.approx(0.3, rel=0.05)
    assert np.median(up) == pytest.approx(given.network.uplink_bps, rel=0.03)
    assert abs(np.corrcoef(up[:, 0], rtt[:, 0])[0, 1]) < 0.05


def test_a_trace_is_drawn_from_by_duration() -> None:
    trace = (TraceSample(0.0, 3.0, 1e6), TraceSample(3.0, 1.0, 9e6, 5e6, 0.1))
    report = make_report()
    parts = uncertain_parts(report, trace)
    up, down, rtt = draw_cases(report, parts, trace=trace).rates(report.network)
    assert set(np.unique(up)) == {1e6, 9e6}
    assert (up == 1e6).mean() == pytest.approx(0.75, abs=0.03)
    # What the file does not say is the network's own.
    assert set(np.unique(down)) == {5e6, report.network.downlink_bps}
    assert set(np.unique(rtt)) == {0.1, report.network.rtt_s}


def test_gain_and_fsinfo_err_together_and_the_interval_is_that_of_the_attack() -> None:
    report = make_report()
    cases = cases_of(report)
    k = [row.name for row in report.cuts].index("layer2.0")
    assert np.std(cases.gain[:, k]) == pytest.approx(0.02 + 0.03 * 1.61, rel=0.05)
    assert np.corrcoef(cases.gain[:, k], cases.fsinfo[:, k])[0, 1] == pytest.approx(1)
    assert np.std(cases.ssim[:, k]) == pytest.approx(0.1 / (2 * Z95), rel=0.05)


@pytest.mark.parametrize("network", ["3g", "wifi", "ethernet"])
def test_the_central_case_is_the_report(network: str) -> None:
    report = make_report(NETWORKS[network])
    report = with_row(report, "layer1.0", leakage=None, energy_j=None)
    report = with_row(report, "layer4.0", attacks=(), latency_s=None)
    report = with_row(report, "edge-only", attacks=(), leakage=None)
    table = table_of(report)
    figures = case_figures(report, table, central_cases(report))
    for k, row in enumerate(table.rows):
        assert figures.names[k] == row.name
        for mine, theirs in zip(
            (figures.latency_s, figures.energy_j, figures.leakage), row.point, strict=True
        ):
            assert mine[0, k] == pytest.approx(theirs, rel=1e-12)
    scores = case_scores(figures, table, Objective())
    expected = [balanced_score(row, table, Objective()) for row in table.rows]
    assert scores[0] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_subset_of_rows_has_the_same_cases() -> None:
    report = make_report()
    limits = Constraints(max_latency_s=1.0, max_ssim=0.5, max_fsinfo=0.0, max_energy_j=1.0)
    whole = limit_values(report, cases_of(report, 200), limits)
    names = ("layer2.0", "avgpool")
    columns = [[row.name for row in report.cuts].index(name) for name in names]
    some = replace(report, cuts=tuple(report.find(name) for name in names))
    cut = limit_values(some, cases_of(report, 200, names=names), limits)
    for name, values in whole.items():
        assert np.array_equal(np.broadcast_to(values, (200, 12))[:, columns], cut[name])


def test_the_same_seed_gives_the_same_cases_and_another_seed_others() -> None:
    one, same = cases_of(make_report(), 50), cases_of(make_report(), 50)
    assert np.array_equal(one.edge_s, same.edge_s) and np.array_equal(one.link, same.link)
    assert not np.array_equal(one.edge_s, cases_of(make_report(), 50, seed=1).edge_s)
