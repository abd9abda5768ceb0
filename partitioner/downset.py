"""A cut that need not follow the order of execution: the nodes that some values need.

The cuts of ``splitdeploy.partitioner.cuts`` are the downsets along one order. Of branches that run
side by side a downset may hold one and leave out another that comes before it in the order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from splitdeploy.partitioner.cuts import payload_bytes
from splitdeploy.partitioner.graph import TracedGraph
from splitdeploy.profiles.cut import CutPoint
from splitdeploy.profiles.errors import CutError


def downset_cut(graph: TracedGraph, values: Iterable[str], name: str) -> CutPoint:
    """The cut whose head computes some values and nothing else.

    Args:
        graph: The traced graph.
        values: Names of values: what is to cross.
        name: Of the cut.

    Returns:
        The cut, without a place among others. Its boundary is every live tensor, each once, but for
        views of tensors that cross too: the tail takes these views itself.

    Raises:
        CutError: A value is not in the graph, or nothing that is computed would cross.
    """
    wanted = tuple(values)
    unknown = [value for value in wanted if value not in graph.producer]
    if unknown:
        raise CutError(f"the traced graph has no value {unknown[0]!r}: choose among its values")
    head = _ancestors(graph, wanted)
    live = _boundary(graph, head)
    sent = [value for value in live if not _is_derived(graph, value, set(live))]
    if all(graph.producer[value] < 0 for value in sent):
        raise CutError(f"the cut {name!r} would send inputs alone: cloud-only does that")
    tensors = tuple(graph.values[value] for value in sent)
    macs = sum(graph.nodes[at].macs for at in head)
    held = {parameter for at in head for parameter in graph.nodes[at].parameters}
    return CutPoint(
        name=name,
        index=0,
        tensors=tensors,
        payload_bytes=payload_bytes(tensors),
        head_macs=macs,
        tail_macs=graph.macs - macs,
        head_parameters=sum(graph.parameter_elements.get(parameter, 0) for parameter in held),
        head_peak_activation_bytes=_peak_bytes(graph, head, set(live)),
        nodes=len(head),
    )


def merge_cuts(cuts: Sequence[CutPoint], more: Iterable[CutPoint]) -> tuple[CutPoint, ...]:
    """Cuts with others among them, by the size of the head.

    Args:
        cuts: With the two ends.
        more: Cuts between the ends; one whose boundary is there already is left out.

    Returns:
        All of them, numbered anew.
    """
    merged = list(cuts[1:-1])
    seen = {_names(cut) for cut in merged}
    for cut in more:
        if _names(cut) not in seen:
            seen.add(_names(cut))
            merged.append(cut)
    merged.sort(key=lambda cut: cut.nodes)
    ordered = (cuts[0], *merged, cuts[-1])
    return tuple(replace(cut, index=index) for index, cut in enumerate(ordered))


def _names(cut: CutPoint) -> frozenset[str]:
    return frozenset(tensor.name for tensor in cut.tensors)


def _ancestors(graph: TracedGraph, values: Sequence[str]) -> frozenset[int]:
    """Positions of the computing nodes that the values need."""
    found: set[int] = set()
    pending = [graph.producer[value] for value in values]
    while pending:
        at = pending.pop()
        if at < 0 or at in found:
            continue
        found.add(at)
        pending.extend(graph.producer[value] for value in graph.nodes[at].inputs)
    return frozenset(at for at in found if graph.nodes[at].computes)


def _boundary(graph: TracedGraph, head: frozenset[int]) -> list[str]:
    """What is given or made in the head and read behind it, in the order of execution."""
    results = set(graph.outputs)
    live = [
        value
        for value, made in graph.producer.items()
        if (made < 0 or made in head)
        and (value in results or any(at not in head for at in graph.consumers.get(value, ())))
    ]
    return sorted(live, key=lambda value: graph.producer[value])


def _is_derived(graph: TracedGraph, value: str, live: set[str]) -> bool:
    """Whether the tail can take the value as a view of others that cross."""
    made = graph.producer[value]
    if made < 0 or graph.nodes[made].kind != "view":
        return False
    read = graph.nodes[made].inputs
    return bool(read) and all(base in live or _is_derived(graph, base, live) for base in read)


def _peak_bytes(graph: TracedGraph, head: frozenset[int], live: set[str]) -> int:
    """The most that is alive while a node of the head runs: read, made, or waiting."""
    last = {value: at for at in sorted(head) for value in graph.nodes[at].inputs}
    alive = {spec.name for spec in graph.inputs if spec.name in last or spec.name in live}
    most = 0
    for at in sorted(head):
        alive.update(graph.nodes[at].outputs)
        most = max(most, sum(graph.values[value].bytes for value in alive))
        alive = {value for value in alive if value in live or last.get(value, -1) > at}
    return most
