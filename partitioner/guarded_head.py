"""A defence as nodes of a head's graph: its noise comes in as inputs.

Before a boundary tensor z is encoded for the network it becomes ``gate·z + shift + scale·ε``, or
``mask·(gate·z + shift)``. The tensor keeps its name, and the tail stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)
from torch import Tensor

from splitdeploy.attacks.defences.base import Perturbation, standard_laplace, standard_normal
from splitdeploy.edge_runtime.guard_noise import NoiseInput
from splitdeploy.partitioner.codec import encoder_names
from splitdeploy.partitioner.slicing import PASSED
from splitdeploy.partitioner.values import rename_values
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.errors import DefenceError

_CLEAN = "__clean"
_GUARD = "__guard"


def add_guard(
    head: ModelProto, tensors: Sequence[TensorSpec], perturbations: Sequence[Perturbation]
) -> tuple[NoiseInput, ...]:
    """Put a defence into a head.

    Args:
        head: With its codec, if it has one; changed in place.
        tensors: The boundary, as it is sent.
        perturbations: One for each tensor.

    Returns:
        The inputs that the head now takes besides, in the order of the boundary.

    Raises:
        DefenceError: There are more or fewer perturbations than tensors, one does not broadcast to
            its tensor, or a tensor holds no floating-point numbers.
    """
    if len(tensors) != len(perturbations):
        raise DefenceError(
            f"expected a perturbation for each of {len(tensors)} boundary tensors, got "
            f"{len(perturbations)}: fit the defence on this cut"
        )
    inputs = []
    for tensor, perturbation in zip(tensors, perturbations, strict=True):
        added = _guard_one(head.graph, tensor, perturbation)
        if added is not None:
            inputs.append(added)
    return tuple(inputs)


def remove_guard(head: ModelProto) -> ModelProto:
    """Take a defence out again, so that another can be put in.

    Args:
        head: As `add_guard` left it; changed in place.

    Returns:
        The same head, without the defence's nodes and inputs.
    """
    graph = head.graph
    ours = [node for node in graph.node if _GUARD in node.name]
    read = {value for node in ours for value in node.input}
    for node in ours:
        graph.node.remove(node)
    for group in (graph.initializer, graph.input):
        for value in [held for held in group if held.name in read]:
            group.remove(value)
    clean = {value for value in read if value.endswith(_CLEAN)}
    rename_values(graph, {value: value.removesuffix(_CLEAN) for value in clean})
    return head


def seeded_draws(
    perturbations: Sequence[Perturbation],
    tensors: Sequence[TensorSpec],
    batch: int,
    generator: torch.Generator,
) -> dict[str, NDArray[np.float32]]:
    """Noise to feed to a defended head that repeats: the very draws of ``Defended.perturb``.

    For evaluation alone; a deployed head gets its noise from the operating system.

    Args:
        perturbations: One for each tensor.
        tensors: The boundary.
        batch: How many pictures.
        generator: In the state in which ``perturb`` would get it.

    Returns:
        By input name, ``[batch, …]`` float32.
    """
    drawn: dict[str, NDArray[np.float32]] = {}
    for tensor, perturbation in zip(tensors, perturbations, strict=True):
        if perturbation.distribution != "none":
            like = torch.empty(batch, *tensor.shape[1:])
            drawn[input_name(tensor)] = _draw(perturbation, like, generator).numpy()
    return drawn


def input_name(tensor: TensorSpec) -> str:
    """The noise input of a boundary tensor."""
    return f"noise.{tensor.name}"


def _draw(perturbation: Perturbation, like: Tensor, generator: torch.Generator) -> Tensor:
    if perturbation.distribution == "gaussian":
        return standard_normal(like, generator)
    if perturbation.distribution == "laplace":
        return standard_laplace(like, generator)
    kept = torch.rand(like.shape, generator=generator, dtype=like.dtype) >= perturbation.drop_rate
    return kept.to(like) / (1.0 - perturbation.drop_rate)


def _guard_one(
    graph: GraphProto, tensor: TensorSpec, perturbation: Perturbation
) -> NoiseInput | None:
    sent = next(v for v in graph.output if v.name in {tensor.name, f"{tensor.name}{PASSED}"})
    encoder = next((n for n in graph.node if n.name in encoder_names(sent.name)), None)
    shape, noise = tensor.shape[1:], input_name(tensor)
    chain = _Chain(sent.name if encoder is None else encoder.input[0])
    for what, operator, nothing in (("gate", "Mul", 1.0), ("shift", "Add", 0.0)):
        constant = _constant(getattr(perturbation, what), shape, tensor.name)
        if bool((constant != nothing).any()):
            chain.apply(operator, chain.hold(constant, what), what)
    if perturbation.distribution == "dropout":
        chain.apply("Mul", noise, "mask")
    elif perturbation.distribution != "none":
        scale = chain.hold(_constant(perturbation.scale, shape, tensor.name), "scale")
        chain.apply("Add", chain.made("Mul", [noise, scale], "scaled"), "noise")
    if not chain.nodes:
        return None
    if encoder is None and tensor.dtype != "float32":
        raise DefenceError(
            f"expected smashed data that the head computes in float32, got {tensor.dtype} in "
            f"{tensor.name!r}: choose another cut"
        )
    chain.insert(graph, sent, encoder)
    if perturbation.distribution == "none":
        return None
    graph.input.append(_like(sent, noise))
    return NoiseInput(
        noise, tensor.name, shape, "float32", perturbation.distribution, perturbation.drop_rate
    )


class _Chain:
    """Nodes between a value of the head and what is sent of it."""

    def __init__(self, value: str) -> None:
        self.value = value
        self.nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []
        self._last = f"{value}{_CLEAN}"

    def hold(self, constant: NDArray[np.float32], what: str) -> str:
        """Keep a constant; its name."""
        name = f"{self.value}{_GUARD}_{what}_constant"
        self._constants.append(numpy_helper.from_array(constant, name))
        return name

    def made(self, operator: str, inputs: Sequence[str], what: str) -> str:
        """Add a node; its output's name."""
        name = f"{self.value}{_GUARD}_{what}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name))
        return name

    def apply(self, operator: str, other: str, what: str) -> None:
        """Add a node behind the last one."""
        self._last = self.made(operator, [self._last, other], what)

    def insert(self, graph: GraphProto, sent: ValueInfoProto, encoder: NodeProto | None) -> None:
        """Put them in; what reads the value within the head goes on reading it as it was."""
        name = sent.name
        rename_values(graph, {self.value: f"{self.value}{_CLEAN}"})
        self.nodes[-1].output[0] = self.value
        sent.name = name
        at = len(graph.node)
        if encoder is not None:
            encoder.input[0] = self.value
            at = next(i for i, node in enumerate(graph.node) if node.name == encoder.name)
        for offset, node in enumerate(self.nodes):
            graph.node.insert(at + offset, node)
        graph.initializer.extend(self._constants)


def _constant(value: Tensor, shape: tuple[int, ...], tensor: str) -> NDArray[np.float32]:
    """As few numbers as broadcast to the tensor: ``[1, *shape]`` or with sizes of 1."""
    array = value.detach().cpu().to(torch.float32).numpy()
    array = array.reshape((1,) * (len(shape) + 1 - array.ndim) + array.shape)
    try:
        np.broadcast_to(array, (1, *shape))
    except ValueError:
        raise DefenceError(
            f"expected a perturbation that broadcasts to {[1, *shape]} of {tensor!r}, got "
            f"{list(value.shape)}: fit the defence on this cut"
        ) from None
    return array


def _like(sent: ValueInfoProto, name: str) -> ValueInfoProto:
    """An input of the shape of what is sent, the batch as free as its, in float32."""
    info = ValueInfoProto()
    info.CopyFrom(sent)
    info.name = name
    info.type.tensor_type.elem_type = TensorProto.FLOAT
    return info
