"""Runs of several precisions decided together: rows, picks, refusals, and how sure a pick is."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from factories import make_report, with_row
from hypothesis import given, settings
from hypothesis import strategies as st
from precision_runs import folders, make_run, truth

from splitdeploy.partitioner.decide_under_error import decide_under_error
from splitdeploy.partitioner.join_runs import FolderRun, join_runs
from splitdeploy.partitioner.recommend import recommend
from splitdeploy.partitioner.render_table import render
from splitdeploy.partitioner.uncertainty import draw_cases, uncertain_parts
from splitdeploy.profiles.errors import InfeasibleError, UsageError
from splitdeploy.profiles.measurement import Measurement
from splitdeploy.profiles.network import NETWORKS, NetworkProfile
from splitdeploy.profiles.report import Constraints, CutReport, Objective, SweepReport
from splitdeploy.profiles.report_reader import report_from_json
from splitdeploy.profiles.report_writer import recommendation_to_json
from splitdeploy.profiles.store import check_schema, check_sense, dump_json

FREE, LATENCY = Constraints(), Objective("latency")
KINDS = ("fp32", "fp16", "int8")


def joined(*kinds: str, network: NetworkProfile = NETWORKS["wifi"]) -> SweepReport:
    return join_runs(folders(*(make_run(kind, network) for kind in kinds or KINDS)))


# --- rows ------------------------------------------------------------------------------------


def test_every_row_of_every_run_is_there_once_in_the_order_of_execution() -> None:
    report = joined("int8", "fp32", "fp16")
    cuts = [row.name for row in make_report().cuts]
    assert [row.name for row in report.cuts] == [f"{c}@{k}" for c in cuts for k in KINDS]
    assert {row.run for row in report.cuts if row.precision == "int8"} == {"runs/int8"}
    assert (report.edge.precision, report.cloud.precision) == ("fp32/fp16/int8", "fp32/fp16")
    assert report.result_bytes == 4000


@given(st.permutations(KINDS), st.integers(2, 3))
def test_the_order_in_which_runs_are_named_does_not_matter(order: list[str], count: int) -> None:
    runs = folders(*(make_run(kind) for kind in order[:count]))
    assert join_runs(runs) == join_runs(sorted(runs, key=lambda run: run.folder))


def test_a_row_is_what_it_is_in_its_own_run() -> None:
    report = joined()
    for run in folders(*map(make_run, KINDS)):
        for row in run.report.cuts:
            other = report.find(f"{row.name}@{run.report.edge.precision}")
            assert replace(other, precision=None, run=None) == row


def test_another_network_is_that_of_all_rows() -> None:
    runs = folders(make_run("fp16"), make_run("int8", NETWORKS["lte"]))
    report = join_runs(runs, NETWORKS["3g"])
    assert report.network == NETWORKS["3g"]
    there = [make_run(kind, NETWORKS["3g"]).find("layer2.1") for kind in ("fp16", "int8")]
    for row in there:
        kind = "fp16" if row.cut.tensors[0].dtype == "float16" else "int8"
        mine = report.find(f"layer2.1@{kind}").latency_s
        assert mine is not None and row.latency_s is not None
        assert mine.uplink.median == pytest.approx(row.latency_s.uplink.median)
        assert mine.total.median == pytest.approx(row.latency_s.total.median)


def test_a_warning_of_one_run_says_which() -> None:
    late = replace(make_run("int8"), warnings=("The attack had 4 photographs.", "left out: 5 cuts"))
    report = join_runs(folders(make_run("fp16"), late))
    assert report.warnings == ("The attack had 4 photographs.", "int8: left out: 5 cuts")


# --- the pick, by brute force over the union of rows ------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A cut in a precision, as the oracle sees it."""

    name: str
    is_end: bool
    latency: float
    energy: float
    leakage: float


