"""Shapes that an ONNX graph computes: followed through the constants that it computes them from.

Exporters differ in how much they fold. Older ones leave the sums by which a padding or a reshape is
sized in the graph, where shape inference loses the thread.
"""

from __future__ import annotations

import numpy
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper
from onnx.reference import ReferenceEvaluator

SMALL = 64
"""Elements up to which a weight may be a size rather than a weight."""

_UNSTEADY = ("Random", "Multinomial", "Bernoulli")


def infer_shapes(light: ModelProto) -> ModelProto:
    """Infer all shapes of a model, folding what they are computed from where that is needed.

    Args:
        light: A model whose inputs have sizes and not symbols, and whose large weights are inputs.

    Returns:
        The model with its shapes.
    """
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    while not _is_complete(light, infos := _infos(inferred)) and _fold(light, infos):
        # A fold gives shapes, which give further folds; the graph grows smaller each time.
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    return inferred


def _infos(model: ModelProto) -> dict[str, ValueInfoProto]:
    graph = model.graph
    return {info.name: info for info in (*graph.input, *graph.output, *graph.value_info)}


def _is_complete(model: ModelProto, infos: dict[str, ValueInfoProto]) -> bool:
    made = (name for node in model.graph.node for name in node.output if name)
    return all(_is_known(infos.get(name)) for name in made)


def _is_known(info: ValueInfoProto | None) -> bool:
    if info is None or not info.type.tensor_type.HasField("shape"):
        return False
    return all(size.HasField("dim_value") for size in info.type.tensor_type.shape.dim)


def _fold(model: ModelProto, infos: dict[str, ValueInfoProto]) -> bool:
    """Replace nodes by what they compute, where that is constant; whether any were."""
    graph = model.graph
    known = {tensor.name for tensor in graph.initializer}
    folded: list[NodeProto] = []
    for node in graph.node:
        read = [name for name in node.input if name]
        sized = node.op_type in {"Shape", "Size"} and _is_known(infos.get(node.input[0]))
        if sized or (_is_steady(node, bool(read)) and all(name in known for name in read)):
            folded.append(node)
            known.update(node.output)
    # A lone constant brings no shape that inference lacks.
    if all(node.op_type == "Constant" for node in folded):
        return False
    values = _evaluate(model, folded, infos)
    names = {name for node in folded for name in node.output}
    rest = [node for node in graph.node if names.isdisjoint(node.output)]
    del graph.node[:]
    graph.node.extend(rest)
    graph.initializer.extend(values)
    return True


def _is_steady(node: NodeProto, reads: bool) -> bool:
    """Whether its result follows from its inputs alone."""
    if any(a.HasField("g") or a.graphs for a in node.attribute):
        return False
    if node.op_type.startswith(_UNSTEADY):
        return False
    return reads or node.op_type == "Constant"


def _evaluate(
    model: ModelProto, nodes: list[NodeProto], infos: dict[str, ValueInfoProto]
) -> list[TensorProto]:
    """What the nodes compute from small weights and from shapes."""
    sized = {
        node.input[0] for node in nodes
        if node.op_type in {"Shape", "Size"} and _is_known(infos.get(node.input[0]))
    }  # fmt: skip
    names = [name for node in nodes for name in node.output if name]
    made = set(names)
    graph = onnx.helper.make_graph(
        nodes,
        "constants",
        [infos[name] for name in sorted(sized - made)],
        [onnx.helper.make_empty_tensor_value_info(name) for name in names],
        list(model.graph.initializer),
    )
    # A tensor of which nothing but the shape is asked needs no memory of its own.
    feeds = {
        name: numpy.broadcast_to(
            numpy.zeros((), onnx.helper.tensor_dtype_to_np_dtype(_element(infos[name]))),
            [size.dim_value for size in infos[name].type.tensor_type.shape.dim],
        )
        for name in sized - made
    }
    part = onnx.helper.make_model(graph, opset_imports=list(model.opset_import))
    results = ReferenceEvaluator(part).run(names, feeds)
    return [
        numpy_helper.from_array(numpy.asarray(value), name)
        for name, value in zip(names, results, strict=True)
    ]


def _element(info: ValueInfoProto) -> int:
    return info.type.tensor_type.elem_type or TensorProto.FLOAT
