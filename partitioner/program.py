"""Exported programs from disk, without unpickling anything but tensors."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.export import ExportedProgram

from splitdeploy.partitioner.trace import quiet
from splitdeploy.profiles.errors import ModelError

_PICKLED = ("custom_obj_", "opaque_obj_")
"""Archive members that torch unpickles whole; a file that has any is refused."""

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def load_program(path: Path) -> ExportedProgram:
    """Load what ``torch.export.save`` wrote.

    torch falls back to full unpickling for parts that it cannot read otherwise; here that is
    switched off, so that a model file from elsewhere cannot run code.

    Args:
        path: A ``.pt2`` file.

    Returns:
        The program.

    Raises:
        ModelError: The file is damaged, no exported program, or holds pickled objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [Path(name).name for name in archive.namelist()]
        if any(name.startswith(_PICKLED) for name in members):
            raise ModelError(
                f"{path} holds pickled objects, which could run code: expected tensors alone"
            )
        with quiet(), _tensors_only():
            return torch.export.load(path)
    except ModelError:
        raise
    except Exception as error:  # damaged archives raise many types
        raise ModelError(
            f"{path} is damaged or no exported program ({type(error).__name__}): expected what "
            "torch.export.save wrote"
        ) from error


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before
