"""What a server tells about a tail, in the protocol's messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tritonclient.grpc import model_config_pb2 as config_pb
from tritonclient.grpc import service_pb2 as pb

from splitdeploy.cloud_runtime.served import VERSION, ServedTail
from splitdeploy.edge_runtime.wire import DATATYPES, TAIL_DIGEST
from splitdeploy.profiles.cut import TensorSpec

_PLATFORM = "onnxruntime_onnx"
"""What the protocol calls an ONNX graph in ONNX Runtime."""


def model_metadata(tail: ServedTail) -> Any:
    """A tail's tensors, with -1 where any size will do.

    Args:
        tail: The tail.

    Returns:
        A ``ModelMetadataResponse``.
    """
    message = pb.ModelMetadataResponse(name=tail.name, versions=[VERSION], platform=_PLATFORM)
    for field, specs in ((message.inputs, tail.inputs), (message.outputs, tail.outputs)):
        for spec in specs:
            field.add(name=spec.name, datatype=DATATYPES[spec.dtype], shape=spec.shape)
    return message


def model_config(tail: ServedTail, max_batch: int) -> Any:
    """A tail's configuration, as Triton would tell it.

    Args:
        tail: The tail.
        max_batch: Pictures in a request, where the batch may be of any size.

    Returns:
        A ``ModelConfigResponse``.
    """
    # The protocol leaves the batch out of the sizes where every tensor has a free one.
    batched = all(spec.shape[:1] == (-1,) for spec in (*tail.inputs, *tail.outputs))
    message = pb.ModelConfigResponse()
    message.config.name = tail.name
    message.config.platform = _PLATFORM
    message.config.max_batch_size = max_batch if batched else 0
    message.config.parameters[TAIL_DIGEST].string_value = tail.digest
    _describe(message.config.input, tail.inputs, batched=batched)
    _describe(message.config.output, tail.outputs, batched=batched)
    return message


def _describe(field: Any, specs: Sequence[TensorSpec], *, batched: bool) -> None:
    for spec in specs:
        datatype = config_pb.DataType.Value(f"TYPE_{DATATYPES[spec.dtype]}")
        dims = spec.shape[1:] if batched else spec.shape
        field.add(name=spec.name, data_type=datatype, dims=dims)
