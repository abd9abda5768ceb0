"""``splitdeploy recommend``: decide anew from a finished run, without measuring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.cli.decision import decide, read_runs
from splitdeploy.cli.question import given_question, question_options, schedule_option


@click.command("recommend")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...",
                type=click.Path(path_type=Path))  # fmt: skip
@question_options
@schedule_option
@shared.format_option
@shared.verbosity_options
def command(runs: tuple[Path, ...], form: str, **given: Any) -> None:
    """Decide anew where to cut, from the figures stored in RUN.

    Several runs of one model that differ in precision or batch are decided together: the best
    triple of a cut, a precision and a batch. ``splitdeploy report --joined`` draws the page of it.

    \b
    Example:
      splitdeploy recommend runs/demo --uplink 1mbit --max-ssim 0.3
      splitdeploy recommend runs/demo --max-latency 30ms --confidence 0.95
      splitdeploy recommend runs/demo --trace drive.csv --switch-cost 200ms
      splitdeploy recommend runs/fp16 runs/int8 --min-agreement 0.95
      splitdeploy recommend runs/b1 runs/b8 --objective throughput --max-latency 100ms
    """
    question = given_question(given, needs_trace=("switch_cost", "fps"))
    from splitdeploy.partitioner.join_runs import join_runs
    from splitdeploy.partitioner.render_table import render
    from splitdeploy.profiles.report_writer import recommendation_to_json

    found = read_runs(runs)
    stored = found[0].report if len(found) == 1 else join_runs(found, question.network)
    report = decide(stored, question, given["fps"] or 1.0)
    if form == "json" and report.recommendation is not None:
        click.echo(json.dumps(recommendation_to_json(report.recommendation), indent=2))
    else:
        click.echo(render(report, form), nl=False)
