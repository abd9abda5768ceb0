"""A device for tests: this machine behind a real sshd."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sshd import Sshd

from splitdeploy.partitioner.remote.board import Board
from splitdeploy.partitioner.remote.options import RemoteOptions
from splitdeploy.partitioner.remote.reach import reach


def options(server: Sshd, folder: Path) -> RemoteOptions:
    return RemoteOptions(sys.executable, str(folder), server.config)


@contextlib.contextmanager
def board_on(server: Sshd) -> Iterator[Board]:
    with reach(server.url, options(server, Path("/nowhere"))) as (board, _):
        yield board


@contextlib.contextmanager
def small_disk(folder: Path, size_kb: int) -> Iterator[Path]:
    """A file system so small that it fills; needs the right to mount."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "none", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small file system needs the right to mount: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
