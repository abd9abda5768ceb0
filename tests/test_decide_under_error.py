from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import MODEL, SMALL, splitdeploy
from factories import make_report, make_row, only, with_row
from hypothesis import given, settings
from hypothesis import strategies as st

from splitdeploy.partitioner.decide_under_error import chances, decide_under_error, least_limits
from splitdeploy.partitioner.recommend import judge, recommend
from splitdeploy.profiles.errors import InfeasibleError, UsageError
from splitdeploy.profiles.measurement import Measurement
from splitdeploy.profiles.network import NETWORKS, NetworkProfile
from splitdeploy.profiles.report import Constraints, CutReport, Objective, SweepReport

LATENCY = Objective("latency")
FREE = Constraints()
LINK = NetworkProfile("custom", 20e6, 20e6, 0.01, "wifi", uplink_spread=0.25)


def stated(row: CutReport, edge: float, cloud: float) -> CutReport:
    """The row with these errors of its two sides, at 95 of 100."""
    s = row.latency_s
    return replace(
        row,
        latency_s=replace(
            s,
            edge=Measurement.single(s.edge.median, "simulated", s.edge.median * (1 + edge)),
            cloud=Measurement.single(s.cloud.median, "predicted", s.cloud.median * (1 + cloud)),
        ),
    )


def line_report(
    edge_ms: list[float],
    channels: list[int],
    cloud_ms: list[float],
    *,
    errors: tuple[float, float] = (0.3, 0.3),
    network: NetworkProfile = LINK,
) -> SweepReport:
    """Latencies alone: edge times that rise, cloud times that fall, payloads as they come."""
    rows = []
    for k, (edge, wide, cloud) in enumerate(zip(edge_ms, channels, cloud_ms, strict=True)):
        row = make_row(
            k, f"b{k}", (1, wide, 28, 28), k / len(edge_ms), edge, cloud, 1.0, 0.5, True,
            network=network,
        )  # fmt: skip
        bare = replace(row, leakage=None, attacks=(), baseline=None, energy_j=None)
        rows.append(stated(bare, *errors))
    return replace(make_report(network), cuts=tuple(rows))


def random_report(rng: np.random.Generator, **more: object) -> SweepReport:
    edge = np.cumsum(rng.uniform(1, 12, 5)).tolist()
    cloud = np.cumsum(rng.uniform(0.2, 3, 5))[::-1].tolist()
    channels = rng.integers(8, 64, 5).tolist()
    return line_report(edge, channels, cloud, **more)  # type: ignore[arg-type]


def truth(report: SweepReport, rng: np.random.Generator) -> np.ndarray:
    """True latencies, drawn from the stated errors by code of their own.

    A common log-normal factor a side with three quarters of the variance, and a gamma process over
    the stretches between the cuts for the rest.
    """
    sides = []
    for side in ("edge", "cloud"):
        times = np.array([getattr(row.latency_s, side).median for row in report.cuts])
        first = getattr(report.cuts[0].latency_s, side)
        sigma = math.log(first.p95 / first.median) / 1.96
        own = sigma**2 / 4
        order = np.argsort(times)
        true, before, spent = np.empty(len(times)), 0.0, 0.0
        for k in order:
            share = (times[k] - before) / times.max()
            spent += rng.gamma(share / own) * own * times.max() if share > 0 else 0.0
            true[k], before = spent, times[k]
        sides.append(true * math.exp(rng.normal() * sigma * math.sqrt(0.75)))
    link = report.network
    rate, trip = np.exp(rng.normal(size=2) * link.uplink_spread)
    bits = np.array([8.0 * row.cut.payload_bytes for row in report.cuts])
    up_s = bits / (link.uplink_bps * rate)
    down_s = 8 * 4000 / (link.downlink_bps * rate)
    return sides[0] + sides[1] + up_s + down_s + link.rtt_s * trip


