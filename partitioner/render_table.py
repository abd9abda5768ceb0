"""Shows a report as text: a table for the terminal, Markdown, CSV or JSON."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement as Extent
from rich.table import Table
from rich.text import Text

from splitdeploy.partitioner.wording import (
    MISSING,
    class_of,
    footnotes,
    fsinfo_of,
    milli,
    network_of,
    pace_of,
    ssim_of,
    status_of,
    title_of,
    verified_of,
)
from splitdeploy.profiles.errors import UnknownNameError
from splitdeploy.profiles.report import CutReport, StageLatency, SweepReport
from splitdeploy.profiles.store import cuts_csv, dump_json

FORMATS = ("table", "json", "csv", "md")


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        header: Its heading, with the unit.
        cell: Its text for a row.
        dropped: Which columns go first where the terminal is narrow: 1 before 2; 0 never.
    """

    header: str
    cell: Callable[[CutReport], str]
    dropped: int = 0


def _stage(name: str) -> Callable[[CutReport], str]:
    def cell(row: CutReport) -> str:
        latency: StageLatency | None = row.latency_s
        return milli(getattr(latency, name).median if latency else None)

    return cell


COLUMNS = (
    Column("kB", lambda row: f"{row.cut.payload_bytes / 1e3:.3g}", 5),
    Column("edge", _stage("edge"), 4),
    Column("up", _stage("uplink"), 3),
    Column("cloud", _stage("cloud"), 2),
    Column("down", _stage("downlink"), 1),
    Column("total ms", _stage("total")),
    Column("mJ", lambda row: milli(row.energy_j.total if row.energy_j else None)),
    Column("FSInfo", fsinfo_of, 6),
    Column("SSIM", lambda row: ssim_of(row.strongest_attack)),
    Column("verified", verified_of, 1),
    Column("feasible", status_of, 7),
)


def _columns(report: SweepReport) -> list[Column]:
    """The table's columns; the throughput where it was asked for, the codec where there is one."""
    columns = list(COLUMNS)
    if report.objective.name == "throughput":
        place = [column.header for column in columns].index("total ms")
        columns.insert(place, Column("per s", lambda row: pace_of(row, report)))
    if any(row.codec_loss for row in report.cuts):
        place = [column.header for column in columns].index("verified")
        columns.insert(place, Column("class", class_of, 3))
    return columns


def render(
    report: SweepReport, format: str = "table", *, width: int = 100, colour: bool = False
) -> str:
    """The report as text.

    Args:
        report: What to show.
        format: ``table``, ``json``, ``csv`` or ``md``.
        width: How many columns the terminal has; only ``table`` minds it.
        colour: Whether ``table`` may use terminal colours.

    Returns:
        The text, with a newline at the end.

    Raises:
        UnknownNameError: There is no such format.
    """
    if format == "json":
        return dump_json(report)
    if format == "csv":
        return cuts_csv(report)
    if format == "md":
        return _markdown(report)
    if format == "table":
        return _terminal(report, width, colour)
    raise UnknownNameError("format", format, FORMATS)


def _terminal(report: SweepReport, width: int, colour: bool) -> str:
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=colour,
        no_color=not colour,
        color_system="standard" if colour else None,
        highlight=False,
        legacy_windows=False,
    )
    console.print(Text(title_of(report), style="bold"))
    console.print(Text(f"{network_of(report)}; median of each stage in ms", style="dim"))
    console.print(_table(report, console, width))
    for note in footnotes(report):
        console.print(Text(note, style="dim"))
    _print_recommendation(report, console)
    for warning in report.warnings:
        _print_wrapped(console, "warning: ", warning, "yellow")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _table(report: SweepReport, console: Console, width: int) -> Table:
    """The widest table that fits: empty columns go first, then in the order that they name."""
    columns = [c for c in _columns(report) if any(c.cell(row) != MISSING for row in report.cuts)]
    table = _filled(report, columns)
    while Extent.get(console, console.options.update(max_width=10_000), table).maximum > width:
        first = min((c.dropped for c in columns if c.dropped), default=None)
        if first is None:
            break
        columns = [column for column in columns if column.dropped != first]
        table = _filled(report, columns)
    return table


def _filled(report: SweepReport, columns: list[Column]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("cut", overflow="fold")
    for column in columns:
        table.add_column(column.header, justify="right", no_wrap=True)
    picked = report.recommendation.cut if report.recommendation else None
    for row in report.cuts:
        mark = ("▶" if row.name == picked else " ") + ("◆" if row.name in report.pareto else " ")
        style = "bold green" if row.name == picked else None if row.feasible else "dim"
        cells = [Text(column.cell(row)) for column in columns]
        table.add_row(Text(mark), Text(row.name), *cells, style=style)
    return table


def _print_recommendation(report: SweepReport, console: Console) -> None:
    recommendation = report.recommendation
    console.print()
    if recommendation is None:
        console.print(Text("No recommendation: no cut satisfies the constraints.", style="red"))
        return
    heading = Text("▶ Recommended: ", style="bold")
    console.print(heading + Text(recommendation.cut, style="bold green"))
    for reason in recommendation.why:
        _print_wrapped(console, "  - ", reason)
    for warning in recommendation.warnings:
        _print_wrapped(console, "warning: ", warning, "yellow")


def _print_wrapped(console: Console, lead: str, text: str, style: str = "") -> None:
    hanging = " " * min(4, len(lead))
    filled = textwrap.fill(
        text, console.width, initial_indent=lead, subsequent_indent=hanging,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    console.print(Text(filled, style=style, overflow="fold"))


def _markdown(report: SweepReport) -> str:
    columns = _columns(report)
    headers = ["cut", *(column.header for column in columns), "Pareto"]
    picked = report.recommendation.cut if report.recommendation else None
    lines = [
        f"# {_escaped(title_of(report))}",
        "",
        f"{_escaped(network_of(report))}; median of each stage in ms.",
        "",
        f"| {' | '.join(headers)} |",
        f"|:--|{'--:|' * (len(headers) - 1)}",
    ]
    for row in report.cuts:
        name = _escaped(row.name)
        cells = [f"**{name}**" if row.name == picked else name]
        cells += [_escaped(column.cell(row)) for column in columns]
        cells.append("◆" if row.name in report.pareto else "")
        lines.append(f"| {' | '.join(cells)} |")
    for note in footnotes(report):
        lines += ["", _escaped(note)]
    recommendation = report.recommendation
    if recommendation is not None:
        lines += ["", f"**Recommended: {_escaped(recommendation.cut)}**", ""]
        lines += [f"- {_escaped(reason)}" for reason in recommendation.why]
        lines += [f"- Warning: {_escaped(warning)}" for warning in recommendation.warnings]
    lines += [f"- Warning: {_escaped(warning)}" for warning in report.warnings]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Text in which Markdown's table and emphasis marks stand for themselves."""
    for mark in "\\|*_`<":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
