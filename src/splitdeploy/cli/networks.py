"""``splitdeploy networks``: the named networks."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from splitdeploy.cli import options as shared
from splitdeploy.cli.tables import print_csv, print_table
from splitdeploy.profiles.network import NETWORKS
from splitdeploy.profiles.units import format_rate, format_time


@click.command("networks")
@shared.format_option
@shared.verbosity_options
def command(form: str, **_: object) -> None:
    """List the named networks, with the source of their figures.

    \b
    Example:
      splitdeploy networks
    """
    if form == "json":
        click.echo(json.dumps([asdict(network) for network in NETWORKS.values()], indent=2))
        return
    columns = ["network", "uplink", "downlink", "rtt", "radio", "source"]
    rows = [
        [n.name, format_rate(n.uplink_bps), format_rate(n.downlink_bps), format_time(n.rtt_s),
         n.radio, n.source]
        for n in NETWORKS.values()
    ]  # fmt: skip
    if form == "csv":
        print_csv(columns, rows)
        return
    print_table("networks", columns, rows, markdown=form == "md")
