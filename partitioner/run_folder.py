"""The run folder: checked before any work is done, and not left half-written."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from splitdeploy.partitioner.state import STATE_FOLDER, holds_rows
from splitdeploy.profiles.errors import InfeasibleError, OutputError

_WRITTEN = ("cuts.csv", "report.html", "report.json", "bundle")
"""What a failed sweep takes away; the pictures belong to the finished rows."""


def check_writable(out: Path) -> None:
    """Refuse an output place that cannot be written, before any work is done.

    Args:
        out: A folder that may not exist yet.

    Raises:
        OutputError: It, or the nearest folder above it, is a file or forbids writing.
    """
    place = out
    while not place.exists() and place != place.parent:
        if place.is_symlink():
            break
        place = place.parent
    if not place.is_dir():
        raise OutputError(f"expected a folder at {place}, which is a file: choose another --out")
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"\0")
            file.flush()  # a full disk tells only now
    except OSError as error:
        raise OutputError(
            f"cannot write into {place}: {error.strerror}: choose another --out, or change its "
            "permissions"
        ) from error


@contextlib.contextmanager
def whole_or_nothing(out: Path) -> Iterator[None]:
    """Take a new run folder away again where the work in it fails.

    What ``--resume`` can take up stays, and so does a folder that was there before. An interrupt is
    no failure, and a report without a feasible cut is whole.

    Args:
        out: The run folder.

    Yields:
        While the work is done.
    """
    was_there = out.exists()
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        yield
    except Exception as error:
        if not was_there and not isinstance(error, InfeasibleError):
            _take_away(out, missing)
        raise


def _take_away(out: Path, made: list[Path]) -> None:
    if holds_rows(out / STATE_FOLDER):
        for name in _WRITTEN:
            if (out / name).is_dir():
                shutil.rmtree(out / name, ignore_errors=True)
            else:
                (out / name).unlink(missing_ok=True)
        return
    shutil.rmtree(out, ignore_errors=True)
    for folder in made[1:]:
        with contextlib.suppress(OSError):  # someone else may have put something there
            folder.rmdir()
