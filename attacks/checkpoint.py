"""Where a training stands, in a file without pickle, so that an interrupted one goes on."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from splitdeploy.profiles.errors import AttackError
from splitdeploy.profiles.store import write_atomically

_IDENTITY = "identity"


class Checkpoint:
    """Tensors by name in an .npz, and what they belong to.

    Args:
        path: The file; its folder is made when it is first written.
        identity: What is trained, on what, with which settings: a file of another identity is
            refused instead of taken up.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = path, identity

    def save(self, tensors: Mapping[str, Tensor]) -> None:
        """Write them; the file is there whole or as it was.

        Args:
            tensors: By name.
        """
        arrays: dict[str, Any] = {name: t.detach().cpu().numpy() for name, t in tensors.items()}
        arrays[_IDENTITY] = np.array(self.identity)
        out = io.BytesIO()
        np.savez(out, **arrays)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, out.getvalue())

    def load(self) -> dict[str, Tensor] | None:
        """What was saved last.

        Returns:
            Tensors by name, on the CPU; None where there is no file.

        Raises:
            AttackError: The file cannot be read, or belongs to another training.
        """
        if not self.path.exists():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            identity = str(found.pop(_IDENTITY)[()])
        except (OSError, EOFError, ValueError, LookupError, BadZipFile) as error:
            raise AttackError(
                f"expected a checkpoint of a training, got {self.path} ({error}): delete it"
            ) from error
        if identity != self.identity:
            raise AttackError(
                f"expected a checkpoint of {self.identity}, got {self.path} of {identity}: delete "
                "it, or choose another folder"
            )
        return {name: torch.from_numpy(array) for name, array in found.items()}


def digest(tensors: Iterable[Tensor]) -> str:
    """What tells one set of tensors from another, for a checkpoint's identity.

    Args:
        tensors: Of any type.

    Returns:
        Twelve hexadecimal digits.
    """
    held = hashlib.sha256()
    for tensor in tensors:
        held.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        held.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return held.hexdigest()[:12]
