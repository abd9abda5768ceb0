"""TensorRT's Python module from 8.5 to 11, told apart by what it has and never by its number.

8.x types networks weakly and needs a flag for an explicit batch; 10.x can type either way; 11 has
strong typing alone: the precision of each layer is that of the ONNX graph. Everything is bound by
name, which all of them can, since the order of an engine's tensors need not be the graph's.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from splitdeploy.edge_runtime.session import FREE
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.errors import EngineError, MissingExtraError, SessionError

_DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "UINT8": "uint8", "INT32": "int32",
    "INT64": "int64", "BOOL": "bool",
}  # fmt: skip
_MOST_MESSAGES = 200
_LONGEST_MESSAGE = 300


def load_tensorrt() -> Any:
    """The module, imported on first use.

    Returns:
        The ``tensorrt`` module.

    Raises:
        MissingExtraError: It is not installed, or too old.
    """
    try:
        trt = importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise MissingExtraError(
            f"expected TensorRT's Python module, tensorrt cannot be imported ({_first(error)}): on "
            "a Jetson it comes with JetPack, for an environment made with  python3 -m venv "
            "--system-site-packages ; on a server with CUDA type  pip install "
            "'splitdeploy[tensorrt]'"
        ) from error
    if not hasattr(trt.ICudaEngine, "num_io_tensors"):
        raise MissingExtraError(
            f"expected TensorRT 8.5 or later, got {version(trt)}, which has no tensors by name: "
            "take a newer JetPack (6.0 has 8.6)"
        )
    return trt


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:_LONGEST_MESSAGE] if lines else type(error).__name__


def version(trt: Any) -> str:
    """Its version as it tells it."""
    return str(getattr(trt, "__version__", "unknown"))


def make_logger(trt: Any) -> Any:
    """A logger that keeps errors and warnings, for messages of our own, and prints nothing.

    Args:
        trt: The module.

    Returns:
        A ``tensorrt.ILogger`` with ``errors`` and ``warnings``, lists of text.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            # TensorRT calls this from C++, where an exception would end the process.
            kept: list[str] | None = None
            if severity in {trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR}:
                kept = self.errors
            elif severity == trt.ILogger.WARNING:
                kept = self.warnings
            if kept is not None and len(kept) < _MOST_MESSAGES:
                kept.append(" ".join(str(msg).split())[:_LONGEST_MESSAGE])

    return Logger()


def types_weakly(trt: Any) -> bool:
    """Whether the builder may be told which precisions to choose from."""
    return hasattr(trt.BuilderFlag, "FP16") and hasattr(trt.BuilderFlag, "INT8")


