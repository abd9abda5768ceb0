"""Multiply-accumulates of an ONNX node, for as many inputs as its shapes are of."""

from __future__ import annotations

import math

from onnx import NodeProto

from splitdeploy.partitioner.onnx_shapes import Shapes


def node_macs(node: NodeProto, shapes: Shapes) -> int:
    """Multiply-accumulates of one node.

    Convolutions and matrix products count; element-wise work does not, as is usual.

    Args:
        node: The node.
        shapes: Of the values around it.

    Returns:
        The count; 0 for a node that multiplies no matrices.
    """
    if node.op_type == "Conv":
        return shapes.elements(node.output[0]) * math.prod(shapes.of(node.input[1])[1:])
    if node.op_type == "ConvTranspose":
        return shapes.elements(node.input[0]) * math.prod(shapes.of(node.input[1])[1:])
    if node.op_type in {"Gemm", "MatMul"}:
        return shapes.elements(node.output[0]) * inner_size(node, shapes)
    return einsum_macs(node, shapes) if node.op_type == "Einsum" else 0


def inner_size(node: NodeProto, shapes: Shapes) -> int:
    """The length of the sums of a matrix product; 1 for all else.

    Args:
        node: The node.
        shapes: Of the values around it.

    Returns:
        The length.
    """
    if node.op_type not in {"Gemm", "MatMul"}:
        return 1
    shape = shapes.of(node.input[0])
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return (shape[0] if transposed else shape[-1]) if shape else 1


def einsum_macs(node: NodeProto, shapes: Shapes) -> int:
    """Every combination of the indices is one product, where there are two operands.

    Args:
        node: An ``Einsum``.
        shapes: Of the values around it.

    Returns:
        The count.
    """
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation")
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if len(terms) < 2:
        return 0
    sizes: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=True):
        shape = shapes.of(name)
        letters = term.replace("...", "")
        head = term.find("...") if "..." in term else len(letters)
        tail = len(letters) - head
        hidden = shape[head : len(shape) - tail]
        named = (*shape[:head], *shape[len(shape) - tail :])
        sizes.update(zip(letters, named, strict=True))
        for place, size in enumerate(reversed(hidden)):
            key = f"...{place}"
            sizes[key] = max(size, sizes.get(key, 1))
    return math.prod(sizes.values())
