"""Digests of files and bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BLOCK = 1 << 20


def file_sha256(path: Path) -> str:
    """The digest of a file.

    Args:
        path: The file.

    Returns:
        Hexadecimal SHA-256.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def bytes_sha256(data: bytes) -> str:
    """The digest of some bytes.

    Args:
        data: Any.

    Returns:
        Hexadecimal SHA-256.
    """
    return hashlib.sha256(data).hexdigest()
