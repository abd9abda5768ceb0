"""From an ONNX head to a TensorRT plan, on the device that will run it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitdeploy.edge_runtime.bundle import Bundle
from splitdeploy.edge_runtime.engine_progress import (
    BuildProgress,
    Interrupted,
    Watch,
    make_monitor,
    watched,
)
from splitdeploy.edge_runtime.session import FREE, shown
from splitdeploy.edge_runtime.tensorrt_api import (
    blob_bytes,
    create_network,
    make_logger,
    parse,
    set_timing_cache,
    timing_cache_bytes,
    told_errors,
    types_strongly,
    types_weakly,
    version,
)
from splitdeploy.profiles.cut import PRECISIONS
from splitdeploy.profiles.errors import EngineError, UnknownNameError, UsageError
from splitdeploy.profiles.units import format_size

DEFAULT_WORKSPACE = 1_000_000_000
_LEAST_WORKSPACE = 16_000_000
_OUT_OF_MEMORY = ("out of memory", "bad_alloc", "outofmemory", "cannot allocate memory")
_NO_ROOM = ("insufficient workspace", "insufficient memory", "could not find any implementation")


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is built for.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``.
        workspace_bytes: The most scratch memory that a layer may use.
        max_batch: The most pictures in one run.
    """

    precision: str = "fp32"
    workspace_bytes: int = DEFAULT_WORKSPACE
    max_batch: int = 1

    def check(self) -> None:
        """Refuse settings that cannot be meant.

        Raises:
            UnknownNameError: There is no such precision.
            UsageError: A number is out of range.
        """
        if self.precision not in PRECISIONS:
            raise UnknownNameError("precision", self.precision, PRECISIONS)
        if self.max_batch < 1:
            raise UsageError(f"expected a batch of at least 1, got {self.max_batch}")
        if self.workspace_bytes < _LEAST_WORKSPACE:
            raise UsageError(
                f"expected a workspace of at least {format_size(_LEAST_WORKSPACE)}, got "
                f"{format_size(self.workspace_bytes)}: take 1GB, or 256MB on a small board"
            )


@dataclass(frozen=True)
class Route:
    """Which graph is built, and who chooses the precision of its layers.

    Attributes:
        graph: The ONNX file.
        strongly_typed: The graph, where True; else the builder, among ``flags``.
        flags: Names of ``BuilderFlag``.
    """

    graph: Path
    strongly_typed: bool
    flags: tuple[str, ...]


@dataclass(frozen=True)
class BuiltPlan:
    """What a build gave.

    Attributes:
        plan: The engine, serialised.
        timing_cache: Timings, for the next build.
        build_s: How long it took.
        notes: What a user should know.
    """

    plan: bytes
    timing_cache: bytes
    build_s: float
    notes: tuple[str, ...]


def find_route(trt: Any, bundle: Bundle, precision: str) -> Route:
    """Which graph gives an engine of a precision with this TensorRT.

    A typed graph goes before flags: it says for each layer what was verified on the workstation.
    int8 is always a typed graph, since TensorRT's own calibration is gone from version 11.

    Args:
        trt: The module.
        bundle: Checked.
        precision: ``fp32``, ``fp16`` or ``int8``.

    Returns:
        The route.

    Raises:
        EngineError: The bundle lacks the graph that it takes.
    """
    strong, weak = types_strongly(trt), types_weakly(trt)
    variant = bundle.head_variants.get(precision)
    if precision == "int8" and variant is None:
        raise EngineError(
            f"expected a head with explicit quantisation in {bundle.folder}, there is none: on the "
            "workstation export with --head-precision int8 (it is calibrated on pictures)"
        )
    if precision == "fp16" and variant is None and not weak:
        raise EngineError(
            f"TensorRT {version(trt)} takes precisions from the graph alone, and {bundle.folder} "
            "has no head in fp16: on the workstation export with --head-precision fp16, or build "
            "with --precision fp32"
        )
    if strong and (precision == "fp32" or variant is not None):
        return Route(variant or bundle.head, True, ())
    flags = {"fp32": (), "fp16": ("FP16",), "int8": ("INT8",)}[precision]
    sent = {spec.dtype for spec in bundle.head_outputs}
    # A codec in the graph needs its type allowed, whatever the layers before it compute in.
    extra = [flag for flag, dtype in (("FP16", "float16"), ("INT8", "int8")) if dtype in sent]
    graph = variant if precision == "int8" and variant is not None else bundle.head
    return Route(graph, False, tuple(dict.fromkeys((*flags, *extra))))


