"""One at a time in a folder: two measurements beside each other would measure each other."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from splitdeploy.profiles.errors import OutputError

_LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a folder's lock; it is given up when the process ends, however it ends.

    Args:
        folder: Made where it is missing.
        wait_s: How long to wait for whoever holds it.

    Yields:
        While it is held.

    Raises:
        OutputError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_s
    with (folder / _LOCK).open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                file.seek(0)
                raise OutputError(
                    f"process {file.read(20).strip() or '?'} is at work in {folder}: wait until "
                    "it has ended, or end it, and run again"
                ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