def pairs_of(runs: list[FolderRun], limits: Constraints) -> tuple[list[Pair], set[str]]:
    """Every pair that did not fail, and the names of those that satisfy the limits."""
    rows = [(run.report.edge.precision, row) for run in runs for row in run.report.cuts]
    rows = [(kind, row) for kind, row in rows if row.error is None]
    most = max(row.leakage.gain.value for _, row in rows if row.leakage)
    pairs, fine = [], set()
    for kind, row in rows:
        assert row.latency_s is not None and row.energy_j is not None
        ssim = max((a.ssim for a in row.attacks), default=0.0)
        beyond = min(1.0, max(0.0, (ssim - 0.161) / (1 - 0.161)))
        index = max(row.leakage.gain.value / most, beyond) if row.leakage else 1.0
        name = f"{row.cut.name}@{kind}"
        index = 1.0 if row.cut.name == "cloud-only" else index
        latency, energy = row.latency_s.total.median, row.energy_j.total
        pairs.append(Pair(name, "-only" in row.cut.name, latency, energy, index))
        share = 1.0 if row.codec_loss is None else row.codec_loss.same_class
        holds = limits.max_latency_s is None or latency <= limits.max_latency_s
        holds &= limits.max_energy_j is None or energy <= limits.max_energy_j
        seen = 1.0 if row.cut.name == "cloud-only" else ssim
        holds &= limits.max_ssim is None or seen <= limits.max_ssim
        holds &= limits.min_agreement is None or (
            share is not None and share >= limits.min_agreement
        )
        if holds:
            fine.add(name)
    return pairs, fine


def best_of(pairs: list[Pair], fine: set[str], objective: str) -> set[str]:
    """The names of the pairs that no other is better than."""
    between = [pair for pair in pairs if not pair.is_end]
    least = [min(getattr(pair, kind) for pair in between) for kind in ("latency", "energy")]

    def score(pair: Pair) -> float:
        if objective != "balanced":
            return float(getattr(pair, objective))
        return (
            math.log(max(0.1, pair.latency / least[0]))
            + math.log(max(0.1, pair.energy / least[1]))
            - math.log(max(0.01, 1 - pair.leakage))
        ) / 3

    scores = {pair.name: score(pair) for pair in pairs if pair.name in fine}
    lowest = min(scores.values())
    return {name for name, value in scores.items() if value <= lowest + 1e-12}


SHARES = st.sampled_from([0.25, 0.5, 0.75, 1.0, None])
NAMES = [row.name for row in make_report().cuts]


@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=2, max_size=3, unique=True),
    shares=st.lists(SHARES, min_size=12, max_size=12),
    failed=st.sets(st.sampled_from(NAMES[1:-1]), max_size=3),
    link=st.sampled_from(sorted(NETWORKS)),
    objective=st.sampled_from(["latency", "energy", "leakage", "balanced"]),
    latency=st.none() | st.floats(5e-3, 0.4),
    ssim=st.none() | st.floats(0.2, 1.0),
    agreement=st.none() | st.sampled_from([0.3, 0.75, 1.0]),
)
@settings(max_examples=40, deadline=None)
def test_the_pick_is_the_best_pair_of_all(
    kinds: list[str],
    shares: list[float | None],
    failed: set[str],
    link: str,
    objective: str,
    latency: float | None,
    ssim: float | None,
    agreement: float | None,
) -> None:
    reports = []
    for place, kind in enumerate(kinds):
        turned = shares[place:] + shares[:place]
        report = make_run(kind, NETWORKS[link], shares=dict(zip(NAMES, turned, strict=True)))
        for name in failed if place == 0 else ():
            report = with_row(report, name, error="it failed")
        reports.append(report)
    runs = folders(*reports)
    limits = Constraints(max_latency_s=latency, max_ssim=ssim, min_agreement=agreement)
    pairs, fine = pairs_of(runs, limits)
    if not fine:
        with pytest.raises(InfeasibleError, match="no cut satisfies the constraints"):
            recommend(join_runs(runs), constraints=limits, objective=Objective(objective))
        return
    found = recommend(join_runs(runs), constraints=limits, objective=Objective(objective))
    assert {row.name for row in found.cuts if row.feasible} == fine
    assert found.recommendation is not None
    pick = found.recommendation
    assert pick.cut in best_of(pairs, fine, objective)
    assert pick.cut.endswith(f"@{pick.precision}") and pick.run == f"runs/{pick.precision}"
    assert {row.cut for row in pick.certainty.candidates} == fine  # type: ignore[union-attr]


def test_no_row_of_any_run_is_feasible_and_the_nearest_is_named_with_its_precision() -> None:
    with pytest.raises(InfeasibleError, match=r"--max-latency binds: the nearest cut is "
                       r"edge-only@int8, whose total latency 3.08 ms exceeds"):  # fmt: skip
        recommend(joined(), constraints=Constraints(max_latency_s=1e-4), objective=LATENCY)


# --- documents and tables ---------------------------------------------------------------------


