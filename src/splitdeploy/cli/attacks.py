"""``splitdeploy attacks``: what attacks there are."""

from __future__ import annotations

import json

import click

from splitdeploy.cli import options as shared
from splitdeploy.cli.tables import print_csv, print_table


@click.command("attacks")
@shared.format_option
@shared.verbosity_options
def command(form: str, **_: object) -> None:
    """List the attacks with their threat model, cost and paper, and what each has to be given.

    \b
    Example:
      splitdeploy attacks --format json
    """
    rows = _rows()
    if form == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    columns = list(rows[0])
    cells = [[row[column] for column in columns] for row in rows]
    if form == "csv":
        print_csv(columns, cells)
        return
    print_table("attacks", columns, cells, markdown=form == "md")


def _rows() -> list[dict[str, str]]:
    from splitdeploy.attacks.registry import attacks_table, find_attack
    from splitdeploy.partitioner.attack_set import needed_options

    return [row | {"needs": needed_options(find_attack(row["name"]))} for row in attacks_table()]
