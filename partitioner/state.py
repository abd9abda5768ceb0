"""What ``--resume`` needs: every finished row, written as it comes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from splitdeploy.partitioner.under_way import CRASHES, FAULT, UNDER_WAY, Watch
from splitdeploy.profiles.errors import OutputError, ReportError
from splitdeploy.profiles.report import CutReport
from splitdeploy.profiles.report_reader import row_from_json
from splitdeploy.profiles.report_writer import row_to_json
from splitdeploy.profiles.store import write_atomically

STATE_FOLDER = "state"
"""Its name in a run folder."""

TRAINING_FOLDER = "training"
"""Where in it attacks keep what they train."""

DONE = "done.jsonl"
"""A line for every piece of work that was finished, in order: what, and how long it took."""

KEY = "key.json"
"""Holds the digest of what the rows depend on."""

_LOCK = "lock"

_OWN = (
    "cut-*.json",
    "part-*.json",
    DONE,
    UNDER_WAY,
    CRASHES,
    FAULT,
    "device-*.json",
    "attack-*.json",
    "attack-*.npz",
    f"{TRAINING_FOLDER}/**/*.npz",
)
"""What is cleared; a user may keep other files there."""


def holds_rows(folder: Path) -> bool:
    """Whether a state folder holds a finished row, of a sweep or of attacks on one cut."""
    return any(folder.glob("cut-*.json")) or any(folder.glob("attack-*.json"))


class State:
    """The finished rows of a sweep, one file each, and finished parts of rows beside them.

    Args:
        folder: Where they lie.
        settings: What the rows depend on; rows of other settings are not taken up.
        resume: Whether to keep what is there; else it is cleared.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self.folder = folder
        self.resumed = open_state(folder, settings, resume=resume)
        self.watch = Watch(folder)

    def load(self, index: int) -> CutReport | None:
        """The finished row of a cut, or None where there is none that can be read."""
        return _row(self._document(self._path(index)))

    def save(self, row: CutReport) -> None:
        """Keep a finished row."""
        write_atomically(self._path(row.cut.index), json.dumps(row_to_json(row)))

    def load_part(self, name: str) -> Any:
        """A finished part, such as the timings on this machine; None where there is none."""
        return self._document(self.folder / f"part-{name}.json")

    def save_part(self, name: str, document: object) -> None:
        """Keep a finished part, as JSON."""
        write_atomically(self.folder / f"part-{name}.json", json.dumps(document))

    def load_row_part(self, kind: str, index: int) -> CutReport | None:
        """A row as far as it was at some stage; None where there is none."""
        return _row(self.load_part(f"{kind}-{index:04d}"))

    def save_row_part(self, kind: str, row: CutReport) -> None:
        """Keep a row as far as it is."""
        self.save_part(f"{kind}-{row.cut.index:04d}", row_to_json(row))

    def tell(self, work: str, seconds: float, cut: str | None = None) -> None:
        """Write down that a piece of work is finished and kept.

        Args:
            work: What it was.
            seconds: That it took.
            cut: On which cut; None where it was on all.
        """
        line = json.dumps({"work": work, "cut": cut, "seconds": round(seconds, 3)})
        with (self.folder / DONE).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def training(self, index: int, name: str) -> Path:
        """Where an attack on a cut keeps what it trains."""
        return self.folder / TRAINING_FOLDER / f"cut-{index:04d}" / name

    def _path(self, index: int) -> Path:
        return self.folder / f"cut-{index:04d}.json"

    @staticmethod
    def _document(path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


def _row(document: object) -> CutReport | None:
    if document is None:
        return None
    try:
        return row_from_json(document)
    except (ValueError, ReportError):
        return None


@contextlib.contextmanager
def alone_in(folder: Path, *, patience_s: float = 5.0) -> Iterator[None]:
    """Keep other processes out of a state folder for as long as this lasts.

    The lock goes with the process, however that ends. Where files cannot be locked (Windows, some
    network file systems) nothing is kept out.

    Args:
        folder: Made where it is missing.
        patience_s: So long one that is just ending is waited for.

    Yields:
        While it is held.

    Raises:
        OutputError: Another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a") as file:
        ends_at = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= ends_at:
                    raise OutputError(
                        f"expected {folder.parent} for this sweep alone, another process is "
                        "writing into it: wait for it, end it, or choose another --out"
                    ) from error
                time.sleep(0.1)
            except OSError:
                break
        yield


def open_state(folder: Path, settings: Mapping[str, Any], *, resume: bool) -> bool:
    """Take up a state folder, or clear it where what it holds is of other settings.

    Args:
        folder: Made where it is missing.
        settings: What the state depends on.
        resume: Whether to keep what is there; else it is cleared.

    Returns:
        Whether it was kept.
    """
    text = json.dumps(settings, sort_keys=True, default=str)
    key = hashlib.sha256(text.encode()).hexdigest()
    if resume and stored_key(folder) == key:
        return True
    folder.mkdir(parents=True, exist_ok=True)
    clear_state(folder)
    write_atomically(folder / KEY, json.dumps({"key": key}))
    return False


def clear_state(folder: Path) -> None:
    """Take away what a state folder holds; a user's own files stay.

    Args:
        folder: It, if it is there.
    """
    for pattern in (*_OWN, KEY):
        for stale in folder.glob(pattern):
            stale.unlink()


def stored_key(folder: Path) -> str | None:
    """The digest of the settings that a state folder is of.

    Args:
        folder: It.

    Returns:
        The digest; None where there is no state.
    """
    try:
        stored = json.loads((folder / KEY).read_text())
    except (OSError, ValueError):
        return None
    return stored.get("key") if isinstance(stored, dict) else None
