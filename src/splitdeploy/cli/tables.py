"""Tables on standard output."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table


def print_csv(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as CSV.

    Args:
        columns: Headings.
        rows: Cells.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    click.echo(text.getvalue(), nl=False)


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool = False
) -> None:
    """Print a table; the first column is text, the others are flushed right.

    Args:
        title: Above it.
        columns: Headings.
        rows: Cells.
        markdown: Print it as Markdown.
    """
    if markdown:
        click.echo(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for row in rows:
            click.echo(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |")
        return
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right", overflow="fold",
                         no_wrap=place == 0)  # fmt: skip
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)
