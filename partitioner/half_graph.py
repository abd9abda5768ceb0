"""A head that computes in float16, its inputs and outputs as they were.

TensorRT 11 takes the precision of every layer from the graph. Casts stand where float32 meets
float16 and nowhere else. A few operators stay in float32: those whose inputs ONNX wants in it,
those that cast or quantise, and whatever comes behind the noise of a defence, which is added as it
was judged.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from splitdeploy.profiles.errors import ModelError

_LARGEST = float(np.finfo(np.float16).max)
_KEPT = frozenset({
    "Cast", "CastLike", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Range",
    "Resize", "Upsample", "TopK", "NonMaxSuppression", "RoiAlign", "CumSum", "ConstantOfShape",
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli",
})  # fmt: skip
_SIZES = frozenset({"Shape", "Size"})


def to_half(model: ModelProto, noise: Iterable[str] = ()) -> ModelProto:
    """The same graph, computed in float16.

    Args:
        model: With its weights; left as it is.
        noise: Inputs behind which all stays in float32.

    Returns:
        A new model of the same inputs and outputs.

    Raises:
        ModelError: A weight does not fit into float16.
    """  # noqa: DOC502
    halved = ModelProto()
    halved.CopyFrom(model)
    _Halver(halved, behind(model.graph, noise)).convert()
    return halved


def behind(graph: GraphProto, values: Iterable[str]) -> frozenset[str]:
    """What is computed from some values: every value behind them, and they themselves.

    Args:
        graph: In the order of execution.
        values: Where to begin.

    Returns:
        Names of values.
    """
    reached = set(values)
    for node in graph.node:
        if reached.intersection(node.input):
            reached.update(node.output)
    return frozenset(reached)


class _Halver:
    """Rewrites a graph node by node.

    Args:
        model: Changed in place.
        kept: Values that are computed in float32.
    """

    def __init__(self, model: ModelProto, kept: frozenset[str]) -> None:
        self._graph, self._kept = model.graph, kept
        self._types = _types(model)
        self._held = {tensor.name: tensor for tensor in model.graph.initializer}
        self._full = {value.name for value in model.graph.input} | self._held.keys()
        self._halves: dict[str, str] = {}
        self._nodes: list[NodeProto] = []

    def convert(self) -> None:
        """Rewrite the graph."""
        for node in list(self._graph.node):
            if not self._hold(node):
                (self._to_half if self._may_be_half(node) else self._as_it_was)(node)
        for output in self._graph.output:
            self._in_full(output.name)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        del self._graph.value_info[:]  # of types that no longer hold
        read = {name for node in self._graph.node for name in reads(node)}
        read |= {value.name for value in self._graph.output}
        for tensor in [held for held in self._graph.initializer if held.name not in read]:
            self._graph.initializer.remove(tensor)

    def _hold(self, node: NodeProto) -> bool:
        """A constant's tensor becomes a weight; whether the node was one."""
        if node.op_type != "Constant" or node.attribute[0].name != "value":
            return False
        tensor = TensorProto()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        self._graph.initializer.append(tensor)
        self._held[tensor.name] = tensor
        self._types[tensor.name] = tensor.data_type
        self._full.add(tensor.name)
        return True

    def _may_be_half(self, node: NodeProto) -> bool:
        types = [self._types.get(name) for name in node.output if name]
        subgraphs = any(a.HasField("g") or a.graphs for a in node.attribute)
        return (
            node.op_type not in _KEPT
            and node.domain in {"", "ai.onnx"}
            and not subgraphs
            and None not in types
            and TensorProto.FLOAT in types
            and not self._kept.intersection(node.output)
            and any(self._types.get(name) == TensorProto.FLOAT for name in node.input)
        )

    def _to_half(self, node: NodeProto) -> None:
        made = NodeProto()
        made.CopyFrom(node)
        made.input[:] = [
            self._in_half(name) if self._types.get(name) == TensorProto.FLOAT else name
            for name in node.input
        ]
        for place, name in enumerate(node.output):
            if self._types.get(name) == TensorProto.FLOAT:
                made.output[place] = self._halves[name] = f"{name}__half"
            else:
                self._full.add(name)
        self._nodes.append(made)

    def _as_it_was(self, node: NodeProto) -> None:
        made = NodeProto()
        made.CopyFrom(node)
        if node.op_type in _SIZES and node.input[0] not in self._full:
            made.input[0] = self._halves[node.input[0]]  # the size is that of either
        else:
            for name in reads(node):
                self._in_full(name)
        self._full.update(node.output)
        self._nodes.append(made)

    def _in_half(self, name: str) -> str:
        if name not in self._halves:
            self._halves[name] = half = f"{name}__half"
            if name in self._held:
                self._graph.initializer.append(_halved(self._held[name], half))
            else:
                self._cast(name, half, TensorProto.FLOAT16)
        return self._halves[name]

    def _in_full(self, name: str) -> None:
        if name not in self._full and name in self._halves:
            self._cast(self._halves[name], name, TensorProto.FLOAT)
            self._full.add(name)

    def _cast(self, source: str, target: str, to: int) -> None:
        node = helper.make_node("Cast", [source], [target], name=f"{target}__cast", to=to)
        self._nodes.append(node)


def reads(node: NodeProto) -> set[str]:
    """What a node reads, the values that its subgraphs take from outside included."""
    found = {name for name in node.input if name}
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else list(attribute.graphs):
            inner = {name for inside in graph.node for name in inside.output}
            inner |= {value.name for value in (*graph.input, *graph.initializer)}
            read = {name for inside in graph.node for name in reads(inside)}
            found |= (read | {value.name for value in graph.output}) - inner
    return found


def _types(model: ModelProto) -> dict[str, int]:
    """The element type of every value that can be inferred."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    infos = (*graph.input, *graph.value_info, *graph.output)
    types = {info.name: info.type.tensor_type.elem_type for info in infos}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {name: kind for name, kind in types.items() if kind}


def _halved(tensor: TensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max()) if values.size else 0.0
    # An infinity stands for itself, as in the mask of an attention.
    if largest > _LARGEST and np.isfinite(largest):
        raise ModelError(
            f"weight {tensor.name!r}: expected values that float16 holds (to {_LARGEST:.0f}), got "
            f"{largest:.3g}: leave --head-precision fp16 out"
        )
    return numpy_helper.from_array(values.astype(np.float16), name)
