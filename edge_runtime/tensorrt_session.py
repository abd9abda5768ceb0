"""A session of TensorRT: a plan on the GPU, with pycuda for memory, streams and events.

CUDA graphs are left out: pycuda, up to 2026.1 at least, has no calls for capturing a stream.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from splitdeploy.edge_runtime.engine_machine import load_cuda
from splitdeploy.edge_runtime.session import FREE, Array, Session, StageTimes, shown
from splitdeploy.edge_runtime.tensorrt_api import (
    EngineTensor,
    deserialise,
    engine_tensors,
    enqueue,
    load_tensorrt,
    make_logger,
    told_errors,
)
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.errors import SessionError


class TensorRtSession(Session):
    """A plan on the GPU. Any thread may run it, one at a time.

    A batch that is larger than the engine was built for goes through it in parts.

    Args:
        plan: The serialised engine. It is native code: give only what `engine_cache.find_engine`
            found, whose record was checked.
        title: What messages and ``repr`` call it.

    Raises:
        SessionError: TensorRT does not take the plan, or the GPU's memory does not hold it.
        MissingExtraError: TensorRT or pycuda is not installed.
    """  # noqa: DOC502

    def __init__(self, plan: bytes, *, title: str = "tensorrt") -> None:
        trt, self._cuda = load_tensorrt(), load_cuda()
        self._lock, self._logger = threading.Lock(), make_logger(trt)
        self._buffers: dict[str, _Buffer] = {}
        self._primary = self._cuda.Device(0).retain_primary_context()
        with self._on_gpu(title):
            try:
                self._runtime, self._engine = deserialise(trt, plan, self._logger)
                self._context = self._engine.create_execution_context()
                if self._context is None:
                    raise SessionError(
                        f"{title}: the GPU has no memory for the engine: "
                        f"{told_errors(self._logger)}: close other programs, or build with a "
                        "smaller --workspace or --max-batch"
                    )
                tensors = engine_tensors(trt, self._engine)
                self._most = _most(tensors)
                self._allocate(tensors, title)
                self._stream = self._cuda.Stream()
                self._events = [self._cuda.Event() for _ in range(4)]
            except BaseException:
                self._release()
                raise
        super().__init__(
            title,
            [tensor.spec for tensor in tensors if tensor.is_input],
            [tensor.spec for tensor in tensors if not tensor.is_input],
        )

    def __repr__(self) -> str:
        return f"{self.name}: {super().__repr__()}"

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self._run_timed(feeds)[0]

    def _run_timed(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], StageTimes]:
        batches = [len(a) for a, s in zip(feeds.values(), self._fed(feeds), strict=True) if s]
        if len(set(batches)) > 1:
            raise SessionError(
                f"{self.name}: expected one batch for all inputs, got {sorted(set(batches))}"
            )
        if batches and batches[0] < 1:
            raise SessionError(f"{self.name}: expected a batch of at least 1, got {batches[0]}")
        with self._lock, self._on_gpu(self.name):
            if not batches or self._most is None or batches[0] <= self._most:
                return self._once(feeds)
            parts = []
            for start in range(0, batches[0], self._most):
                part = slice(start, start + self._most)
                fed = dict(zip(feeds, self._fed(feeds), strict=True))
                parts.append(self._once({n: a[part] if fed[n] else a for n, a in feeds.items()}))
        outputs = {s.name: np.concatenate([p[0][s.name] for p in parts]) for s in self.outputs}
        times = [stages for _, stages in parts]
        return outputs, StageTimes(
            sum(t.copy_in_s for t in times),
            sum(t.compute_s for t in times),
            sum(t.copy_out_s for t in times),
        )

    def _fed(self, feeds: Mapping[str, Array]) -> list[bool]:
        """For each feed whether its batch is free."""
        free = {spec.name: spec.shape[:1] == (FREE,) for spec in self.inputs}
        return [free[name] for name in feeds]

    def _once(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], StageTimes]:
        """One run of the engine; events in the stream tell how long each stage took on the GPU."""
        began, end, buffers = time.perf_counter(), self._events, self._buffers
        for spec in self.inputs:
            array = feeds[spec.name]
            if FREE in spec.shape and not self._context.set_input_shape(spec.name, array.shape):
                raise self._refused(f"input {spec.name!r} of shape {shown(array.shape)}")
            np.copyto(buffers[spec.name].view(array.shape), array)
        missing = list(self._context.infer_shapes())
        if missing:
            raise self._refused(f"the shapes; it lacks those of {', '.join(missing)}")
        filled_s = time.perf_counter() - began
        views = {s.name: buffers[s.name].view(self._shape(s)) for s in self.outputs}
        end[0].record(self._stream)
        for spec in self.inputs:
            host = buffers[spec.name].view(feeds[spec.name].shape)
            self._cuda.memcpy_htod_async(buffers[spec.name].device, host, self._stream)
        end[1].record(self._stream)
        addresses = {name: int(buffer.device) for name, buffer in buffers.items()}
        if not enqueue(self._context, self._engine, addresses, self._stream.handle):
            self._stream.synchronize()
            raise self._refused("the run")
        end[2].record(self._stream)
        for name, view in views.items():
            self._cuda.memcpy_dtoh_async(view, buffers[name].device, self._stream)
        end[3].record(self._stream)
        end[3].synchronize()
        copying = time.perf_counter()
        outputs = {name: view.copy() for name, view in views.items()}
        copied_s = time.perf_counter() - copying
        # time_since is in milliseconds.
        in_s, run_s, out_s = (end[i + 1].time_since(end[i]) / 1e3 for i in range(3))
        return outputs, StageTimes(filled_s + in_s, run_s, out_s + copied_s)

    def _shape(self, spec: TensorSpec) -> tuple[int, ...]:
        """Of an output, for the inputs' shapes that are set."""
        return tuple(int(size) for size in self._context.get_tensor_shape(spec.name))

    def _refused(self, what: str) -> SessionError:
        reason = told_errors(self._logger)
        return SessionError(f"{self.name}: TensorRT refused {what}: {reason}")

    def _allocate(self, tensors: tuple[EngineTensor, ...], title: str) -> None:
        """Buffers for the largest shapes, in the GPU's memory and page-locked in the host's."""
        for tensor in tensors:
            if tensor.is_input and FREE in tensor.spec.shape:
                self._context.set_input_shape(tensor.spec.name, tensor.largest)
        for tensor in tensors:
            shape = tensor.largest if tensor.is_input else self._shape(tensor.spec)
            if FREE in shape:
                raise SessionError(
                    f"{title}: output {tensor.spec.name!r}: expected a size that the inputs' sizes "
                    f"tell, got {shown(shape)}: cut elsewhere"
                )
            self._buffers[tensor.spec.name] = _Buffer(self._cuda, shape, tensor.spec.dtype)

    @contextmanager
    def _on_gpu(self, title: str) -> Iterator[None]:
        """The GPU's context in this thread; pycuda's errors as ours."""
        self._primary.push()
        try:
            yield
        except self._cuda.Error as error:
            reason = " ".join(str(error).split())
            raise SessionError(
                f"{title}: CUDA failed: {reason}: close other programs that use the GPU, or open "
                "the session again"
            ) from error
        finally:
            self._primary.pop()

    def _close(self) -> None:
        with self._lock, self._on_gpu(self.name):
            self._release()

    def _release(self) -> None:
        """What the session holds on the GPU, the newest first."""
        for buffer in self._buffers.values():
            buffer.device.free()
        self._buffers = {}
        for name in ("_events", "_stream", "_context", "_engine", "_runtime"):
            self.__dict__.pop(name, None)


class _Buffer:
    """Memory of one tensor on both sides.

    Args:
        cuda: The module ``pycuda.driver``.
        shape: The largest.
        dtype: A NumPy name.
    """

    def __init__(self, cuda: Any, shape: tuple[int, ...], dtype: str) -> None:
        count = max(1, int(np.prod(shape, dtype=np.int64)))
        self._host = cuda.pagelocked_empty(count, np.dtype(dtype))
        self.device = cuda.mem_alloc(self._host.nbytes)

    def view(self, shape: tuple[int, ...]) -> Array:
        """The host's side, from its beginning, in a shape."""
        found: Array = self._host[: int(np.prod(shape, dtype=np.int64))].reshape(shape)
        return found


def _most(tensors: tuple[EngineTensor, ...]) -> int | None:
    """The largest batch; None where every size is fixed."""
    largest = [t.largest[0] for t in tensors if t.is_input and t.spec.shape[:1] == (FREE,)]
    return min(largest) if largest else None
