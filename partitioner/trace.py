"""From a torch module to a traced graph, by ``torch.export``."""

from __future__ import annotations

import contextlib
import logging
import operator
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.export.graph_signature import InputKind
from torch.fx import Node

from splitdeploy.partitioner.graph import GraphNode, ModuleCall, TracedGraph
from splitdeploy.partitioner.macs import concrete_shape, node_macs
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.errors import ModelError

aten = torch.ops.aten

_VIEWS = {
    aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.flatten.using_ints,
    aten.transpose.int, aten.permute.default, aten.squeeze.default, aten.squeeze.dim,
    aten.squeeze.dims, aten.unsqueeze.default, aten.expand.default, aten.select.int,
    aten.slice.Tensor, aten.clone.default, aten.contiguous.default, aten.t.default,
    aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, aten.unbind.int,
    aten.alias.default, aten.detach.default, aten.unflatten.int,
}  # fmt: skip

_UNARY = {
    aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.hardswish.default,
    aten.hardsigmoid.default, aten.silu.default, aten.gelu.default, aten.sigmoid.default,
    aten.tanh.default, aten.elu.default, aten.leaky_relu.default, aten.clamp.default,
    aten.clamp_min.default, aten.dropout.default, aten.softplus.default, aten.mish.default,
    aten.batch_norm.default, aten._native_batch_norm_legit_no_training.default,
    aten.layer_norm.default, aten.native_layer_norm.default, aten.group_norm.default,
}  # fmt: skip


@dataclass(frozen=True)
class Trace:
    """A traced torch model: the graph that cuts are sought in, and the program behind it.

    Attributes:
        program: The exported program, functional (no operation in place), batch dynamic where the
            model allows it.
        graph: The same graph, in our vocabulary; its values bear the program's node names.
        dynamic_batch: Whether the batch may vary.
        example: Inputs that the program accepts, with a batch of ``example_batch``.
    """

    program: ExportedProgram
    graph: TracedGraph
    dynamic_batch: bool
    example: tuple[Any, ...]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what the exporters warn of, log and print off the user's screen."""
    previous = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stderr(_Muted(sys.stderr)):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(previous)


