"""Engines of a bundle: built where there is none that fits, found where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from splitdeploy.edge_runtime.bundle import ENGINES, Bundle
from splitdeploy.edge_runtime.engine_builder import EngineSettings, build_plan, find_route
from splitdeploy.edge_runtime.engine_machine import EngineMachine, load_cuda, this_machine
from splitdeploy.edge_runtime.engine_progress import Watch
from splitdeploy.edge_runtime.engine_sidecar import (
    Sidecar,
    check_sidecar,
    read_sidecar,
    rebuild_command,
)
from splitdeploy.edge_runtime.tensorrt_api import load_tensorrt
from splitdeploy.profiles.digest import bytes_sha256
from splitdeploy.profiles.errors import EngineError, OutputError
from splitdeploy.profiles.store import write_atomically

ENGINE, SIDECAR, TIMINGS = "head.engine", "head.engine.json", "timing.cache"


@dataclass(frozen=True)
class Engine:
    """A plan that fits this machine and this bundle.

    Attributes:
        path: Where it lies.
        plan: Its bytes, those whose digest was checked.
        sidecar: Its record.
    """

    path: Path
    plan: bytes
    sidecar: Sidecar


@dataclass(frozen=True)
class EngineBuild:
    """What `build_engine` did.

    Attributes:
        engine: The engine.
        built: Whether it was built now; else it was there.
        notes: What a user should know.
    """

    engine: Engine
    built: bool
    notes: tuple[str, ...]


def engine_folder(bundle: Bundle, machine: EngineMachine) -> Path:
    """Where the engine of a bundle lies, for one kind of machine."""
    return bundle.folder / ENGINES.rstrip("/") / machine.slug


def find_engine(
    bundle: Bundle,
    *,
    precision: str | None = None,
    max_batch: int | None = None,
    root: Path = Path("/"),
) -> Engine:
    """The engine of a bundle for this machine.

    Args:
        bundle: Checked.
        precision: The one that is wanted; None for any.
        max_batch: The batch that is wanted; None for any.
        root: Where the system's files lie.

    Returns:
        The engine, not yet deserialised.

    Raises:
        EngineError: There is none, or it is stale.
    """
    trt, cuda = load_tensorrt(), load_cuda()
    machine = this_machine(trt, cuda, root)
    return _found(bundle, machine, precision, max_batch)


def build_engine(
    bundle: Bundle,
    settings: EngineSettings,
    *,
    force: bool = False,
    watch: Watch | None = None,
    root: Path = Path("/"),
) -> EngineBuild:
    """Build the engine of a bundle, unless one that fits is there.

    Args:
        bundle: Checked.
        settings: What the engine is for.
        force: Build even where one is there.
        watch: Told now and then where the build is.
        root: Where the system's files lie.

    Returns:
        The engine.

    Raises:
        EngineError: It cannot be built.
        OutputError: It cannot be written.
    """  # noqa: DOC502
    settings.check()
    trt, cuda = load_tensorrt(), load_cuda()
    machine, notes = this_machine(trt, cuda, root), []
    folder = engine_folder(bundle, machine)
    if not force:
        try:
            there = _found(bundle, machine, settings.precision, settings.max_batch)
            return EngineBuild(there, False, ())
        except EngineError as error:
            if (folder / ENGINE).exists():
                notes.append(str(error).partition(": build it again")[0] + ": it is built anew")
    before = _record(folder, bundle)
    timings, note = _timings(folder, before)
    notes += [note] if note else []
    route = find_route(trt, bundle, settings.precision)
    with _current(cuda):
        built = build_plan(
            trt,
            route,
            settings,
            timing_cache=timings,
            last_s=None if before is None else before.build_s,
            watch=watch,
        )
    sidecar = Sidecar(
        **asdict(machine),
        precision=settings.precision,
        strongly_typed=route.strongly_typed,
        max_batch=settings.max_batch,
        workspace_bytes=settings.workspace_bytes,
        graph=route.graph.relative_to(bundle.folder).as_posix(),
        onnx_sha256=_graphs(bundle)[route.graph.name],
        engine_sha256=bytes_sha256(built.plan),
        timing_cache_sha256=bytes_sha256(built.timing_cache) if built.timing_cache else None,
        build_s=built.build_s,
    )
    _write(folder, built.plan, built.timing_cache, sidecar)
    engine = Engine(folder / ENGINE, built.plan, sidecar)
    return EngineBuild(engine, True, (*notes, *built.notes))


def _found(
    bundle: Bundle, machine: EngineMachine, precision: str | None, max_batch: int | None
) -> Engine:
    folder = engine_folder(bundle, machine)
    path = folder / ENGINE
    again = rebuild_command(bundle.folder, precision)
    if not path.is_file():
        others = sorted(p.parent.name for p in folder.parent.glob(f"*/{ENGINE}"))
        there = f"there are engines for {', '.join(others)}" if others else "there is none"
        raise EngineError(
            f"expected an engine for {machine.slug} in {bundle.folder}, {there}: build it with  "
            f"{again}"
        )
    if not path.resolve().is_relative_to(bundle.folder.resolve()):
        raise EngineError(f"{path} leads out of the bundle: do not use this bundle")
    sidecar = read_sidecar(folder / SIDECAR, bundle.folder)
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise EngineError(
            f"cannot read {path} ({error.strerror}): build it with  {again}"
        ) from error
    check_sidecar(
        sidecar,
        machine,
        bundle.folder,
        graphs=_graphs(bundle),
        engine_sha256=bytes_sha256(plan),
        precision=precision,
        max_batch=max_batch,
    )
    return Engine(path, plan, sidecar)


def _graphs(bundle: Bundle) -> dict[str, str]:
    return {name: str(entry["sha256"]) for name, entry in bundle.manifest["files"].items()}


def _record(folder: Path, bundle: Bundle) -> Sidecar | None:
    """The record of the engine that is replaced, where it can be read."""
    try:
        return read_sidecar(folder / SIDECAR, bundle.folder)
    except EngineError:
        return None


def _timings(folder: Path, before: Sidecar | None) -> tuple[bytes, str | None]:
    """The kept timing cache, and why it is not used; empty where there is none."""
    try:
        data = (folder / TIMINGS).read_bytes()
    except OSError:
        return b"", None
    known = None if before is None else before.timing_cache_sha256
    if known != bytes_sha256(data):
        return b"", "the timing cache is not the one that the last build left, it is made anew"
    return data, None


def _write(folder: Path, plan: bytes, timings: bytes, sidecar: Sidecar) -> None:
    """The record comes last: an interrupted write leaves an engine that its record disowns."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot write the engine into {folder}: {error.strerror or error}: make the bundle's "
            "folder writable"
        ) from error
    if timings:
        write_atomically(folder / TIMINGS, timings)
    write_atomically(folder / ENGINE, plan)
    write_atomically(folder / SIDECAR, sidecar.dump())


@contextmanager
def _current(cuda: Any) -> Iterator[None]:
    """The GPU's primary context, which TensorRT uses too, current in this thread."""
    context = cuda.Device(0).retain_primary_context()
    context.push()
    try:
        yield
    finally:
        context.pop()
