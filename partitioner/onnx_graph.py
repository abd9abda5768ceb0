"""An ``.onnx`` file as a traced graph, and as the exported model that heads and tails come from."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto
from onnx.checker import ValidationError

from splitdeploy.partitioner.export import ExportedModel
from splitdeploy.partitioner.graph import GraphNode, ModuleCall, TracedGraph
from splitdeploy.partitioner.onnx_macs import node_macs
from splitdeploy.partitioner.onnx_shapes import Shapes, graph_shapes
from splitdeploy.partitioner.values import CLASSES, SCOPES, forget_sources
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.digest import bytes_sha256, file_sha256
from splitdeploy.profiles.errors import CutError, ModelError

_VIEWS = {
    "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Slice", "Split",
    "Expand", "Gather",
}  # fmt: skip
_UNARY = {
    "Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Selu", "Sigmoid", "Tanh", "HardSigmoid",
    "HardSwish", "Softplus", "Mish", "Gelu", "Erf", "BatchNormalization", "LayerNormalization",
    "InstanceNormalization", "Dropout",
}  # fmt: skip
_NUMBERS = {"Shape", "Size"}


def load_onnx(path: Path) -> ModelProto:
    """Read an ONNX file; its weights stay outside where they lie in files of their own.

    Args:
        path: The file.

    Returns:
        The model.

    Raises:
        ModelError: It is damaged or no ONNX model.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's exceptions share no useful base
        raise ModelError(f"{path} is damaged or no ONNX model ({type(error).__name__})") from error
    if not model.graph.node or not model.graph.input:
        raise ModelError(f"{path} is no ONNX model that computes something: it has no nodes")
    return model


def onnx_inputs(path: Path) -> tuple[TensorSpec, ...]:
    """The inputs that are no weights, a batch that may vary taken as one.

    Args:
        path: The file.

    Returns:
        At least one.

    Raises:
        ModelError: There is none, or one whose size is open beside the batch.
    """
    model = load_onnx(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    specs = []
    for info in model.graph.input:
        if info.name in weights:
            continue
        sizes = [size.dim_value for size in info.type.tensor_type.shape.dim]
        if not all(sizes[1:]):
            shown = "×".join(str(size or "?") for size in sizes)
            raise ModelError(
                f"{path} leaves the size of its input {info.name} open ({shown}), expected a "
                "batch at most: export it with fixed sizes"
            )
        shape = (sizes[0] or 1, *sizes[1:]) if sizes else ()
        element = info.type.tensor_type.elem_type or TensorProto.FLOAT
        dtype = onnx.helper.tensor_dtype_to_np_dtype(element).name
        specs.append(TensorSpec(info.name, shape, dtype))
    if not specs:
        raise ModelError(f"{path} has no input, expected a model that computes something of one")
    return tuple(specs)


def onnx_sha256(path: Path) -> str:
    """The digest of an ONNX file, and of the files that its weights lie in.

    Args:
        path: The file.

    Returns:
        Hexadecimal SHA-256: of the file, or of its digest and the others' where there are others.

    Raises:
        ModelError: A file of weights is missing.
    """
    model = load_onnx(path)
    places = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    own = file_sha256(path)
    try:
        others = [file_sha256(path.parent / place) for place in sorted(places)]
    except OSError as error:
        raise ModelError(
            f"the weights of {path} lie in a file of their own that cannot be read: "
            f"{error.filename}: {error.strerror}; put it there"
        ) from error
    return bytes_sha256("".join([own, *others]).encode()) if others else own


def read_onnx_graph(path: Path) -> TracedGraph:
    """The graph of an ONNX file, in our vocabulary.

    Modules are read off what the exporter recorded: torch's scopes, or node names that are paths.

    Args:
        path: The file.

    Returns:
        The traced graph, for a batch of one.
    """
    model = load_onnx(path)
    graph, shapes = model.graph, graph_shapes(model)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    types = _types(model)
    varying = {info.name for info in graph.input if info.name not in weights}
    inputs = tuple(_spec(name.name, shapes, types) for name in graph.input if name.name in varying)
    values = {spec.name: spec for spec in inputs}
    nodes = []
    for place, node in enumerate(graph.node):
        made = [name for name in node.output if name]
        read = tuple(name for name in node.input if name in varying)
        kind = _kind(node, bool(read))
        if kind in {"op", "view", "unary"}:
            varying.update(made)
        values.update({name: _spec(name, shapes, types) for name in made})
        nodes.append(
            GraphNode(
                name=node.name or f"{node.op_type}_{place}",
                inputs=read,
                outputs=() if kind == "number" else tuple(made),
                kind=kind,
                macs=node_macs(node, shapes) if read else 0,
                parameters=tuple(name for name in node.input if name in weights),
                stack=_stack(node),
            )
        )
    elements = {name: shapes.elements(name) for name in weights}
    return TracedGraph(inputs, tuple(nodes), _results(model), values, elements)


def import_onnx(path: Path, boundaries: Sequence[str], folder: Path) -> ExportedModel:
    """Take an ONNX file as the exported model, with the boundary values as further outputs.

    Args:
        path: The file.
        boundaries: Names of values in it.
        folder: Where the graph and its weights are written.

    Returns:
        The exported model.

    Raises:
        CutError: The file has no value of such a name.
        ModelError: Its weights lie in a file of their own that is missing or damaged.
    """
    model = load_onnx(path)
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, ValidationError) as error:
        raise ModelError(
            f"the weights of {path}, which lie in a file of their own, cannot be read: {error}"
        ) from error
    shapes, types, results = graph_shapes(model), _types(model), _results(model)
    present = {name for node in model.graph.node for name in node.output}
    taken = {info.name for info in model.graph.input}
    for name in boundaries:
        if name in taken:
            continue  # an input that lives on beyond the cut is at hand already
        if name not in present:
            raise CutError(f"{path} has no value {name!r} to cut at: see `splitdeploy cuts {path}`")
        if name not in results:
            model.graph.output.append(_info(model, name, shapes, types))
    forget_sources(model.graph)
    target = folder / "model.onnx"
    onnx.save_model(
        model, str(target), save_as_external_data=True, location="model.onnx.data",
        size_threshold=256,
    )  # fmt: skip
    proto = onnx.load(str(target), load_external_data=False)
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = tuple(info.name for info in proto.graph.input if info.name not in weights)
    first = next(info for info in proto.graph.input if info.name == inputs[0])
    sizes = first.type.tensor_type.shape.dim
    dynamic = bool(sizes) and not sizes[0].HasField("dim_value")
    return ExportedModel(proto, target, inputs, results, dynamic)


