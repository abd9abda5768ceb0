"""The whole path on this machine: a head opened, run, checked, timed, and its energy measured.

The result is a document for an issue: it tells of the board and its software, not of its name, its
user or its folders.
"""

from __future__ import annotations

import datetime
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from splitdeploy.edge_runtime import tiny_head
from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.edge_runtime.device_state import read_state
from splitdeploy.edge_runtime.doctor import Check, Machine
from splitdeploy.edge_runtime.engine_builder import EngineSettings, Route, build_plan
from splitdeploy.edge_runtime.engine_machine import load_cuda
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.power.energy import EnergyMeter
from splitdeploy.edge_runtime.power.reader import NotMeasured
from splitdeploy.edge_runtime.seeded import seeded_feeds
from splitdeploy.edge_runtime.session import Array, Session
from splitdeploy.edge_runtime.tensorrt_api import load_tensorrt, types_strongly
from splitdeploy.edge_runtime.tensorrt_session import TensorRtSession
from splitdeploy.edge_runtime.timing import time_session
from splitdeploy.profiles.errors import SplitdeployError

SCHEMA_VERSION = 1
TOLERANCE = {"float32": 1e-4, "float16": 2e-2}
"""Largest difference over the largest magnitude; GPUs may compute convolutions in TF32 or fp16."""

Backend = Callable[[Path], Session]


@dataclass(frozen=True)
class Subject:
    """The head that is tried.

    Attributes:
        name: What the document calls it.
        head: Its graph.
        feeds: What it is run on; None is numbers out of a fixed seed.
        expected: What it should give; None where only other backends can tell.
    """

    name: str
    head: Path
    feeds: Mapping[str, Array] | None
    expected: Mapping[str, Array] | None


def selftest(
    checks: Sequence[Check],
    *,
    bundle: Path | None = None,
    backends: Mapping[str, Backend] | None = None,
    machine: Machine | None = None,
    window_s: float = 5.0,
    idle_s: float = 3.0,
) -> dict[str, Any]:
    """Run a head on every backend that is here.

    Args:
        checks: What the doctor found, for the document.
        bundle: Whose head is run; None for a tiny one whose answer is known.
        backends: How a head is opened, by name; None is every one that this machine has.
        machine: How the machine is looked at.
        window_s: How long each backend is run for its energy.
        idle_s: How long the machine waits before, to be measured idle.

    Returns:
        The document; ``ok`` says whether every backend that opened gave right answers, and one did.

    Raises:
        ReportError: There is no good bundle.
    """  # noqa: DOC502
    at = machine or Machine()
    opened = default_backends() if backends is None else backends
    with tempfile.TemporaryDirectory(prefix="splitdeploy-") as folder:
        subject = tiny_subject(Path(folder)) if bundle is None else bundle_subject(bundle)
        before = read_state(at.root)
        results = [
            _tried(name, backend, subject, at, window_s, idle_s) for name, backend in opened.items()
        ]
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "splitdeploy selftest",
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "splitdeploy": metadata.version("splitdeploy"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "head": subject.name,
        "checks": [check.to_json() for check in checks if check.name not in _PRIVATE],
        "state_before": before.to_json(),
        "state_after": read_state(at.root).to_json(),
        "results": results,
        "ok": any(r["opened"] for r in results) and all(r["ok"] for r in results if r["opened"]),
    }


_PRIVATE = ("python", "disk", "groups", "cloud")
"""Checks that tell of the user's folders, groups and servers."""


def default_backends() -> dict[str, Backend]:
    """Every backend that a head can be tried on; one that is not here says so when it is opened."""
    return {"onnxruntime": OnnxRuntimeSession, "tensorrt": open_in_tensorrt}


def open_in_tensorrt(head: Path) -> Session:
    """Build an engine of a head in fp32, and open it. Nothing is kept of it.

    Args:
        head: The graph.

    Returns:
        The session.

    Raises:
        EngineError: It cannot be built.
        MissingExtraError: TensorRT or pycuda is not installed.
        SessionError: There is no GPU, or it does not take the engine.
    """  # noqa: DOC502
    trt, cuda = load_tensorrt(), load_cuda()
    context = cuda.Device(0).retain_primary_context()
    context.push()
    try:
        built = build_plan(trt, Route(head, types_strongly(trt), ()), EngineSettings("fp32"))
    finally:
        context.pop()
    return TensorRtSession(built.plan)


def tiny_subject(folder: Path) -> Subject:
    """The tiny head, with what it should give.

    Args:
        folder: Where its graph is written.

    Returns:
        The subject.
    """
    path = folder / "tiny_head.onnx"
    path.write_bytes(tiny_head.tiny_head())
    pixels = tiny_head.picture()
    return Subject(
        "tiny head",
        path,
        {tiny_head.INPUT: pixels},
        {tiny_head.OUTPUT: tiny_head.expected(pixels)},
    )


def bundle_subject(folder: Path) -> Subject:
    """The head of a bundle; a guarded one takes its noise as an input like any other.

    Args:
        folder: The bundle's.

    Returns:
        The subject; what it should give is not known.

    Raises:
        ReportError: There is no good bundle.
    """  # noqa: DOC502
    bundle = read_bundle(folder, "edge")
    return Subject(f"{bundle.served_name}, cut {bundle.cut.name}", bundle.head, None, None)


def _tried(
    name: str, backend: Backend, subject: Subject, machine: Machine, window_s: float, idle_s: float
) -> dict[str, Any]:
    """One backend's part of the document; whatever fails is told there."""
    record: dict[str, Any] = {"backend": name, "opened": False, "ok": False}
    try:
        session = backend(subject.head)
    except SplitdeployError as error:
        return record | {"error": str(error)}
    record |= {"opened": True, "providers": list(getattr(session, "providers", ()))}
    try:
        with session:
            feeds = subject.feeds or seeded_feeds(session.inputs)
            record |= _judged(session.run(feeds), subject.expected)
            record["latency_s"] = asdict(time_session(session, feeds))
            record["energy"] = _energy(session, feeds, machine, window_s, idle_s)
    except SplitdeployError as error:
        return record | {"ok": False, "error": str(error)}
    return record


def _judged(outputs: Mapping[str, Array], expected: Mapping[str, Array] | None) -> dict[str, Any]:
    """Whether the answer is finite, and right where that is known."""
    finite = all(bool(np.isfinite(array).all()) for array in outputs.values())
    if expected is None:
        return {"ok": finite, "checked": "finite alone: what is right is not known of this head"}
    if not finite or set(outputs) != set(expected):
        return {"ok": False, "checked": "the answer is not finite, or has other names"}
    worst, ok = 0.0, True
    for name, array in outputs.items():
        largest = float(np.abs(expected[name]).max()) or 1.0
        error = float(np.abs(array.astype(np.float64) - expected[name]).max()) / largest
        worst = max(worst, error)
        ok = ok and error <= TOLERANCE.get(array.dtype.name, TOLERANCE["float32"])
    return {"ok": ok, "checked": "against NumPy", "max_rel_error": worst}


def _energy(
    session: Session, feeds: Mapping[str, Array], machine: Machine, window_s: float, idle_s: float
) -> dict[str, Any]:
    """What an inference costs, or why that is not known."""
    reader = machine.open_power(machine.root)
    if isinstance(reader, NotMeasured):
        return {"not_measured": reader.reason}
    with reader:
        meter = EnergyMeter(reader, window_s=window_s, idle_s=idle_s)
        found = meter.measure(lambda: session.run(feeds))
    return {"not_measured": found.reason} if isinstance(found, NotMeasured) else found.to_json()
