"""Tails as models of a Triton repository: one folder each, with graph and ``config.pbtxt``."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from splitdeploy.cloud_runtime.triton_config import (
    DEFAULT_BATCH,
    BackendName,
    Serving,
    config_text,
    is_batched,
)
from splitdeploy.edge_runtime.bundle import Bundle
from splitdeploy.edge_runtime.session import FREE
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.digest import file_sha256
from splitdeploy.profiles.errors import OutputError, ServeError

PYTHON_MODEL = Path(__file__).with_name("triton_model.py")
"""What the Python backend runs: ONNX Runtime on the graph beside it."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def write_repository(
    folder: Path,
    bundles: Sequence[Bundle],
    *,
    backend: BackendName = "onnxruntime",
    max_batch: int = DEFAULT_BATCH,
    instances: int = 1,
    preferred_batches: Sequence[int] = (),
    queue_delay_us: int = 0,
    warmup: bool = True,
) -> None:
    """Write a repository with the tails of several bundles side by side.

    Graphs are linked where the file system allows it, since a tail may weigh gigabytes. With the
    ``tensorrt`` backend the engine ``1/model.plan`` is still missing: `trtexec_command` makes it,
    on the machine that serves.

    Args:
        folder: Where it goes: new, or empty.
        bundles: Whose tails; at least one, with served names of their own.
        backend: Which of Triton's backends runs them.
        max_batch: The largest batch that requests are put together to.
        instances: Copies of each tail that run at once, on each device.
        preferred_batches: Sizes that a batch is held back for while ``queue_delay_us`` lasts.
        queue_delay_us: How long a request may wait for company; 0 batches what waits already.
        warmup: Whether each tail runs on zeros before Triton says that it is ready.

    Raises:
        ServeError: Two bundles bear one served name, a name is no name of a folder, or a figure is
            out of its range.
        OutputError: The folder holds something already, or it cannot be written.
    """
    check_names(bundles)
    serving = Serving(
        backend, max_batch, instances, tuple(preferred_batches), queue_delay_us, warmup
    )
    serving.check()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"expected a new or an empty folder, {folder} is neither: choose another")
    try:
        for bundle in bundles:
            _write_tail(folder / bundle.served_name, bundle, serving)
    except OSError as error:
        raise OutputError(
            f"cannot write the repository {folder}: {error.strerror or error}: "
            "free space there or choose another"
        ) from error


def check_names(bundles: Sequence[Bundle]) -> None:
    """Refuse bundles that one server cannot offer side by side.

    Args:
        bundles: What is to be served.

    Raises:
        ServeError: There are none, two bear one served name, or a name is no name of a folder.
    """
    if not bundles:
        raise ServeError("expected at least one bundle to serve, got none")
    owners: dict[str, Path] = {}
    for bundle in bundles:
        name = bundle.served_name
        if not _NAME.fullmatch(name):
            raise ServeError(
                f"{bundle.folder}: expected a served name of letters, digits, '_', '-' and '.', "
                f"got {name[:80]!r}: export it again"
            )
        if name in owners:
            raise ServeError(
                f"{owners[name]} and {bundle.folder} both serve {name!r}, expected a name of its "
                "own for each: serve one of them, or give them a server each"
            )
        owners[name] = bundle.folder


def trtexec_command(bundle: Bundle, model: Path, max_batch: int) -> list[str]:
    """The command that makes a tail's TensorRT engine, on the machine that will serve it.

    Args:
        bundle: Whose tail.
        model: Its folder in the repository.
        max_batch: The largest batch, as in `write_repository`.

    Returns:
        The program and its arguments.
    """
    command = [
        "trtexec",
        f"--onnx={model / '1' / 'model.onnx'}",
        f"--saveEngine={model / '1' / 'model.plan'}",
        "--skipInference",
    ]
    if is_batched(bundle.tail_inputs, bundle.tail_outputs):
        for option, batch in (("min", 1), ("opt", max(1, max_batch // 2)), ("max", max_batch)):
            shapes = (
                f"{spec.name}:{'x'.join(str(size) for size in (batch, *spec.shape[1:]))}"
                for spec in bundle.tail_inputs
            )
            command.append(f"--{option}Shapes={','.join(shapes)}")
    return command


def write_model(
    folder: Path, name: str, graph: Path, values: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Write the model that every bundle brings along: the onnxruntime backend, default settings.

    Args:
        folder: The model's folder, ``<repository>/<name>``.
        name: The name under which it is served.
        graph: The tail's ONNX file; a file of weights beside it comes along.
        values: ``inputs`` and ``outputs``, each with ``name``, ``dtype`` and ``shape`` with the
            batch first, -1 where it may vary.
    """
    inputs, outputs = (
        [TensorSpec(value["name"], tuple(value["shape"]), value["dtype"]) for value in values[kind]]
        for kind in ("inputs", "outputs")
    )
    _place(folder, graph)
    weights = graph.with_suffix(".weights")
    digest = file_sha256(weights if weights.is_file() else graph)
    (folder / "config.pbtxt").write_text(config_text(name, inputs, outputs, Serving(), digest))


def _write_tail(folder: Path, bundle: Bundle, serving: Serving) -> None:
    if serving.backend == "tensorrt" and any(FREE in s.shape[1:] for s in bundle.tail_inputs):
        raise ServeError(
            f"{bundle.folder}: expected a tail of one input size for TensorRT, this one takes any: "
            "export it with --input-shape, or choose the onnxruntime backend"
        )
    _place(folder, bundle.tail)
    if serving.backend == "python":
        shutil.copyfile(PYTHON_MODEL, folder / "1" / "model.py")
    text = config_text(
        bundle.served_name, bundle.tail_inputs, bundle.tail_outputs, serving, bundle.tail_digest
    )
    (folder / "config.pbtxt").write_text(text)


def _place(folder: Path, graph: Path) -> None:
    version = folder / "1"
    version.mkdir(parents=True)
    _link(graph, version / "model.onnx")
    weights = graph.with_suffix(".weights")
    if weights.is_file():
        _link(weights, version / weights.name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
