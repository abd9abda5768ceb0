"""Shapes of the values in an ONNX graph, for one input or a batch."""

from __future__ import annotations

import ast
import itertools
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto

from splitdeploy.partitioner.onnx_folding import SMALL, infer_shapes

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


class Shapes:
    """Shapes by the name of the value.

    Args:
        known: Sizes of each value.
    """

    def __init__(self, known: dict[str, tuple[int, ...]]) -> None:
        self._known = known

    def of(self, name: str) -> tuple[int, ...]:
        """The value's shape; that of a scalar where it is not known."""
        return self._known.get(name, ())

    def elements(self, name: str) -> int:
        """How many elements the value holds."""
        return math.prod(self.of(name))


def graph_shapes(model: ModelProto, batch: int = 1) -> Shapes:
    """The shapes that a model carries, and by inference those that it does not.

    Args:
        model: Any ONNX model; its weights may lie outside.
        batch: How many inputs it gets at once: what the symbols of its inputs stand for, which
            leave no other size open, and those that its results begin with.

    Returns:
        Shapes of inputs, weights, results and what lies between.
    """
    known = _carried(model, batch)
    made = {name for node in model.graph.node for name in node.output if name}
    if made - known.keys():
        inferred = infer_shapes(_without_weights(model, batch))
        # Inference began with numbers: what it leaves open is no batch.
        known = _carried(inferred, 1) | known
    return Shapes(known)


def _carried(model: ModelProto, batch: int) -> dict[str, tuple[int, ...]]:
    graph = model.graph
    sizes = dict.fromkeys(_symbols(model), batch)
    known = {
        info.name: tuple(_sizes(info, sizes))
        for infos in (graph.value_info, graph.output, graph.input)
        for info in infos
        if info.type.tensor_type.HasField("shape")
    }
    return known | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def _symbols(model: ModelProto) -> Iterator[str]:
    """The names that stand for the batch: in inputs' open sizes, and in the first of results'."""
    shapes = [info.type.tensor_type.shape.dim for info in model.graph.input]
    shapes += [info.type.tensor_type.shape.dim[:1] for info in model.graph.output]
    for size in itertools.chain(*shapes):
        yield size.dim_param
        yield from re.findall(r"[A-Za-z_]\w*", size.dim_param)


def _sizes(info: ValueInfoProto, sizes: Mapping[str, int]) -> Iterator[int]:
    for size in info.type.tensor_type.shape.dim:
        known = size.HasField("dim_value")
        yield size.dim_value if known else symbolic_size(size.dim_param, sizes)


def symbolic_size(text: str, sizes: Mapping[str, int] = MappingProxyType({})) -> int:
    """A symbolic size such as ``64*s0``.

    Args:
        text: Integers, names and ``+ - * //``; or a name with other signs in it.
        sizes: What names stand for; any other stands for 1.

    Returns:
        The size; 1 for anything else.
    """
    try:
        return _evaluate(ast.parse(text, mode="eval").body, sizes)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return sizes.get(text, 1) if text else 1


def _evaluate(tree: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return int(tree.value)
    if isinstance(tree, ast.Name):
        return sizes.get(tree.id, 1)
    if isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATORS:
        both = _evaluate(tree.left, sizes), _evaluate(tree.right, sizes)
        return _OPERATORS[type(tree.op)](*both)
    raise ValueError(f"no size: {ast.dump(tree)}")


def _without_weights(model: ModelProto, batch: int) -> ModelProto:
    """The model with its large weights as inputs, so that inference moves no megabytes."""
    light = ModelProto()
    light.ir_version = model.ir_version
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    source, graph = model.graph, light.graph
    graph.name = source.name
    graph.node.extend(source.node)
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    sizes = dict.fromkeys(_symbols(model), batch)
    for info in (*graph.input, *graph.output):
        for dimension in info.type.tensor_type.shape.dim:
            # Inference follows numbers further than symbols.
            if dimension.HasField("dim_param"):
                dimension.dim_value = symbolic_size(dimension.dim_param, sizes)
    named = {info.name for info in source.input}
    for tensor in source.initializer:
        if _is_small(tensor):
            graph.initializer.append(tensor)
        elif tensor.name not in named:
            graph.input.append(_as_input(tensor))
    return light


def _is_small(tensor: TensorProto) -> bool:
    """Whether it may be the shape of a reshape, which inference must read."""
    return math.prod(tensor.dims) <= SMALL and tensor.data_location != TensorProto.EXTERNAL


def _as_input(tensor: TensorProto) -> ValueInfoProto:
    dims: Iterable[int] = tensor.dims
    return onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(dims))
