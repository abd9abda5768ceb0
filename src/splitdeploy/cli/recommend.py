"""``splitdeploy recommend``: decide anew from a finished run, without measuring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from splitdeploy.cli import options as shared


@click.command("recommend")
@click.argument("run", type=click.Path(path_type=Path))
@shared.network_options
@shared.decision_options
@shared.format_option
@shared.verbosity_options
def command(run: Path, form: str, **given: Any) -> None:
    """Decide anew where to cut, from the figures stored in RUN.

    \b
    Example:
      splitdeploy recommend runs/demo --uplink 1mbit --max-ssim 0.3
    """
    network = shared.given_network(given)
    constraints = shared.given_constraints(given)
    objective = shared.given_objective(given)
    from splitdeploy.partitioner.recommend import recommend
    from splitdeploy.partitioner.render_table import render
    from splitdeploy.profiles.report_writer import recommendation_to_json
    from splitdeploy.profiles.store import read_report

    report = recommend(
        read_report(run), constraints=constraints, objective=objective, network=network
    )
    if form == "json" and report.recommendation is not None:
        click.echo(json.dumps(recommendation_to_json(report.recommendation), indent=2))
    else:
        click.echo(render(report, form), nl=False)
