"""Multiply-accumulates of a traced ATen node, for the shapes that it was traced with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

aten = torch.ops.aten


def _shape(node: Any) -> tuple[int, ...]:
    """The node's shape with a symbolic batch taken as one."""
    value = node.meta["val"]
    return concrete_shape(value.shape)


def concrete_shape(shape: Sequence[int | torch.SymInt]) -> tuple[int, ...]:
    """A shape as integers: every symbol (the batch) is taken as one.

    Args:
        shape: Sizes, some of which may be symbolic.

    Returns:
        The sizes for a batch of one.
    """
    return tuple(
        int(size.node.expr.subs(dict.fromkeys(size.node.expr.free_symbols, 1)))
        if isinstance(size, torch.SymInt)
        else int(size)
        for size in shape
    )


def _convolution(node: Node) -> int:
    weight = _shape(node.args[1])
    return math.prod(_shape(node)) * math.prod(weight[1:])


def _transposed_convolution(node: Node) -> int:
    weight = _shape(node.args[1])
    return math.prod(_shape(node.args[0])) * math.prod(weight[1:])


def _any_convolution(node: Node) -> int:
    return _transposed_convolution(node) if node.args[6] else _convolution(node)


def _linear(node: Node) -> int:
    return math.prod(_shape(node)) * _shape(node.args[0])[-1]


def _matmul(node: Node) -> int:
    left, right = node.args[-2:] if node.target in _ADDED else node.args[:2]
    del right
    return math.prod(_shape(node)) * _shape(left)[-1]


def _attention(node: Node) -> int:
    query, key, value = (_shape(argument) for argument in node.args[:3])
    scores = math.prod(query[:-1]) * key[-2]
    return scores * (query[-1] + value[-1])


_ADDED = {aten.addmm.default, aten.baddbmm.default}

_MACS: dict[Any, Callable[[Node], int]] = {
    aten.conv1d.default: _convolution,
    aten.conv2d.default: _convolution,
    aten.conv3d.default: _convolution,
    aten.conv2d.padding: _convolution,
    aten.convolution.default: _any_convolution,
    aten.conv_transpose2d.input: _transposed_convolution,
    aten.linear.default: _linear,
    aten.matmul.default: _matmul,
    aten.mm.default: _matmul,
    aten.bmm.default: _matmul,
    aten.addmm.default: _matmul,
    aten.baddbmm.default: _matmul,
    aten.scaled_dot_product_attention.default: _attention,
}


def node_macs(node: Node) -> int:
    """Multiply-accumulates of one traced node, for a batch of one.

    Convolutions, matrix products and attention count; element-wise work does not, as is usual.

    Args:
        node: A node of an exported program whose inputs carry ``meta["val"]``.

    Returns:
        The count; 0 for an operation that multiplies no matrices.
    """
    count = _MACS.get(node.target)
    return 0 if count is None else count(node)
