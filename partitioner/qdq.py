"""A head with explicit int8 quantisation, as TensorRT reads it from 8 to 11.

A QuantizeLinear and a DequantizeLinear stand before each convolution and matrix product: one scale
a tensor for what it reads, from pictures, and one a channel for its weights. Zero is at zero, as
TensorRT wants it. Biases, and whatever comes behind the noise of a defence, stay in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.session import Array
from splitdeploy.partitioner.half_graph import behind
from splitdeploy.profiles.errors import CutError

_LEVELS = 127
_COVERED = 99.99
"""The share in percent of a picture's values that a range holds: a few outliers may be clipped."""


@dataclass(frozen=True)
class Quantised:
    """One node whose inputs are quantised.

    Attributes:
        node: Its place in the graph.
        data: The value that it reads.
        weight: Its weights.
        axis: The axis of the weights that counts the channels that it puts out.
    """

    node: int
    data: str
    weight: str
    axis: int


def quantisable(model: ModelProto, noise: Iterable[str] = ()) -> tuple[Quantised, ...]:
    """The convolutions and matrix products with fixed weights.

    Args:
        model: The head.
        noise: Inputs behind which nothing is quantised.

    Returns:
        Them, in the order of execution.

    Raises:
        CutError: There are none.
    """
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    kept, found = behind(model.graph, noise), []
    for place, node in enumerate(model.graph.node):
        axis = _axis(node, held)
        if axis is not None and not kept.intersection(node.output):
            found.append(Quantised(place, node.input[0], node.input[1], axis))
    if not found:
        raise CutError(
            "expected a convolution or a matrix product with fixed weights in the head, there is "
            "none to quantise: leave --head-precision int8 out, or cut later"
        )
    return tuple(found)


def _axis(node: NodeProto, held: Mapping[str, TensorProto]) -> int | None:
    """The axis of a node's weights that counts its channels; None where it is left alone."""
    if len(node.input) < 2 or node.input[0] in held or node.input[1] not in held:
        return None
    weight = held[node.input[1]]
    if weight.data_type != TensorProto.FLOAT:
        return None
    attributes = {a.name: a.i for a in node.attribute}
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose" and attributes.get("group", 1) == 1:
        return 1
    if node.op_type == "Gemm" and not attributes.get("transA", 0):
        return 0 if attributes.get("transB", 0) else 1
    if node.op_type == "MatMul" and len(weight.dims) == 2:
        return 1
    return None


def activation_ranges(
    model: ModelProto, places: Sequence[Quantised], inputs: Iterable[Mapping[str, Array]]
) -> dict[str, float]:
    """How large the values get that quantised nodes read.

    Args:
        model: The head; left as it is.
        places: From `quantisable`.
        inputs: The head's inputs, a mapping for each picture.

    Returns:
        By value: the largest over pictures of what nearly all of a picture's values stay below.
    """
    told = {value.name for value in (*model.graph.input, *model.graph.output)}
    wanted = list(dict.fromkeys(place.data for place in places))
    probed = ModelProto()
    probed.CopyFrom(model)
    for name in wanted:
        if name not in told:
            info = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            probed.graph.output.append(info)
    ranges = dict.fromkeys(wanted, 0.0)
    with OnnxRuntimeSession(probed.SerializeToString()) as session:
        for feeds in inputs:
            values = {**feeds, **session.run(feeds)}
            for name in wanted:
                covered = float(np.percentile(np.abs(values[name]), _COVERED))
                ranges[name] = max(ranges[name], covered)
    return ranges


def quantise(
    model: ModelProto, places: Sequence[Quantised], ranges: Mapping[str, float]
) -> ModelProto:
    """The head with explicit quantisation.

    Args:
        model: The head; left as it is.
        places: From `quantisable`.
        ranges: From `activation_ranges`.

    Returns:
        A new model of the same inputs and outputs.
    """
    made = ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    by_node, rounded = {place.node: place for place in places}, dict[str, str]()
    nodes: list[NodeProto] = []
    for number, node in enumerate(list(graph.node)):
        place = by_node.get(number)
        if place is not None:
            scales = {
                place.data: (np.asarray(_step(ranges[place.data])), None),
                place.weight: (_weight_steps(held[place.weight], place.axis), place.axis),
            }
            for name, (scale, axis) in scales.items():
                # A weight that two nodes share has the same channels in both.
                if name not in rounded:
                    rounded[name] = f"{name}__rounded"
                    nodes.extend(_pair(made, name, scale.astype(np.float32), axis))
            node.input[0], node.input[1] = rounded[place.data], rounded[place.weight]
        nodes.append(node)
    copied = [_copy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copied)
    return made


def _step(largest: float) -> float:
    return largest / _LEVELS if largest > 0 else 1.0


def _weight_steps(weight: TensorProto, axis: int) -> NDArray[np.float64]:
    values = np.abs(numpy_helper.to_array(weight))
    others = tuple(one for one in range(values.ndim) if one != axis)
    steps = values.max(axis=others).astype(np.float64) / _LEVELS
    return np.where(steps > 0, steps, 1.0)


def _pair(
    model: ModelProto, name: str, scale: NDArray[np.float32], axis: int | None
) -> list[NodeProto]:
    """A value to int8 and back."""
    zero = np.zeros(scale.shape, np.int8)
    model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}__step"))
    model.graph.initializer.append(numpy_helper.from_array(zero, f"{name}__zero"))
    rest = [f"{name}__step", f"{name}__zero"]
    there = helper.make_node(
        "QuantizeLinear", [name, *rest], [f"{name}__int8"], name=f"{name}__quantise"
    )
    back = helper.make_node(
        "DequantizeLinear", [f"{name}__int8", *rest], [f"{name}__rounded"],
        name=f"{name}__dequantise",
    )  # fmt: skip
    if axis is not None:
        for node in (there, back):
            node.attribute.append(helper.make_attribute("axis", axis))
    return [there, back]


def _copy(node: NodeProto) -> NodeProto:
    copied = NodeProto()
    copied.CopyFrom(node)
    return copied
