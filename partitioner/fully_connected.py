"""Which cuts lie behind a fully connected layer: by what the traced graph computes, not by names.

A layer is fully connected where every element of its output is a weighted sum of all elements of
its input: its multiply-accumulates are then the product of the two counts. So a linear layer on the
tokens of a transformer is none, since it mixes no positions, and a convolution that covers its
whole input is one.
"""

from __future__ import annotations

from collections.abc import Sequence

from splitdeploy.attacks.defences.cut_choice import behind_fully_connected
from splitdeploy.partitioner.graph import GraphNode, TracedGraph
from splitdeploy.profiles.cut import CutPoint


def is_fully_connected(graph: TracedGraph, node: GraphNode) -> bool:
    """Whether a node mixes all of its one input into each element of its one output.

    Args:
        graph: The graph that it is of.
        node: The node.

    Returns:
        Whether it does.
    """
    if node.macs == 0 or len(node.inputs) != 1 or len(node.outputs) != 1:
        return False
    read, made = graph.values[node.inputs[0]], graph.values[node.outputs[0]]
    return node.macs == read.elements * made.elements


def cuts_behind_fully_connected(
    graph: TracedGraph, cuts: Sequence[CutPoint]
) -> tuple[CutPoint, ...]:
    """The cuts whose smashed data comes through a fully connected layer, whatever way it takes.

    A cut with a fully connected layer in a side branch, such as that of squeeze-and-excitation,
    sends what went past the layer as well: it does not count.

    Args:
        graph: The traced graph.
        cuts: Of this graph.

    Returns:
        Those cuts, the nearest first; often ``edge-only`` alone, since most nets end with their
        only fully connected layer.

    Raises:
        DefenceError: The graph has no such cut.
    """  # noqa: DOC502
    past = _past_all_layers(graph)
    return behind_fully_connected(
        cuts,
        lambda cut: not any(tensor.name in past for tensor in cut.tensors),
    )


def _past_all_layers(graph: TracedGraph) -> set[str]:
    """The values that the inputs reach without passing a fully connected layer."""
    reached = {spec.name for spec in graph.inputs}
    for node in graph.nodes:
        if reached.intersection(node.inputs) and not is_fully_connected(graph, node):
            reached.update(node.outputs)
    return reached
