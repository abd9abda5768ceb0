"""Reading a bundle: every digest is checked before anything in it is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from splitdeploy.edge_runtime.guard_noise import NoiseInput, noise_inputs
from splitdeploy.edge_runtime.preprocess import Preprocessing
from splitdeploy.profiles.cut import PRECISIONS, CutPoint, TensorSpec, item_bytes
from splitdeploy.profiles.digest import file_sha256
from splitdeploy.profiles.errors import ReportError

_SCHEMA_VERSION = 1

TWO_CUTS_VERSION = 2
"""Of a bundle with a last part. Whoever knows one cut alone would take what the tail gives for the
result; so it has a version that such a reader refuses."""

_MANIFEST = "manifest.json"
_AGAIN = "export it again"

ENGINES = "engines/"
"""What lies under here is made on the device and told of by no manifest."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are those that its manifest tells of.

    Attributes:
        folder: Where it lies.
        manifest: Parsed.
        cut: The cut, its tensors as they are sent; costs are not in a bundle and are 0.
        precision: Of the payload.
        served_name: The name under which a server offers the tail.
        head_inputs: What the head takes beside noise, ``FREE`` where any size will do.
        head_outputs: What it sends, in the order of ``tail_inputs``.
        tail_inputs: What the tail takes.
        tail_outputs: What the tail gives: the model's results, or with a last part what it takes.
        noise: What a guarded head takes besides, drawn anew for every picture.
        preprocessing: What is done to a picture before the head; None where it takes none.
        return_at: The second cut, behind which the last part runs on the device; None without one.
        last_inputs: What the last part takes, of the tail's outputs and of the head's.
        last_outputs: The model's results, where there is a last part.
    """

    folder: Path
    manifest: Mapping[str, Any]
    cut: CutPoint
    precision: str
    served_name: str
    head_inputs: tuple[TensorSpec, ...]
    head_outputs: tuple[TensorSpec, ...]
    tail_inputs: tuple[TensorSpec, ...]
    tail_outputs: tuple[TensorSpec, ...]
    noise: tuple[NoiseInput, ...]
    preprocessing: Preprocessing | None
    return_at: str | None = None
    last_inputs: tuple[TensorSpec, ...] = ()
    last_outputs: tuple[TensorSpec, ...] = ()

    @property
    def results(self) -> tuple[TensorSpec, ...]:
        """The model's results, whatever part gives them."""
        return self.tail_outputs if self.return_at is None else self.last_outputs

    @property
    def held(self) -> tuple[TensorSpec, ...]:
        """What the head gives for the last part alone; it is never sent."""
        returned = {spec.name for spec in self.tail_outputs}
        return tuple(spec for spec in self.last_inputs if spec.name not in returned)

    @property
    def last(self) -> Path:
        """The last part's graph; only a bundle with ``return_at`` has one."""
        return self.folder / "last.onnx"

    @property
    def head(self) -> Path:
        """The head's graph."""
        return self.folder / "head.onnx"

    @property
    def tail(self) -> Path:
        """The tail's graph; a device that never answers alone may be without it."""
        return self.folder / "tail.onnx"

    @property
    def head_variants(self) -> dict[str, Path]:
        """The head's graph in other precisions, by precision; those alone that are there."""
        told = self.manifest.get("head_variants") or {}
        found = {str(name): self.folder / str(entry["file"]) for name, entry in told.items()}
        return {name: path for name, path in found.items() if path.is_file()}

    @property
    def tail_digest(self) -> str:
        """Of the file that holds the tail's weights: tells tails of one shape apart."""
        files = self.manifest["files"]
        return str(files.get("tail.weights", files["tail.onnx"])["sha256"])

    @property
    def digest(self) -> str:
        """Of its manifest, which holds the digests of all else: tells bundles apart."""
        return file_sha256(self.folder / _MANIFEST)


Part = Literal["whole", "edge", "cloud"]
"""What of a bundle a machine has: a device may lack the tail, a server the head."""

_GRAPHS = {
    "whole": ("head.onnx", "tail.onnx", "last.onnx"),
    "edge": ("head.onnx", "last.onnx"),
    "cloud": ("tail.onnx",),
}


