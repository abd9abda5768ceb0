"""``splitdeploy report``: show a finished run again."""

from __future__ import annotations

from pathlib import Path

import click

from splitdeploy.cli import options as shared


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--html", is_flag=True, help="Draw RUN/report.html anew and print its path.")
@shared.format_option
@shared.verbosity_options
def command(run: Path, html: bool, form: str, **_: object) -> None:
    """Show the report of RUN.

    \b
    Example:
      splitdeploy report runs/demo --format md
    """
    from splitdeploy.partitioner.render_table import render
    from splitdeploy.profiles.store import read_report, write_atomically

    report = read_report(run)
    if not html:
        click.echo(render(report, form), nl=False)
        return
    from splitdeploy.partitioner.render_html import render_html

    page = run / "report.html"
    write_atomically(page, render_html(report, run))
    click.echo(page)
