"""The one place where a measurement chooses what runs a head.

Each head gets a folder that looks as a bundle does, with links to its graph and to the weights that
all heads share, so that engines are built and found as for a bundle.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from splitdeploy.edge_runtime.bundle import Bundle
from splitdeploy.edge_runtime.engine_builder import EngineSettings
from splitdeploy.edge_runtime.engine_cache import build_engine
from splitdeploy.edge_runtime.open_head import open_head
from splitdeploy.edge_runtime.received import Sent
from splitdeploy.edge_runtime.session import Session
from splitdeploy.profiles.cut import CutPoint, TensorSpec
from splitdeploy.profiles.errors import EngineError, MissingExtraError, SessionError

if TYPE_CHECKING:
    from splitdeploy.edge_runtime.measure_job import Settings

_GRAPH = "head.onnx"


@dataclass(frozen=True)
class OpenHead:
    """An opened head, and what runs it, in words."""

    session: Session
    backend: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class HeadFiles:
    """A head within its job: the graph, the weights' files, what it sends."""

    graph: Sent
    weights: Sequence[Sent]
    outputs: tuple[TensorSpec, ...]


@contextlib.contextmanager
def open_for_measuring(folder: Path, head: HeadFiles, settings: Settings) -> Iterator[OpenHead]:
    """Open a head with what the settings ask for; where TensorRT is, build its engine before.

    Args:
        folder: The job's.
        head: One of its heads.
        settings: Of the measurement.

    Yields:
        The opened head.

    Raises:
        EngineError: TensorRT was asked for, and its engine cannot be built.
        MissingExtraError: It was asked for, and is not installed.
        SessionError: It was asked for, and there is no GPU that it can use.
    """
    bundle = _as_bundle(folder, head, settings.precision)
    backend, notes = settings.backend, list[str]()
    if backend != "onnxruntime":
        try:
            built = build_engine(bundle, EngineSettings(settings.precision))
            notes += built.notes
        except (EngineError, MissingExtraError, SessionError) as error:
            if backend == "tensorrt":
                raise
            backend = "onnxruntime"
            if not isinstance(error, MissingExtraError):
                notes.append(f"not in TensorRT: {error}")
    precision = settings.precision if backend != "onnxruntime" else None
    with open_head(bundle, backend, threads=settings.threads, precision=precision) as session:
        name = session.name
        if name.startswith("onnxruntime"):
            name += ", in the precision of the graph, fp32"
        yield OpenHead(session, name, tuple(notes))


def _as_bundle(folder: Path, head: HeadFiles, precision: str) -> Bundle:
    """A folder of the head's own, in which it lies as in a bundle."""
    place = folder / "opened" / Path(head.graph.name).stem
    place.mkdir(parents=True, exist_ok=True)
    for file, name in ((head.graph, _GRAPH), *((file, file.name) for file in head.weights)):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).unlink(missing_ok=True)
        os.link(folder / file.name, place / name)
    return Bundle(
        folder=place,
        manifest={"files": {_GRAPH: {"sha256": head.graph.sha256}}},
        cut=CutPoint(place.name, 0, head.outputs, 0, 0, 0),
        precision=precision,
        served_name="",
        head_inputs=(),
        head_outputs=head.outputs,
        tail_inputs=(),
        tail_outputs=(),
        noise=(),
        preprocessing=None,
    )
