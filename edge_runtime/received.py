"""Files that come from a workstation, piece by piece: what is there, what is whole.

A file comes as ``NAME.<first of its digest>.part`` and gets its name once its digest is right. A
copy that was cut goes on where it stopped; a part of another content has another name.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from splitdeploy.profiles.digest import file_sha256
from splitdeploy.profiles.errors import WireError

PART_SUFFIX = ".part"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Sent:
    """A file that is to be there: its place within the folder, its digest and size."""

    name: str
    sha256: str
    size_bytes: int

    @property
    def part(self) -> str:
        """The name that it has while it comes."""
        return f"{self.name}.{self.sha256[:12]}{PART_SUFFIX}"

    @classmethod
    def read(cls, document: Any) -> Sent:
        """From JSON.

        Args:
            document: With ``name``, ``sha256`` and ``bytes``.

        Returns:
            The file.

        Raises:
            WireError: Something is missing or cannot be meant, or it lies outside the folder.
        """
        try:
            name, digest = str(document["name"]), str(document["sha256"])
            size = int(document["bytes"])
        except (KeyError, TypeError, ValueError) as error:
            raise WireError(f"expected name, sha256 and bytes of a file, got {document}") from error
        inside = PurePosixPath(name)
        if not name or any(not _NAME.fullmatch(part) for part in name.split("/")):
            raise WireError(f"expected the name of a file within the folder, got {name!r}")
        if inside.name.endswith(PART_SUFFIX) or not _SHA256.fullmatch(digest) or size < 0:
            raise WireError(f"expected a SHA-256 and a size of {name!r}, got {digest!r}, {size}")
        return cls(name, digest, size)


def inventory(folder: Path, wanted: Sequence[Sent]) -> list[int]:
    """How much of each file is there.

    Args:
        folder: Made where it is missing.
        wanted: The files.

    Returns:
        Bytes, in the same order; the size where all of it has come. A part that is longer than its
        file is taken away.
    """
    folder.mkdir(parents=True, exist_ok=True)
    have = []
    for file in wanted:
        whole, part = folder / file.name, folder / file.part
        whole.parent.mkdir(parents=True, exist_ok=True)
        if _is(whole, file):
            part.unlink(missing_ok=True)
            have.append(file.size_bytes)
            continue
        size = part.stat().st_size if part.is_file() else 0
        if size > file.size_bytes:
            part.unlink()
            size = 0
        have.append(size)
    return have


def accept(folder: Path, wanted: Sequence[Sent]) -> list[str]:
    """Give the files that came whole their names.

    Args:
        folder: That they came into.
        wanted: The files.

    Returns:
        The names of those that are not as they should be; their parts are gone.
    """
    damaged = []
    for file in wanted:
        whole, part = folder / file.name, folder / file.part
        if file.size_bytes == 0:
            part.touch()
        if _is(part, file):
            part.replace(whole)
        elif not _is(whole, file):
            part.unlink(missing_ok=True)
            damaged.append(file.name)
    return damaged


def all_there(folder: Path, wanted: Sequence[Sent]) -> bool:
    """Whether every file is there and whole; nothing is made or changed.

    Args:
        folder: Which.
        wanted: The files.

    Returns:
        Whether they are.
    """
    return all(_is(folder / file.name, file) for file in wanted)


def forget_others(folder: Path, wanted: Sequence[Sent], made_here: str = "engines") -> None:
    """Take away whatever else lies in the folder: parts of other contents, files of before.

    Args:
        folder: That the files came into.
        wanted: The files that stay.
        made_here: The name of a folder that stays too: what was built here took long.
    """
    kept = {folder / file.name for file in wanted}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):  # it holds something that stays
                path.rmdir()
        elif path not in kept and made_here not in path.relative_to(folder).parts:
            path.unlink()


def _is(path: Path, file: Sent) -> bool:
    return (
        path.is_file()
        and path.stat().st_size == file.size_bytes
        and file_sha256(path) == file.sha256
    )