def test_a_probability_of_being_best_is_right_that_often() -> None:
    rng = np.random.default_rng(11)
    told, right = [], []
    for _ in range(400):
        report = random_report(rng)
        names = [row.name for row in report.cuts]
        found = decide_under_error(
            report, names, names[0], constraints=FREE, objective=LATENCY, draws=1500
        )
        shares = [row.probability_best for row in found.candidates]
        assert sum(shares) == pytest.approx(1)
        pick = int(np.argmax(shares))
        for _ in range(10):
            told.append(shares[pick])
            right.append(int(np.argmin(truth(report, rng))) == pick)
    told_all, right_all = np.array(told), np.array(right)
    for low, high in ((0.0, 0.6), (0.6, 0.75), (0.75, 0.85), (0.85, 0.95), (0.95, 1.01)):
        inside = (told_all >= low) & (told_all < high)
        assert inside.sum() >= 100, "each bin needs truths to be judged by"
        said, came = told_all[inside].mean(), right_all[inside].mean()
        error = math.sqrt(max(said * (1 - said), 0.01) / inside.sum())
        assert abs(said - came) < 3.5 * error, (low, high, said, came)


def test_regret_is_what_it_is_over_simulated_truths() -> None:
    rng = np.random.default_rng(5)
    report = random_report(rng)
    names = [row.name for row in report.cuts]
    found = decide_under_error(report, names, names[2], constraints=FREE, objective=LATENCY)
    true = np.array([truth(report, rng) for _ in range(4000)])
    regrets = true[:, 2] - true.min(axis=1)
    error = regrets.std() / math.sqrt(len(regrets))
    assert found.expected_regret == pytest.approx(regrets.mean(), abs=6 * error)
    assert found.p95_regret == pytest.approx(np.quantile(regrets, 0.95), rel=0.08, abs=1e-5)


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_without_errors_there_is_no_regret(seed: int) -> None:
    still = replace(LINK, uplink_spread=0.0)
    report = random_report(np.random.default_rng(seed), errors=(0.0, 0.0), network=still)
    found = recommend(report, constraints=FREE, objective=LATENCY).recommendation
    assert found.certainty.probability_best == 1.0
    assert (found.certainty.expected_regret, found.certainty.p95_regret) == (0.0, 0.0)
    assert found.certainty.settle == ()
    assert "rows in nearly every case." in " ".join(found.why)


@given(st.integers(0, 10_000), st.sampled_from(["latency", "energy", "leakage", "balanced"]))
@settings(max_examples=15, deadline=None)
def test_probabilities_sum_to_one_and_regrets_are_no_less_than_zero(seed: int, name: str) -> None:
    network = list(NETWORKS.values())[seed % len(NETWORKS)]
    found = recommend(make_report(network), constraints=FREE, objective=Objective(name))
    certainty = found.recommendation.certainty
    assert sum(row.probability_best for row in certainty.candidates) == pytest.approx(1)
    assert all(row.expected_regret >= 0 for row in certainty.candidates)
    assert certainty.of(found.recommendation.cut).expected_regret == certainty.expected_regret
    for item in certainty.settle:
        assert 0 <= item.value <= certainty.expected_regret


def test_knowing_the_only_uncertain_part_removes_all_regret() -> None:
    # Only the edge is uncertain, and the two rows are equal at its central figure.
    still = replace(LINK, uplink_spread=0.0)
    report = line_report([1.0, 20.0], [64, 8], [20.0, 1.0], errors=(0.5, 0.0), network=still)
    gap = report.cuts[0].latency_s.total.median - report.cuts[1].latency_s.total.median
    edge_s = report.cuts[1].latency_s.edge.median + gap
    report = line_report(
        [1.0, edge_s * 1e3], [64, 8], [20.0, 1.0], errors=(0.5, 0.0), network=still
    )
    found = recommend(report, constraints=FREE, objective=LATENCY).recommendation.certainty
    assert found.probability_best == pytest.approx(0.5, abs=0.05)
    assert [item.part for item in found.settle] == ["edge"]
    assert found.settle[0].value == pytest.approx(found.expected_regret)
    assert found.settle[0].probability_best_then == 1.0
    assert "Measuring on the device, jetson-orin-nano (--device ssh://" in found.settle[0].text


def test_what_settles_it_is_the_part_that_the_choice_hangs_on() -> None:
    # Equal at this rate and otherwise certain: only the link decides.
    report = line_report([1.0, 1.1], [64, 8], [1.0, 20.0], errors=(0.02, 0.02))
    gap_s = report.cuts[0].latency_s.total.median - report.cuts[1].latency_s.total.median
    cloud_ms = (report.cuts[1].latency_s.cloud.median + gap_s) * 1e3
    report = line_report([1.0, 1.1], [64, 8], [1.0, cloud_ms], errors=(0.02, 0.02))
    decided = recommend(report, constraints=FREE, objective=LATENCY).recommendation
    first, *others = decided.certainty.settle
    assert first.part == "network"
    assert all(other.value < 0.2 * first.value for other in others)
    assert any(text.startswith("Measuring the link (--uplink") for text in decided.why)
    assert any("would hardly change the choice" in other.text for other in others)


