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
    network = shared.given_network(
        given["network"], given["uplink"], given["downlink"], given["rtt"]
    )
    constraints = shared.given_constraints(
        given["max_latency"], given["max_energy"], given["max_edge_memory"], given["max_ssim"],
        given["max_fsinfo"],
    )  # fmt: skip
    objective = shared.given_objective(
        given["objective"], given["weight_latency"], given["weight_energy"],
        given["weight_leakage"],
    )  # fmt: skip
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
