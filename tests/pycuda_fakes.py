"""A strict stand-in for ``pycuda.driver`` over memory that is none of a GPU's.

Names and arguments are those of pycuda 2026.1 (``src/wrapper/wrap_cudadrv.cpp``); nothing that
splitdeploy does not use is here, so that a new use needs a look at pycuda first. Work in a stream
is done when the stream or an event behind it is waited for, as on a GPU: results that are read too
early are stale. Every call needs a context that is current in its thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

COPY_MS, COMPUTE_MS = 0.25, 2.0


@dataclass
class Faults:
    """What goes wrong, by what is asked of the fake."""

    parser_errors: list[tuple[int, str, str, str]] = field(default_factory=list)
    build: str = ""  # none, oom, workspace, raises
    timing_cache: str = ""  # none, raises, mismatch
    deserialize_none: bool = False
    context_none: bool = False
    execute_false: bool = False
    address_false: bool = False
    shape_false: bool = False
    allocations: int | None = None  # how many succeed before memory runs out
    launch: bool = False  # waiting for the stream finds a failed kernel
    interrupt: bool = False  # Ctrl-C in the middle of a build


class Machine:
    """What TensorRT and pycuda share: a GPU, its memory, its clock, and a record of every call."""

    def __init__(
        self,
        gpu: str = "Orin",
        capability: tuple[int, int] = (8, 7),
        cuda: tuple[int, int, int] = (12, 6, 0),
    ) -> None:
        self.gpu, self.capability, self.cuda = gpu, capability, cuda
        self.memory: dict[int, bytearray] = {}
        self.pinned: set[int] = set()
        self.streams: dict[int, Any] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.faults = Faults()
        self.clock_ms = 0.0
        self._local = threading.local()
        self._next = 0x10000

    @property
    def stack(self) -> list[Any]:
        """The contexts of this thread, the current one last."""
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        stack: list[Any] = self._local.stack
        return stack

    def called(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of every call of that name."""
        return [call[1:] for call in self.calls if call[0] == name]

    def allocate(self, size: int) -> int:
        address = self._next
        self._next += (size + 511) // 256 * 256
        self.memory[address] = bytearray(size)
        return address


