"""The head as a torch module, where a threat model grants gradients.

It has the same weights as the exported head and the same boundary; what an attacker observes
comes from the exported one.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx import Node

from splitdeploy.profiles.errors import CutError

_BATCH_NORM = torch.ops.aten._native_batch_norm_legit_no_training.default
_CONVOLUTION = torch.ops.aten.conv2d.default


def torch_head(program: ExportedProgram, outputs: Sequence[str]) -> nn.Module:
    """The part of a traced program that computes some of its values.

    Batch norm is folded into the convolution before it, as the exporters do: an attack runs the
    head forwards and backwards hundreds of times.

    Args:
        program: Functional, as ``partitioner.trace`` leaves it.
        outputs: Names of traced values, such as a cut's boundary.

    Returns:
        A module from the program's inputs to a tuple of these values; no parameter requires
        gradients.

    Raises:
        CutError: The program has no value of that name.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    missing = [name for name in outputs if name not in nodes]
    if missing:
        raise CutError(f"the traced graph has no value {missing[0]!r}: choose among its cuts")
    builder = _Builder(program, [nodes[name] for name in outputs])
    return builder.build()


class OneByOne(nn.Module):
    """Runs a batch through a head that takes one input at a time.

    Args:
        head: From a batch of one to a tuple of tensors, each with the batch first.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        """The tensors for a batch ``[n, …]``."""
        runs = [self.head(batch[place : place + 1]) for place in range(len(batch))]
        return tuple(torch.cat(parts) for parts in zip(*runs, strict=True))


class _Builder:
    def __init__(self, program: ExportedProgram, outputs: Sequence[Node]) -> None:
        self.program = program
        self.outputs = outputs
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.made: dict[Node, Any] = {}
        self.tensors = self._tensors()

    def build(self) -> nn.Module:
        needed = self._needed()
        for node in self.program.graph.nodes:
            if node.op == "placeholder" and node.name in self.program.graph_signature.user_inputs:
                self.made[node] = self.graph.placeholder(node.name)
            elif node in needed:
                self._add(node)
        self.graph.output(tuple(self.made[node] for node in self.outputs))
        self.graph.eliminate_dead_code()
        module = fx.GraphModule(self.root, self.graph)
        return module.eval().requires_grad_(False)

    def _tensors(self) -> dict[str, Tensor]:
        """Parameters, buffers and constants by the placeholder that stands for them."""
        held = {**self.program.constants, **self.program.state_dict}
        return {
            spec.arg.name: held[spec.target]
            for spec in self.program.graph_signature.input_specs
            if spec.target in held and isinstance(held[spec.target], Tensor)
        }

    def _needed(self) -> set[Node]:
        needed: set[Node] = set()
        pending = list(self.outputs)
        while pending:
            node = pending.pop()
            if node not in needed:
                needed.add(node)
                pending.extend(node.all_input_nodes)
        return needed

    def _add(self, node: Node) -> None:
        if node.op == "placeholder":
            if node.name in self.tensors:
                self.made[node] = self._attribute(node.name, self.tensors[node.name])
            return
        folded = self._fold(node)
        self.made[node] = (
            self.graph.node_copy(node, lambda read: self.made[read]) if folded is None else folded
        )

    def _attribute(self, name: str, value: Tensor) -> Node:
        if not hasattr(self.root, name):
            self.root.register_buffer(name, value.detach())
        return self.graph.get_attr(name)

    def _fold(self, node: Node) -> Node | None:
        """One convolution for this node, where it is a batch norm behind a convolution alone."""
        if node.target is not operator.getitem or node.args[1] != 0:
            return None
        norm = node.args[0]
        if not isinstance(norm, Node) or norm.target is not _BATCH_NORM:
            return None
        convolution = norm.args[0]
        if not isinstance(convolution, Node) or convolution.target is not _CONVOLUTION:
            return None
        if len(convolution.users) != 1 or convolution in self.outputs:
            return None
        weight, *bias = (self._held(argument) for argument in convolution.args[1:3])
        gamma, beta, mean, variance = (self._held(argument) for argument in norm.args[1:5])
        if weight is None or mean is None or variance is None:
            return None
        scale = torch.rsqrt(variance + float(norm.args[6]))  # type: ignore[arg-type]
        scale = scale if gamma is None else scale * gamma
        shift = -mean * scale if not bias or bias[0] is None else (bias[0] - mean) * scale
        shift = shift if beta is None else shift + beta
        return self.graph.call_function(
            _CONVOLUTION,
            (
                self.made[convolution.args[0]],  # type: ignore[index]
                self._attribute(f"{node.name}__weight", weight * scale.view(-1, 1, 1, 1)),
                self._attribute(f"{node.name}__bias", shift),
                *convolution.args[3:],
            ),
        )

    def _held(self, argument: Any) -> Tensor | None:
        return self.tensors.get(argument.name) if isinstance(argument, Node) else None
