"""What stands beside an engine: everything it is tied to, checked before TensorRT sees the plan.

A plan of another version or GPU can end the process that reads it, and a plan that was tampered
with can do worse; so nothing is deserialised whose sidecar does not fit.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from splitdeploy.edge_runtime.engine_machine import EngineMachine
from splitdeploy.profiles.errors import EngineError

SCHEMA_VERSION = 1
_TITLES = {
    "tensorrt": "TensorRT", "cuda": "CUDA", "jetpack": "JetPack", "gpu": "a GPU named",
    "compute_capability": "compute capability",
}  # fmt: skip


@dataclass(frozen=True)
class Sidecar:
    """The record of one engine.

    Attributes:
        tensorrt: Version that built it.
        cuda: Version of CUDA.
        jetpack: JetPack's version; None on a machine that is no Jetson.
        gpu: Name of the GPU.
        compute_capability: Of the GPU.
        precision: ``fp32``, ``fp16`` or ``int8``.
        strongly_typed: Whether the graph said in which precision each layer computes.
        max_batch: The most pictures in one run.
        workspace_bytes: The limit of a layer's scratch memory.
        graph: The ONNX file that it was built from, within the bundle.
        onnx_sha256: Of that file.
        engine_sha256: Of the plan.
        timing_cache_sha256: Of the timing cache as this build left it; None where there is none.
        build_s: How long the build took.
        version_compatible: Whether the plan holds a runtime of its own, whose code would be run;
            never, in an engine of this program.
    """

    tensorrt: str
    cuda: str
    jetpack: str | None
    gpu: str
    compute_capability: str
    precision: str
    strongly_typed: bool
    max_batch: int
    workspace_bytes: int
    graph: str
    onnx_sha256: str
    engine_sha256: str
    timing_cache_sha256: str | None
    build_s: float
    version_compatible: bool = False

    def dump(self) -> str:
        """As JSON, with a newline at the end."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=2) + "\n"


def rebuild_command(bundle: Path, precision: str | None = None) -> str:
    """What a user types to build an engine again."""
    chosen = f" --precision {precision}" if precision else ""
    return f"splitdeploy build {bundle}{chosen}"


def read_sidecar(path: Path, bundle: Path) -> Sidecar:
    """Read a sidecar.

    Args:
        path: The JSON file.
        bundle: The bundle's folder, for the command in messages.

    Returns:
        The record.

    Raises:
        EngineError: There is none, it is damaged, or of another version.
    """
    again = f"build it again with  {rebuild_command(bundle)}"
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise EngineError(f"expected a record beside the engine at {path}, none: {again}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(f"{path} is damaged ({type(error).__name__}): {again}") from error
    held = document.pop("schema_version", None) if isinstance(document, dict) else None
    if held != SCHEMA_VERSION:
        raise EngineError(
            f"{path}: expected schema_version {SCHEMA_VERSION}, got {held!r}: {again}"
        )
    wrong = _wrong(document)
    if wrong is not None:
        raise EngineError(f"{path} is damaged ({wrong}): {again}")
    return Sidecar(**document)


def _wrong(document: dict[str, Any]) -> str | None:
    """What a document lacks to be a record; None where it is one."""
    kinds: dict[str, tuple[type, ...]] = {
        "max_batch": (int,), "workspace_bytes": (int,), "build_s": (int, float),
        "strongly_typed": (bool,), "version_compatible": (bool,),
        "jetpack": (str, type(None)), "timing_cache_sha256": (str, type(None)),
    }  # fmt: skip
    names = [field.name for field in fields(Sidecar)]
    if sorted(document) != sorted(names):
        odd = sorted(set(document) ^ set(names))
        return f"expected the fields of a record, {odd[0]!r} is missing or unknown"
    for name in names:
        value, expected = document[name], kinds.get(name, (str,))
        if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
            return f"{name}: expected {expected[0].__name__}, got {value!r}"
    return None


def check_sidecar(
    sidecar: Sidecar,
    machine: EngineMachine,
    bundle: Path,
    *,
    graphs: dict[str, str],
    engine_sha256: str,
    precision: str | None = None,
    max_batch: int | None = None,
) -> None:
    """See that an engine is this bundle's and this machine's.

    Args:
        sidecar: Its record.
        machine: What runs here.
        bundle: The bundle's folder, for the command in messages.
        graphs: Digests of the bundle's graphs, by file.
        engine_sha256: Of the plan as it lies there.
        precision: The one that is wanted; None for any.
        max_batch: The batch that is wanted; None for any.

    Raises:
        EngineError: Something differs; the message has both values and the command.
    """
    again = f"build it again with  {rebuild_command(bundle, precision or sidecar.precision)}"
    for name, title in _TITLES.items():
        had, has = getattr(sidecar, name), getattr(machine, name)
        if had != has:
            raise EngineError(
                f"the engine was built with {title} {had or 'unknown'}, this machine has "
                f"{has or 'none'}: {again}"
            )
    if sidecar.version_compatible:
        raise EngineError(
            "the engine holds code of its own (a version-compatible plan), expected one without, "
            f"since that code would be run: {again}"
        )
    for wanted, had, title in (
        (precision, sidecar.precision, "precision"),
        (max_batch, sidecar.max_batch, "a largest batch of"),
    ):
        if wanted is not None and wanted != had:
            raise EngineError(f"the engine has {title} {had}, wanted is {wanted}: {again}")
    graph = graphs.get(sidecar.graph)
    if graph != sidecar.onnx_sha256:
        raise EngineError(
            f"the engine was built from {sidecar.graph} with SHA-256 {sidecar.onnx_sha256[:12]}…, "
            f"the bundle's is {(graph or 'missing')[:12]}…: {again}"
        )
    if engine_sha256 != sidecar.engine_sha256:
        raise EngineError(
            f"the engine was changed: its record tells SHA-256 {sidecar.engine_sha256[:12]}…, the "
            f"file has {engine_sha256[:12]}…: {again}"
        )