def fake_pycuda(machine: Machine) -> tuple[ModuleType, ModuleType]:
    """The modules ``pycuda`` and ``pycuda.driver`` on that machine."""
    driver = ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class MemoryError(Error):  # noqa: A001
        pass

    class LogicError(Error):
        pass

    class LaunchError(Error):
        pass

    class RuntimeError(Error):  # noqa: A001
        pass

    def need_context(what: str) -> None:
        if "init" not in [call[0] for call in machine.calls]:
            raise LogicError(f"{what} failed: initialization error")
        if not machine.stack:
            raise LogicError(f"{what} failed: invalid device context")

    class Context:
        def push(self) -> None:
            machine.stack.append(self)

        @staticmethod
        def pop() -> None:
            if not machine.stack:
                raise LogicError("cuCtxPopCurrent failed: invalid device context")
            machine.stack.pop()

    class Device:
        def __init__(self, number: int) -> None:
            if "init" not in [call[0] for call in machine.calls]:
                raise LogicError("cuDeviceGet failed: initialization error")
            if number != 0:
                raise LogicError("cuDeviceGet failed: invalid device ordinal")

        def name(self) -> str:
            return machine.gpu

        def compute_capability(self) -> tuple[int, int]:
            return machine.capability

        def retain_primary_context(self) -> Context:
            return Context()

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            need_context("cuStreamCreate")
            self.queue: list[Callable[[], None]] = []
            self.handle = 7000 + len(machine.streams)
            machine.streams[self.handle] = self

        def synchronize(self) -> None:
            need_context("cuStreamSynchronize")
            while self.queue:
                self.queue.pop(0)()
            if machine.faults.launch:
                raise LaunchError("cuStreamSynchronize failed: unspecified launch failure")

        def is_done(self) -> bool:
            return not self.queue

    class Event:
        def __init__(self, flags: int = 0) -> None:
            need_context("cuEventCreate")
            self._ms: float | None = None
            self._stream: Stream | None = None

        def record(self, stream: Stream | None = None) -> Event:
            if stream is None:
                raise TypeError("this fake wants events recorded in a stream")
            self._ms, self._stream = None, stream

            def stamp() -> None:
                self._ms = machine.clock_ms

            stream.queue.append(stamp)
            return self

        def synchronize(self) -> Event:
            if self._stream is not None:
                self._stream.synchronize()
            return self

        def time_since(self, start: Event) -> float:
            if self._ms is None or start._ms is None:
                raise LogicError("cuEventElapsedTime failed: device not ready")
            return self._ms - start._ms

    class DeviceAllocation:
        def __init__(self, size: int) -> None:
            self._address = machine.allocate(size)

        def __int__(self) -> int:
            return self._address

        __index__ = __int__

        def free(self) -> None:
            need_context("cuMemFree")
            if machine.memory.pop(self._address, None) is None:
                raise LogicError("cuMemFree failed: invalid argument")

    def init(flags: int = 0) -> None:
        machine.calls.append(("init", flags))

    def get_version() -> tuple[int, int, int]:
        return machine.cuda

    def mem_alloc(bytes: int) -> DeviceAllocation:  # noqa: A002
        need_context("cuMemAlloc")
        if bytes <= 0:
            raise LogicError("cuMemAlloc failed: invalid argument")
        left = machine.faults.allocations
        if left is not None:
            if left == 0:
                raise MemoryError("cuMemAlloc failed: out of memory")
            machine.faults.allocations = left - 1
        return DeviceAllocation(bytes)

    def pagelocked_empty(
        shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0
    ) -> np.ndarray[Any, Any]:
        need_context("cuMemHostAlloc")
        made = np.empty(shape, dtype, order)  # type: ignore[call-overload]
        machine.pinned.add(made.ctypes.data)
        found: np.ndarray[Any, Any] = made
        return found

    def checked(host: Any, device: Any, stream: Any) -> tuple[Any, bytearray]:
        need_context("cuMemcpyAsync")
        if not isinstance(stream, Stream):
            raise TypeError("expected a stream")
        if not host.flags.c_contiguous:
            raise ValueError("ndarray is not contiguous")
        if host.ctypes.data not in machine.pinned:
            raise LogicError("expected page-locked memory, without it a copy is not asynchronous")
        return host, machine.memory[int(device)]

    def memcpy_htod_async(dest: Any, src: Any, stream: Any = None) -> None:
        host, held = checked(src, dest, stream)
        if host.nbytes > len(held):
            raise LogicError("cuMemcpyHtoDAsync failed: invalid argument")

        def copy() -> None:
            held[: host.nbytes] = host.tobytes()
            machine.clock_ms += COPY_MS

        stream.queue.append(copy)

    def memcpy_dtoh_async(dest: Any, src: Any, stream: Any = None) -> None:
        host, held = checked(dest, src, stream)
        if host.nbytes > len(held):
            raise LogicError("cuMemcpyDtoHAsync failed: invalid argument")

        def copy() -> None:
            taken = np.frombuffer(bytes(held[: host.nbytes]), host.dtype)
            host[...] = taken.reshape(host.shape)
            machine.clock_ms += COPY_MS

        stream.queue.append(copy)

    offered = (
        Error, MemoryError, LogicError, LaunchError, RuntimeError, Context, Device, Stream, Event,
        DeviceAllocation, init, get_version, mem_alloc, pagelocked_empty, memcpy_htod_async,
        memcpy_dtoh_async,
    )  # fmt: skip
    for one in offered:
        setattr(driver, one.__name__, one)
    package = ModuleType("pycuda")
    package.driver = driver  # type: ignore[attr-defined]
    package.__path__ = []
    return package, driver