def build_plan(
    trt: Any,
    route: Route,
    settings: EngineSettings,
    *,
    timing_cache: bytes = b"",
    last_s: float | None = None,
    watch: Watch | None = None,
) -> BuiltPlan:
    """Build.

    Args:
        trt: The module.
        route: From `find_route`.
        settings: What the engine is for.
        timing_cache: Of an earlier build; empty for none.
        last_s: How long an earlier build took, for the estimate.
        watch: Told now and then where the build is.

    Returns:
        The plan.

    Raises:
        EngineError: The graph cannot be read, or TensorRT could not build it.
        KeyboardInterrupt: The user ended it.
    """
    settings.check()
    logger, interrupted = make_logger(trt), Interrupted()
    if hasattr(trt, "init_libnvinfer_plugins"):
        trt.init_libnvinfer_plugins(logger, "")
    builder = trt.Builder(logger)
    network = create_network(trt, builder, strongly_typed=route.strongly_typed)
    parser = trt.OnnxParser(network, logger)
    parse(parser, route.graph.read_bytes(), str(route.graph))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    for flag in route.flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    _add_profile(builder, network, config, settings.max_batch)
    note = set_timing_cache(config, timing_cache)
    progress = BuildProgress(last_s)
    monitor = make_monitor(trt, progress, interrupted)
    if monitor is not None:
        config.progress_monitor = monitor
    began = time.perf_counter()
    try:
        with interrupted.listening(), watched(progress, watch):
            plan = builder.build_serialized_network(network, config)
    except Exception as error:  # pybind11 turns any C++ exception into one of many
        raise EngineError(_failure(trt, logger, settings, str(error))) from error
    if interrupted.asked:
        raise KeyboardInterrupt
    if plan is None:
        raise EngineError(_failure(trt, logger, settings, ""))
    notes = () if note is None else (note,)
    return BuiltPlan(
        blob_bytes(plan), timing_cache_bytes(config), time.perf_counter() - began, notes
    )


def _add_profile(builder: Any, network: Any, config: Any, max_batch: int) -> None:
    """The batches that the engine must take; none is needed where every size is known."""
    profile, free = builder.create_optimization_profile(), False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(int(size) for size in tensor.shape)
        if FREE not in shape:
            continue
        if FREE in shape[1:]:
            raise EngineError(
                f"input {tensor.name!r}: expected no free size but the batch, got {shown(shape)}: "
                "export the model with a fixed input shape (--input-shape)"
            )
        one, most = (1, *shape[1:]), (max_batch, *shape[1:])
        profile.set_shape(tensor.name, one, one, most)
        free = True
    if free:
        config.add_optimization_profile(profile)
    elif max_batch > 1:
        raise EngineError(
            f"expected a head with a free batch for --max-batch {max_batch}, this one takes one "
            "picture at a time: leave --max-batch out"
        )


def _failure(trt: Any, logger: Any, settings: EngineSettings, raised: str) -> str:
    """Why there is no plan, and what to try."""
    reasons = [*dict.fromkeys(logger.errors), *([raised] if raised else [])]
    text = " ".join(reasons).lower()
    limit = settings.workspace_bytes
    if any(sign in text for sign in _OUT_OF_MEMORY):
        less = max(_LEAST_WORKSPACE, limit // 2)
        advice = (
            f"the device ran out of memory: close other programs, and try --workspace "
            f"{less // 1_000_000}MB (it was {format_size(limit)})"
        )
    elif any(sign in text for sign in _NO_ROOM):
        advice = (
            f"a layer found no room: try --workspace {2 * limit // 1_000_000}MB (it was "
            f"{format_size(limit)})"
        )
    else:
        advice = "try --precision fp32, or run the head with ONNX Runtime"
    told = told_errors(logger) if not raised else "; ".join(reasons)
    return f"TensorRT {version(trt)} built no engine: {told}: {advice}"
