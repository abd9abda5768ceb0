"""What crosses the network, as part of the graphs.

A head ends in the encoder, a tail begins with its inverse, so that any standard server runs it.
``fp32`` sends the tensors as they are, ``fp16`` casts them, ``int8`` quantises them with one scale
a channel, taken from what the head puts out on real images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto, helper, numpy_helper

from splitdeploy.partitioner.slicing import Halves
from splitdeploy.partitioner.values import rename_values
from splitdeploy.profiles.cut import PRECISIONS, CutPoint, TensorSpec
from splitdeploy.profiles.errors import UnknownNameError

_RAW = "__raw"
_LEVELS = 127


@dataclass(frozen=True)
class QuantisationRange:
    """The largest magnitude of a boundary tensor on real images, a value a channel.

    Attributes:
        axis: The axis that counts the channels; None where one scale serves the whole tensor.
        largest: One value, or one a channel.
    """

    axis: int | None
    largest: NDArray[np.float32]

    @property
    def scale(self) -> NDArray[np.float32]:
        """The quantisation step, one a channel; one that was always zero gets the widest step."""
        steps = self.largest / _LEVELS
        return np.where(steps > 0, steps, np.max(steps) or 1.0).astype(np.float32)


def calibrate(features: Mapping[str, NDArray[np.float32]]) -> dict[str, QuantisationRange]:
    """The ranges of the boundary tensors on the images that made these features.

    Args:
        features: Boundary tensors ``[n, …]`` by name; channels are axis 1 of four axes.

    Returns:
        A range for each.
    """
    ranges = {}
    for name, value in features.items():
        if value.ndim == 4:
            axes = tuple(axis for axis in range(value.ndim) if axis != 1)
            ranges[name] = QuantisationRange(1, np.abs(value).max(axis=axes).astype(np.float32))
        else:
            largest = np.asarray(np.abs(value).max(), dtype=np.float32)
            ranges[name] = QuantisationRange(None, largest)
    return ranges


def widest(
    one: Mapping[str, QuantisationRange], other: Mapping[str, QuantisationRange]
) -> dict[str, QuantisationRange]:
    """Ranges that hold both of two sets of pictures.

    Args:
        one: From some pictures.
        other: From others, of the same tensors; or of further ones.

    Returns:
        By tensor, of either.
    """
    found = dict(one)
    for name, new in other.items():
        old = found.get(name)
        found[name] = (
            new if old is None else replace(new, largest=np.maximum(old.largest, new.largest))
        )
    return found


def sent_tensors(cut: CutPoint, precision: str) -> CutPoint:
    """The cut with its payload in a precision; tensors that are not float32 go as they are.

    Args:
        cut: With the tensors as the model computes them.
        precision: ``fp32``, ``fp16`` or ``int8``.

    Returns:
        The same cut with the dtypes and bytes of what is sent.

    Raises:
        UnknownNameError: There is no such precision.
    """
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)

    def encoded(given: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        dtype = PRECISIONS[precision]
        return tuple(t.with_dtype(dtype) if t.dtype == "float32" else t for t in given)

    tensors = encoded(cut.tensors)
    last = None if cut.last is None else replace(cut.last, returned=encoded(cut.last.returned))
    weight = sum(tensor.bytes for tensor in tensors)
    return replace(cut, tensors=tensors, payload_bytes=weight, last=last)


def add_codec(
    halves: Halves,
    tensors: tuple[TensorSpec, ...],
    precision: str,
    ranges: Mapping[str, QuantisationRange] | None = None,
) -> Halves:
    """Both halves with the encoder behind the head and the decoder before the tail.

    Args:
        halves: As sliced; changed in place.
        tensors: What is sent, in the dtypes in which it is sent.
        precision: ``fp32``, ``fp16`` or ``int8``.
        ranges: For ``int8``, the range of each tensor.

    Returns:
        The same halves.
    """
    encoded = {value.name for value in halves.head.graph.output}
    for tensor in tensors:
        name = tensor.name if tensor.name in encoded else f"{tensor.name}__out"
        if tensor.dtype == "float32" or tensor.dtype != PRECISIONS[precision]:
            continue
        _encode(halves.head.graph, name, precision, ranges)
        if any(value.name == name for value in halves.tail.graph.input):
            _decode(halves.tail.graph, name, precision, ranges)
    return halves


def encoder_names(output: str) -> tuple[str, str]:
    """What the node that encodes a head's output is called, in either precision."""
    return f"{output}__encode", f"{output}__QuantizeLinear"


