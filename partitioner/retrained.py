"""Halves that a defence retrained, exported under the names that the bundle has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from onnx import ModelProto
from torch import nn

from splitdeploy.attacks.defences.base import Defended
from splitdeploy.partitioner.codec import QuantisationRange, add_codec
from splitdeploy.partitioner.export import export_onnx
from splitdeploy.partitioner.models import InputSpec
from splitdeploy.partitioner.slicing import Halves
from splitdeploy.partitioner.trace import trace_module
from splitdeploy.partitioner.values import rename_values
from splitdeploy.profiles.cut import TensorSpec


def export_halves(
    defended: Defended,
    plain: Halves,
    tensors: Sequence[TensorSpec],
    precision: str,
    ranges: Mapping[str, QuantisationRange],
    expects: InputSpec,
    folder: Path,
) -> Halves:
    """Export both halves of a retrained model, with the codec of the ones that they replace.

    Args:
        defended: The retrained model.
        plain: The bundle's halves, for the names of inputs and results.
        tensors: The boundary, as it is sent.
        precision: Of the payload.
        ranges: For ``int8``, the range of each tensor.
        expects: What the model takes.
        folder: Where the exports are written.

    Returns:
        The new halves, their weights in memory.
    """
    names = [tensor.name for tensor in tensors]
    head = _exported(defended.head.head, (torch.zeros(expects.shape),), folder / "head")
    _name(head, [plain.head.graph.input[0].name], names)
    boundary = tuple(torch.zeros(tensor.shape) for tensor in tensors)
    tail = _exported(defended.tail, boundary, folder / "tail")
    _name(tail, names, [value.name for value in plain.tail.graph.output][:1])
    return add_codec(Halves(head, tail), tuple(tensors), precision, ranges)


def _exported(half: nn.Module, example: tuple[torch.Tensor, ...], folder: Path) -> ModelProto:
    folder.mkdir()
    exported = export_onnx(trace_module(half, example), (), folder)
    return onnx.load(str(exported.path))


def _name(model: ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give inputs and outputs their names; a value that bears one already steps aside."""
    graph = model.graph
    pairs = [*zip(graph.input, inputs, strict=True), *zip(graph.output, outputs, strict=True)]
    wanted = {value.name: name for value, name in pairs}
    taken = {name: f"{name}__inner" for name in wanted.values() if name not in wanted}
    rename_values(graph, taken | wanted)
