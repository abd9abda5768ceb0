"""The text of a Triton model's ``config.pbtxt``: how one tail is batched, placed and warmed up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from splitdeploy.edge_runtime.session import FREE
from splitdeploy.edge_runtime.wire import TAIL_DIGEST
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.errors import ServeError

BackendName = Literal["onnxruntime", "python", "tensorrt"]
"""Which of Triton's backends runs a tail."""

KINDS = {"onnxruntime": "KIND_AUTO", "python": "KIND_CPU", "tensorrt": "KIND_GPU"}
"""Where each backend puts its instances: ``KIND_AUTO`` is a GPU where there is one."""

DEFAULT_BATCH = 32
QUEUE_LIMIT = 1024
"""Requests of one tail that may wait; a further one is refused as unavailable, at once."""

_TYPES = {
    "float32": "TYPE_FP32", "float16": "TYPE_FP16", "float64": "TYPE_FP64", "int8": "TYPE_INT8",
    "bfloat16": "TYPE_BF16", "uint8": "TYPE_UINT8", "int16": "TYPE_INT16", "int32": "TYPE_INT32",
    "int64": "TYPE_INT64", "uint16": "TYPE_UINT16", "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64", "bool": "TYPE_BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Serving:
    """How Triton serves a tail.

    Attributes:
        backend: Which of its backends runs it.
        max_batch: The largest batch that requests are put together to.
        instances: Copies of the tail that run at once, on each device.
        preferred_batches: Sizes that a batch is held back for, as long as ``queue_delay_us`` lasts.
        queue_delay_us: How long a request may wait for company; 0 batches what waits already.
        warmup: Whether the tail runs on zeros, alone and as a full batch, before Triton is ready.
    """

    backend: BackendName = "onnxruntime"
    max_batch: int = DEFAULT_BATCH
    instances: int = 1
    preferred_batches: tuple[int, ...] = ()
    queue_delay_us: int = 0
    warmup: bool = True

    def check(self) -> None:
        """Refuse figures that Triton would.

        Raises:
            ServeError: The backend is unknown, or a figure is out of its range.
        """
        if self.backend not in KINDS:
            raise ServeError(
                f"unknown backend {self.backend!r}: available: {', '.join(KINDS)}: choose one"
            )
        for what, value, least in (
            ("max_batch", self.max_batch, 1),
            ("instances", self.instances, 1),
            ("queue_delay_us", self.queue_delay_us, 0),
        ):
            if value < least:
                raise ServeError(f"expected {what} of at least {least}, got {value}")
        for size in self.preferred_batches:
            if not 1 <= size <= self.max_batch:
                raise ServeError(
                    f"expected preferred batches between 1 and max_batch {self.max_batch}, "
                    f"got {size}"
                )


def is_batched(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Whether requests can be put together: every tensor's first dimension is free."""
    return all(spec.shape and spec.shape[0] == FREE for spec in (*inputs, *outputs))


def config_text(
    name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    serving: Serving,
    digest: str = "",
) -> str:
    """The text of ``config.pbtxt``.

    A tail of a fixed batch gets ``max_batch_size: 0`` and its shapes as they are: Triton then runs
    requests one by one.

    Args:
        name: The name under which the tail is served.
        inputs: Of the tail, the batch first, ``FREE`` where any size will do.
        outputs: Of the tail, likewise.
        serving: How it is served.
        digest: Of the file that holds the tail's weights, for clients to know it by; empty tells
            none.

    Returns:
        The text.

    Raises:
        ServeError: A figure of ``serving`` is out of its range.
    """  # noqa: DOC502
    serving.check()
    batched = is_batched(inputs, outputs)
    lines = [
        f"name: {_quoted(name)}",
        f'backend: "{serving.backend}"',
        f"max_batch_size: {serving.max_batch if batched else 0}",
    ]
    for kind, specs in (("input", inputs), ("output", outputs)):
        lines += [_value(kind, spec, batched) for spec in specs]
    lines.append(
        f"instance_group [ {{ count: {serving.instances} kind: {KINDS[serving.backend]} }} ]"
    )
    if batched:
        lines += _batching(serving)
    if serving.warmup and not _open_sizes(inputs):
        sizes = dict.fromkeys([1, serving.max_batch]) if batched else [1]
        for size in sizes:
            lines += _warmup(inputs, batched, size)
    if digest:
        entry = f"value {{ string_value: {_quoted(digest)} }}"
        lines.append(f"parameters {{ key: {_quoted(TAIL_DIGEST)} {entry} }}")
    return "\n".join(lines) + "\n"


def _value(kind: str, spec: TensorSpec, batched: bool) -> str:
    return (
        f"{kind} [ {{ name: {_quoted(spec.name)} data_type: {_type(spec)} "
        f"dims: {_dims(spec, batched)} }} ]"
    )


def _batching(serving: Serving) -> list[str]:
    lines = ["dynamic_batching {"]
    if serving.preferred_batches:
        sizes = ", ".join(str(size) for size in sorted(set(serving.preferred_batches)))
        lines.append(f"  preferred_batch_size: [ {sizes} ]")
    return [
        *lines,
        f"  max_queue_delay_microseconds: {serving.queue_delay_us}",
        f"  default_queue_policy {{ max_queue_size: {QUEUE_LIMIT} }}",
        "}",
    ]


def _warmup(inputs: Sequence[TensorSpec], batched: bool, size: int) -> list[str]:
    """Zeros: random bytes would hold NaN in floating point."""
    lines = ["model_warmup [ {", f'  name: "zeros, batch {size}"', f"  batch_size: {size}"]
    for spec in inputs:
        dims = _dims(spec, batched).replace(str(FREE), "1")
        lines.append(
            f"  inputs {{ key: {_quoted(spec.name)} "
            f"value {{ data_type: {_type(spec)} dims: {dims} zero_data: true }} }}"
        )
    return [*lines, "} ]"]


def _open_sizes(inputs: Sequence[TensorSpec]) -> bool:
    """A picture of any size: which one to warm up with is not known here."""
    return any(FREE in spec.shape[1:] for spec in inputs)


def _dims(spec: TensorSpec, batched: bool) -> str:
    sizes = spec.shape[1:] if batched else spec.shape
    return f"[ {', '.join(str(size) for size in sizes)} ]"


def _type(spec: TensorSpec) -> str:
    if spec.dtype not in _TYPES:
        raise ServeError(
            f"tensor {spec.name!r}: expected a dtype among {', '.join(_TYPES)}, got {spec.dtype}"
        )
    return _TYPES[spec.dtype]


def _quoted(text: str) -> str:
    """A string of protobuf's text format; a tensor's name comes from a file."""
    plain = text.isascii() and text.isprintable()
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if plain:
        return f'"{escaped}"'
    return '"' + "".join(f"\\{byte:03o}" for byte in text.encode()) + '"'
