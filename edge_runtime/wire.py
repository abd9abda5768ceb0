"""Tensors as messages of the Open Inference Protocol (KServe v2), and back, trusting nothing.

Both sides use it: the client writes requests and reads answers, the embedded server the reverse.
Values go as ``raw_contents``, row-major and little-endian, in the order of the tensors; a request
with typed ``contents`` instead, as other clients send it, is read too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from splitdeploy.edge_runtime.session import FREE, Array, shown
from splitdeploy.profiles.cut import TensorSpec, item_bytes
from splitdeploy.profiles.errors import WireError

DATATYPES = {
    "float32": "FP32", "float64": "FP64", "float16": "FP16", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32",
    "uint64": "UINT64", "bool": "BOOL",
}  # fmt: skip
"""What the protocol calls each dtype."""

TAIL_DIGEST = "tail_sha256"
"""The parameter of a served tail's configuration that tells which weights it has."""

_CONTENTS = {
    "FP32": "fp32_contents", "FP64": "fp64_contents", "INT8": "int_contents",
    "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "BOOL": "bool_contents",
}  # fmt: skip


def write_request(
    model: str, tensors: Mapping[str, Array], *, request_id: str = "", version: str = ""
) -> Any:
    """A request.

    Args:
        model: The name under which the tail is served.
        tensors: By input name, the batch first.
        request_id: Comes back with the answer.
        version: Of the model; empty for whichever the server takes.

    Returns:
        A ``ModelInferRequest``.

    Raises:
        WireError: A dtype is none of the protocol's.
    """
    message = pb.ModelInferRequest(model_name=model, model_version=version, id=request_id)
    _write(message.inputs, message.raw_input_contents, tensors)
    return message


def read_request(message: Any, expected: Sequence[TensorSpec]) -> dict[str, Array]:
    """The tensors of a request; read-only, and sharing the message's memory where they can.

    Args:
        message: A ``ModelInferRequest``.
        expected: The model's inputs; ``FREE`` stands for a size that may vary.

    Returns:
        By input name, in the order of ``expected``.

    Raises:
        WireError: One is missing, unknown or given twice, has another dtype, shape or count of
            bytes, or holds NaN or infinity; or the batches differ.
    """
    return _read(message.inputs, message.raw_input_contents, expected, "input")


def write_response(
    model: str, tensors: Mapping[str, Array], *, request_id: str = "", version: str = "1"
) -> Any:
    """An answer.

    Args:
        model: As in the request.
        tensors: By output name.
        request_id: As in the request.
        version: Of the model that answered.

    Returns:
        A ``ModelInferResponse``.

    Raises:
        WireError: A dtype is none of the protocol's.
    """
    message = pb.ModelInferResponse(model_name=model, model_version=version, id=request_id)
    _write(message.outputs, message.raw_output_contents, tensors)
    return message


def read_response(message: Any, expected: Sequence[TensorSpec]) -> dict[str, Array]:
    """The tensors of an answer.

    Args:
        message: A ``ModelInferResponse``.
        expected: The model's outputs, as in `read_request`.

    Returns:
        By output name, in the order of ``expected``.

    Raises:
        WireError: As `read_request`.
    """
    return _read(message.outputs, message.raw_output_contents, expected, "output")


def payload_bytes(tensors: Mapping[str, Array]) -> int:
    """What the values of some tensors weigh on the wire."""
    return sum(array.nbytes for array in tensors.values())


def _write(described: Any, raw: Any, tensors: Mapping[str, Array]) -> None:
    for name, array in tensors.items():
        described.add(name=name, datatype=_datatype(name, array), shape=array.shape)
        raw.append(_raw(array))


def _datatype(name: str, array: Array) -> str:
    if array.dtype.name not in DATATYPES:
        raise WireError(
            f"tensor {name!r}: expected a dtype among {', '.join(DATATYPES)}, got {array.dtype}"
        )
    return DATATYPES[array.dtype.name]


def _raw(array: Array) -> bytes:
    ordered = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return ordered.tobytes()


def _read(
    described: Sequence[Any], raw: Sequence[bytes], expected: Sequence[TensorSpec], kind: str
) -> dict[str, Array]:
    names = [entry.name for entry in described]
    wanted = [spec.name for spec in expected]
    listed = ", ".join(wanted)
    for name in names:
        if name not in wanted:
            raise WireError(f"unknown {kind} {name[:80]!r}: expected {listed}")
        if names.count(name) > 1:
            raise WireError(f"{kind} {name!r} is given twice: expected each of {listed} once")
    if raw and len(raw) != len(described):
        raise WireError(f"expected raw contents of {len(described)} {kind}s, got {len(raw)}")
    found = {}
    for spec in expected:
        if spec.name not in names:
            raise WireError(f"{kind} {spec.name!r} is missing: expected {listed}")
        place = names.index(spec.name)
        found[spec.name] = _tensor(described[place], raw[place] if raw else None, spec, kind)
    _check_batches(found, expected, kind)
    return found


def _tensor(entry: Any, raw: bytes | None, spec: TensorSpec, kind: str) -> Array:
    what, datatype, shape = f"{kind} {spec.name!r}", DATATYPES[spec.dtype], tuple(entry.shape)
    if entry.datatype != datatype:
        raise WireError(f"{what}: expected datatype {datatype}, got {entry.datatype[:20]!r}")
    fits = len(shape) == len(spec.shape) and all(
        got >= 1 and want in {FREE, got} for want, got in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise WireError(f"{what}: expected shape {shown(spec.shape)}, got {list(shape[:16])}")
    count = math.prod(shape)
    if raw is None:
        array = _typed(entry, count, spec, what)
    else:
        weight = count * item_bytes(spec.dtype)
        if len(raw) != weight:
            raise WireError(
                f"{what}: expected {weight} bytes for {list(shape)} of {datatype}, got {len(raw)}"
            )
        array = np.frombuffer(raw, np.dtype(spec.dtype).newbyteorder("<"))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise WireError(f"{what}: expected finite numbers, got NaN or infinity")
    return array.reshape(shape)


def _typed(entry: Any, count: int, spec: TensorSpec, what: str) -> Array:
    field = _CONTENTS.get(entry.datatype)
    values = getattr(entry.contents, field) if field else ()
    if len(values) != count:
        raise WireError(
            f"{what}: expected {count} values of {entry.datatype} in raw contents or "
            f"{field or 'nowhere else'}, got {len(values)}"
        )
    try:
        return np.array(values, spec.dtype)
    except OverflowError as error:
        raise WireError(f"{what}: a value is out of the range of {entry.datatype}") from error


def _check_batches(found: Mapping[str, Array], expected: Sequence[TensorSpec], kind: str) -> None:
    batches = {len(found[s.name]) for s in expected if s.shape and s.shape[0] == FREE}
    if len(batches) > 1:
        raise WireError(f"expected {kind}s of one batch, got batches of {sorted(batches)}")