def test_the_recommendation_tells_cut_precision_and_run() -> None:
    found = recommend(joined(), constraints=FREE, objective=LATENCY).recommendation
    assert found is not None
    document = recommendation_to_json(found)
    assert (document["cut"], document["precision"], document["run"]) == (
        "edge-only", "int8", "runs/int8",
    )  # fmt: skip
    assert document["runner_up"] == "edge-only@fp16"
    alone = recommend(make_run("int8"), constraints=FREE, objective=LATENCY).recommendation
    assert alone is not None
    assert not {"precision", "run"} & set(recommendation_to_json(alone))


def test_a_joined_report_reads_as_it_was_written() -> None:
    report = recommend(joined(), constraints=Constraints(min_agreement=0.5), objective=LATENCY)
    document = json.loads(dump_json(report))
    check_schema(document)
    check_sense(document)
    assert report_from_json(document) == report


def test_the_tables_tell_the_precision_and_what_the_codec_keeps() -> None:
    runs = folders(make_run("fp32"), make_run("int8", shares={"layer2.1": 0.75}))
    report = recommend(join_runs(runs), constraints=FREE, objective=LATENCY)
    table = render(report)
    assert "(simulated, fp32/int8, 15W)" in " ".join(table.split())
    assert "layer2.1@int8" in table and "6/8" in table
    assert "| layer2.1@int8 |" in render(report, "md")
    lines = render(report, "csv").splitlines()
    header = lines[0].split(",")
    by_name = {line.split(",")[0]: dict(zip(header, line.split(","), strict=False))
               for line in lines[1:]}  # fmt: skip
    row = by_name["layer2.1@int8"]
    assert (row["precision"], row["run"], row["codec_same_class"]) == ("int8", "runs/int8", "0.75")
    assert by_name["layer2.1@fp32"]["codec_same_class"] == ""


# --- what is said -----------------------------------------------------------------------------


def test_a_pick_that_changes_classes_is_told_and_a_limit_is_named() -> None:
    runs = folders(make_run("fp16"), make_run("int8", shares={"edge-only": 0.875}))
    found = recommend(join_runs(runs), constraints=FREE, objective=LATENCY).recommendation
    assert found is not None and found.cut == "edge-only@int8"
    told = " ".join(found.warnings)
    assert "its int8 payload changed the class of 1 of 8 pictures (95 % interval 2 to 47 %" in told
    assert "--min-agreement SHARE sets a limit" in told
    assert "What a head that computes in int8 costs the answers is not in the figures" in told
    limited = recommend(
        join_runs(runs), constraints=Constraints(min_agreement=0.9), objective=LATENCY
    ).recommendation
    assert limited is not None and limited.cut == "edge-only@fp16"
    assert any("Without the constraints edge-only@int8 would be better, but its codec agreement "
               "0.875 falls short of --min-agreement 0.9 by 0.025 (3 %)" in text
               for text in limited.why)  # fmt: skip
    assert any(text.startswith("At --min-agreement 0.875 and below the pick is edge-only@int8")
               for text in limited.why)  # fmt: skip
    assert limited.stable_while["min_agreement"] == (0.875, 1.0)


def test_a_codec_that_changes_nothing_is_told_too() -> None:
    found = recommend(joined("fp16", "int8"), constraints=FREE, objective=LATENCY).recommendation
    assert found is not None
    assert any(text.startswith("Its int8 payload changed the class of none of 8 pictures (95 % "
                               "interval 0 to 32 %;") for text in found.why)  # fmt: skip


def test_results_that_are_no_classes_and_runs_without_the_figure_are_told() -> None:
    runs = folders(make_run("fp16"), make_run("int8", shares={"edge-only": None}))
    found = recommend(join_runs(runs), constraints=FREE, objective=LATENCY).recommendation
    assert found is not None
    assert any("whose results are no classes: the largest error is 1.0e-02" in text
               for text in found.why)  # fmt: skip
    older = with_row(make_run("int8"), "edge-only", codec_loss=None)
    found = recommend(
        join_runs(folders(make_run("fp16"), older)), constraints=FREE, objective=LATENCY
    ).recommendation
    assert found is not None
    assert any("What the int8 payload of edge-only@int8 costs the answers was not measured" in text
               for text in found.warnings)  # fmt: skip


# --- runs that do not belong together ---------------------------------------------------------


