"""Files go to a device: what is there already stays, a copy that was cut goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from splitdeploy.edge_runtime.received import Sent
from splitdeploy.partitioner.remote.board import Board
from splitdeploy.profiles.digest import file_sha256
from splitdeploy.profiles.errors import RemoteError
from splitdeploy.profiles.units import format_size

_BLOCK = 1 << 18
_SPARE_BYTES = 16 << 20
"""What must stay free on the device beside the files."""

_APPEND = 'cat >> "$1"'


def files_to_send(files: Mapping[str, Path]) -> list[Sent]:
    """What is to be there, with digests.

    Args:
        files: Name within the folder there, and the file here.

    Returns:
        One entry a file, in the same order.
    """
    return [Sent(name, file_sha256(path), path.stat().st_size) for name, path in files.items()]


def send(
    board: Board,
    files: Mapping[str, Path],
    folder: str,
    *,
    sent: list[Sent] | None = None,
    advance: Callable[[float], None] = lambda _: None,
) -> int:
    """Copy files into a folder of the device.

    Args:
        board: The device.
        files: Name within the folder there, and the file here.
        folder: There; made where it is missing.
        sent: Their digests, where they are known.
        advance: Told of bytes that are there.

    Returns:
        How many bytes were sent.

    Raises:
        RemoteError: The device cannot be reached, has no space, or a file came damaged twice.
    """
    wanted = files_to_send(files) if sent is None else sent
    total = 0
    have, free_bytes = board.inventory(folder, wanted)
    missing = sum(file.size_bytes - there for file, there in zip(wanted, have, strict=True))
    _check_space(board, folder, missing, free_bytes)
    for file, there in zip(wanted, have, strict=True):
        advance(there)
        if there < file.size_bytes:
            _append(board, files[file.name], f"{folder}/{file.part}", there, advance)
            total += file.size_bytes - there
    damaged = board.accept(folder, wanted)
    if damaged:
        # A part of before may be damaged; one that was sent whole just now is not.
        again = [file for file in wanted if file.name in damaged]
        for file in again:
            _append(board, files[file.name], f"{folder}/{file.part}", 0, lambda _: None)
            total += file.size_bytes
        damaged = board.accept(folder, again)
    if damaged:
        raise RemoteError(
            "failed",
            f"{damaged[0]} came damaged to {board.address} twice: its storage or the link spoils "
            "data; look at its kernel's log",
        )
    return total


def _append(
    board: Board, path: Path, there: str, offset: int, advance: Callable[[float], None]
) -> None:
    def blocks() -> Iterator[bytes]:
        with path.open("rb") as file:
            file.seek(offset)
            while block := file.read(_BLOCK):
                yield block
                advance(len(block))

    name = PurePosixPath(there).name.split(".part")[0]
    board.connection.pour(["sh", "-c", _APPEND, "sh", there], blocks(), doing=f"copying {name}")


def _check_space(board: Board, folder: str, missing_bytes: int, free_bytes: int) -> None:
    if missing_bytes and free_bytes < missing_bytes + _SPARE_BYTES:
        raise RemoteError(
            "space",
            f"expected {format_size(missing_bytes + _SPARE_BYTES)} free at {folder} on "
            f"{board.address}, got {format_size(free_bytes)}: free some, or choose another "
            "place there",
        )
