"""The limit on what a codec may cost, and precisions from the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import MODEL, SMALL, splitdeploy
from factories import make_report, with_row
from hypothesis import given, settings
from hypothesis import strategies as st
from precision_runs import make_run

from splitdeploy.partitioner.decide_under_error import chances, least_limits
from splitdeploy.partitioner.limits import agreement, turned
from splitdeploy.partitioner.recommend import judge, recommend
from splitdeploy.profiles.codec_record import CodecRecord
from splitdeploy.profiles.cut import LastPart, TensorSpec
from splitdeploy.profiles.errors import InfeasibleError, UsageError
from splitdeploy.profiles.report import Constraints, Objective, SweepReport

LATENCY, LEAKAGE = Objective("latency"), Objective("leakage")


def shared(**shares: float | None) -> SweepReport:
    """An int8 run whose rows keep these shares of eight pictures; a dot is an underscore."""
    named = {name.replace("_", "."): share for name, share in shares.items()}
    named = {name.replace("cloud.only", "cloud-only").replace("edge.only", "edge-only"): share
             for name, share in named.items()}  # fmt: skip
    return make_run("int8", shares=named)


def feasible(report: SweepReport, limits: Constraints) -> set[str]:
    judged = judge(report, constraints=limits, objective=LATENCY)
    return {row.name for row in judged.cuts if row.feasible}


@given(
    st.lists(st.integers(0, 8), min_size=12, max_size=12),
    st.floats(0.01, 1.0),
    st.sampled_from(["latency", "energy", "leakage", "balanced"]),
)
@settings(max_examples=30, deadline=None)
def test_a_row_is_feasible_if_enough_pictures_keep_their_class(
    kept: list[int], limit: float, objective: str
) -> None:
    names = [row.name for row in make_report().cuts]
    report = make_run("int8", shares={n: k / 8 for n, k in zip(names, kept, strict=True)})
    limits = Constraints(min_agreement=limit)
    expected = {name for name, k in zip(names, kept, strict=True) if k / 8 >= limit}
    assert feasible(report, limits) == expected
    if not expected:
        nearest = max(kept) / 8
        with pytest.raises(InfeasibleError, match=rf"--min-agreement binds: .* codec agreement "
                           rf"{nearest:.3g} falls short of"):  # fmt: skip
            recommend(report, constraints=limits, objective=Objective(objective))
        return
    found = recommend(report, constraints=limits, objective=Objective(objective)).recommendation
    assert found is not None and found.cut in expected


def test_rows_without_a_codec_keep_every_class_and_rows_without_the_figure_violate() -> None:
    plain = make_run("fp32")
    assert feasible(plain, Constraints(min_agreement=1.0)) == {row.name for row in plain.cuts}
    # The factory's rows are sent in fp16, and nobody measured what that costs.
    report = make_report()
    assert {agreement(row) for row in report.cuts} == {None}
    with pytest.raises(
        InfeasibleError,
        match="cloud-only has no codec agreement figure, which --min-agreement asks for; profile "
        "anew with that figure, or drop --min-agreement",
    ):
        recommend(report, constraints=Constraints(min_agreement=0.5), objective=LATENCY)
    measured = with_row(report, "avgpool", codec_loss=CodecRecord(4, 1.0, 0.0))
    found = recommend(measured, constraints=Constraints(min_agreement=0.5), objective=LATENCY)
    assert found.recommendation is not None and found.recommendation.cut == "avgpool"


def test_what_comes_back_at_a_second_cut_is_a_codec_too() -> None:
    row = make_run("fp32").find("layer2.1")
    returned = (TensorSpec("y", (1, 8), "int8"),)
    assert agreement(row) == 1.0
    assert agreement(replace(row, cut=replace(row.cut, last=LastPart(returned)))) is None


def test_a_limit_that_cannot_be_met_with_another_is_told() -> None:
    report = shared(edge_only=0.5, avgpool=0.5)
    limits = Constraints(max_latency_s=15e-3, min_agreement=0.9)
    with pytest.raises(
        InfeasibleError,
        match=r"the limits contradict each other \(--max-latency "
        r"leaves avgpool, edge-only; --min-agreement leaves cloud-only, .* more\)",
    ):
        recommend(report, constraints=limits, objective=LATENCY)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01, float("nan")])
def test_a_share_that_cannot_be_meant_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="expected a share above 0 and at most 1 for --min-agree"):
        recommend(shared(), constraints=Constraints(min_agreement=share), objective=LATENCY)


def test_the_pick_flips_where_another_row_comes_in() -> None:
    report = shared(edge_only=0.5, avgpool=0.75)
    free = recommend(report, constraints=Constraints(), objective=LATENCY).recommendation
    assert free is not None and free.cut == "edge-only"
    assert free.stable_while["min_agreement"] == (0.0, 0.5)
    bound = recommend(
        report, constraints=Constraints(min_agreement=0.6), objective=LATENCY
    ).recommendation
    assert bound is not None and bound.cut == "avgpool"
    assert bound.stable_while["min_agreement"] == (0.5, 0.75)
    told = " ".join(bound.why)
    assert "Above --min-agreement 0.75 the pick is layer4.0" in told
    assert "At --min-agreement 0.5 and below the pick is edge-only" in told
    for share, pick in ((0.5, "edge-only"), (0.51, "avgpool"), (0.75, "avgpool"), (0.76, None)):
        there = recommend(
            report, constraints=Constraints(min_agreement=share), objective=LATENCY
        ).recommendation
        assert there is not None and there.cut == (pick or "layer4.0")


# --- as a chance ------------------------------------------------------------------------------


def test_few_pictures_leave_a_share_open() -> None:
    from scipy.stats import beta

    report = shared(layer2_1=0.75)
    limits = Constraints(min_agreement=0.8, confidence=0.5)
    found = chances(report, limits)
    for name, kept in (("layer2.1", 6), ("layer3.0", 8)):
        expected = beta(kept + 0.5, 8 - kept + 0.5).sf(0.8)
        assert found[name]["min_agreement"] == pytest.approx(expected, abs=0.025)
    assert feasible(report, limits) == {row.name for row in report.cuts} - {"layer2.1"}
    judged = judge(report, constraints=limits, objective=LATENCY)
    assert (
        "codec agreement reaches --min-agreement 0.8 with probability 0."
        in (judged.find("layer2.1").violations[0])
    )
    least = least_limits(report, ["min_agreement"], 0.9)["min_agreement"]
    reached = turned("min_agreement", least["layer2.1"])
    assert reached == pytest.approx(beta(6.5, 2.5).ppf(0.1), abs=0.02)
    assert chances(make_run("fp32"), limits)["layer2.1"]["min_agreement"] == 1.0


def test_a_limit_that_few_pictures_do_not_prove_is_warned_of() -> None:
    found = recommend(
        shared(), constraints=Constraints(min_agreement=0.95), objective=LATENCY
    ).recommendation
    assert found is not None
    assert any("meets --min-agreement with probability 0." in text for text in found.warnings)


def test_one_run_tells_of_classes_that_change_and_else_nothing() -> None:
    for share, times in ((0.875, 1), (1.0, 0)):
        found = recommend(
            shared(edge_only=share), constraints=Constraints(), objective=LATENCY
        ).recommendation
        assert found is not None
        assert sum("its int8 payload changed the class of 1 of 8" in t
                   for t in found.warnings) == times  # fmt: skip
        assert not any("payload" in text for text in found.why)


# --- from the command line --------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for kind in ("fp32", "int8"):
        made[kind] = tmp_path_factory.mktemp("runs") / kind
        shown = splitdeploy(
            "profile", MODEL, *SMALL, "--no-privacy", "--precision", kind, "--device", "jetson",
            "--uplink", "200mbit", "--rtt", "0ms", "--out", made[kind], "-q",
        )  # fmt: skip
        assert shown.code == 0, shown.err
    return made


def test_two_runs_are_decided_together(runs: dict[str, Path]) -> None:
    shown = splitdeploy("recommend", runs["fp32"], runs["int8"], "--objective", "energy",
                        "--format", "json")  # fmt: skip
    assert shown.code == 0, shown.err
    told = json.loads(shown.out)
    assert told["precision"] in {"fp32", "int8"} and told["run"] == str(runs[told["precision"]])
    reports = {kind: json.loads((run / "report.json").read_text()) for kind, run in runs.items()}
    joules = {
        (row["name"], kind): row["energy_j"]["total"]
        for kind, report in reports.items()
        for row in report["cuts"]
    }
    assert (told["cut"], told["precision"]) == min(joules, key=lambda pair: joules[pair])
    assert {c["cut"] for c in told["candidates"]} == {f"{cut}@{kind}" for cut, kind in joules}
    losses = [row["codec_loss"] for row in reports["int8"]["cuts"]]
    assert all(loss["images"] == 2 and loss["source"] == "measured" for loss in losses)
    assert all(row["codec_loss"] is None for row in reports["fp32"]["cuts"])
    table = splitdeploy("recommend", runs["int8"], runs["fp32"])
    assert "edge-only@fp32" in table.out and "fp32/int8" in table.out


def test_no_row_of_either_run_ends_with_exit_code_three(runs: dict[str, Path]) -> None:
    shown = splitdeploy("recommend", runs["fp32"], runs["int8"], "--max-latency", "1us")
    assert (shown.code, shown.out) == (3, "")
    assert "the nearest cut is cloud-only@int8, whose total latency" in shown.err


def test_the_limit_is_taken_from_the_command_line(runs: dict[str, Path]) -> None:
    document = json.loads((runs["int8"] / "report.json").read_text())
    for row in document["cuts"]:
        row["codec_loss"]["same_class"] = 0.5
    (runs["int8"] / "report.json").write_text(json.dumps(document))
    shown = splitdeploy("recommend", runs["fp32"], runs["int8"], "--min-agreement", "0.9",
                        "--format", "json")  # fmt: skip
    assert json.loads(shown.out)["precision"] == "fp32"
    alone = splitdeploy("recommend", runs["int8"], "--min-agreement", "0.9")
    assert alone.code == 3
    assert "codec agreement 0.5 falls short of --min-agreement 0.9 by 0.4 (44 %)" in alone.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--min-agreement", "0"), "Invalid value for '--min-agreement': 0"),
        (("--min-agreement", "2"), "Invalid value for '--min-agreement': 2"),
    ],
)
def test_a_share_out_of_range_is_refused_at_once(words: tuple[str, ...], told: str) -> None:
    shown = splitdeploy("recommend", "runs/gone", *words)
    assert shown.code == 2 and told in shown.err


def test_runs_that_do_not_belong_together_are_one_line(runs: dict[str, Path]) -> None:
    shown = splitdeploy("recommend", runs["fp32"], runs["fp32"])
    assert (shown.code, shown.err.count("\n")) == (2, 1)
    assert "expected runs of different precisions or batches, got fp32 in" in shown.err
