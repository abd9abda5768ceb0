"""Reading a bundle: every digest is checked before anything in it is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from splitdeploy.partitioner.digest import file_sha256
from splitdeploy.profiles.cut import PRECISIONS, CutPoint, TensorSpec, item_bytes
from splitdeploy.profiles.errors import ReportError

_SCHEMA_VERSION = 1
_MANIFEST = "manifest.json"
_AGAIN = "export it again"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are those that its manifest tells of.

    Attributes:
        folder: Where it lies.
        manifest: Parsed.
        cut: The cut, its tensors as they are sent; costs are not in a bundle and are 0.
        precision: Of the payload.
    """

    folder: Path
    manifest: Mapping[str, Any]
    cut: CutPoint
    precision: str

    @property
    def head(self) -> Path:
        """The head's graph."""
        return self.folder / "head.onnx"

    @property
    def tail(self) -> Path:
        """The tail's graph."""
        return self.folder / "tail.onnx"


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle, and check every one of its files.

    Args:
        folder: The bundle's folder.

    Returns:
        The bundle.

    Raises:
        ReportError: There is none; its manifest is damaged or of another version; or a file is
            missing, changed, not told of, or lies outside the folder.
    """
    manifest = _manifest(folder)
    try:
        files = {str(name): str(entry["sha256"]) for name, entry in manifest["files"].items()}
        cut, precision = _cut(manifest), str(manifest["precision"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReportError(
            f"{folder / _MANIFEST} is no manifest of a bundle ({type(error).__name__}: {error}): "
            f"{_AGAIN}"
        ) from error
    if precision not in PRECISIONS:
        raise ReportError(
            f"{folder / _MANIFEST}: expected a precision among {', '.join(PRECISIONS)}, got "
            f"{precision!r}: {_AGAIN}"
        )
    _check_names(folder, files)
    for name, digest in files.items():
        found = file_sha256(folder / name)
        if found != digest:
            raise ReportError(
                f"{folder / name} was changed: expected SHA-256 {digest[:12]}…, got "
                f"{found[:12]}…: {_AGAIN}"
            )
    return Bundle(folder, manifest, cut, precision)


def _manifest(folder: Path) -> Mapping[str, Any]:
    path = folder / _MANIFEST
    if not path.is_file():
        raise ReportError(
            f"expected a bundle at {folder}, there is no {_MANIFEST} in it: make one with "
            "splitdeploy export MODEL --cut NAME --out BUNDLE"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is damaged ({type(error).__name__}): {_AGAIN}") from error
    if not isinstance(manifest, dict) or manifest.get("schema_version") != _SCHEMA_VERSION:
        version = manifest.get("schema_version") if isinstance(manifest, dict) else None
        raise ReportError(
            f"{path}: expected schema_version {_SCHEMA_VERSION}, got {version!r}: {_AGAIN}"
        )
    return manifest


def _check_names(folder: Path, files: Mapping[str, str]) -> None:
    """What the manifest tells of lies within the folder and is there, and nothing besides."""
    root = folder.resolve()
    for name in files:
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or "\\" in name or not name:
            raise ReportError(
                f"{folder / _MANIFEST}: expected files within the bundle, got {name!r}: do not use "
                "this bundle"
            )
        path = folder / name
        if not path.is_file():
            raise ReportError(f"{folder} lacks {name}, which its manifest tells of: {_AGAIN}")
        if not path.resolve().is_relative_to(root):
            raise ReportError(f"{path} leads out of the bundle: do not use this bundle")
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    extra = sorted(present - set(files) - {_MANIFEST})
    if extra:
        raise ReportError(
            f"{folder} holds {extra[0]!r}, which its manifest does not tell of: take it away, or "
            f"{_AGAIN}"
        )
    for needed in ("head.onnx", "tail.onnx"):
        if needed not in files:
            raise ReportError(f"{folder / _MANIFEST} does not tell of {needed}: {_AGAIN}")


def _cut(manifest: Mapping[str, Any]) -> CutPoint:
    tensors = tuple(
        TensorSpec(
            str(entry["name"]), tuple(int(size) for size in entry["shape"]), str(entry["dtype"])
        )
        for entry in manifest["tensors"]
    )
    for tensor in tensors:
        item_bytes(tensor.dtype)
    return CutPoint(str(manifest["cut"]), 0, tensors, int(manifest["payload_bytes"]), 0, 0)
