"""``splitdeploy recommend``: decide anew from a finished run, without measuring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.profiles.bandwidth_trace import read_trace
from splitdeploy.profiles.errors import UsageError
from splitdeploy.profiles.units import parse_time_s


@click.command("recommend")
@click.argument("run", type=click.Path(path_type=Path))
@shared.network_options
@shared.decision_options
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="The link over time: time_s,uplink_bps[,downlink_bps,rtt_s].",
)
@click.option(
    "--switch-cost",
    metavar="TIME",
    help="Of a change of the cut, in a schedule over --trace; default 0ms.",
)
@click.option(
    "--fps",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="Inferences a second, in a schedule over --trace; default 1.",
)
@shared.format_option
@shared.verbosity_options
def command(run: Path, form: str, **given: Any) -> None:
    """Decide anew where to cut, from the figures stored in RUN.

    \b
    Example:
      splitdeploy recommend runs/demo --uplink 1mbit --max-ssim 0.3
      splitdeploy recommend runs/demo --max-latency 30ms --confidence 0.95
      splitdeploy recommend runs/demo --trace drive.csv --switch-cost 200ms
    """
    network = shared.given_network(given)
    constraints = shared.given_constraints(given)
    objective = shared.given_objective(given)
    _check_trace(given)
    switch_cost_s = parse_time_s(given["switch_cost"] or "0ms", zero=True)
    trace = None if given["trace"] is None else read_trace(given["trace"])
    from splitdeploy.partitioner.recommend import recommend
    from splitdeploy.partitioner.render_table import render
    from splitdeploy.profiles.report_writer import recommendation_to_json
    from splitdeploy.profiles.store import read_report

    stored = read_report(run)
    report = recommend(
        stored,
        constraints=constraints,
        objective=objective,
        network=shared.with_spread(network or stored.network, given),
        trace=trace,
        switch_cost_s=switch_cost_s,
        requests_per_s=given["fps"] or 1.0,
    )
    if form == "json" and report.recommendation is not None:
        click.echo(json.dumps(recommendation_to_json(report.recommendation), indent=2))
    else:
        click.echo(render(report, form), nl=False)


def _check_trace(given: dict[str, Any]) -> None:
    """Refuse what contradicts a trace, or means nothing without one."""
    needless = ("uplink", "uplink_spread") if given["trace"] else ("switch_cost", "fps")
    for name in needless:
        if given[name] is not None:
            flag = f"--{name.replace('_', '-')}"
            told = "a trace tells the rates itself" if given["trace"] else "it needs a --trace"
            raise UsageError(f"expected no {flag} here, got {given[name]}: {told}; drop one")
