"""A device reached: connected, and seen to have what is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from splitdeploy.partitioner.remote.address import parse_address
from splitdeploy.partitioner.remote.board import Board, Facts
from splitdeploy.partitioner.remote.options import RemoteOptions
from splitdeploy.partitioner.remote.ssh import Connection
from splitdeploy.profiles.errors import UsageError


@contextmanager
def reach(device: str, options: RemoteOptions) -> Iterator[tuple[Board, Facts]]:
    """Connect to a device and see what it has.

    Args:
        device: Its address.
        options: How it is reached.

    Yields:
        The device, and what it has.
    """
    with Connection(parse_address(device), config=options.ssh_config) as connection:
        board = Board(connection, options.python)
        yield board, board.check()


def folder_on(facts: Facts, options: RemoteOptions) -> str:
    """Where files go on a device.

    Args:
        facts: What it has.
        options: With the folder that was asked for.

    Returns:
        Its path in full.

    Raises:
        UsageError: That is none.
    """
    folder = options.folder
    if folder == "~" or folder.startswith("~/"):
        folder = facts.home + folder[1:]
    if not folder.startswith("/") or ".." in folder.split("/") or "\n" in folder:
        raise UsageError(
            f"expected a folder of the device as /path/to/it or ~/path, got {options.folder!r}"
        )
    return folder.rstrip("/") or "/"
