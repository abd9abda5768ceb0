"""Heads and tails as slices of one exported graph.

A slice keeps the nodes between its inputs and its outputs. What depends on no input of the model
(constants, position tables) goes to whichever side needs it. A tail that asks for the size of the
batch reads it off a boundary tensor, since the model's input stays on the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

from splitdeploy.partitioner.export import ExportedModel
from splitdeploy.partitioner.values import rename_values
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY, CutPoint, LastPart
from splitdeploy.profiles.errors import CutError

PASSED = "__out"

HELD = "__held"
"""Behind the name of a tensor that the edge keeps for the last part, as it was computed."""


@dataclass(frozen=True)
class Halves:
    """A cut model in memory: its weights still lie beside the exported graph.

    Attributes:
        head: Before the cut.
        tail: Behind it; with a second cut, what lies between the two.
        last: Behind the second cut; None where there is one cut.
    """

    head: ModelProto
    tail: ModelProto
    last: ModelProto | None = None


class Slicer:
    """Slices one exported graph, with the look-ups that all slices share.

    Args:
        exported: The whole model.
    """

    def __init__(self, exported: ExportedModel) -> None:
        self.exported = exported
        self.graph: GraphProto = exported.proto.graph

    @cached_property
    def _producer(self) -> dict[str, int]:
        return {
            value: position
            for position, node in enumerate(self.graph.node)
            for value in node.output
            if value
        }

    @cached_property
    def _initializers(self) -> dict[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.graph.initializer}

    @cached_property
    def _infos(self) -> dict[str, ValueInfoProto]:
        groups = (self.graph.value_info, self.graph.output, self.graph.input)
        return {info.name: info for group in groups for info in group}

    def cut(self, cut: CutPoint) -> Halves:
        """The head and the tail of a cut.

        At the two ends one side is empty: it hands on what it gets. A graph cannot give a value
        under the name that it takes it by, so what is handed on gets ``__out`` behind its name.

        Args:
            cut: A cut of the graph that was exported.

        Returns:
            Both halves; with a second cut, the last part too.

        Raises:
            CutError: A boundary tensor does not exist in the exported graph, or the tail would
                need the model's input.
        """
        inputs, results = self.exported.inputs, self.exported.results
        if cut.last is not None:
            return self._cut_twice(cut, cut.last)
        if cut.name == CLOUD_ONLY:
            tail = self.extract(inputs, results)
            rename_values(tail.graph, {name: f"{name}{PASSED}" for name in inputs})
            return Halves(self.extract(inputs, inputs), tail)
        if cut.name == EDGE_ONLY:
            return Halves(self.extract(inputs, results), self.extract(results, results))
        boundary = tuple(tensor.name for tensor in cut.tensors)
        tail = self.extract(boundary, results)
        # An input that is still needed behind the cut is handed on, under its second name.
        rename_values(tail.graph, {name: f"{name}{PASSED}" for name in boundary if name in inputs})
        return Halves(self.extract(inputs, boundary), tail)

    def _cut_twice(self, cut: CutPoint, last: LastPart) -> Halves:
        """The head, what lies between, and the last part, which takes tensors of both."""
        inputs, results = self.exported.inputs, self.exported.results
        sent, returned, held = (
            [tensor.name for tensor in tensors]
            for tensors in (cut.tensors, last.returned, last.held)
        )
        middle = self.extract(sent, returned)
        rename_values(middle.graph, {name: f"{name}{PASSED}" for name in sent if name in inputs})
        end = self.extract([*returned, *held], results)
        rename_values(end.graph, {name: f"{name}{HELD}" for name in held})
        return Halves(self._holding(sent, held), middle, end)

    def _holding(self, sent: Sequence[str], held: Sequence[str]) -> ModelProto:
        """A head that also puts out what is held, under names that no codec touches."""
        inputs = self.exported.inputs
        made = [name for name in held if name not in inputs]
        head = self.extract(inputs, [*sent, *made])
        graph = head.graph
        for value in [value for value in graph.output if value.name in {*made} - {*sent}]:
            graph.output.remove(value)
        for name in held:
            kept = graph.output.add()
            kept.CopyFrom(self._infos[name])
            kept.name = f"{name}{HELD}"
            graph.node.add(op_type="Identity", name=kept.name, input=[name], output=[kept.name])
        return head

    def extract(self, inputs: Sequence[str], outputs: Sequence[str]) -> ModelProto:
        """The part of the graph between some values and others.

        Args:
            inputs: Where it begins; not all of them need be read.
            outputs: Where it ends.

        Returns:
            A model of its own that shares the weights' files.

        Raises:
            CutError: A value does not exist, or the outputs need more than the inputs.
        """
        known = self._producer.keys() | self._infos.keys() | self._initializers.keys()
        missing = [name for name in (*inputs, *outputs) if name not in known]
        if missing:
            raise CutError(
                f"the exported graph has no value {missing[0]!r}: a cut's tensors must be among "
                "the boundaries that it was exported with"
            )
        copies = self._copied(inputs)
        kept, reads, sized = self._reach({*inputs, *copies}, outputs)
        part = ModelProto()
        part.CopyFrom(_without_graph(self.exported.proto))
        graph = part.graph
        graph.name = self.graph.name or "slice"
        graph.input.extend(self._infos[name] for name in inputs)
        graph.output.extend(self._infos[name] for name in dict.fromkeys(outputs))
        for position in kept:
            node = graph.node.add()
            node.CopyFrom(self.graph.node[position])
            if position in sized:
                self._read_batch_off(node, inputs)
        for node in graph.node:
            node.input[:] = [copies.get(value, value) for value in node.input]
        self._pass_through(graph, inputs, outputs)
        graph.initializer.extend(self._initializers[name] for name in sorted(reads))
        made = {value for node in graph.node for value in node.output}
        outside = {*inputs, *outputs}
        graph.value_info.extend(
            self._infos[name] for name in sorted(made - outside) if name in self._infos
        )
        return part

    def _copied(self, inputs: Sequence[str]) -> dict[str, str]:
        """Values that an input of the slice is a mere copy of, with that input's name."""
        # The exporter lets the readers of a copy read the original, which a tail does not have.
        copies: dict[str, str] = {}
        for name in inputs:
            source = name
            while source in self._producer:
                node = self.graph.node[self._producer[source]]
                if node.op_type != "Identity":
                    break
                source = node.input[0]
                if source not in inputs:
                    copies.setdefault(source, name)
        return copies

    def _reach(
        self, inputs: set[str], outputs: Sequence[str]
    ) -> tuple[list[int], set[str], set[int]]:
        """Node positions, initializers and batch readers that the outputs need."""
        kept: set[int] = set()
        reads: set[str] = set()
        sized: set[int] = set()
        pending = [name for name in outputs if name not in inputs]
        seen: set[str] = set()
        while pending:
            name = pending.pop()
            if name in seen or not name:
                continue
            seen.add(name)
            if name in self._initializers:
                reads.add(name)
                continue
            if name not in self._producer:
                raise CutError(
                    f"the tail would need the model's input {name!r}, which stays on the device: "
                    "choose a cut behind its last use"
                )
            position = self._producer[name]
            kept.add(position)
            node = self.graph.node[position]
            if node.op_type == "Shape" and node.input[0] not in inputs and self._is_batch(node):
                sized.add(position)
                continue
            pending.extend(value for value in _reads(node) if value not in inputs)
        return sorted(kept), reads, sized

    def _is_batch(self, node: NodeProto) -> bool:
        """Whether the node reads nothing but the size of the batch of some tensor."""
        attributes = {a.name: a.i for a in node.attribute}
        info = self._infos.get(node.input[0])
        if info is None or "end" not in attributes:
            return False
        start, end = attributes.get("start", 0), attributes["end"]
        sizes = info.type.tensor_type.shape.dim
        symbols = self._batch_symbols
        return end == start + 1 and start < len(sizes) and sizes[start].dim_param in symbols

    @cached_property
    def _batch_symbols(self) -> set[str]:
        return {
            info.type.tensor_type.shape.dim[0].dim_param
            for info in self.graph.input
            if info.type.tensor_type.shape.dim
        } - {""}

    def _read_batch_off(self, node: NodeProto, inputs: Sequence[str]) -> None:
        """Let the node read the batch's size off a boundary tensor."""
        for name in inputs:
            sizes = self._infos[name].type.tensor_type.shape.dim
            for axis, size in enumerate(sizes):
                if size.dim_param in self._batch_symbols:
                    node.input[0] = name
                    for attribute in node.attribute:
                        attribute.i = {"start": axis, "end": axis + 1}.get(
                            attribute.name, attribute.i
                        )
                    return
        raise CutError(
            f"no boundary tensor carries the batch that the tail asks for (looked at "
            f"{', '.join(inputs)}): choose another cut, or export with a fixed batch"
        )

    def _pass_through(
        self, graph: GraphProto, inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        """A value that is input and output at once goes through a node of its own."""
        for info in graph.output:
            if info.name in inputs and info.name in outputs:
                name, info.name = info.name, f"{info.name}{PASSED}"
                graph.node.add(op_type="Identity", name=info.name, input=[name], output=[info.name])


def _without_graph(proto: ModelProto) -> ModelProto:
    shell = ModelProto()
    for field, value in proto.ListFields():
        if field.name == "graph":
            continue
        if field.is_repeated:
            getattr(shell, field.name).extend(value)
        else:
            setattr(shell, field.name, value)
    return shell


def _reads(node: NodeProto) -> Iterable[str]:
    """What a node reads, the captures of its subgraphs included."""
    yield from (value for value in node.input if value)
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else list(attribute.graphs):
            inner = {value for inside in graph.node for value in inside.output}
            inner |= {value.name for value in (*graph.input, *graph.initializer)}
            for inside in graph.node:
                yield from (value for value in _reads(inside) if value not in inner)
            yield from (value.name for value in graph.output if value.name not in inner)


def write_slice(model: ModelProto, whole: Path, name: str) -> Path:
    """Write a slice beside the exported graph, whose weights' files it shares.

    Args:
        model: The slice.
        whole: The exported graph's path.
        name: The file's name.

    Returns:
        Its path.
    """
    path = whole.with_name(name)
    path.write_bytes(model.SerializeToString())
    return path
