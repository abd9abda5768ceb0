"""A tail as a model of a Triton repository: its graph and its ``config.pbtxt``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_TYPES = {
    "float32": "TYPE_FP32", "float16": "TYPE_FP16", "float64": "TYPE_FP64", "int8": "TYPE_INT8",
    "uint8": "TYPE_UINT8", "int16": "TYPE_INT16", "int32": "TYPE_INT32", "int64": "TYPE_INT64",
    "bool": "TYPE_BOOL",
}  # fmt: skip


def write_model(
    folder: Path, name: str, graph: Path, values: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Write one model of a repository.

    The graph is linked where the file system allows it, since a tail may weigh gigabytes.

    Args:
        folder: The model's folder, ``<repository>/<name>``.
        name: The name under which it is served.
        graph: The tail's ONNX file; a file of weights beside it comes along.
        values: ``inputs`` and ``outputs``, each with ``name``, ``dtype`` and ``shape`` with the
            batch first, -1 where it may vary.
    """
    version = folder / "1"
    version.mkdir(parents=True)
    _link(graph, version / "model.onnx")
    weights = graph.with_suffix(".weights")
    if weights.is_file():
        _link(weights, version / weights.name)
    (folder / "config.pbtxt").write_text(config(name, values))


def config(name: str, values: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The text of ``config.pbtxt``, with a fixed batch told as it is.

    Args:
        name: The name under which the tail is served.
        values: As in `write_model`.

    Returns:
        The configuration: with dynamic batching where every tensor's batch may vary.
    """
    everything = [*values["inputs"], *values["outputs"]]
    batched = all(value["shape"] and value["shape"][0] == -1 for value in everything)
    lines = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {32 if batched else 0}",
    ]
    for kind in ("input", "output"):
        lines += [_value(kind, value, batched) for value in values[f"{kind}s"]]
    if batched:
        lines.append("dynamic_batching { }")
    return "\n".join(lines) + "\n"


def _value(kind: str, value: Mapping[str, Any], batched: bool) -> str:
    sizes = value["shape"][1:] if batched else value["shape"]
    dims = ", ".join(str(size) for size in sizes)
    return (
        f'{kind} [ {{ name: "{value["name"]}" data_type: {_TYPES[value["dtype"]]} '
        f"dims: [ {dims} ] }} ]"
    )


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
