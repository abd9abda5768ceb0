"""Renaming the values of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto


def rename_values(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Rename values wherever a graph mentions them.

    Args:
        graph: Changed in place.
        names: Old name to new name.
    """
    for node in graph.node:
        node.input[:] = [names.get(value, value) for value in node.input]
        node.output[:] = [names.get(value, value) for value in node.output]
    for group in (graph.input, graph.output, graph.value_info, graph.initializer):
        for value in group:
            value.name = names.get(value.name, value.name)
