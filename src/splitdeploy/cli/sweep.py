"""``splitdeploy sweep``: many models, devices and networks from one file."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.profiles.errors import UnknownNameError, UsageError
from splitdeploy.profiles.report import row_name

if TYPE_CHECKING:
    from splitdeploy.partitioner.sweep_backends import Spread
    from splitdeploy.partitioner.sweep_batch import Planned
    from splitdeploy.partitioner.sweep_summary import SummaryRow

_BACKENDS = ("processes", "ray", "dask")
_RUN_BYTES = 2 * 2**30
"""What a run of a large network takes: so many more are not begun side by side unasked."""


@click.command("sweep")
@click.argument(
    "sources", nargs=-1, required=True, metavar="FILE.yaml", type=click.Path(path_type=Path)
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A folder for each run in it; default runs/<file>-<time>.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    metavar="N",
    help="Runs side by side; default: what cores and memory allow, or the cluster has.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    metavar="N",
    help="Of each run; default: the cores shared out, 1 on a cluster.",
)
@click.option(
    "--shards",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Jobs that the cuts of each run are dealt to, so that one model uses several machines.",
)
@click.option(
    "--backend",
    default="processes",
    show_default=True,
    metavar="NAME",
    help=f"{', '.join(_BACKENDS)}.",
)
@click.option(
    "--cluster",
    metavar="ADDRESS",
    help="Of Ray (auto, ray://…) or Dask (tcp://…); default: one on this machine.",
)
@click.option(
    "--resume", is_flag=True, help="Keep finished runs, and go on with those that stopped."
)
@click.option(
    "--merge",
    is_flag=True,
    help="Sum up finished sweeps instead: their folders in place of FILE.yaml.",
)
@shared.format_option
@shared.verbosity_options
def command(sources: tuple[Path, ...], out: Path | None, form: str, **given: Any) -> None:
    """Profile many models on many devices over many networks, and sum up the picks.

    \b
    FILE.yaml lists them; an entry is a name, or the options that it stands for:
      models: [resnet18, {model: mobilenet_v2, input-shape: 3x160x160}]
      devices: [jetson-nano, {device: jetson-orin-nano, power-mode: 7W}]
      networks: [lte, {uplink: 1mbit, rtt: 50ms}]
      budget: 2m
      max-latency: 80ms
    Only models is needed. Any other key is an option of splitdeploy profile without its
    dashes, true or false for a switch (no-privacy: true), and holds for all runs.

    Every run is a process and a folder of its own: one that fails or crashes is a row. Runs of
    the same heads share what leaks. With --merge DIR... the summaries of several sweeps become one.

    \b
    Example:
      splitdeploy sweep fleet.yaml --out runs/fleet --jobs 4
      splitdeploy sweep fleet.yaml --out runs/fleet --resume
      splitdeploy sweep --merge runs/fleet runs/other --format md
    """
    rows = _merged(sources, out, given) if given["merge"] else _swept(sources, out, given)
    _show(rows, form)
    if any(row.status in {"failed", "crashed"} for row in rows):
        raise click.exceptions.Exit(1)
    if not any(row.cut for row in rows):
        raise click.exceptions.Exit(3)


def _merged(
    folders: Sequence[Path], out: Path | None, given: dict[str, Any]
) -> tuple[SummaryRow, ...]:
    from splitdeploy.partitioner.run_folder import check_writable
    from splitdeploy.partitioner.sweep_summary import merge, write_summary

    if given["resume"]:
        raise UsageError("expected --merge or --resume, got both: merging runs nothing")
    rows = merge(folders, out)
    if out is not None:
        check_writable(out)
        out.mkdir(parents=True, exist_ok=True)
        write_summary(rows, out)
        click.echo(f"summary: {out / 'summary.json'}", err=True)
    return rows


def _swept(
    sources: Sequence[Path], out: Path | None, given: dict[str, Any]
) -> tuple[SummaryRow, ...]:
    if given["backend"] not in _BACKENDS:
        raise UnknownNameError("backend", given["backend"], _BACKENDS)
    if len(sources) != 1:
        raise UsageError(f"expected one file, got {len(sources)}: add --merge for finished sweeps")
    planned = plan_file(sources[0])
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    out = out or Path("runs") / f"{sources[0].stem}-{now}"
    from splitdeploy.partitioner.progress import bars
    from splitdeploy.partitioner.sweep_batch import run_sweep
    from splitdeploy.partitioner.sweep_summary import summarise, write_summary

    spread = _spread(given, len(planned) * given["shards"])
    try:
        with bars(quiet=given["quiet"]) as reporter:
            outcomes = run_sweep(planned, out, spread, resume=given["resume"], reporter=reporter)
    except KeyboardInterrupt:
        click.echo(f"what is finished lies in {out}: add --resume to go on", err=True)
        raise
    rows = summarise(planned, outcomes, out)
    write_summary(rows, out)
    click.echo(f"summary: {out / 'summary.json'}", err=True)
    return rows


def plan_file(path: Path) -> list[Planned]:
    """The runs of a file, each checked as `splitdeploy profile` would check it.

    Args:
        path: The YAML file.

    Returns:
        The runs.

    Raises:
        UsageError: What a run is asked to do cannot be meant.
    """
    from splitdeploy.cli.profile import command as profile
    from splitdeploy.cli.profile import read_settings
    from splitdeploy.partitioner.sweep_batch import Planned
    from splitdeploy.partitioner.sweep_file import read_sweep_file

    planned = []
    for run in read_sweep_file(path, _known(profile)):
        arguments = run.arguments()
        try:
            context = profile.make_context("profile", list(arguments))
            options, _ = read_settings(dict(context.params))
        except click.UsageError as error:
            raise UsageError(f"{path.name}, run {run.name}: {error.format_message()}") from error
        except UsageError as error:
            raise UsageError(f"{path.name}, run {run.name}: {error}") from error
        planned.append(Planned(run.name, tuple(arguments), options))
    return planned


def _known(profile: click.Command) -> dict[str, bool]:
    """The options of a profile without dashes, and whether each is a switch."""
    from splitdeploy.cli.profile import NOT_OF_A_RUN

    known = {"model": False}
    for parameter in profile.params:
        if isinstance(parameter, click.Option):
            name = max(parameter.opts, key=len).removeprefix("--")
            known[name] = parameter.is_flag
    return {name: switch for name, switch in known.items() if name not in NOT_OF_A_RUN}


def _spread(given: dict[str, Any], jobs: int) -> Spread:
    """How so many jobs are spread."""
    from splitdeploy.partitioner.sweep_backends import Spread

    cores, shards = os.cpu_count() or 1, given["shards"]
    if given["backend"] != "processes":
        threads, side_by_side = given["threads"] or 1, given["jobs"] or -1
        return Spread(given["backend"], side_by_side, given["cluster"], threads, shards)
    side_by_side = given["jobs"] or max(1, min(cores, jobs, _free_bytes() // _RUN_BYTES))
    threads = given["threads"] or max(1, cores // side_by_side)
    return Spread("processes", side_by_side, given["cluster"], threads, shards)


def _free_bytes() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return _RUN_BYTES


def _show(rows: Sequence[SummaryRow], form: str) -> None:
    from splitdeploy.cli.tables import print_csv, print_table
    from splitdeploy.partitioner.sweep_summary import summary_to_json

    document = summary_to_json(rows)
    if form == "json":
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    if form == "csv":
        columns = list(document["runs"][0])
        print_csv(columns, [
            ["" if row[column] is None else str(row[column]) for column in columns]
            for row in document["runs"]
        ])  # fmt: skip
        return
    cells = [_cells(row) for row in rows]
    if form == "md":
        print_table("", _COLUMNS, cells, markdown=True)
    else:
        _print_plain(cells)
    for row in rows:
        if row.error:
            click.echo(f"{row.name}: {row.error}")


def _print_plain(cells: Sequence[Sequence[str]]) -> None:
    """A table without borders, whose words may be folded."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for place, column in enumerate(_COLUMNS):
        words = place < _COLUMNS.index("total ms")
        table.add_column(column, justify="left" if words else "right", no_wrap=not words,
                         overflow="fold")  # fmt: skip
    for row in cells:
        table.add_row(*row)
    Console(width=_WIDTH, highlight=False).print(table)


_WIDTH = 100
_COLUMNS = (
    "model", "device", "prec.", "network", "source", "cut", "total ms", "mJ", "kB", "SSIM",
    "FSInfo",
)  # fmt: skip


def _cells(row: SummaryRow) -> list[str]:
    from splitdeploy.partitioner.wording import MISSING, milli

    return [
        Path(row.model).name,
        row.device,
        row_name(row.precision or MISSING, None, None if row.batch == 1 else row.batch),
        row.network,
        row.device_source or MISSING,
        row.cut or row.status,
        milli(row.latency_s),
        milli(row.energy_j),
        MISSING if row.payload_bytes is None else f"{row.payload_bytes / 1e3:.3g}",
        MISSING if row.ssim is None else f"{row.ssim:.2f}",
        MISSING if row.fsinfo is None else f"{row.fsinfo:.2f}",
    ]
