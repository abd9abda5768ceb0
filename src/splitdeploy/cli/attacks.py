"""``splitdeploy attacks``: what attacks there are."""

from __future__ import annotations

import json

import click
from rich.console import Console
from rich.table import Table

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
    elif form == "md":
        print_table("attacks", columns, cells, markdown=True)
    else:
        _print_paragraphs(rows)


def _print_paragraphs(rows: list[dict[str, str]]) -> None:
    """A table that a terminal has room for: what it takes in lines below each other."""
    table = Table(show_lines=True)
    for heading in ("attack", "what it takes", "needs"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "needs")
    for row in rows:
        takes = f"{row['threat_model']}\ncost: {row['cost']}\n{row['paper']}"
        needs = row["needs"].replace(" --", "\n--")
        table.add_row(f"{row['name']}\n{row['presets']}", takes, needs)
    Console(highlight=False).print(table)


def _rows() -> list[dict[str, str]]:
    """Those on what is sent at a cut, on labels behind a second, on a training that is split."""
    from splitdeploy.attacks.label_probes.registry import find_label_attack, label_attacks_table
    from splitdeploy.attacks.registry import attacks_table, find_attack
    from splitdeploy.attacks.split_learning.registry import split_attacks_table
    from splitdeploy.partitioner.attack_set import needed_options

    rows = [row | {"needs": needed_options(find_attack(row["name"]))} for row in attacks_table()]
    for row in label_attacks_table():
        needs = f"--return-at {needed_options(find_label_attack(row['name']))}"
        rows.append(row | {"needs": needs.removesuffix(" nothing")})
    return rows + [row | {"needs": "a split training"} for row in split_attacks_table()]
