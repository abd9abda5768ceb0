"""A second cut, behind which the edge computes again: the cloud never has the result.

    input ─> head ─┬─ sent ─> middle (cloud) ─ returned ─┬─> last part ─> results
                   └────────────── held ────────────────┘

Of the second cut's boundary, what the head made is held at the edge: it is neither sent back nor,
where nothing between the cuts reads it, sent up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from splitdeploy.partitioner.cuts import find_named_cuts, payload_bytes, resident_bytes
from splitdeploy.partitioner.graph import TracedGraph
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY, CutPoint, LastPart
from splitdeploy.profiles.errors import UsageError


def find_return(graph: TracedGraph, name: str) -> CutPoint:
    """The second cut.

    Args:
        graph: The traced graph.
        name: The cut's, as ``splitdeploy cuts`` lists it; what comes behind runs at the edge.

    Returns:
        It, alone in the graph.

    Raises:
        UsageError: It is one of the two ends.
        UnknownNameError: Nothing of that name can be cut at.
    """  # noqa: DOC502
    if name in {CLOUD_ONLY, EDGE_ONLY}:
        raise UsageError(
            f"expected to return at a cut between the two ends, got {name}: name the layer whose "
            "output comes back (`splitdeploy cuts MODEL` lists them)"
        )
    return find_named_cuts(graph, [name])[1]


def with_return(
    graph: TracedGraph, cuts: Sequence[CutPoint], back: CutPoint
) -> tuple[CutPoint, ...]:
    """The cuts before a second one, each with what the edge computes behind it.

    Args:
        graph: The traced graph.
        cuts: Along its order of execution, with the two ends.
        back: The second cut, of the same order.

    Returns:
        ``cloud-only`` (the input goes up), the cuts before the second, ``edge-only`` as it was.

    Raises:
        UsageError: There are cuts, and the second one lies behind none of them.
    """
    outer = _Outer(graph, back)
    before = [outer.cut(cut) for cut in cuts[:-1] if cut.nodes < back.nodes]
    kept = [cut for cut in before if cut.last is not None and cut.last.returned]
    inner = [cut.name for cut in cuts if not cut.is_end]
    if inner and all(cut.is_end for cut in kept):
        raise UsageError(
            f"expected to return behind a cut, got {back.name}, and no cut lies before it (the "
            f"first: {inner[0]}): return later, or cut earlier"
        )
    return tuple(replace(cut, index=index) for index, cut in enumerate([*kept, cuts[-1]]))


def sees_results(graph: TracedGraph, back: CutPoint) -> tuple[str, ...]:
    """The results that the cloud may see all the same: those that are there before the return.

    Args:
        graph: The traced graph.
        back: The second cut.

    Returns:
        Names of values.
    """
    crossing = {tensor.name for tensor in back.tensors}
    return tuple(name for name in dict.fromkeys(graph.outputs) if name in crossing)


def told_results(graph: TracedGraph, back: CutPoint) -> str | None:
    """The results that the cloud may see all the same, in a sentence.

    Args:
        graph: The traced graph.
        back: The second cut.

    Returns:
        What to warn of; None where it sees none.
    """
    seen = sees_results(graph, back)
    if not seen:
        return None
    return (
        f"the cloud may see of the result what the model has before {back.name}: "
        f"{', '.join(seen)}; return earlier"
    )


def as_one_cut(cut: CutPoint) -> CutPoint:
    """The first cut alone: all that crosses it, whether it is sent or held.

    Args:
        cut: With a second cut behind it.

    Returns:
        The same cut without.
    """
    if cut.last is None:
        return cut
    tensors = dict.fromkeys((*cut.tensors, *cut.last.held))
    return replace(cut, tensors=tuple(tensors), last=None)


class _Outer:
    """What the edge computes around a middle, with the sums of the last part taken once."""

    def __init__(self, graph: TracedGraph, back: CutPoint) -> None:
        self._graph, self._back = graph, back
        self._last = range(back.nodes, len(graph.nodes))
        self._peak = max((resident_bytes(graph, at) for at in self._last), default=0)

    def cut(self, cut: CutPoint) -> CutPoint:
        graph, back = self._graph, self._back
        held = tuple(t for t in back.tensors if graph.producer[t.name] < cut.nodes)
        returned = tuple(t for t in back.tensors if graph.producer[t.name] >= cut.nodes)
        middle = range(cut.nodes, back.nodes)
        sent = tuple(
            tensor
            for tensor in cut.tensors
            if any(at in middle for at in graph.consumers.get(tensor.name, ()))
        )
        return replace(
            cut,
            tensors=sent,
            payload_bytes=payload_bytes(sent),
            head_macs=cut.head_macs + graph.macs - back.head_macs,
            tail_macs=back.head_macs - cut.head_macs,
            head_parameters=self._parameters(cut),
            head_peak_activation_bytes=max(cut.head_peak_activation_bytes, self._peak),
            last=LastPart(returned, held),
        )

    def _parameters(self, cut: CutPoint) -> int:
        """Of the head and the last part; what both read is there once."""
        nodes = [node for at, node in enumerate(self._graph.nodes)
                 if (at < cut.nodes or at in self._last) and node.computes]  # fmt: skip
        held = {name for node in nodes for name in node.parameters}
        return sum(self._graph.parameter_elements.get(name, 0) for name in held)