def test_rows_that_are_close_cannot_be_settled_by_one_measurement() -> None:
    found = recommend(make_report(), constraints=FREE, objective=Objective("leakage"))
    texts = " ".join(found.recommendation.why)
    assert "More pictures, and longer attacks, would lower the expected regret from" in texts
    assert "of the leakage index" in texts


# --- chances --------------------------------------------------------------------------------


def test_a_confidence_rules_out_what_only_the_median_holds() -> None:
    report = line_report([1.0, 20.0], [8, 8], [20.0, 1.0])
    report = replace(report, cuts=(report.cuts[0], stated(report.cuts[1], 0.01, 0.01)))
    first = report.cuts[0].latency_s.total.median
    limit = Constraints(max_latency_s=first * 1.02)
    hard = judge(report, constraints=limit, objective=LATENCY)
    assert hard.cuts[0].feasible
    sure = judge(report, constraints=replace(limit, confidence=0.95), objective=LATENCY)
    assert not sure.cuts[0].feasible
    assert re.fullmatch(
        r"total latency stays within --max-latency \S+ ms with probability 0\.\d\d, below "
        r"--confidence 0\.95",
        sure.cuts[0].violations[0],
    )
    decided = recommend(report, constraints=limit, objective=LATENCY).recommendation
    assert any(
        "meets --max-latency with probability 0." in w and "--confidence asks for more" in w
        for w in decided.warnings
    )


@given(st.integers(0, 1000), st.sampled_from([0.5, 0.8, 0.95, 0.99]))
@settings(max_examples=15, deadline=None)
def test_the_least_limit_is_met_with_the_confidence_and_nothing_below_is(
    seed: int, confidence: float
) -> None:
    report = random_report(np.random.default_rng(seed))
    met = least_limits(report, ["max_latency_s"], confidence)["max_latency_s"]
    for name, value in met.items():
        at = chances(report, Constraints(max_latency_s=value))[name]["max_latency_s"]
        below = Constraints(max_latency_s=value * (1 - 1e-9))
        assert at >= confidence > chances(report, below)[name]["max_latency_s"]


def test_a_chance_is_that_of_the_simulated_truths() -> None:
    rng = np.random.default_rng(3)
    report = random_report(rng)
    true = np.array([truth(report, rng) for _ in range(4000)])
    limit = float(np.quantile(true[:, 1], 0.8))
    chance = chances(report, Constraints(max_latency_s=limit))["b1"]["max_latency_s"]
    assert chance == pytest.approx(0.8, abs=0.035)


def test_more_confidence_never_makes_more_rows_feasible() -> None:
    limits = Constraints(max_latency_s=0.045, max_ssim=0.75)
    before = None
    for confidence in (0.5, 0.8, 0.9, 0.99):
        asked = replace(limits, confidence=confidence)
        judged = judge(make_report(), constraints=asked, objective=LATENCY)
        feasible = {row.name for row in judged.cuts if row.feasible}
        assert before is None or feasible <= before
        before = feasible


@pytest.mark.parametrize("confidence", [0.0, 1.0, -0.1, math.nan])
def test_a_confidence_that_cannot_be_meant(confidence: float) -> None:
    with pytest.raises(UsageError, match="expected a probability between 0 and 1 for --confidence"):
        judge(make_report(), constraints=Constraints(confidence=confidence), objective=LATENCY)


def test_without_a_chance_the_nearest_row_is_told() -> None:
    limits = Constraints(max_latency_s=1e-3, confidence=0.95)
    with pytest.raises(
        InfeasibleError,
        match=r"--max-latency binds: the nearest cut is \S+, whose total latency stays within "
        r"--max-latency 1 ms with probability 0.00, .* no row meets --max-latency; relax it",
    ):
        recommend(make_report(), constraints=limits, objective=LATENCY)
    bare = with_row(only(make_report(), "layer1.0"), "layer1.0", attacks=())
    with pytest.raises(InfeasibleError, match="has no SSIM figure, which --max-ssim asks for"):
        recommend(bare, constraints=Constraints(max_ssim=0.9, confidence=0.9), objective=LATENCY)


# --- words ----------------------------------------------------------------------------------


