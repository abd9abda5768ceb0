"""What a sweep is at, kept on disk: a cut that ends the process is a row of the next one.

A file names the work that is under way. Where it is still there when a sweep is resumed, the
process before died in that work. A fault that it could tell of (a segmentation fault, an abort)
counts at once; a silent end, which may have been a user's ``kill -9`` or want of memory, counts
when it comes back.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from splitdeploy.profiles.store import write_atomically

UNDER_WAY = "under-way.json"
CRASHES = "crashes.json"
FAULT = "fault.txt"
"""Their names in a state folder."""

_SILENT_ENDS = 3
"""So often a process may end silently in the same work before the work is given up."""


class Watch:
    """The work that a sweep is at.

    Args:
        folder: The state folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends: dict[str, dict[str, Any]] = _read(folder / CRASHES)
        self._note_end()

    @contextlib.contextmanager
    def on(self, work: str) -> Iterator[None]:
        """Mark work as under way for as long as this lasts; an exception ends it too.

        Args:
            work: In words, the same ones each time.

        Yields:
            While it is done.
        """
        path = self._folder / UNDER_WAY
        path.write_text(json.dumps({"work": work}), encoding="utf-8")
        with _telling_faults(self._folder / FAULT):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def crashed(self, work: str) -> str | None:
        """Why a piece of work is not to be tried again.

        Args:
            work: As it was marked.

        Returns:
            A line that a row can carry; None where it may be tried.
        """
        end = self._ends.get(work)
        if end is None:
            return None
        if end.get("fault"):
            return f"the process crashed in {work}: {end['fault']}"
        times = int(end.get("times", 0))
        if times < _SILENT_ENDS:
            return None
        return f"the process was killed {times} times in {work}: too little memory, perhaps"

    def _note_end(self) -> None:
        """Where the process before died in some work, remember in which and of what."""
        under_way = _read(self._folder / UNDER_WAY)
        fault = _first_line(self._folder / FAULT)
        if "work" in under_way:
            known = self._ends.get(str(under_way["work"]), {})
            times = int(known.get("times", 0)) + 1
            end = {"times": times, "fault": fault or known.get("fault")}
            self._ends[str(under_way["work"])] = end
            write_atomically(self._folder / CRASHES, json.dumps(self._ends))
        for name in (UNDER_WAY, FAULT):
            (self._folder / name).unlink(missing_ok=True)


def add_crashes(source: Path, target: Path) -> None:
    """Let a state folder know of the crashes that another one's process had, beside its own.

    Args:
        source: The other one.
        target: It.
    """
    theirs = _read(source / CRASHES)
    if theirs:
        target.mkdir(parents=True, exist_ok=True)
        write_atomically(target / CRASHES, json.dumps(theirs | _read(target / CRASHES)))


@contextlib.contextmanager
def _telling_faults(path: Path) -> Iterator[None]:
    """Have the interpreter write down a fault that ends it, unless someone else has it do so."""
    if faulthandler.is_enabled():
        yield
        return
    with path.open("w", encoding="utf-8") as file:
        faulthandler.enable(file)
        try:
            yield
        finally:
            faulthandler.disable()
    path.unlink(missing_ok=True)


def _first_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return lines[0].removeprefix("Fatal Python error: ")[:200] if lines else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
