"""A traced graph, whatever it was traced from: nodes in their order of execution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from splitdeploy.profiles.cut import TensorSpec

ABSORBED_KINDS = frozenset({"view", "unary"})
"""Kinds of node before which no block ends: a compiler fuses them with what precedes."""


@dataclass(frozen=True)
class ModuleCall:
    """One module on the call stack of a node: its qualified name, and the name of its type."""

    name: str
    type: str


@dataclass(frozen=True)
class GraphNode:
    """One operation.

    Attributes:
        name: Unique in the graph.
        inputs: The values that it reads, parameters left out.
        outputs: The tensors that it produces; empty for one that yields only numbers.
        kind: ``view`` (moves or renames elements), ``unary`` (one activation in, the same shape
            out: activations, batch normalisation, dropout), ``constant`` (depends on no input),
            ``number`` (yields sizes, not tensors) or ``op``.
        macs: Multiply-accumulates for one input.
        parameters: Names of the parameters and buffers that it reads.
        stack: The module calls that it runs in, outermost first.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    kind: str
    macs: int
    parameters: tuple[str, ...]
    stack: tuple[ModuleCall, ...]

    @property
    def computes(self) -> bool:
        """Whether it belongs to one side of a cut; what it is not is repeated where needed."""
        return self.kind not in {"constant", "number"}


@dataclass(frozen=True)
class TracedGraph:
    """Nodes in their order of execution, and the tensors between them.

    Attributes:
        inputs: The graph's inputs, for a batch of one.
        nodes: The operations.
        outputs: Names of the values that are the result, in order.
        values: Every tensor by name, for a batch of one, the inputs included.
        parameter_elements: How many elements each parameter or buffer holds, by name.
    """

    inputs: tuple[TensorSpec, ...]
    nodes: tuple[GraphNode, ...]
    outputs: tuple[str, ...]
    values: Mapping[str, TensorSpec]
    parameter_elements: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def last_use(self) -> Mapping[str, int]:
        """The position after which a value is read no more; the end for a result."""
        last: dict[str, int] = {}
        for position, node in enumerate(self.nodes):
            if node.computes:
                for value in node.inputs:
                    last[value] = position
        for value in self.outputs:
            last[value] = len(self.nodes)
        return last

    @cached_property
    def producer(self) -> Mapping[str, int]:
        """The position of the node that produces a value; -1 for an input."""
        made = {spec.name: -1 for spec in self.inputs}
        for position, node in enumerate(self.nodes):
            for value in node.outputs:
                made[value] = position
        return made

    @cached_property
    def consumers(self) -> Mapping[str, tuple[int, ...]]:
        """The positions of the nodes that read a value, numbers and constants left out."""
        read: dict[str, list[int]] = {}
        for position, node in enumerate(self.nodes):
            if node.computes:
                for value in dict.fromkeys(node.inputs):
                    read.setdefault(value, []).append(position)
        return {value: tuple(positions) for value, positions in read.items()}

    def boundary(self, position: int) -> tuple[str, ...]:
        """The live tensors when the nodes up to and including ``position`` have run, each once.

        Args:
            position: Of the last node of the head; -1 for an empty head.

        Returns:
            Their names, in the order in which they were produced.
        """
        producer, last = self.producer, self.last_use
        live = [
            value
            for value, made in producer.items()
            if made <= position
            and last.get(value, -2) > position
            and (made < 0 or self.nodes[made].computes)
        ]
        return tuple(sorted(live, key=lambda value: producer[value]))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole graph, for one input."""
        return sum(node.macs for node in self.nodes)

    @property
    def parameters(self) -> int:
        """How many parameter and buffer elements the graph holds."""
        return sum(self.parameter_elements.values())
