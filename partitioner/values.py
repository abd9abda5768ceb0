"""The values and notes of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto

SCOPES = "pkg.torch.onnx.name_scopes"
"""Under which torch's exporter notes the modules that a node runs in."""

CLASSES = "pkg.torch.onnx.class_hierarchy"
"""Under which it notes their types."""


def forget_sources(graph: GraphProto) -> None:
    """Drop what an exporter notes of each node, but for its modules.

    Source lines with their paths on this machine have no place on a device or a server.

    Args:
        graph: Changed in place.
    """
    for node in graph.node:
        kept = [entry for entry in node.metadata_props if entry.key in {SCOPES, CLASSES}]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)


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