def changed(**changes: object) -> SweepReport:
    report = make_run("int8")
    for key, value in changes.items():
        part, _, field = key.partition("__")
        if field:
            value = replace(getattr(report, part), **{field: value})
        report = replace(report, **{part: value})  # type: ignore[arg-type]
    return report


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__name": "vgg"}, "another model: resnet18 in runs/fp16, vgg in runs/int8; profile"),
        ({"model__weights_sha256": "ab" * 32}, "another weights: f37072fdf370 in runs/fp16, abab"),
        ({"model__input_shape": (1, 3, 9, 9)}, "another input: 1x3x224x224xfloat32 in .*1x3x9x9x"),
        ({"return_at": "layer4.1"}, "another second cut: none in runs/fp16, layer4.1 in"),
        ({"edge__device": "jetson-nano"}, "another edge device: jetson-orin-nano in .*jetson-nano"),
        ({"edge__power_mode": "7W"}, "another power mode: 15W in runs/fp16, 7W in runs/int8"),
        ({"edge__source": "measured"}, "another source of the edge's figures: simulated in"),
        ({"cloud__device": "a100"}, "another cloud device: t4 in runs/fp16, a100 in runs/int8"),
        ({"network": NETWORKS["lte"]}, "another network: wifi in .*lte in .*with --network or"),
        ({"network__rtt_s": 1.0}, r"another network: \(.*0.01.* in runs/fp16"),
        ({"result_bytes": 8}, "another size of the result: 4000 in runs/fp16, 8 in runs/int8"),
        ({"edge__precision": "int4"}, "expected a run in fp32, fp16, int8, got 'int4' in runs/int"),
        ({"edge__precision": "fp16"}, "precisions or batches, got fp16 in runs/fp16 and in"),
    ],
)  # fmt: skip
def test_what_differs_first_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as told:
        join_runs(folders(make_run("fp16"), changed(**changes)))
    assert "\n" not in str(told.value)


def test_other_noise_and_other_pictures_are_refused_too() -> None:
    other = make_run("int8")
    row = other.find("layer2.1")
    assert row.leakage is not None
    noisy = replace(other, cuts=tuple(
        r if r.leakage is None else replace(r, leakage=replace(r.leakage, noise="snr 10 dB"))
        for r in other.cuts
    ))  # fmt: skip
    with pytest.raises(UsageError, match="another noise of the leakage: 1 % of the smashed"):
        join_runs(folders(make_run("fp16"), noisy))
    assert row.verified is not None
    more = replace(row.verified, images=9)
    seeded = replace(with_row(other, "layer2.1", verified=more), seed=5)
    with pytest.raises(UsageError, match="another pictures: 4 from seed 0 in .*9 from seed 5 in"):
        join_runs(folders(make_run("fp16"), seeded))
    # As many pictures, or the same seed, will do.
    assert join_runs(folders(make_run("fp16"), replace(other, seed=5)))
    assert join_runs(folders(make_run("fp16"), replace(seeded, seed=0)))


def test_one_run_alone_is_not_joined() -> None:
    with pytest.raises(UsageError, match="expected at least two runs to join, got 1"):
        join_runs(folders(make_run("fp16")))


# --- how sure a pick is -----------------------------------------------------------------------


def columns(report: SweepReport, kind: str) -> list[int]:
    return [k for k, row in enumerate(report.cuts) if row.precision == kind]


def test_precisions_share_the_device_and_have_a_factor_and_a_process_of_their_own() -> None:
    report = joined()
    parts = uncertain_parts(report)
    assert set(parts[0].by_precision) == {"fp32", "int8"}
    assert parts[0].by_precision["int8"] == pytest.approx(math.log(1.09) / 0.6745)
    assert parts[1].by_precision == {"fp32": pytest.approx(2 * math.log(1.09) / 0.6745)}
    cases = draw_cases(report, parts)
    ratios = {kind: np.log(cases.edge_s[:, columns(report, kind)[-1]]) for kind in KINDS}
    stated = math.log(1.1) / 1.96
    for kind in ("fp32", "int8"):
        apart = ratios[kind] - ratios["fp16"]
        expected = math.sqrt(parts[0].by_precision[kind] ** 2 + 2 * stated**2 / 4)
        assert np.std(apart) == pytest.approx(expected, rel=0.05)
    both = np.corrcoef(ratios["fp32"] - ratios["fp16"], ratios["int8"] - ratios["fp16"])[0, 1]
    assert abs(both) < 0.15  # what is left is the process of fp16
    for kind in KINDS:
        assert (np.diff(cases.edge_s[:, columns(report, kind)], axis=1) >= 0).all()
    # Tails of int8 and fp16 are the same graphs in the same precision.
    one, other = (cases.cloud_s[:, columns(report, kind)] for kind in ("fp16", "int8"))
    np.testing.assert_array_equal(one, other)


