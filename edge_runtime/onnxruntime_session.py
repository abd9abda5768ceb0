"""A session of ONNX Runtime."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from splitdeploy.edge_runtime.session import FREE, Array, Session, StageTimes
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.errors import MissingExtraError, SessionError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

_DEVICES = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}
"""Where a provider wants its tensors; the host's memory for any other."""

_DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16", "tensor(int8)": "int8", "tensor(int16)": "int16",
    "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}  # fmt: skip

_ONLY_FATAL = 4
_LONGEST_REASON = 300


class OnnxRuntimeSession(Session):
    """A graph in ONNX Runtime, run in the order of the graph, one operator after the other.

    Args:
        model: The ONNX file, or its bytes. A model with external data must be a file.
        providers: The execution providers that it must run on, in order of preference.
        threads: How many threads an operator may use; None leaves it to ONNX Runtime.
        optimised: Whether ONNX Runtime may fuse and rearrange the graph.

    Raises:
        SessionError: There is no such file, it is no valid ONNX model, or a provider is not
            available; it is never silently replaced.
        MissingExtraError: ONNX Runtime is not installed.
    """

    def __init__(
        self,
        model: bytes | Path,
        *,
        providers: Sequence[str] = (CPU,),
        threads: int | None = None,
        optimised: bool = True,
    ) -> None:
        options = session_options(threads=threads, optimised=optimised)
        self._session = open_native(model, options, providers)
        super().__init__(
            "onnxruntime",
            [_spec(node) for node in self._session.get_inputs()],
            [_spec(node) for node in self._session.get_outputs()],
        )
        self.providers = tuple(self._session.get_providers())

    @property
    def provider(self) -> str:
        """The one that it runs on, as ONNX Runtime tells it; ``CPU`` takes what that one lacks."""
        return str(self.providers[0]).removesuffix("ExecutionProvider")

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        names = [spec.name for spec in self.outputs]
        try:
            values = self._session.run(names, dict(feeds))
        except Exception as error:  # ONNX Runtime's exceptions share no base but this one
            raise SessionError(f"onnxruntime: the graph failed: {reason(error)}") from error
        return dict(zip(names, values, strict=True))

    def _run_timed(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], StageTimes]:
        runtime, device = onnxruntime(), _DEVICES.get(self.providers[0], "cpu")
        names = [spec.name for spec in self.outputs]
        started = time.perf_counter()
        try:
            bound = self._session.io_binding()
            for name, array in feeds.items():
                value = runtime.OrtValue.ortvalue_from_numpy(array, device, 0)
                bound.bind_ortvalue_input(name, value)
            for name in names:
                bound.bind_output(name, device)
            bound.synchronize_inputs()
            copied = time.perf_counter()
            self._session.run_with_iobinding(bound)
            bound.synchronize_outputs()
            computed = time.perf_counter()
            values = bound.copy_outputs_to_cpu()
        except Exception as error:  # ONNX Runtime's exceptions share no base but this one
            raise SessionError(f"onnxruntime: the graph failed: {reason(error)}") from error
        ended = time.perf_counter()
        stages = StageTimes(copied - started, computed - copied, ended - computed)
        return dict(zip(names, values, strict=True)), stages

    def _close(self) -> None:
        self._session = None


def onnxruntime() -> Any:
    """The module, imported on first use.

    Returns:
        The ``onnxruntime`` module.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        module = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtraError(
            "running an ONNX graph needs onnxruntime, which is not installed: "
            "type  pip install 'splitdeploy[cpu]'"
        ) from error
    # What a device computes is nobody else's business.
    module.disable_telemetry_events()
    return module


def pick_providers() -> tuple[str, ...]:
    """The providers to try where the user named none: CUDA's where it is built in, and the CPU's.

    TensorRT's is left to be asked for: it builds engines at the first run, for minutes, without a
    word.

    Returns:
        In order of preference. A provider that is built in may still fail to start.
    """
    available = onnxruntime().get_available_providers()
    return (CUDA, CPU) if CUDA in available else (CPU,)


def session_options(*, threads: int | None = None, optimised: bool = True) -> Any:
    """Options that every session here shares: sequential execution, and silence on stderr.

    Args:
        threads: How many threads an operator may use; None leaves it to ONNX Runtime, within what
            `granted_threads` says.
        optimised: Whether the graph may be fused and rearranged.

    Returns:
        An ``onnxruntime.SessionOptions``.

    Raises:
        SessionError: The number of threads is not positive.
    """
    if threads is not None and threads < 1:
        raise SessionError(f"expected at least 1 thread, got {threads}: leave it out for all cores")
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = _ONLY_FATAL  # every error comes back as an exception anyway
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    threads = threads or granted_threads()
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimised:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def granted_threads() -> int | None:
    """How many threads this process was told to use, where it was told.

    ONNX Runtime takes a thread for each core of the machine, also in a process that may run on some
    of them alone, where its threads then wait for each other.

    Returns:
        The least of the cores that the process is bound to (``taskset``, a cpuset) and of
        ``OMP_NUM_THREADS``; None where neither says less than the machine has.
    """
    cores = os.cpu_count() or 1
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    wanted = int(told) if told.isascii() and told.isdigit() and int(told) else cores
    granted = min(bound, wanted)
    return granted if granted < cores else None


def open_native(model: bytes | Path, options: Any, providers: Sequence[str] = (CPU,)) -> Any:
    """Open ONNX Runtime's own session, on the providers asked for and no others.

    Args:
        model: The ONNX file, or its bytes.
        options: Its ``SessionOptions``.
        providers: The execution providers, in order of preference.

    Returns:
        An ``onnxruntime.InferenceSession``.

    Raises:
        SessionError: There is no such file, it is no valid ONNX model, or a provider is not
            available or refused to start.
    """
    runtime = onnxruntime()
    available = runtime.get_available_providers()
    _require(providers, available, available)
    if isinstance(model, Path) and not model.is_file():
        raise SessionError(f"expected an ONNX file at {model}, there is none: export the model")
    source = str(model) if isinstance(model, Path) else model
    what = str(model) if isinstance(model, Path) else f"{len(model)} bytes"
    try:
        session = runtime.InferenceSession(source, options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's exceptions share no base but this one
        raise SessionError(
            f"expected an ONNX model that ONNX Runtime {runtime.__version__} can open, "
            f"got {what}: {reason(error)}"
        ) from error
    _require(providers, session.get_providers(), available)
    return session


def reason(error: Exception) -> str:
    """The message of one of ONNX Runtime's exceptions, as one line of bearable length."""
    line = " ".join(str(error).split()).removeprefix("[ONNXRuntimeError] : ")
    return line if len(line) <= _LONGEST_REASON else line[:_LONGEST_REASON] + " …"


def _require(wanted: Sequence[str], there: Sequence[str], available: Sequence[str]) -> None:
    if not wanted:
        raise SessionError(f"expected an execution provider, got none: {', '.join(available)}")
    for name in wanted:
        if name in there:
            continue
        state = "could not be started" if name in available else "is not in this onnxruntime"
        raise SessionError(
            f"execution provider {name} {state}: available: {', '.join(available)}; "
            "choose one of them, or for CUDA type  pip install 'splitdeploy[cuda]'"
        )


def _spec(node: Any) -> TensorSpec:
    if node.type not in _DTYPES:
        raise SessionError(
            f"{node.name!r}: expected a tensor of {', '.join(_DTYPES.values())}, got {node.type}"
        )
    shape = tuple(size if isinstance(size, int) else FREE for size in node.shape)
    return TensorSpec(node.name, shape, _DTYPES[node.type])