def types_strongly(trt: Any) -> bool:
    """Whether a network can be told to keep to the precisions of its graph."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def create_network(trt: Any, builder: Any, *, strongly_typed: bool) -> Any:
    """A network with an explicit batch.

    Args:
        trt: The module.
        builder: Its builder.
        strongly_typed: Whether layers keep the precision of the graph.

    Returns:
        The network, empty.
    """
    kinds, flags = trt.NetworkDefinitionCreationFlag, 0
    if hasattr(kinds, "EXPLICIT_BATCH"):
        flags |= 1 << int(kinds.EXPLICIT_BATCH)
    if strongly_typed:
        flags |= 1 << int(kinds.STRONGLY_TYPED)
    return builder.create_network(flags)


def parse(parser: Any, graph: bytes, path: str) -> None:
    """Read an ONNX graph into the parser's network.

    Args:
        parser: Of the network.
        graph: The graph's bytes.
        path: Where it lies: weights in files of their own are sought beside it.

    Raises:
        EngineError: It cannot be read; every error of the parser is told.
    """
    if parser.parse(graph, path):
        return
    told = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
    raise EngineError(
        f"expected an ONNX graph that TensorRT can read, {path} has {len(told)} error"
        f"{'' if len(told) == 1 else 's'}: {'; '.join(told) or 'none was told'}: choose a cut "
        "before the operator, or run the head with ONNX Runtime"
    )


def _parser_error(error: Any) -> str:
    text = " ".join(str(error.desc()).split())
    where = f"node {error.node()}"
    if hasattr(error, "node_name"):
        where += f" {error.node_name()!r} ({error.node_operator()})"
    return f"{where}: {text}"


def set_timing_cache(config: Any, data: bytes) -> str | None:
    """Let a build use the timings of earlier ones; a cache that does not fit is left out.

    Args:
        config: The builder's.
        data: A cache as it was kept; empty for none.

    Returns:
        Why the cache was left out; None where it is used or there was none.
    """
    note = None
    if data:
        try:
            cache = config.create_timing_cache(data)
            if cache is not None and config.set_timing_cache(cache, False):
                return None
            note = "the timing cache is damaged or of another machine, it is made anew"
        except Exception as error:  # pybind11 turns any C++ exception into one of many
            note = f"the timing cache cannot be read ({_first(error)}), it is made anew"
    empty = config.create_timing_cache(b"")
    if empty is not None:
        config.set_timing_cache(empty, False)
    return note


def timing_cache_bytes(config: Any) -> bytes:
    """The timings after a build; empty where there are none."""
    cache = config.get_timing_cache()
    held = None if cache is None else cache.serialize()
    return b"" if held is None else blob_bytes(held)


def blob_bytes(blob: Any) -> bytes:
    """A copy of an ``IHostMemory``."""
    return memoryview(blob).tobytes()


def deserialise(trt: Any, plan: bytes, logger: Any) -> tuple[Any, Any]:
    """Make an engine of a plan. Code in a plan is never run: version-compatible ones are refused.

    Args:
        trt: The module.
        plan: Whose sidecar was checked.
        logger: From `make_logger`.

    Returns:
        The runtime, which must outlive the engine, and the engine.

    Raises:
        SessionError: TensorRT does not take the plan.
    """
    runtime = trt.Runtime(logger)
    if getattr(runtime, "engine_host_code_allowed", False):
        raise SessionError(
            "expected a TensorRT runtime that runs no code out of plans, this one is set to: "
            "unset engine_host_code_allowed"
        )
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise SessionError(
            f"TensorRT {version(trt)} does not take the plan: {told_errors(logger)}: build it "
            "again with  splitdeploy build BUNDLE --force"
        )
    return runtime, engine


def told_errors(logger: Any) -> str:
    """What the logger kept of errors, as one line."""
    return "; ".join(dict.fromkeys(logger.errors)) or "it told no reason"


@dataclass(frozen=True)
class EngineTensor:
    """One input or output of an engine.

    Attributes:
        spec: Name, shape (``FREE`` where it may vary) and dtype.
        is_input: Whether it is one.
        largest: The largest shape that the engine was built for; that of an output is told by a
            context once its inputs' are set.
    """

    spec: TensorSpec
    is_input: bool
    largest: tuple[int, ...]


def engine_tensors(trt: Any, engine: Any) -> tuple[EngineTensor, ...]:
    """What goes into an engine and what comes out of it.

    Args:
        trt: The module.
        engine: The engine.

    Returns:
        Inputs and outputs, in the engine's order.
    """
    found = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        shape = tuple(int(size) for size in engine.get_tensor_shape(name))
        largest = shape
        if is_input and FREE in shape:
            largest = tuple(int(size) for size in engine.get_tensor_profile_shape(name, 0)[2])
        spec = TensorSpec(name, shape, _dtype(trt, engine.get_tensor_dtype(name), name))
        found.append(EngineTensor(spec, is_input, largest))
    return tuple(found)


def _dtype(trt: Any, kind: Any, name: str) -> str:
    # Not tensorrt.nptype: that of 8.x asks NumPy for np.bool, which newer ones lack.
    for title, dtype in _DTYPES.items():
        if hasattr(trt.DataType, title) and kind == getattr(trt.DataType, title):
            return dtype
    raise SessionError(
        f"tensorrt: tensor {name!r}: expected one of {', '.join(_DTYPES.values())}, got {kind}: "
        "build from a graph with other inputs and outputs"
    )


def enqueue(context: Any, engine: Any, addresses: Mapping[str, int], stream_handle: int) -> bool:
    """Begin a run in a stream.

    Args:
        context: With the inputs' shapes set.
        engine: Whose context it is.
        addresses: Device memory of every tensor, by name.
        stream_handle: The stream's.

    Returns:
        Whether TensorRT took it.
    """
    if hasattr(context, "execute_async_v3"):
        placed = [context.set_tensor_address(name, at) for name, at in addresses.items()]
        return all(placed) and bool(context.execute_async_v3(stream_handle))
    bindings = [0] * int(engine.num_bindings)
    for name, at in addresses.items():
        bindings[engine.get_binding_index(name)] = at
    return bool(context.execute_async_v2(bindings, stream_handle))
