"""A tail that is served: what its bundle tells of it, and its open graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from splitdeploy.edge_runtime.bundle import Bundle
from splitdeploy.edge_runtime.onnxruntime_session import CPU, OnnxRuntimeSession
from splitdeploy.edge_runtime.session import FREE, Session, shown
from splitdeploy.edge_runtime.wire import DATATYPES
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.errors import ServeError

VERSION = "1"
"""Of every model: a bundle that changes gets another name or another server."""


@dataclass(frozen=True)
class ServedTail:
    """A tail that answers requests.

    Attributes:
        name: What requests call it.
        inputs: What it takes, the batch first; ``FREE`` where any size will do.
        outputs: What it gives.
        session: Its graph, open; more than one thread may run it at once.
        picture_bytes: What one picture's inputs weigh, and what its results weigh.
        digest: Of the file that holds its weights.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    session: Session
    picture_bytes: tuple[int, int]
    digest: str

    @property
    def takes_batches(self) -> bool:
        """Whether the batch may be of any size."""
        return any(spec.shape[:1] == (FREE,) for spec in self.inputs)

    def close(self) -> None:
        """Release the graph."""
        self.session.close()


def open_tail(
    bundle: Bundle, *, providers: Sequence[str] = (CPU,), threads: int | None = None
) -> ServedTail:
    """Open a bundle's tail and run it once, so that the first request finds it warm.

    Args:
        bundle: Read for the cloud, so that every file was checked.
        providers: The execution providers that it must run on.
        threads: How many threads an operator may use; None leaves it to ONNX Runtime.

    Returns:
        The tail.

    Raises:
        ServeError: The graph is that of another model than the manifest tells of, or it has a
            tensor that the protocol cannot carry.
        SessionError: The graph cannot be opened on these providers, or fails.
    """  # noqa: DOC502
    session = OnnxRuntimeSession(bundle.tail, providers=providers, threads=threads)
    try:
        _check(bundle, "input", bundle.tail_inputs, session.inputs)
        _check(bundle, "output", bundle.tail_outputs, session.outputs)
        example = _example(bundle)
        results = session.run(example)
    except Exception:
        session.close()
        raise
    return ServedTail(
        bundle.served_name,
        session.inputs,
        session.outputs,
        session,
        (
            sum(array.nbytes for array in example.values()),
            sum(array.nbytes for array in results.values()),
        ),
        bundle.tail_digest,
    )


def _check(
    bundle: Bundle, kind: str, told: Sequence[TensorSpec], found: Sequence[TensorSpec]
) -> None:
    if set(told) != set(found) or len(told) != len(found):
        raise ServeError(
            f"{bundle.tail} is the tail of another model: its manifest tells of {kind}s "
            f"{_listed(told)}, the graph has {_listed(found)}: export the bundle again"
        )
    for spec in found:
        if spec.dtype not in DATATYPES:
            raise ServeError(
                f"{bundle.tail}: expected {kind}s of a dtype among {', '.join(DATATYPES)}, which "
                f"the protocol carries, got {spec.name} of {spec.dtype}: export in another "
                "precision"
            )


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype}{shown(spec.shape)}" for spec in specs) or "none"


def _example(bundle: Bundle) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    """Zeros of one picture; a size that the tail leaves open is as the cut tells."""
    sent = {spec.name: spec.shape for spec in bundle.cut.tensors}
    found = {}
    for spec in bundle.tail_inputs:
        known = sent.get(spec.name, ())
        known = known if len(known) == len(spec.shape) else (1,) * len(spec.shape)
        shape = [
            max(told, 1) if size == FREE else size
            for size, told in zip(spec.shape, known, strict=True)
        ]
        if shape and spec.shape[0] == FREE:
            shape[0] = 1
        found[spec.name] = np.zeros(shape, spec.dtype)
    return found
