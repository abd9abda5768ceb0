"""``splitdeploy build``: a TensorRT engine of a bundle's head, on the device that will run it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.profiles.cut import PRECISIONS
from splitdeploy.profiles.errors import UnknownNameError
from splitdeploy.profiles.units import format_size, format_time, parse_size_bytes

if TYPE_CHECKING:
    from splitdeploy.edge_runtime.engine_progress import BuildStatus, Watch


@click.command("build")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    metavar="NAME",
    help=f"Of the engine: {', '.join(PRECISIONS)}; default fp16 on a Jetson, else fp32.",
)
@click.option(
    "--workspace",
    default="1GB",
    show_default=True,
    metavar="SIZE",
    help="The most scratch memory that a layer may use.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="The most pictures in one run of the engine.",
)
@click.option("--force", is_flag=True, help="Build even where an engine that fits is there.")
@shared.verbosity_options
def command(
    bundle: Path,
    precision: str | None,
    workspace: str,
    max_batch: int,
    force: bool,
    **given: Any,
) -> None:
    """Build a TensorRT engine of BUNDLE's head, here, for the GPU of this machine.

    An engine belongs to one version of TensorRT and one kind of GPU: it is built on the device, and
    kept in the bundle with a record of what it is tied to. int8, and fp16 from TensorRT 11 on, need
    a head that was exported for it (splitdeploy export --head-precision).

    \b
    Example:
      splitdeploy build bundle --precision fp16
    """
    chosen = precision or ("fp16" if shared.is_jetson() else "fp32")
    if chosen not in PRECISIONS:
        raise UnknownNameError("precision", chosen, PRECISIONS)
    from splitdeploy.edge_runtime.bundle import read_bundle
    from splitdeploy.edge_runtime.engine_builder import EngineSettings
    from splitdeploy.edge_runtime.engine_cache import build_engine

    settings = EngineSettings(chosen, parse_size_bytes(workspace), max_batch)
    with _progress(quiet=given["quiet"]) as watch:
        build = build_engine(read_bundle(bundle, "edge"), settings, force=force, watch=watch)
    record = build.engine.sidecar
    click.echo(build.engine.path)
    for note in build.notes:
        click.echo(f"note: {note}", err=True)
    what = f"{record.precision} engine for {record.gpu}, TensorRT {record.tensorrt}"
    if build.built:
        size = format_size(len(build.engine.plan))
        click.echo(f"built in {format_time(record.build_s)}: {what}, {size}", err=True)
    else:
        click.echo(f"nothing to do: the {what}, is fresh (--force builds it anew)", err=True)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Watch | None]:
    """A line on standard error that tells where the build is, from when it begins."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("building the engine"), BarColumn(bar_width=28), TimeElapsedColumn(),
               TextColumn("{task.description}"))  # fmt: skip
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task("", total=None)

    def watch(status: BuildStatus) -> None:
        progress.start()
        total = None if status.done is None else 1.0
        progress.update(task, total=total, completed=status.done, description=_line(status))

    try:
        yield watch
    finally:
        if progress.live.is_started:  # else it would leave an empty line
            progress.stop()


def _line(status: BuildStatus) -> str:
    """What remains, and how that is known."""
    left = "" if status.remaining_s is None else f"about {status.remaining_s:.0f} s left, by "
    return f"{left}{status.basis}" + (f": {status.phase}" if status.phase else "")
