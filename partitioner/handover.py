"""What one process has finished, given to another: in a folder beside it, or as an archive."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from splitdeploy.partitioner.state import (
    KEY,
    STATE_FOLDER,
    TRAINING_FOLDER,
    clear_state,
    stored_key,
)
from splitdeploy.partitioner.under_way import CRASHES, add_crashes
from splitdeploy.profiles.store import write_atomically

PICTURES = "reconstructions"
_INHERITED = ("cut-*.json", "part-*.json", KEY, f"{TRAINING_FOLDER}/**/*")


def inherit(sources: Sequence[Path], target: Path) -> None:
    """Give a run what others of the same heads have finished; what it has itself stays.

    Where they are of different settings, the most count, or the first. Files of the state are
    linked where that goes, since none is ever changed in place.

    Args:
        sources: The run folders of the others, or its own among them; one may be missing, and
            another process may be writing into one.
        target: Its own. A state of other settings than theirs is cleared.
    """
    keys = [stored_key(source / STATE_FOLDER) for source in sources]
    known = Counter(key for key in keys if key is not None)
    if not known:
        return
    wanted = known.most_common(1)[0][0]
    state = target / STATE_FOLDER
    if stored_key(state) != wanted:
        clear_state(state)
    for source, key in zip(sources, keys, strict=True):
        if key != wanted or source == target:
            continue
        for pattern in _INHERITED:
            for path in (source / STATE_FOLDER).glob(pattern):
                _give(path, target / path.relative_to(source), linked=True)
        add_crashes(source / STATE_FOLDER, state)
        for path in (source / PICTURES).rglob("*"):
            _give(path, target / path.relative_to(source), linked=False)


def _give(path: Path, target: Path, *, linked: bool) -> None:
    if not path.is_file() or target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # its process may just have taken it away
        if not (linked and _linked(path, target)):
            shutil.copyfile(path, target)


def _linked(path: Path, target: Path) -> bool:
    try:
        os.link(path, target)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


def pack(folder: Path, wanted: Sequence[str]) -> bytes | None:
    """Files of a folder as an archive.

    Args:
        folder: It.
        wanted: Names or patterns within it; of a folder all that is in it.

    Returns:
        A zip archive; None where there is no such folder.
    """
    if not folder.is_dir():
        return None
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for pattern in wanted:
            for found in sorted(folder.glob(pattern)):
                for path in [found] if found.is_file() else sorted(found.rglob("*")):
                    if path.is_file():
                        archive.write(path, path.relative_to(folder))
    return out.getvalue()


def unpack(files: bytes, folder: Path, allowed: Collection[str]) -> None:
    """Put what another machine sent into a folder here.

    Args:
        files: The archive.
        folder: Made where it is missing.
        allowed: Where the name of a file may begin; what begins elsewhere is passed over.

    Raises:
        OutputError: It cannot be written.
    """  # noqa: DOC502
    with zipfile.ZipFile(io.BytesIO(files)) as archive:
        for info in archive.infolist():
            parts = Path(info.filename).parts
            if info.is_dir() or not parts or parts[0] not in allowed or ".." in parts:
                continue
            target = folder / info.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, archive.read(info))


STATE_TOLD = tuple(
    f"{STATE_FOLDER}/{name}" for name in ("cut-*.json", "part-*.json", KEY, CRASHES, "done.jsonl")
)
"""What of a state goes over a network: no trainings, from which an interrupted attack goes on."""
