"""What ``--resume`` needs: every finished row, written as it comes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitdeploy.profiles.errors import ReportError
from splitdeploy.profiles.report import CutReport
from splitdeploy.profiles.report_reader import row_from_json
from splitdeploy.profiles.report_writer import row_to_json
from splitdeploy.profiles.store import write_atomically

STATE_FOLDER = "state"
"""Its name in a run folder."""

TRAINING_FOLDER = "training"
"""Where in it attacks keep what they train."""

_KEY = "key.json"

_OWN = (
    "cut-*.json",
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
    """The finished rows of a sweep, one file each.

    Args:
        folder: Where they lie.
        settings: What the rows depend on; rows of other settings are not taken up.
        resume: Whether to keep what is there; else it is cleared.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self._folder = folder
        self.resumed = open_state(folder, settings, resume=resume)

    def load(self, index: int) -> CutReport | None:
        """The finished row of a cut, or None where there is none that can be read."""
        path = self._path(index)
        if not path.is_file():
            return None
        try:
            return row_from_json(json.loads(path.read_text()))
        except (ValueError, ReportError):
            return None

    def save(self, row: CutReport) -> None:
        """Keep a finished row."""
        write_atomically(self._path(row.cut.index), json.dumps(row_to_json(row)))

    def training(self, index: int, name: str) -> Path:
        """Where an attack on a cut keeps what it trains."""
        return self._folder / TRAINING_FOLDER / f"cut-{index:04d}" / name

    def _path(self, index: int) -> Path:
        return self._folder / f"cut-{index:04d}.json"


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
    if resume and _stored_key(folder) == key:
        return True
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in _OWN:
        for stale in folder.glob(pattern):
            stale.unlink()
    write_atomically(folder / _KEY, json.dumps({"key": key}))
    return False


def _stored_key(folder: Path) -> str | None:
    try:
        stored = json.loads((folder / _KEY).read_text())
    except (OSError, ValueError):
        return None
    return stored.get("key") if isinstance(stored, dict) else None