def read_bundle(folder: Path | str, part: Part = "whole") -> Bundle:
    """Read a bundle, and check every one of its files.

    Args:
        folder: The bundle's folder.
        part: What must be there; of the other files, those that are there are checked too.

    Returns:
        The bundle.

    Raises:
        ReportError: There is none; its manifest is damaged or of another version; or a file is
            missing, changed, not told of, or lies outside the folder.
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    try:
        files = {str(name): str(entry["sha256"]) for name, entry in manifest["files"].items()}
        cut, precision = _cut(manifest), str(manifest["precision"])
        noise = noise_inputs(manifest)
        drawn = {entry.name for entry in noise}
        head, tail, last = manifest["head"], manifest["tail"], manifest.get("last")
        bundle = Bundle(
            folder=folder,
            manifest=manifest,
            cut=cut,
            precision=precision,
            served_name=str(manifest["served_name"]),
            head_inputs=tuple(s for s in _specs(head["inputs"]) if s.name not in drawn),
            head_outputs=_specs(head["outputs"]),
            tail_inputs=_specs(tail["inputs"]),
            tail_outputs=_specs(tail["outputs"]),
            noise=noise,
            preprocessing=_preprocessing(manifest["preprocessing"]),
            return_at=None if last is None else str(manifest["return_at"]),
            last_inputs=() if last is None else _specs(last["inputs"]),
            last_outputs=() if last is None else _specs(last["outputs"]),
        )
        _check_last(bundle)
        _check_variants(folder, manifest, files)
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
    _check_names(folder, files, part, bundle.return_at is not None)
    for name, digest in files.items():
        if not (folder / name).is_file():
            continue
        found = file_sha256(folder / name)
        if found != digest:
            raise ReportError(
                f"{folder / name} was changed: expected SHA-256 {digest[:12]}…, got "
                f"{found[:12]}…: {_AGAIN}"
            )
    return bundle


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
    told = manifest if isinstance(manifest, dict) else {}
    version = told.get("schema_version")
    expected = _SCHEMA_VERSION if told.get("last") is None else TWO_CUTS_VERSION
    if not told or isinstance(version, bool) or version != expected:
        raise ReportError(f"{path}: expected schema_version {expected}, got {version!r}: {_AGAIN}")
    return told


def _check_names(folder: Path, files: Mapping[str, str], part: Part, has_last: bool) -> None:
    """What the manifest tells of lies within the folder and is there, and nothing besides."""
    needed = {name for name in files if part == "whole" or _stem(name) in _GRAPHS[part]}
    root = folder.resolve()
    for name in files:
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or "\\" in name or not name:
            raise ReportError(
                f"{folder / _MANIFEST}: expected files within the bundle, got {name!r}: do not use "
                "this bundle"
            )
        path = folder / name
        if not path.is_file() and name in needed:
            raise ReportError(f"{folder} lacks {name}, which its manifest tells of: {_AGAIN}")
        if not path.resolve().is_relative_to(root):
            raise ReportError(f"{path} leads out of the bundle: do not use this bundle")
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    # Engines are built on the device; each has a sidecar of its own that vouches for it.
    extra = sorted(
        name for name in present - set(files) - {_MANIFEST} if not name.startswith(ENGINES)
    )
    if extra:
        raise ReportError(
            f"{folder} holds {extra[0]!r}, which its manifest does not tell of: take it away, or "
            f"{_AGAIN}"
        )
    for graph in ("head.onnx", "tail.onnx", *(["last.onnx"] if has_last else [])):
        if graph not in files:
            raise ReportError(f"{folder / _MANIFEST} does not tell of {graph}: {_AGAIN}")


def _check_last(bundle: Bundle) -> None:
    """The last part takes what the tail gives and what the head keeps, as they are given."""
    given = {spec.name: spec for spec in (*bundle.head_outputs, *bundle.tail_outputs)}
    for spec in bundle.last_inputs:
        if given.get(spec.name) != spec:
            raise ReportError(
                f"{bundle.folder / _MANIFEST}: expected tensors of head and tail as inputs of the "
                f"last part, got {spec.name!r}, which neither gives so: {_AGAIN}"
            )


def _check_variants(folder: Path, manifest: Mapping[str, Any], files: Mapping[str, str]) -> None:
    """A head in another precision is among the files, whose digests are checked."""
    for precision, entry in (manifest.get("head_variants") or {}).items():
        if precision not in PRECISIONS or str(entry["file"]) not in files:
            raise ReportError(
                f"{folder / _MANIFEST}: expected head variants of {', '.join(PRECISIONS)} among "
                f"its files, got {precision!r}: {_AGAIN}"
            )


def _stem(name: str) -> str:
    """The graph that a file belongs to: weights beside a graph bear its name."""
    return f"{name.removesuffix('.weights')}.onnx" if name.endswith(".weights") else name


def _specs(entries: Any) -> tuple[TensorSpec, ...]:
    found = tuple(
        TensorSpec(str(e["name"]), tuple(int(size) for size in e["shape"]), str(e["dtype"]))
        for e in entries
    )
    for spec in found:
        item_bytes(spec.dtype)
    return found


def _preprocessing(entry: Any) -> Preprocessing | None:
    return None if entry is None else Preprocessing.from_json(entry)


def _cut(manifest: Mapping[str, Any]) -> CutPoint:
    tensors = _specs(manifest["tensors"])
    return CutPoint(str(manifest["cut"]), 0, tensors, int(manifest["payload_bytes"]), 0, 0)
