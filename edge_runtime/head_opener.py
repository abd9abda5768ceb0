"""The one place where a measurement chooses what runs a head."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.session import Session
from splitdeploy.profiles.errors import SessionError

if TYPE_CHECKING:
    from splitdeploy.edge_runtime.measure_job import Settings


@dataclass(frozen=True)
class OpenHead:
    """An opened head, and what runs it, in words."""

    session: Session
    backend: str
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def open_for_measuring(path: Path, settings: Settings) -> Iterator[OpenHead]:
    """Open a head with what the settings ask for.

    Args:
        path: Its graph.
        settings: Of the measurement.

    Yields:
        The opened head.

    Raises:
        SessionError: The backend is not there, or the graph cannot be opened.
    """
    if settings.backend == "tensorrt":
        raise SessionError("tensorrt does not run heads here: take the backend onnxruntime")
    with OnnxRuntimeSession(path, threads=settings.threads) as session:
        yield OpenHead(session, f"onnxruntime ({session.providers[0]}), in fp32")
