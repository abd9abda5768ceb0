"""A head so small that it can be written by hand, and what it gives, worked out in NumPy.

A device has no onnx package and may have no bundle yet; with this it can still run a graph from end
to end, and be told whether the answer is right. An ONNX file is a protocol buffer (onnx.proto):
fields of a number and a value, which are written here one after the other.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

INPUT, OUTPUT = "pixels", "smashed"
SHAPE = (1, 3, 64, 64)
CHANNELS = 8

# The numbers of the fields in onnx.proto.
_IR_VERSION, _PRODUCER, _GRAPH, _OPSET = 1, 2, 7, 8
_OPSET_VERSION = 2
_NODE, _GRAPH_NAME, _INITIALIZER, _INPUT, _OUTPUT = 1, 2, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INTS, _ATTRIBUTE_TYPE, _INTS = 1, 8, 20, 7
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW, _FLOAT = 1, 2, 8, 9, 1


def weights() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The filters and biases: waves, the same on every machine."""
    count = CHANNELS * SHAPE[1] * 9
    filters = np.sin(np.arange(count, dtype=np.float64)) / 4
    biases = np.cos(np.arange(CHANNELS, dtype=np.float64)) / 4
    shaped = filters.reshape(CHANNELS, SHAPE[1], 3, 3)
    return shaped.astype(np.float32), biases.astype(np.float32)


def picture() -> NDArray[np.float32]:
    """What it is tried on: a smooth pattern on [0, 1]."""
    phase = np.arange(int(np.prod(SHAPE)), dtype=np.float64).reshape(SHAPE)
    return (0.5 + 0.5 * np.sin(0.01 * phase)).astype(np.float32)


def expected(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the head gives: a 3x3 convolution of stride two, and what is negative set to zero.

    Args:
        pixels: Of ``SHAPE``.

    Returns:
        The smashed data.
    """
    filters, biases = weights()
    padded = np.pad(pixels.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    summed = np.einsum("nchwij,ocij->nohw", windows, filters.astype(np.float64))
    result: NDArray[np.float32] = np.maximum(summed + biases[None, :, None, None], 0)
    return result.astype(np.float32)


def tiny_head() -> bytes:
    """The head as an ONNX model: opset 17, IR version 8.

    Returns:
        The bytes of its file.
    """
    filters, biases = weights()
    result = (SHAPE[0], CHANNELS, SHAPE[2] // 2, SHAPE[3] // 2)
    convolution = _node("Conv", (INPUT, "filters", "biases"), "summed", {
        "kernel_shape": (3, 3), "pads": (1, 1, 1, 1), "strides": (2, 2),
    })  # fmt: skip
    graph = b"".join((
        _bytes(_NODE, convolution),
        _bytes(_NODE, _node("Relu", ("summed",), OUTPUT, {})),
        _bytes(_GRAPH_NAME, b"tiny_head"),
        _bytes(_INITIALIZER, _tensor("filters", filters)),
        _bytes(_INITIALIZER, _tensor("biases", biases)),
        _bytes(_INPUT, _value(INPUT, SHAPE)),
        _bytes(_OUTPUT, _value(OUTPUT, result)),
    ))  # fmt: skip
    return b"".join((
        _number(_IR_VERSION, 8),
        _bytes(_PRODUCER, b"splitdeploy"),
        _bytes(_GRAPH, graph),
        _bytes(_OPSET, _number(_OPSET_VERSION, 17)),
    ))  # fmt: skip


def _node(op: str, inputs: tuple[str, ...], output: str, ints: dict[str, tuple[int, ...]]) -> bytes:
    parts = [_bytes(_NODE_INPUT, name.encode()) for name in inputs]
    parts += [_bytes(_NODE_OUTPUT, output.encode()), _bytes(_NODE_NAME, op.lower().encode())]
    parts.append(_bytes(_NODE_OP, op.encode()))
    for name, values in ints.items():
        attribute = _bytes(_ATTRIBUTE_NAME, name.encode()) + _number(_ATTRIBUTE_TYPE, _INTS)
        attribute += b"".join(_number(_ATTRIBUTE_INTS, value) for value in values)
        parts.append(_bytes(_NODE_ATTRIBUTE, attribute))
    return b"".join(parts)


def _tensor(name: str, values: NDArray[np.float32]) -> bytes:
    sizes = b"".join(_number(_TENSOR_DIMS, size) for size in values.shape)
    raw = _bytes(_TENSOR_RAW, values.astype("<f4").tobytes())
    return sizes + _number(_TENSOR_TYPE, _FLOAT) + _bytes(_TENSOR_NAME, name.encode()) + raw


def _value(name: str, shape: tuple[int, ...]) -> bytes:
    """ValueInfoProto, TypeProto, TensorTypeProto, TensorShapeProto, Dimension: each in the next."""
    sizes = b"".join(_bytes(1, _number(1, size)) for size in shape)
    tensor_type = _number(1, _FLOAT) + _bytes(2, sizes)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor_type))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    groups = []
    while True:
        value, low = value >> 7, value & 0x7F
        groups.append(low | (0x80 if value else 0))
        if not value:
            return bytes(groups)
