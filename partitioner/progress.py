"""What a long job tells of itself: which stage it is in, and how much of it is done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Reporter(Protocol):
    """Where progress goes."""

    def stage(self, title: str, total: float = 1.0) -> None:
        """Begin a stage of so much work; the one before is done."""

    def advance(self, amount: float = 1.0) -> None:
        """Tell that a part of the stage's work is done."""

    def note(self, text: str) -> None:
        """Tell something that stays on the screen."""


class Silent:
    """Tells nothing."""

    def stage(self, title: str, total: float = 1.0) -> None:
        """Nothing."""

    def advance(self, amount: float = 1.0) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


class Bars:
    """A bar a stage with an estimate of what remains, on standard error.

    Args:
        progress: The running display.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def stage(self, title: str, total: float = 1.0) -> None:
        """Begin a stage; the bar of the one before is filled."""
        self._finish()
        self._task = self._progress.add_task(title, total=total)

    def advance(self, amount: float = 1.0) -> None:
        """Move the bar on."""
        if self._task is not None:
            self._progress.advance(self._task, amount)

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(text, highlight=False)

    def _finish(self) -> None:
        if self._task is not None:
            task = self._progress.tasks[self._task]
            self._progress.update(self._task, completed=task.total)
            self._progress.stop_task(self._task)


@contextlib.contextmanager
def bars(*, quiet: bool = False) -> Iterator[Reporter]:
    """Progress bars on standard error for as long as this lasts.

    Args:
        quiet: Show none.

    Yields:
        Where to tell progress.
    """
    if quiet:
        yield Silent()
        return
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=28),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=False) as progress:
        reporter = Bars(progress)
        yield reporter
        reporter._finish()