def test_a_cut_leaks_alike_in_every_case_of_two_precisions() -> None:
    report = joined("fp16", "int8")
    cases = draw_cases(report, uncertain_parts(report))
    one, other = (columns(report, kind) for kind in ("fp16", "int8"))
    np.testing.assert_array_equal(cases.gain[:, one], cases.gain[:, other])
    np.testing.assert_array_equal(cases.ssim[:, one], cases.ssim[:, other])


def test_a_precision_has_the_same_cases_whichever_others_stand_beside_it() -> None:
    small, large = joined("fp16", "int8"), joined()
    pair = [draw_cases(r, uncertain_parts(r), draws=50) for r in (small, large)]
    for kind in ("fp16", "int8"):
        np.testing.assert_array_equal(
            pair[0].edge_s[:, columns(small, kind)], pair[1].edge_s[:, columns(large, kind)]
        )


def test_runs_that_were_measured_err_each_by_itself() -> None:
    def timed(row: CutReport) -> CutReport:
        assert row.latency_s is not None
        s = row.latency_s
        edge = Measurement(s.edge.median, s.edge.p95, 0.0674, 400, "stable", "measured")
        return replace(row, latency_s=replace(s, edge=edge))

    reports = [make_run(kind) for kind in ("fp16", "int8")]
    reports = [replace(r, cuts=(r.cuts[0], *map(timed, r.cuts[1:])),
                       edge=replace(r.edge, source="measured")) for r in reports]  # fmt: skip
    alone, both = uncertain_parts(reports[0])[0], uncertain_parts(join_runs(folders(*reports)))[0]
    assert alone.by_precision == {} and set(both.by_precision) == {"fp16", "int8"}
    whole = both.common**2 + both.by_precision["int8"] ** 2
    assert whole == pytest.approx(alone.common**2)
    assert "each run by itself" in both.text


@pytest.mark.parametrize(
    ("device", "kind", "expected"),
    [
        ("jetson-orin-nano", "int8", 0.128), ("jetson-orin-nano", "fp16", 0.0),
        ("jetson-nano", "fp32", 0.256), ("jetson-nano", "int8", 0.0), ("my-board", "int8", 0.0),
    ],
)  # fmt: skip
def test_a_run_alone_has_the_error_of_its_precision(
    device: str, kind: str, expected: float
) -> None:
    report = make_run(kind)
    report = replace(report, edge=replace(report.edge, device=device))
    part = uncertain_parts(report)[0]
    assert part.by_precision.get(kind, 0.0) == pytest.approx(expected, abs=5e-4)


def random_joined(rng: np.random.Generator) -> SweepReport:
    """Latencies alone, of few cuts in random precisions, close enough to leave a doubt."""
    kinds = [str(k) for k in rng.permutation(KINDS)[: rng.integers(2, 4)]]
    network = NetworkProfile("custom", float(10 ** rng.uniform(7, 9)), 1e9, 1e-3, "wifi",
                             uplink_spread=0.2)  # fmt: skip
    names = set(rng.permutation(NAMES)[:4].tolist())
    reports = []
    for kind in kinds:
        report = make_run(kind, network, error=0.3, speed=float(rng.uniform(0.75, 1.25)))
        rows = tuple(
            replace(row, leakage=None, attacks=(), baseline=None, energy_j=None)
            for row in report.cuts
            if row.name in names
        )
        reports.append(replace(report, cuts=rows))
    return join_runs(folders(*reports))


def told_and_came(rng: np.random.Generator, problems: int) -> Iterator[tuple[float, bool]]:
    """What was said of the row that is most often the best, and whether it was."""
    for _ in range(problems):
        report = random_joined(rng)
        names = [row.name for row in report.cuts]
        found = decide_under_error(
            report, names, names[0], constraints=FREE, objective=LATENCY, draws=1500
        )
        shares = [row.probability_best for row in found.candidates]
        assert sum(shares) == pytest.approx(1)
        pick = int(np.argmax(shares))
        for _ in range(8):
            yield shares[pick], int(np.argmin(truth(report, rng))) == pick


def test_a_probability_of_being_best_is_right_that_often_among_precisions() -> None:
    pairs = np.array(list(told_and_came(np.random.default_rng(4), 300)))
    told, right = pairs.T
    for low, high in ((0.0, 0.6), (0.6, 0.75), (0.75, 0.9), (0.9, 1.01)):
        inside = (told >= low) & (told < high)
        assert inside.sum() >= 100, "each bin needs truths to be judged by"
        said, came = told[inside].mean(), right[inside].mean()
        error = math.sqrt(max(said * (1 - said), 0.01) / inside.sum())
        assert abs(said - came) < 3.5 * error, (low, high, said, came)