def why(report: SweepReport, limits: Constraints = FREE, name: str = "energy") -> str:
    decided = recommend(report, constraints=limits, objective=Objective(name)).recommendation
    return " ".join(decided.why)


def test_limits_that_contradict_each_other_are_told_with_what_each_leaves() -> None:
    report = only(make_report(), "cloud-only", "layer1.0", "layer3.0", "avgpool")
    fast = min(row.latency_s.total.median for row in report.cuts[:2])
    limits = Constraints(max_edge_memory_bytes=8_000_000, max_ssim=0.5, max_latency_s=10 * fast)
    with pytest.raises(
        InfeasibleError,
        match=r"the limits contradict each other \(--max-latency leaves cloud-only, layer1.0, "
        r"layer3.0 and 1 more; --max-edge-memory leaves cloud-only, layer1.0; "
        r"--max-ssim leaves layer3.0, avgpool\); relax it",
    ):
        recommend(report, constraints=limits, objective=LATENCY)


def test_each_limit_is_told_whether_it_binds_and_what_the_next_would_cost() -> None:
    report = make_report(NETWORKS["ethernet"])
    text = why(report, Constraints(max_ssim=0.65, max_latency_s=0.1))
    assert re.search(r"--max-ssim 0\.65 binds: without it alone the pick is \S+, ", text)
    assert "--max-latency 100 ms does not bind." in text
    assert re.search(r"Below --max-ssim 0\.618 the pick is \S+: .* slower|faster", text)
    assert re.search(r"From --max-ssim 0\.\d+ on the pick is \S+: ", text)


def test_the_flips_of_the_limits_are_where_the_pick_changes() -> None:
    report = make_report(NETWORKS["ethernet"])
    limits = Constraints(max_ssim=0.65)
    decided = recommend(report, constraints=limits, objective=Objective("energy")).recommendation
    low, high = decided.stable_while["max_ssim"]

    def pick(limit: float) -> str:
        at = Constraints(max_ssim=limit)
        return recommend(report, constraints=at, objective=Objective("energy")).recommendation.cut

    assert pick(low) == decided.cut == pick(high * (1 - 1e-9))
    assert decided.cut not in {pick(low * (1 - 1e-9)), pick(high)}


def test_the_speed_of_the_device_at_which_the_pick_flips_is_told() -> None:
    report = make_report(NETWORKS["ethernet"])
    decided = recommend(report, constraints=FREE, objective=LATENCY).recommendation
    low, high = decided.stable_while["edge_time_factor"]
    assert low == 0 and 1 < high < 10
    assert f"takes at most {high:.2g} times as long as stated" in " ".join(decided.why)

    def pick(factor: float) -> str:
        rows = []
        for row in report.cuts:
            s = row.latency_s
            more = (factor - 1) * s.edge.median
            total = replace(s.total, median=s.total.median + more)
            edge = replace(s.edge, median=s.edge.median * factor)
            rows.append(replace(row, latency_s=replace(s, edge=edge, total=total)))
        slower = replace(report, cuts=tuple(rows))
        return recommend(slower, constraints=FREE, objective=LATENCY).recommendation.cut

    assert pick(high * 0.999) == decided.cut != pick(high * 1.001)


def test_what_was_not_tested_is_told() -> None:
    report = make_report(NETWORKS["ethernet"])
    other = replace(report.find("layer1.0").attacks[0], name="inverse-network")
    report = with_row(report, "layer1.0", attacks=(*report.find("layer1.0").attacks, other))
    decided = recommend(report, constraints=FREE, objective=LATENCY).recommendation
    text = " ".join(decided.warnings)
    assert f"Tested on {decided.cut}: rmle. Not tested on it, but on other rows:" in text
    assert "inverse-network. No other attack was tried" in text


def test_profile_takes_the_spread_of_the_link_and_a_confidence(tmp_path: Path) -> None:
    shown = splitdeploy(
        "profile", MODEL, *SMALL, "--no-privacy", "--out", tmp_path / "run", "--uplink-spread",
        "0.4", "--max-latency", "10s", "--confidence", "0.9", "--format", "json", "-q",
    )  # fmt: skip
    assert shown.code == 0, shown.err
    document = json.loads(shown.out)
    assert document["network"]["uplink_spread"] == 0.4
    assert document["constraints"]["confidence"] == 0.9
    pick = document["recommendation"]["cut"]
    row = next(r for r in document["recommendation"]["candidates"] if r["cut"] == pick)
    assert row["meets"] == {"max_latency_s": 1.0}
