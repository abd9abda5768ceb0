"""The halves as torch modules, where a threat model or a defence needs gradients.

They have the same weights as the exported halves and the same boundary; what an attacker observes
comes from the exported head.
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
_SIZE = torch.ops.aten.sym_size.int


def torch_head(program: ExportedProgram, outputs: Sequence[str], *, fold: bool = True) -> nn.Module:
    """The part of a traced program that computes some of its values.

    Batch norm is folded into the convolution before it, as the exporters do: an attack runs the
    head forwards and backwards hundreds of times.

    Args:
        program: Functional, as ``partitioner.trace`` leaves it.
        outputs: Names of traced values, such as a cut's boundary.
        fold: Whether batch norm is folded where no other output stands in its way. Without, the
            last digits of a value do not depend on which others are put out.

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
    builder = _Builder(program, [nodes[name] for name in outputs], fold=fold)
    return builder.build()


def torch_tail(program: ExportedProgram, inputs: Sequence[str]) -> nn.Module:
    """The part of a traced program behind some of its values.

    Args:
        program: Functional, as ``partitioner.trace`` leaves it.
        inputs: Names of traced values: a cut's boundary, in its order.

    Returns:
        A module from these values, as arguments, to the program's first result; no parameter
        requires gradients.

    Raises:
        CutError: The program has no value of that name, or its result needs more than these.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    result = str(program.graph_signature.user_outputs[0])
    missing = [name for name in (*inputs, result) if name not in nodes]
    if missing:
        raise CutError(f"the traced graph has no value {missing[0]!r}: choose among its cuts")
    builder = _Builder(program, [nodes[result]], [nodes[name] for name in inputs])
    return _First(builder.build()).eval()


class _First(nn.Module):
    """The first of a module's results."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *tensors: Tensor) -> Tensor:
        """The result."""
        result: Tensor = self.inner(*tensors)[0]
        return result


class OneByOne(nn.Module):
    """Runs a batch through a head or a tail that takes one input at a time.

    Args:
        part: From tensors with a batch of one to a tensor, or a tuple of them, with the batch
            first.
    """

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What it gives for a batch ``[n, …]``."""
        rows = range(len(tensors[0]))
        runs: list[Any] = [self.part(*(t[row : row + 1] for t in tensors)) for row in rows]
        if isinstance(runs[0], Tensor):
            return torch.cat(runs)
        return tuple(torch.cat(parts) for parts in zip(*runs, strict=True))


class _Builder:
    """Copies the nodes between some values (by default the program's inputs) and others."""

    def __init__(
        self,
        program: ExportedProgram,
        outputs: Sequence[Node],
        inputs: Sequence[Node] = (),
        *,
        fold: bool = True,
    ) -> None:
        self.program = program
        self.fold = fold
        self.outputs = outputs
        self.inputs = inputs
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.made: dict[Node, Any] = {}
        self.tensors = self._tensors()

    def build(self) -> nn.Module:
        needed = self._needed()
        own = set() if self.inputs else set(self.program.graph_signature.user_inputs)
        for node in self.inputs:
            self.made[node] = self.graph.placeholder(node.name)
        for node in self.program.graph.nodes:
            if node in self.made:
                continue
            if node.op == "placeholder" and node.name in own:
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
                if node not in self.inputs and not self._is_batch(node):
                    pending.extend(node.all_input_nodes)
        return needed

    def _is_batch(self, node: Node) -> bool:
        """Whether a tail can read this size off a boundary tensor: it is that of the batch."""
        return bool(self.inputs) and node.target is _SIZE and node.args[1] in {0}

    def _add(self, node: Node) -> None:
        if node.op == "placeholder":
            if node.name in self.tensors:
                self.made[node] = self._attribute(node.name, self.tensors[node.name])
                return
            raise CutError(
                f"the tail would need the model's input {node.name!r}, which stays on the device: "
                "choose a cut behind its last use"
            )
        if self._is_batch(node):
            self.made[node] = self.graph.call_function(_SIZE, (self.made[self.inputs[0]], 0))
            return
        folded = self._fold(node) if self.fold else None
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
        if len(convolution.users) != 1 or convolution in (*self.outputs, *self.inputs):
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
