"""A bundle: the cut model as files that a device and a server can check before they load a byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto
from onnx.external_data_helper import load_external_data_for_model

from splitdeploy.cloud_runtime.triton_repository import write_model
from splitdeploy.edge_runtime.bundle import TWO_CUTS_VERSION
from splitdeploy.partitioner.slicing import Halves
from splitdeploy.profiles.cut import CutPoint, TensorSpec
from splitdeploy.profiles.digest import file_sha256
from splitdeploy.profiles.errors import OutputError
from splitdeploy.profiles.store import write_atomically

SCHEMA_VERSION = 1
"""Of a bundle with one cut; one with a last part has ``TWO_CUTS_VERSION``."""

_PROTOBUF_LIMIT = 1_900_000_000
"""Protocol buffers end at 2 GiB; weights beyond this go into a file of their own."""


@dataclass(frozen=True)
class BundleFacts:
    """What a manifest says beside its files.

    Attributes:
        model: The model's name.
        cut: The cut, its tensors as they are sent.
        precision: Of the payload.
        verification: The verdict on this cut, as in the report.
        leakage: The leakage record, as in the report; None where none was measured.
        source: What the model can be loaded again from (`Source.to_json`).
        guard_noise: What the head adds to its smashed data; None where it adds nothing.
        preprocessing: What is done to a picture before the head; None where it takes none.
        codec_loss: How far the codec's answers are from the whole model's; None if not judged.
        return_at: The second cut; None where there is one.
    """

    model: str
    cut: CutPoint
    precision: str
    verification: Mapping[str, Any] | None
    leakage: Mapping[str, Any] | None
    source: Mapping[str, Any] | None = None
    guard_noise: Mapping[str, Any] | None = None
    preprocessing: Mapping[str, Any] | None = None
    codec_loss: Mapping[str, Any] | None = None
    return_at: str | None = None

    @property
    def between(self) -> str:
        """What the tail lies behind: the cut, or both of them, since its outputs differ."""
        return self.cut.name if self.return_at is None else f"{self.cut.name}_to_{self.return_at}"


def write_bundle(folder: Path, halves: Halves, weights: Path, facts: BundleFacts) -> Path:
    """Write a bundle; an older one of the same name is replaced once the new one is whole.

    Args:
        folder: Where it goes.
        halves: Head and tail with their codec, and the last part where there is one.
        weights: The folder that their weights' files lie in.
        facts: What the manifest says of them.

    Returns:
        The folder.

    Raises:
        OutputError: There is a folder of that name that is no bundle, or it cannot be written.
    """  # noqa: DOC502
    check_replaceable(folder)
    aside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        save_graph(halves.head, weights, aside / "head.onnx")
        save_graph(halves.tail, weights, aside / "tail.onnx")
        if halves.last is not None:
            save_graph(halves.last, weights, aside / "last.onnx")
        served = served_name(facts.model, facts.between)
        write_model(aside / "triton" / served, served, aside / "tail.onnx", _specs(halves.tail))
        manifest = _manifest(aside, halves, facts, served)
        write_atomically(aside / "manifest.json", json.dumps(manifest, indent=2) + "\n")
        take_place(aside, folder)
    except OSError as error:
        raise OutputError(
            f"cannot write the bundle {folder}: {error.strerror or error}; free space there or "
            "give another place with --out"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def take_place(fresh: Path, folder: Path) -> None:
    """Give a finished bundle its name; an interrupt leaves either the old one or the new one.

    Args:
        fresh: The finished bundle, beside the place that it goes to.
        folder: Its name; what is there is removed.
    """
    old = folder.with_name(f".{folder.name}.old")
    if old.is_dir() and not folder.exists():
        old.replace(folder)  # a run that was killed between the two renames
    shutil.rmtree(old, ignore_errors=True)
    try:
        if folder.is_dir():
            folder.replace(old)
        fresh.replace(folder)
    except BaseException:
        if old.is_dir() and not folder.exists():
            old.replace(folder)
        raise
    finally:
        if folder.is_dir():
            shutil.rmtree(old, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    """Refuse to replace what is no bundle.

    Args:
        folder: Where a bundle is to go.

    Raises:
        OutputError: A folder of that name holds other things, or there is a file.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "manifest.json").is_file():
        raise OutputError(
            f"{folder} holds other things than a bundle, expected an empty or a new folder, or an "
            "older bundle: choose another --out"
        )
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"expected a folder at {folder}, which is a file: choose another --out")


def served_name(model: str, cut: str) -> str:
    """The name under which a server offers the tail: letters, digits and ``_`` alone.

    Args:
        model: The model's name.
        cut: The cut's name.

    Returns:
        Such as ``resnet18_layer2_1_tail``.
    """
    text = f"{model}_{cut}_tail"
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in text)


def save_graph(model: ModelProto, weights: Path, path: Path) -> None:
    """Write a graph with its weights; beside it, where one file cannot hold them.

    Args:
        model: Left as it is; weights that it holds itself stay in it.
        weights: The folder that its weights' files lie in.
        path: Where it goes.
    """
    whole = ModelProto()
    whole.CopyFrom(model)
    load_external_data_for_model(whole, str(weights))
    large = sum(len(tensor.raw_data) for tensor in whole.graph.initializer) > _PROTOBUF_LIMIT
    onnx.save_model(whole, str(path), save_as_external_data=large, location=f"{path.stem}.weights")


def _specs(model: ModelProto) -> dict[str, list[dict[str, Any]]]:
    """Inputs and outputs as a server's configuration wants them; -1 for the batch."""
    return {"inputs": _values(model.graph.input), "outputs": _values(model.graph.output)}


def _values(infos: Any) -> list[dict[str, Any]]:
    return [
        {
            "name": info.name,
            "dtype": onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type).name,
            "shape": [
                size.dim_value if size.HasField("dim_value") else -1
                for size in info.type.tensor_type.shape.dim
            ],
        }
        for info in infos
    ]


def _tensors(tensors: Iterable[TensorSpec]) -> list[dict[str, Any]]:
    return [
        {"name": t.name, "shape": list(t.shape), "dtype": t.dtype, "bytes": t.bytes}
        for t in tensors
    ]


def _last(halves: Halves, facts: BundleFacts) -> dict[str, Any]:
    """Of the last part: where it begins, what it takes and gives, and what comes back for it."""
    if halves.last is None or facts.cut.last is None:
        return {}
    return {
        "return_at": facts.return_at,
        "returned": _tensors(facts.cut.last.returned),
        "downlink_bytes": facts.cut.last.downlink_bytes,
        "last": _specs(halves.last),
    }


def _manifest(folder: Path, halves: Halves, facts: BundleFacts, served: str) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "schema_version": SCHEMA_VERSION if halves.last is None else TWO_CUTS_VERSION,
        "model": facts.model,
        "served_name": served,
        "cut": facts.cut.name,
        "tensors": _tensors(facts.cut.tensors),
        "payload_bytes": facts.cut.payload_bytes,
        "head": _specs(halves.head),
        "tail": _specs(halves.tail),
        **_last(halves, facts),
        "precision": facts.precision,
        "codec": {"fp32": "none", "fp16": "cast", "int8": "quantize-linear"}[facts.precision],
        "codec_loss": facts.codec_loss,
        "preprocessing": facts.preprocessing,
        "source": facts.source,
        "guard_noise": facts.guard_noise,
        "verification": facts.verification,
        "leakage": facts.leakage,
        "files": {
            path.relative_to(folder).as_posix(): {
                "sha256": file_sha256(path),
                "bytes": path.stat().st_size,
            }
            for path in files
        },
    }
