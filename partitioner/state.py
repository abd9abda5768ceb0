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


def holds_rows(folder: Path) -> bool:
    """Whether a state folder holds a finished row."""
    return any(folder.glob("cut-*.json"))


class State:
    """The finished rows of a sweep, one file each.

    Args:
        folder: Where they lie.
        settings: What the rows depend on; rows of other settings are not taken up.
        resume: Whether to keep what is there; else it is cleared.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self._folder = folder
        text = json.dumps(settings, sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()
        kept = resume and self._stored_key() == key
        if not kept:
            folder.mkdir(parents=True, exist_ok=True)
            for stale in folder.glob("cut-*.json"):
                stale.unlink()
            write_atomically(folder / "key.json", json.dumps({"key": key}))
        self.resumed = kept

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

    def _path(self, index: int) -> Path:
        return self._folder / f"cut-{index:04d}.json"

    def _stored_key(self) -> str | None:
        try:
            stored = json.loads((self._folder / "key.json").read_text())
        except (OSError, ValueError):
            return None
        return stored.get("key") if isinstance(stored, dict) else None
