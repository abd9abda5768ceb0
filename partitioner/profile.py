"""The main job: from a model to a run folder with a recommendation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from splitdeploy.partitioner.begin import Begun, begun
from splitdeploy.partitioner.bundle import BundleFacts, write_bundle
from splitdeploy.partitioner.codec_loss import CodecLoss, Judged, codec_loss
from splitdeploy.partitioner.deepening import deepen
from splitdeploy.partitioner.deployed import deployed_halves
from splitdeploy.partitioner.evidence import Subjects
from splitdeploy.partitioner.exposure import expose_cuts
from splitdeploy.partitioner.importance import by_price
from splitdeploy.partitioner.left_out import left_out, not_used_up
from splitdeploy.partitioner.optimal import told_of
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.places import find_places
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.progress import Reporter, Silent
from splitdeploy.partitioner.recommend import recommend_or_judge
from splitdeploy.partitioner.render_html import render_html
from splitdeploy.partitioner.source import source_to_json
from splitdeploy.partitioner.state import State
from splitdeploy.partitioner.sweep import price_cuts, run_halves_of, verify_cuts
from splitdeploy.partitioner.sweep_report import sweep_report
from splitdeploy.profiles.errors import InfeasibleError
from splitdeploy.profiles.report import PIECES, CutReport, SweepReport
from splitdeploy.profiles.report_writer import row_to_json
from splitdeploy.profiles.store import write_atomically, write_cuts_csv, write_report

_CLOSING_SHARE = 0.2
_CLOSING_S = 1.0
"""What the recommendation, the bundle and the page take: a share of what loading, tracing and
exporting took, on the same machine with the same model, and some seconds beside."""


def profile(
    options: ProfileOptions,
    out: Path,
    *,
    command: Sequence[str] = (),
    reporter: Reporter | None = None,
    started: float | None = None,
    part: float = 1.0,
) -> SweepReport:
    """Cut a model everywhere, find what each cut costs and gives away, and recommend one.

    Args:
        options: What is asked for.
        out: The run folder; made once the model, the cuts and the pictures are known to be good.
        command: What the user typed, for the record.
        reporter: Told as it goes.
        started: When the budget began to run, by ``time.perf_counter``; now, where None.
        part: Of the time for leakage and attacks, what this process may take.

    Returns:
        The report, as written into the run folder.

    Raises:
        InfeasibleError: No cut satisfies the constraints; the report is written all the same,
            without a recommendation.
        OutputError: The run folder cannot be made.
        UsageError: The options cannot be meant.
    """  # noqa: DOC502
    began = time.perf_counter()
    started = began if started is None else started
    told = reporter or Silent()
    with begun(options, out, told) as run:
        ends_at = budget_end(options, started, time.perf_counter() - began)
        report = examined(run, out, started, ends_at, told, part=part, command=command)
        told.stage("recommending and drawing", 3)
        return _finish(run.plan, report, run.options, out, told)


def examined(
    run: Begun,
    out: Path,
    started: float,
    ends_at: float,
    reporter: Reporter,
    *,
    part: float = 1.0,
    command: Sequence[str] = (),
) -> SweepReport:
    """What every cut of a run costs and gives away, before anything is decided.

    Args:
        run: It, ready for its first cut.
        out: Its folder.
        started: When the budget began to run, by ``time.perf_counter``.
        ends_at: When leakage and attacks must be done, by the same clock.
        reporter: Told as it goes.
        part: Of the time until then that may be taken.
        command: What the user typed, for the record.

    Returns:
        The report, without a recommendation.
    """
    options, plan, state = run.options, run.plan, run.state
    rows = verify_cuts(plan, reporter, state)
    places = find_places(plan, rows, options, state, reporter)
    rows = price_cuts(plan, rows, places, options, reporter)
    report = sweep_report(plan, rows, places, options, command)
    if run.optima is not None:
        report = replace(report, warnings=(*report.warnings, *told_of(run.optima, plan.cuts)))
    if run.subjects is None:
        return report
    now = time.perf_counter()
    ends_at = now + part * max(0.0, ends_at - now)
    return _exposed(plan, report, options, run.subjects, state, out, started, ends_at, reporter)


def budget_end(options: ProfileOptions, started: float, prepared_s: float) -> float:
    """When leakage and attacks must be done.

    Args:
        options: With the budget.
        started: When it began to run, by ``time.perf_counter``.
        prepared_s: What loading, tracing and exporting took.

    Returns:
        By the same clock.
    """
    return started + options.budget_s - _CLOSING_S - _CLOSING_SHARE * prepared_s


def _exposed(
    plan: Plan,
    report: SweepReport,
    options: ProfileOptions,
    subjects: Subjects,
    state: State,
    out: Path,
    started: float,
    ends_at: float,
    told: Reporter,
) -> SweepReport:
    """With cheap evidence on every cut, then with more where the decision hangs."""
    began, order = time.perf_counter(), by_price(report, options)
    rows = expose_cuts(plan, report.cuts, options, subjects, state, out, ends_at, told, order)
    report = replace(report, cuts=tuple(rows))
    rows = deepen(plan, report, options, subjects, state, out, ends_at, told)
    lines = (
        left_out(
            rows,
            budget_s=options.budget_s,
            fixed_s=began - ends_at + options.budget_s,
            pictures=len(subjects.pixels),
        ),
        not_used_up(rows, budget_s=options.budget_s, used_s=time.perf_counter() - started),
    )
    told_late = tuple(line for line in lines if line is not None)
    return replace(
        report, cuts=tuple(rows), warnings=(*report.warnings, *subjects.notes, *told_late)
    )


def _finish(
    plan: Plan, report: SweepReport, options: ProfileOptions, out: Path, told: Reporter
) -> SweepReport:
    """Recommend, and write everything; without a feasible cut the report says so."""
    report, infeasible = _decided(report, options)
    # Whatever is deployed has been run as it is; a pick whose halves fail is none.
    while (row := _pick_in_pieces(report)) is not None:
        row = run_halves_of(plan, row)
        report = replace(
            report, cuts=tuple(row if one.name == row.name else one for one in report.cuts)
        )
        if row.error is not None:
            report, infeasible = _decided(report, options)
    told.advance()
    write_run(report, out)
    told.advance()
    if report.recommendation is not None:
        write_recommended(plan, report, options, out / "bundle")
    told.advance()
    if infeasible is not None:
        raise infeasible
    return report


def _decided(
    report: SweepReport, options: ProfileOptions
) -> tuple[SweepReport, InfeasibleError | None]:
    """With a recommendation, or with why there is none."""
    return recommend_or_judge(
        report,
        constraints=options.constraints,
        objective=options.objective,
        trace=options.trace,
        switch_cost_s=options.switch_cost_s,
        requests_per_s=options.fps or 1.0,
    )


def _pick_in_pieces(report: SweepReport) -> CutReport | None:
    """The recommended cut, where its halves have not been run as they are."""
    if report.recommendation is None:
        return None
    row = report.find(report.recommendation.cut)
    return row if row.verified is not None and row.verified.ran == PIECES else None


def write_run(report: SweepReport, out: Path) -> None:
    """Write what people and programs read: the report as JSON, CSV and a page.

    Args:
        report: The report.
        out: The run folder.
    """
    write_cuts_csv(report, out / "cuts.csv")
    write_atomically(out / "report.html", render_html(report, out))
    write_report(report, out / "report.json")


def write_recommended(
    plan: Plan, report: SweepReport, options: ProfileOptions, folder: Path
) -> None:
    """Write the bundle of the recommended cut.

    Args:
        plan: The model and its export.
        report: With a recommendation.
        options: Whose precision the payload has.
        folder: The bundle's folder.
    """
    if report.recommendation is None:
        return
    name = report.recommendation.cut
    place = next(index for index, cut in enumerate(plan.cuts) if cut.name == name)
    write_cut_bundle(plan, place, options.precision, report.find(name), folder)


def write_cut_bundle(
    plan: Plan,
    place: int,
    precision: str,
    row: CutReport,
    folder: Path,
    judged: Judged | None = None,
) -> CodecLoss | None:
    """Write the bundle of one cut.

    Args:
        plan: The model and its export.
        place: The cut's place in the plan.
        precision: Of the payload.
        row: What is known of the cut.
        folder: The bundle's folder.
        judged: Pictures to tell the codec's loss on; None to leave it untold.

    Returns:
        What the codec costs; None without such pictures.
    """
    cut, sent = plan.cuts[place], plan.sent[place]
    halves, _ = deployed_halves(plan, cut, sent, precision)
    loss = None if judged is None else codec_loss(plan, halves, judged)
    record, taken = row_to_json(row), plan.model.input.preprocessing
    facts = BundleFacts(
        plan.model.name,
        sent,
        precision,
        record["verified"],
        record["leakage"],
        source_to_json(plan.model, plan.image_source, plan.images),
        preprocessing=None if taken is None else taken.to_json(),
        codec_loss=None if loss is None else {**asdict(loss), "source": "measured"},
        return_at=None if halves.last is None or plan.back is None else plan.back.name,
    )
    write_bundle(folder, halves, plan.exported.path.parent, facts)
    return loss