def read_ranges(halves: Halves, tensors: tuple[TensorSpec, ...]) -> dict[str, QuantisationRange]:
    """The ranges that an int8 codec was made with.

    Args:
        halves: With their codec.
        tensors: The boundary.

    Returns:
        By tensor; those alone that are quantised.
    """
    ranges = {}
    held = {value.name: value for value in halves.head.graph.initializer}
    for tensor in tensors:
        for name in (tensor.name, f"{tensor.name}__out"):
            if f"{name}__scale" in held:
                scale = numpy_helper.to_array(held[f"{name}__scale"])
                ranges[name] = QuantisationRange(1 if scale.ndim else None, scale * _LEVELS)
    return ranges


def replace_ranges(halves: Halves, ranges: Mapping[str, QuantisationRange]) -> None:
    """Give an int8 codec other ranges, on both sides.

    Args:
        halves: With their codec; changed in place.
        ranges: By output of the head, with the axes that they had.
    """
    for graph in (halves.head.graph, halves.tail.graph):
        for held in graph.initializer:
            name = held.name.removesuffix("__scale")
            if held.name.endswith("__scale") and name in ranges:
                held.CopyFrom(numpy_helper.from_array(ranges[name].scale, held.name))


def _encode(
    graph: GraphProto, name: str, precision: str, ranges: Mapping[str, QuantisationRange] | None
) -> None:
    shape = next(value for value in graph.output if value.name == name).type
    rename_values(graph, {name: f"{name}{_RAW}"})
    for value in graph.output:
        if value.name == f"{name}{_RAW}":
            value.name = name
            value.type.CopyFrom(shape)
            value.type.tensor_type.elem_type = _element(precision)
    if precision == "fp16":
        node = helper.make_node("Cast", [f"{name}{_RAW}"], [name], name=f"{name}__encode")
        node.attribute.append(helper.make_attribute("to", TensorProto.FLOAT16))
    else:
        node = _quantise(graph, "QuantizeLinear", f"{name}{_RAW}", name, name, ranges)
    graph.node.append(node)


def _decode(
    graph: GraphProto, name: str, precision: str, ranges: Mapping[str, QuantisationRange] | None
) -> None:
    for node in graph.node:
        node.input[:] = [f"{name}{_RAW}" if value == name else value for value in node.input]
    for value in graph.input:
        if value.name == name:
            value.type.tensor_type.elem_type = _element(precision)
    if precision == "fp16":
        node = helper.make_node("Cast", [name], [f"{name}{_RAW}"], name=f"{name}__decode")
        node.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    else:
        node = _quantise(graph, "DequantizeLinear", name, f"{name}{_RAW}", name, ranges)
    graph.node.insert(0, node)


def _element(precision: str) -> int:
    return int(TensorProto.FLOAT16 if precision == "fp16" else TensorProto.INT8)


def _quantise(
    graph: GraphProto,
    operator: str,
    source: str,
    target: str,
    name: str,
    ranges: Mapping[str, QuantisationRange] | None,
) -> onnx.NodeProto:
    quantisation = (ranges or {})[name]
    scale = numpy_helper.from_array(quantisation.scale, f"{name}__scale")
    zero = numpy_helper.from_array(
        np.zeros(quantisation.scale.shape, dtype=np.int8), f"{name}__zero_point"
    )
    graph.initializer.extend([scale, zero])
    node = helper.make_node(
        operator, [source, scale.name, zero.name], [target], name=f"{target}__{operator}"
    )
    if quantisation.axis is not None:
        node.attribute.append(helper.make_attribute("axis", quantisation.axis))
    return node