class _Muted:
    """A stream that swallows what this thread writes; the progress bars' thread writes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._muted = threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() == self._muted:
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def trace_module(module: nn.Module, example: Sequence[Any]) -> Trace:
    """Trace a module, with a dynamic batch where the model allows it.

    Args:
        module: In eval mode.
        example: Positional inputs with a batch of one: tensors, or tuples and dicts of tensors.

    Returns:
        The trace.

    Raises:
        ModelError: The model cannot be traced, for instance because its control flow depends on
            data.
    """
    doubled = _map_tensors(tuple(example), lambda t: torch.cat([t, t]) if t.dim() else t)
    batch = Dim("batch", min=1)
    shapes = _map_tensors(tuple(example), lambda t: {0: batch} if t.dim() else None)
    try:
        with quiet():
            program = export(module, doubled, dynamic_shapes=shapes)
            return from_program(program.run_decompositions({}), doubled, dynamic_batch=True)
    except Exception:  # the exporter raises many types; a fixed batch may still do
        pass
    try:
        with quiet():
            program = export(module, tuple(example)).run_decompositions({})
    except Exception as error:
        raise ModelError(_explain(error)) from error
    return from_program(program, tuple(example), dynamic_batch=False)


def _explain(error: Exception) -> str:
    text = str(error)
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    if any(mark in text for mark in ("data-dependent", "DataDependent", "Dynamic control flow")):
        return (
            "the model's control flow depends on data, so it has no fixed graph to cut: "
            f"torch.export says {first[:160]!r}; replace the branch by torch.where or torch.cond"
        )
    return f"torch.export cannot trace the model: {type(error).__name__}: {first[:200]}"


def from_program(
    program: ExportedProgram, example: tuple[Any, ...], *, dynamic_batch: bool
) -> Trace:
    """The trace of a program that is functional already.

    Args:
        program: As ``run_decompositions`` leaves it.
        example: Inputs that it accepts.
        dynamic_batch: Whether its batch may vary.

    Returns:
        The trace.
    """
    return Trace(program, _Reader(program).read(), dynamic_batch, example)


def has_dynamic_batch(program: ExportedProgram) -> bool:
    """Whether the first size of every input of a program may vary.

    Args:
        program: Exported.

    Returns:
        The answer.
    """
    inputs = set(program.graph_signature.user_inputs)
    values = [node.meta.get("val") for node in program.graph.nodes if node.name in inputs]
    tensors = [value for value in values if isinstance(value, Tensor) and value.dim()]
    return bool(tensors) and all(isinstance(t.shape[0], torch.SymInt) for t in tensors)


def _map_tensors(tree: Any, function: Any) -> Any:
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: _map_tensors(value, function) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree)(_map_tensors(value, function) for value in tree)
    return tree


class _Reader:
    """Reads the nodes of an exported program into our vocabulary."""

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        signature = program.graph_signature
        self.parameter_names = {
            spec.arg.name: str(spec.target)
            for spec in signature.input_specs
            if spec.kind is not InputKind.USER_INPUT and spec.target is not None
        }
        self.inputs = set(signature.user_inputs)
        self.varying: set[Node] = set()

    def read(self) -> TracedGraph:
        values: dict[str, TensorSpec] = {}
        inputs: list[TensorSpec] = []
        elements: dict[str, int] = {}
        nodes: list[GraphNode] = []
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, inputs, values, elements)
            elif node.op == "call_function" and node.target is not operator.getitem:
                nodes.append(self._node(node, values))
            elif node.op == "call_function" and node.args[0] in self.varying:
                self.varying.add(node)
        results = tuple(str(name) for name in self.program.graph_signature.user_outputs)
        return TracedGraph(tuple(inputs), tuple(nodes), results, values, elements)

    def _placeholder(
        self,
        node: Node,
        inputs: list[TensorSpec],
        values: dict[str, TensorSpec],
        elements: dict[str, int],
    ) -> None:
        value = node.meta.get("val")
        if node.name in self.parameter_names and isinstance(value, Tensor):
            elements[self.parameter_names[node.name]] = value.numel()
        elif node.name in self.inputs and isinstance(value, Tensor):
            self.varying.add(node)
            values[node.name] = tensor_spec(node.name, value)
            inputs.append(values[node.name])

    def _node(self, node: Node, values: dict[str, TensorSpec]) -> GraphNode:
        produced = _tensor_results(node)
        values.update({spec.name: spec for spec in produced})
        kind = self._kind(node, bool(produced))
        if kind != "constant":
            self.varying.add(node)
        return GraphNode(
            name=node.name,
            inputs=tuple(
                read.name
                for read in node.all_input_nodes
                if read in self.varying and not _is_number(read)
            ),
            outputs=tuple(spec.name for spec in produced),
            kind=kind,
            macs=node_macs(node),
            parameters=tuple(
                self.parameter_names[read.name]
                for read in node.all_input_nodes
                if read.name in self.parameter_names
            ),
            stack=_stack(node),
        )

    def _kind(self, node: Node, yields_tensors: bool) -> str:
        if not yields_tensors:
            return "number"
        if not any(read in self.varying and not _is_number(read) for read in node.all_input_nodes):
            return "constant"
        if node.target in _VIEWS:
            return "view"
        return "unary" if node.target in _UNARY else "op"


def tensor_spec(name: str, value: Tensor) -> TensorSpec:
    """The spec of a traced tensor, for a batch of one.

    Args:
        name: Its name.
        value: Real or fake.

    Returns:
        Its spec.
    """
    return TensorSpec(name, concrete_shape(value.shape), str(value.dtype).removeprefix("torch."))


def _is_number(node: Node) -> bool:
    return not isinstance(node.meta.get("val"), Tensor | tuple | list)


def _tensor_results(node: Node) -> list[TensorSpec]:
    """The tensors that a node yields; those of a tuple are what is taken out of it."""
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        return [tensor_spec(node.name, value)]
    if not isinstance(value, tuple | list):
        return []
    taken = [user for user in node.users if user.target is operator.getitem]
    return [
        tensor_spec(user.name, user.meta["val"])
        for user in taken
        if isinstance(user.meta.get("val"), Tensor)
    ]


def _stack(node: Node) -> tuple[ModuleCall, ...]:
    """The module calls that the node runs in; a repeated call keeps its ``@n``."""
    calls = []
    for key, (name, type_name) in (node.meta.get("nn_module_stack") or {}).items():
        if not name or name.startswith("_empty"):
            continue
        repeat = key.rpartition("@")[2] if "@" in key else ""
        called = f"{name}@{repeat}" if repeat.isdigit() else name
        full = (
            type_name
            if isinstance(type_name, str)
            else f"{type_name.__module__}.{type_name.__qualname__}"
        )
        calls.append(ModuleCall(called, full))
    return tuple(calls)
