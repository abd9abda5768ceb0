"""What of a bundle a device needs: head and last part, and the tail where it may answer alone."""

from __future__ import annotations

import shutil
from pathlib import Path

from splitdeploy.edge_runtime.bundle import Bundle, read_bundle
from splitdeploy.profiles.errors import OutputError


def copy_edge_part(bundle: Bundle, out: Path, *, local_tail: bool = False) -> Bundle:
    """Copy a device's part of a bundle; the folder appears once it is whole.

    Args:
        bundle: Checked.
        out: Where it goes: a new or an empty folder.
        local_tail: Whether the device gets the tail too, to answer where the cloud does not.

    Returns:
        The part, its digests checked again.

    Raises:
        OutputError: The folder holds something, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            f"expected a new or an empty folder, {out} holds something: choose another"
        )
    aside = out.with_name(f".{out.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        for name in _names(bundle, local_tail):
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.folder / name, aside / name)
        if out.is_dir():
            out.rmdir()
        aside.replace(out)
    except OSError as error:
        raise OutputError(
            f"cannot write {out}: {error.strerror or error}; free space there or choose another"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return read_bundle(out, "edge")


def _names(bundle: Bundle, local_tail: bool) -> list[str]:
    wanted = ("head.", "last.", "tail.") if local_tail else ("head.", "last.")
    graphs = [name for name in bundle.manifest["files"] if name.startswith((*wanted, "engines/"))]
    return ["manifest.json", *graphs]