def _results(model: ModelProto) -> tuple[str, ...]:
    return tuple(info.name for info in model.graph.output)


def _info(
    model: ModelProto, name: str, shapes: Shapes, types: dict[str, int]
) -> onnx.ValueInfoProto:
    """What the file says of a value, or what inference does: with the batch left open."""
    info = onnx.ValueInfoProto()
    for known in model.graph.value_info:
        if known.name == name:
            info.CopyFrom(known)
            return info
    sizes: list[int | str] = list(shapes.of(name))
    batch = model.graph.input[0].type.tensor_type.shape.dim[:1]
    if sizes and batch and batch[0].dim_param:
        sizes[0] = batch[0].dim_param
    info.CopyFrom(
        onnx.helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), sizes)
    )
    return info


def _types(model: ModelProto) -> dict[str, int]:
    graph = model.graph
    infos = (*graph.input, *graph.output, *graph.value_info)
    return {info.name: info.type.tensor_type.elem_type for info in infos}


def _spec(name: str, shapes: Shapes, types: dict[str, int]) -> TensorSpec:
    element = types.get(name) or TensorProto.FLOAT
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element).name
    return TensorSpec(name, shapes.of(name), dtype)


def _kind(node: NodeProto, reads: bool) -> str:
    if node.op_type in _NUMBERS:
        return "number"
    if not reads:
        return "constant"
    if node.op_type in _VIEWS:
        return "view"
    return "unary" if node.op_type in _UNARY else "op"


def _stack(node: NodeProto) -> tuple[ModuleCall, ...]:
    recorded = {entry.key: entry.value for entry in node.metadata_props}
    if SCOPES in recorded:
        return _recorded(recorded[SCOPES], recorded.get(CLASSES, "[]"))
    return _from_path(node.name)


def _recorded(scopes: str, classes: str) -> tuple[ModuleCall, ...]:
    """Torch writes both as Python lists: module names, and the types of modules and operator."""
    try:
        names, types = ast.literal_eval(scopes), ast.literal_eval(classes)
    except (ValueError, SyntaxError):
        return ()
    pairs = zip(names[:-1], [*types, *[""] * len(names)], strict=False)
    return tuple(ModuleCall(str(name), str(kind)) for name, kind in pairs if name)


def _from_path(name: str) -> tuple[ModuleCall, ...]:
    """``/layer1/layer1.0/conv1/Conv``: each part is a full name, or one below the part before."""
    calls: list[ModuleCall] = []
    for part in name.strip("/").split("/")[:-1]:
        outer = calls[-1].name if calls else ""
        full = part if not outer or part.startswith(f"{outer}.") else f"{outer}.{part}"
        calls.append(ModuleCall(full, ""))
    return tuple(calls)
