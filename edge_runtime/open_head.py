"""A bundle's head in the best session that this machine has for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from splitdeploy.edge_runtime.bundle import Bundle
from splitdeploy.edge_runtime.engine_cache import find_engine
from splitdeploy.edge_runtime.onnxruntime_session import CPU, OnnxRuntimeSession, pick_providers
from splitdeploy.edge_runtime.session import Session
from splitdeploy.edge_runtime.tensorrt_session import TensorRtSession
from splitdeploy.profiles.errors import (
    EngineError,
    MissingExtraError,
    SessionError,
    UnknownNameError,
)

BACKENDS = ("auto", "tensorrt", "onnxruntime")


def open_head(
    bundle: Bundle,
    backend: str = "auto",
    *,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    precision: str | None = None,
    root: Path = Path("/"),
) -> Session:
    """Open the head of a bundle; the session's name says what runs it.

    Args:
        bundle: Checked.
        backend: ``tensorrt``: the bundle's engine; ``onnxruntime``: the graph; ``auto``: the engine
            where there is one for this machine, else the graph.
        providers: ONNX Runtime's; None for the best that this machine has.
        threads: How many threads an operator of ONNX Runtime may use.
        precision: The engine's; None for any. The graph always computes as it was exported.
        root: Where the system's files lie.

    Returns:
        The session, called such as ``tensorrt 10.3.0 fp16 on Orin`` or ``onnxruntime (CPU)``; its
        note says why something better was passed over.

    Raises:
        UnknownNameError: There is no such backend.
        EngineError: ``tensorrt`` was asked for, and there is no engine that fits.
        MissingExtraError: It was asked for, and is not installed.
        SessionError: What was asked for cannot be opened.
    """  # noqa: DOC502
    if backend not in BACKENDS:
        raise UnknownNameError("backend", backend, BACKENDS)
    why = ""
    if backend != "onnxruntime":
        try:
            return _engine_session(bundle, precision, root)
        except (EngineError, MissingExtraError, SessionError) as error:
            if backend == "tensorrt":
                raise
            why = str(error)
    session, note = _graph_session(bundle, providers, threads)
    session.name = f"onnxruntime ({session.provider})"
    session.note = "; ".join(text for text in (why, note) if text)
    return session


def _graph_session(
    bundle: Bundle, providers: Sequence[str] | None, threads: int | None
) -> tuple[OnnxRuntimeSession, str]:
    """On the providers that were named, or else on the first that starts."""
    chosen = pick_providers() if providers is None else tuple(providers)
    try:
        return OnnxRuntimeSession(bundle.head, providers=chosen, threads=threads), ""
    except SessionError as error:
        if providers is not None or chosen == (CPU,):
            raise
        return OnnxRuntimeSession(bundle.head, threads=threads), str(error)


def _engine_session(bundle: Bundle, precision: str | None, root: Path) -> Session:
    engine = find_engine(bundle, precision=precision, root=root)
    record = engine.sidecar
    title = f"tensorrt {record.tensorrt} {record.precision} on {record.gpu}"
    return TensorRtSession(engine.plan, title=title)
