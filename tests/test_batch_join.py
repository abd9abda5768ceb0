"""Runs of several batches decided together, in any precisions: the union, the pick, the errors."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from batch_runs import in_batch
from command_line import MODEL, splitdeploy
from hypothesis import given, settings
from hypothesis import strategies as st
from precision_runs import make_run

from splitdeploy.partitioner.join_runs import FolderRun, join_runs
from splitdeploy.partitioner.recommend import recommend
from splitdeploy.partitioner.render_html import render_html
from splitdeploy.partitioner.render_table import render
from splitdeploy.partitioner.sweep_file import read_sweep_file
from splitdeploy.partitioner.uncertainty import draw_cases, uncertain_parts
from splitdeploy.profiles.errors import InfeasibleError, UsageError
from splitdeploy.profiles.network import NETWORKS
from splitdeploy.profiles.report import Constraints, Objective, SweepReport
from splitdeploy.profiles.store import check_schema, cuts_csv, report_from_json, report_to_json

FAST = Objective("throughput")
KINDS = [*itertools.product(("fp32", "fp16", "int8"), (1, 4, 16))]


def run_of(precision: str, batch: int, network: str = "wifi", error: float = 0.1) -> SweepReport:
    return in_batch(make_run(precision, NETWORKS[network], error=error), batch)


def folders(*reports: SweepReport) -> list[FolderRun]:
    return [FolderRun(f"runs/{one.edge.precision}-{one.batch}", one) for one in reports]


def test_every_row_of_every_run_is_there_under_its_precision_and_batch() -> None:
    runs = [run_of("fp16", 8), run_of("int8", 1), run_of("fp16", 1)]
    report = join_runs(folders(*runs))
    assert join_runs(folders(*reversed(runs))) == report
    names = [row.name for row in report.cuts if row.cut.name == "layer2.1"]
    assert names == ["layer2.1@fp16@b1", "layer2.1@fp16@b8", "layer2.1@int8@b1"]
    for run in runs:
        for row in run.cuts:
            other = report.find(f"{row.name}@{run.edge.precision}@b{run.batch}")
            assert report.batch_of(other) == run.batch
            assert other.run == f"runs/{run.edge.precision}-{run.batch}"
            assert replace(other, precision=None, run=None, batch=None) == row


def test_runs_of_one_batch_are_named_as_before_and_keep_it() -> None:
    report = join_runs(folders(run_of("fp16", 8), run_of("int8", 8)))
    assert report.batch == 8
    assert {row.name.rpartition("@")[2] for row in report.cuts} == {"fp16", "int8"}
    assert all(report.batch_of(row) == 8 for row in report.cuts)


@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=2, max_size=3, unique=True),
    link=st.sampled_from(sorted(NETWORKS)),
    there=st.none() | st.sampled_from(sorted(NETWORKS)),
    latency=st.none() | st.floats(5e-3, 2.0),
    energy=st.none() | st.floats(5e-3, 1.0),
)
@settings(max_examples=12, deadline=None)
def test_the_pick_has_the_most_inputs_a_second_of_all(
    kinds: list[tuple[str, int]],
    link: str,
    there: str | None,
    latency: float | None,
    energy: float | None,
) -> None:
    """By brute force over runs that were made over the network."""
    network = there or link
    # The radio's share of the runs made by hand is that of fp16 until the network is another.
    energy = None if there else energy
    fine: dict[str, float] = {}
    for precision, batch in kinds:
        trip_s = NETWORKS[network].rtt_s / 2
        for row in run_of(precision, batch, network).cuts:
            s, e = row.latency_s, row.energy_j
            assert s is not None and e is not None
            busy = (s.edge.median, s.cloud.median, s.uplink.median - trip_s,
                    s.downlink.median - trip_s)  # fmt: skip
            if latency is not None and s.total.median > latency:
                continue
            if energy is None or e.total <= energy:
                fine[row_of(row.name, precision, batch, kinds)] = batch / max(busy)
    report = join_runs(
        folders(*(run_of(*kind, link) for kind in kinds)), there and NETWORKS[there] or None
    )
    limits = Constraints(max_latency_s=latency, max_energy_j=energy)
    if not fine:
        with pytest.raises(InfeasibleError, match="no cut satisfies the constraints"):
            recommend(report, constraints=limits, objective=FAST)
        return
    found = recommend(report, constraints=limits, objective=FAST).recommendation
    assert found is not None and found.certainty is not None
    assert fine[found.cut] == pytest.approx(max(fine.values()))
    assert {row.cut for row in found.certainty.candidates} == set(fine)
    if len({batch for _, batch in kinds}) > 1:
        assert found.cut.endswith(f"@{found.precision}@b{found.batch}")
    else:
        assert found.batch is None


def row_of(cut: str, precision: str, batch: int, kinds: list[tuple[str, int]]) -> str:
    differ = len({count for _, count in kinds}) > 1
    return f"{cut}@{precision}@b{batch}" if differ else f"{cut}@{precision}"


def test_a_limit_on_the_latency_asks_for_a_smaller_batch() -> None:
    report = join_runs(folders(*(run_of("int8", batch) for batch in (1, 4, 16))))
    picks = []
    for limit in (None, 0.020, 0.006):
        found = recommend(
            report, constraints=Constraints(max_latency_s=limit), objective=FAST
        ).recommendation
        assert found is not None
        picks.append(found.batch)
    assert picks == [16, 4, 1]


# --- errors -----------------------------------------------------------------------------------


def test_more_inputs_at_a_time_err_by_more_and_together() -> None:
    """The spread of a ratio is that of the walk between the two batches, and nothing else."""
    report = join_runs(folders(*(run_of("fp16", batch) for batch in (1, 4, 16))))
    edge, *_ = parts = uncertain_parts(report)
    doubling = math.log(1.09) / 0.6745
    expected = {"4": math.sqrt(2) * doubling, "16": 2 * doubling}
    assert edge.by_batch == pytest.approx(expected)
    assert edge.by_precision == {}
    assert "several inputs at a time (4 0.18, 16 0.26)" in edge.text
    shared = [replace(part, own=0.0) for part in parts]
    cases = draw_cases(report, shared, draws=20_000).edge_s
    names = [row.name for row in report.cuts]
    one, four, sixteen = (
        np.log(cases[:, names.index(f"layer4.1@fp16@b{batch}")]) for batch in (1, 4, 16)
    )
    assert np.std(one) == pytest.approx(edge.common, rel=0.03)
    assert np.std(four - one) == pytest.approx(expected["4"], rel=0.03)
    assert np.std(sixteen - one) == pytest.approx(expected["16"], rel=0.03)
    assert np.std(sixteen - four) == pytest.approx(math.sqrt(2) * doubling, rel=0.03)
    heads = [f"{cut}@fp16@b4" for cut in ("layer1.0", "layer4.1")]
    ratio = np.diff(np.log(cases[:, [names.index(name) for name in heads]]))
    assert np.ptp(ratio) == pytest.approx(0.0, abs=1e-9)


def test_a_longer_head_of_a_batch_takes_longer_in_every_case() -> None:
    report = join_runs(folders(run_of("fp16", 1), run_of("fp16", 8)))
    cases = draw_cases(report, uncertain_parts(report), draws=500).edge_s
    for batch in (1, 8):
        columns = [place for place, row in enumerate(report.cuts) if row.batch == batch]
        assert (np.diff(cases[:, columns]) >= 0).all()


def test_one_batch_has_no_error_of_its_own() -> None:
    for runs in ((run_of("fp16", 8), run_of("int8", 8)), (run_of("fp16", 1), run_of("int8", 1))):
        assert all(not part.by_batch for part in uncertain_parts(join_runs(folders(*runs))))
    assert not uncertain_parts(run_of("fp16", 8))[0].by_batch


def test_each_measured_run_errs_by_itself() -> None:
    runs = []
    for batch in (1, 8):
        report = run_of("fp32", batch)
        rows = tuple(
            row if row.latency_s is None or not row.latency_s.edge.median else replace(
                row, latency_s=replace(row.latency_s, edge=replace(
                    row.latency_s.edge, source="measured", count=20, stability="stable",
                    spread=0.05,
                ))
            ) for row in report.cuts
        )  # fmt: skip
        runs.append(replace(report, cuts=rows, edge=replace(report.edge, source="measured")))
    edge = uncertain_parts(join_runs(folders(*runs)))[0]
    assert set(edge.by_precision) == {"fp32@b1", "fp32@b8"} and not edge.by_batch
    cases = draw_cases(join_runs(folders(*runs)), [
        replace(part, own=0.0) for part in uncertain_parts(join_runs(folders(*runs)))
    ], draws=20_000).edge_s  # fmt: skip
    names = [row.name for row in join_runs(folders(*runs)).cuts]
    columns = [names.index(f"layer4.1@fp32@b{batch}") for batch in (1, 8)]
    ratio = np.diff(np.log(cases[:, columns]))
    assert np.std(ratio) == pytest.approx(0.05 / 1.349, rel=0.03)


# --- documents --------------------------------------------------------------------------------


def test_every_form_tells_the_batch(tmp_path: Path) -> None:
    report = recommend(
        join_runs(folders(run_of("fp16", 1), run_of("int8", 8))), constraints=Constraints(),
        objective=FAST,
    )  # fmt: skip
    document = json.loads(json.dumps(report_to_json(report)))
    check_schema(document)
    assert report_from_json(document) == report
    pick = document["recommendation"]
    assert (pick["precision"], pick["batch"]) == ("int8", 8) and "@" not in pick["cut"]
    assert "batch" not in document
    text = " ".join(render(report, width=160).split())
    assert "1 or 8 inputs a request: latency and memory are of a request" in text
    header, *lines = (line.split(",") for line in cuts_csv(report).splitlines())
    told = {line[0].rpartition("@b")[2]: line[header.index("batch")] for line in lines}
    assert told == {"1": "1", "8": "8"}
    assert "@int8@b8" in render_html(report, tmp_path)


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(UsageError, match=r"different precisions or batches, got fp16 with 8 inputs "
                       r"a request in runs/fp16-8 and in runs/fp16-8: leave one of them out, or "
                       r"profile it with another --precision or --batch"):  # fmt: skip
        join_runs(folders(run_of("fp16", 8), run_of("fp16", 8)))
    other = run_of("fp16", 1)
    other = replace(other, cloud=replace(other.cloud, device="a100"))
    with pytest.raises(UsageError, match="differ in precision and batch alone, got another cloud"):
        join_runs(folders(run_of("fp16", 8), other))


def test_a_sweep_of_batches_is_decided_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # For the processes of the sweep, which find the model there.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    file = tmp_path / "sweep.yaml"
    file.write_text(
        f"models: [{{model: '{MODEL}', input-shape: 3x16x16, image-count: 2, weights: none}}]\n"
        "devices: [jetson-nano]\nprecisions: [fp16]\nbatches: [1, {batch: 16, fps: 30}]\n"
        "no-privacy: true\nobjective: throughput\n"
    )
    done = splitdeploy("sweep", file, "--out", tmp_path / "all", "--format", "json", "-q")
    assert done.code == 0, done.err
    runs = json.loads(done.out)["runs"]
    assert [run["batch"] for run in runs] == [1, 16]
    assert runs[0]["name"].endswith("-fp16-b1") and runs[1]["name"].endswith("-fp16-b16-30")
    places = [tmp_path / "all" / run["folder"] for run in runs]
    free = splitdeploy("recommend", *places, "--objective", "throughput", "--format", "json")
    assert free.code == 0, free.err
    assert json.loads(free.out)["batch"] == 16
    reports = [json.loads((place / "report.json").read_text()) for place in places]
    alone, many = (report["cuts"][-1]["latency_s"]["total"]["median"] for report in reports)
    bound = splitdeploy("recommend", *places, "--objective", "throughput", "--format", "json",
                        "--max-latency", f"{500 * (alone + many)}ms")  # fmt: skip
    assert bound.code == 0, bound.err
    assert json.loads(bound.out)["batch"] == 1


def test_batches_of_a_sweep_file_name_its_runs(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("models: [resnet18]\nprecisions: [fp16, int8]\nbatches: [1, 4]\n")
    runs = read_sweep_file(file, {"model": False, "precision": False, "batch": False})
    assert [run.name for run in runs] == [
        "resnet18-fp16-b1", "resnet18-fp16-b4", "resnet18-int8-b1", "resnet18-int8-b4",
    ]  # fmt: skip
    assert runs[1].options == {"model": "resnet18", "precision": "fp16", "batch": "4"}
