"""One ONNX export of the whole model, in which every boundary value of the sweep exists.

An exporter folds values away (batch norm into the convolution before it) and renames others. Each
value at which some cut is made is therefore an output of the exported graph, in a known place, and
bears the name that it has in the traced graph. Heads and tails are slices of this one graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.utils._pytree as pytree
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind, OutputSpec, TensorArgument

from splitdeploy.partitioner.trace import Trace, quiet
from splitdeploy.partitioner.values import forget_sources, rename_values
from splitdeploy.profiles.cut import CutPoint
from splitdeploy.profiles.errors import ModelError


@dataclass(frozen=True)
class ExportedModel:
    """The whole model in ONNX.

    Attributes:
        proto: Its graph; the model's own results come first among the outputs, boundaries follow.
            Its weights stay in files beside ``path``, so that a slice of it weighs next to nothing.
        path: Where it lies.
        inputs: Names of its inputs.
        results: Names of the model's own results.
        dynamic_batch: Whether the batch may vary.
    """

    proto: onnx.ModelProto
    path: Path
    inputs: tuple[str, ...]
    results: tuple[str, ...]
    dynamic_batch: bool


def boundary_values(cuts: Iterable[CutPoint]) -> tuple[str, ...]:
    """Every value that crosses some cut, each once, the two ends left out.

    Args:
        cuts: The cuts of a sweep.

    Returns:
        Names of traced values.
    """
    names = [tensor.name for cut in cuts if not cut.is_end for tensor in cut.tensors]
    return tuple(dict.fromkeys(names))


def export_onnx(trace: Trace, boundaries: Sequence[str], folder: Path) -> ExportedModel:
    """Export a traced model once, with the boundary values as further outputs.

    Args:
        trace: The traced model.
        boundaries: Names of traced values that must exist in the exported graph.
        folder: Where the graph and its weights are written.

    Returns:
        The exported model.

    Raises:
        ModelError: The exporter does not support an operation of the model.
    """
    results = tuple(str(name) for name in trace.program.graph_signature.user_outputs)
    inputs = tuple(spec.name for spec in trace.graph.inputs)
    extra = [name for name in boundaries if name not in results and name not in inputs]
    try:
        with quiet(), _returning(trace.program, extra):
            exported = torch.onnx.export(trace.program, dynamo=True, verbose=False)
    except Exception as error:  # the exporter raises many types
        line = next((text for text in str(error).splitlines() if text.strip()), "")
        raise ModelError(f"torch.onnx.export cannot export the model: {line[:200]}") from error
    if exported is None:
        raise ModelError("torch.onnx.export returned no program; try a newer torch")
    path = folder / "model.onnx"
    exported.save(path, external_data=True)
    proto = onnx.load(str(path), load_external_data=False)
    _name_outputs(proto, [*results, *extra])
    _name_inputs(proto, inputs)
    forget_sources(proto.graph)
    path.write_bytes(proto.SerializeToString())
    return ExportedModel(proto, path, inputs, results, trace.dynamic_batch)


@contextlib.contextmanager
def _returning(program: ExportedProgram, names: Sequence[str]) -> Iterator[None]:
    """Let the program return these values too, after its own results, for as long as this lasts.

    A copy of the program would have to copy every traced tensor; an edit that is taken back costs
    nothing.
    """
    graph = program.graph
    nodes = {node.name: node for node in graph.nodes}
    output = next(node for node in graph.nodes if node.op == "output")
    specs = program.graph_signature.output_specs
    signature = program.module_call_graph[0].signature
    codegen: Any = graph._codegen
    before = (output.args, len(specs), signature.out_spec if signature else None)
    info = getattr(codegen, "pytree_info", None)
    output.args = ((*output.args[0], *(nodes[name] for name in names)),)
    specs.extend(
        OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(name=name), None) for name in names
    )
    flat = pytree.tree_structure(tuple(range(len(specs))))
    if signature is not None:
        signature.out_spec = flat
    if info is not None:
        codegen.pytree_info = info._replace(out_spec=flat)
    try:
        yield
    finally:
        output.args, del_from, out_spec = before
        del specs[del_from:]
        if signature is not None and out_spec is not None:
            signature.out_spec = out_spec
        if info is not None:
            codegen.pytree_info = info


def _name_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> None:
    """Give the outputs, which stand in our order, the names of the traced graph."""
    wanted = dict(zip((value.name for value in proto.graph.output), names, strict=True))
    _rename(proto, {old: new for old, new in wanted.items() if old != new})


def _name_inputs(proto: onnx.ModelProto, names: Sequence[str]) -> None:
    present = [value.name for value in proto.graph.input]
    if len(present) == len(names):
        _rename(proto, {old: new for old, new in zip(present, names, strict=True) if old != new})


def _rename(proto: onnx.ModelProto, names: dict[str, str]) -> None:
    """Rename values everywhere; a value that bears a wanted name already steps aside."""
    if not names:
        return
    taken = set(names.values()) - set(names)
    mapping = {name: f"{name}__inner" for name in taken} | names
    rename_values(proto.graph, mapping)
