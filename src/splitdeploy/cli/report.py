"""``splitdeploy report``: show a finished run again, or several together or joined."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.cli.decision import decide_or_judge, read_runs
from splitdeploy.cli.question import (
    Question,
    given_question,
    question_options,
    schedule_option,
)
from splitdeploy.cli.tables import print_csv, print_table
from splitdeploy.profiles.errors import OutputError, UsageError

if TYPE_CHECKING:
    from splitdeploy.partitioner.compare import Run


@click.command("report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...",
                type=click.Path(path_type=Path))  # fmt: skip
@click.option("--html", is_flag=True,
              help="Draw a page and print its path: RUN/report.html, or --out.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE",
              help="Where --html goes; needed for several runs.")  # fmt: skip
@click.option(
    "--joined",
    is_flag=True,
    help="Runs that differ in precision or batch as one, decided anew as recommend does.",
)
@question_options
@schedule_option
@shared.format_option
@shared.verbosity_options
@click.pass_context
def command(
    context: click.Context,
    /,
    runs: tuple[Path, ...],
    html: bool,
    out: Path | None,
    joined: bool,
    form: str,
    **given: Any,
) -> None:
    """Show the report of RUN, or several runs together.

    Several runs are a table with a line each: its setting, its pick and the pick's figures. Two
    runs are compared cut by cut too, by the cuts' names, with the differences marked (not in csv).

    With --joined, several runs of one model that differ in precision or batch are one report, as of
    a single run, with a row for each cut of each run. It is decided as ``splitdeploy recommend``
    decides over them; the options of the network, the limits, the objective and the trace are its
    own, and need --joined here.

    \b
    Example:
      splitdeploy report runs/demo --format md
      splitdeploy report runs/before runs/after --html --out compare.html
      splitdeploy report runs/* --html --out summary.html
      splitdeploy report runs/fp16 runs/int8 --joined --html --out pair.html
    """
    from splitdeploy.profiles.store import read_report

    asked = [] if joined else _asked(context, given)
    if asked:
        raise UsageError(
            f"expected --joined with {asked[0]}, which decides anew over several runs; of one run "
            "splitdeploy recommend does"
        )
    if out is not None and not html:
        raise UsageError("expected --html with --out, which says where the page goes")
    if html and out is None and len(runs) > 1:
        raise UsageError(f"expected --out FILE for the page of {len(runs)} runs, such as runs.html")
    if joined:
        question = given_question(given, needs_trace=("switch_cost", "fps"))
        _show_joined(runs, question, given["fps"] or 1.0, form, out if html else None)
    elif html:
        _draw(runs, out)
    elif len(runs) > 1:
        _print(_named(runs), form)
    else:
        from splitdeploy.partitioner.render_table import render

        click.echo(render(read_report(runs[0]), form), nl=False)


def _asked(context: click.Context, given: Mapping[str, Any]) -> list[str]:
    """The options of a decision that the user typed."""
    return [
        f"--{name.replace('_', '-')}"
        for name in given
        if name not in {"verbose", "quiet"} and shared.typed(context, name)
    ]


def _show_joined(
    paths: Sequence[Path], question: Question, requests_per_s: float, form: str, page: Path | None
) -> None:
    """What is decided over all rows, as a page or as text; without a pick the error follows."""
    from splitdeploy.partitioner.join_runs import join_runs
    from splitdeploy.partitioner.render_html import render_html
    from splitdeploy.partitioner.render_table import render

    runs = read_runs(paths)
    report, refused = decide_or_judge(join_runs(runs, question.network), question, requests_per_s)
    if page is None:
        click.echo(render(report, form), nl=False)
    else:
        _write(page, render_html(report, runs))
    if refused is not None:
        raise refused


def _named(paths: Sequence[Path]) -> tuple[Run, ...]:
    from splitdeploy.partitioner.compare import name_runs
    from splitdeploy.profiles.store import read_report

    return name_runs(paths, [read_report(path) for path in paths])


def _draw(paths: Sequence[Path], out: Path | None) -> None:
    from splitdeploy.partitioner.render_html import render_html
    from splitdeploy.partitioner.render_runs import render_runs

    runs = _named(paths)
    page = out or runs[0].folder / "report.html"
    alone = runs[0] if len(runs) == 1 else None
    _write(page, render_html(alone.report, alone.folder) if alone else render_runs(runs, page))


def _write(page: Path, text: str) -> None:
    from splitdeploy.profiles.store import write_atomically

    if not page.parent.is_dir():
        raise OutputError(f"expected a folder for --out, got {page.parent}, which is none")
    write_atomically(page, text)
    click.echo(page)


def _print(runs: Sequence[Run], form: str) -> None:
    from splitdeploy.partitioner.compare import (
        HEADINGS,
        QUANTITIES,
        SETTING,
        line_of,
        pairs_of,
    )

    if form == "json":
        from splitdeploy.partitioner.render_runs import documents_of

        click.echo(json.dumps(documents_of(runs), indent=2, ensure_ascii=False))
        return
    lines = [line_of(run) for run in runs]
    if form == "csv":
        print_csv(HEADINGS, lines)
        return
    alike = [] if form == "md" else [
        HEADINGS.index(heading) for heading in SETTING
        if len({line[HEADINGS.index(heading)] for line in lines}) == 1
    ]  # fmt: skip
    for column in alike:
        click.echo(f"{HEADINGS[column]}: {lines[0][column]}")
    kept = [column for column in range(len(HEADINGS)) if column not in alike]
    print_table("", [HEADINGS[i] for i in kept], [[line[i] for i in kept] for line in lines],
                markdown=form == "md")  # fmt: skip
    if len(runs) == 2:
        click.echo(f"\n{runs[0].label} → {runs[1].label}, cut by cut")
        headings = ["cut", *(quantity.heading for quantity in QUANTITIES), "Feasible"]
        pairs = pairs_of(runs[0].report, runs[1].report)
        cells = [[pair.name, *(cell.line for cell in pair.cells)] for pair in pairs]
        print_table("", headings, cells, markdown=form == "md")
