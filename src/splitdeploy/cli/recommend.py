"""``splitdeploy recommend``: decide anew from a finished run, without measuring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.cli.question import given_question, question_options


@click.command("recommend")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...",
                type=click.Path(path_type=Path))  # fmt: skip
@question_options
@click.option(
    "--fps",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="Inferences a second, in a schedule over --trace; default 1.",
)
@shared.format_option
@shared.verbosity_options
def command(runs: tuple[Path, ...], form: str, **given: Any) -> None:
    """Decide anew where to cut, from the figures stored in RUN.

    Several runs of one model that differ in precision or batch are decided together: the best
    triple of a cut, a precision and a batch.

    \b
    Example:
      splitdeploy recommend runs/demo --uplink 1mbit --max-ssim 0.3
      splitdeploy recommend runs/demo --max-latency 30ms --confidence 0.95
      splitdeploy recommend runs/demo --trace drive.csv --switch-cost 200ms
      splitdeploy recommend runs/fp16 runs/int8 --min-agreement 0.95
      splitdeploy recommend runs/b1 runs/b8 --objective throughput --max-latency 100ms
    """
    question = given_question(given, needs_trace=("switch_cost", "fps"))
    from splitdeploy.partitioner.recommend import recommend
    from splitdeploy.partitioner.render_table import render
    from splitdeploy.profiles.report_writer import recommendation_to_json
    from splitdeploy.profiles.store import read_report

    if len(runs) == 1:
        stored = read_report(runs[0])
    else:
        from splitdeploy.partitioner.join_runs import FolderRun, join_runs

        stored = join_runs(
            [FolderRun(str(run), read_report(run)) for run in runs], question.network
        )
    report = recommend(
        stored,
        constraints=question.constraints,
        objective=question.objective,
        network=question.network_or(stored.network),
        trace=question.trace,
        switch_cost_s=question.switch_cost_s,
        requests_per_s=given["fps"] or 1.0,
    )
    if form == "json" and report.recommendation is not None:
        click.echo(json.dumps(recommendation_to_json(report.recommendation), indent=2))
    else:
        click.echo(render(report, form), nl=False)
