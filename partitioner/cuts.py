"""Where a traced graph can be cut: every downset along its order of execution, at three grains.

A cut is made behind a node; its boundary is every live tensor, each once. ``op`` cuts behind every
node, ``layer`` where a module that calls no other ends, ``block`` where the model's own blocks end:
the members of its sequences and the children of its body, as far as one tensor crosses there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from splitdeploy.partitioner.graph import ABSORBED_KINDS, GraphNode, ModuleCall, TracedGraph
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY, CutPoint, TensorSpec
from splitdeploy.profiles.errors import UnknownNameError

GRAINS = ("block", "layer", "op")

_SEQUENCE = "torch.nn.modules.container.Sequential"
_BODY_SHARE = 0.5
"""A module that holds more than this share of the model's MACs is its body, not one block."""


@dataclass(frozen=True)
class _Call:
    """One module call: the span of nodes that run in it, and the calls directly below it."""

    call: ModuleCall
    first: int
    last: int
    macs: int
    children: tuple[str, ...]


def find_cuts(graph: TracedGraph, grain: str = "block") -> tuple[CutPoint, ...]:
    """All cut points of a graph at a grain, between the two ends.

    Args:
        graph: The traced graph.
        grain: ``block``, ``layer`` or ``op``.

    Returns:
        ``cloud-only``, the cuts in the order of execution, ``edge-only``.

    Raises:
        UnknownNameError: There is no such grain.
    """
    if grain not in GRAINS:
        raise UnknownNameError("grain", grain, GRAINS)
    calls = _calls(graph)
    names = _positions_by_grain(graph, calls, grain)
    if len(names) == 0 and grain != "op":
        return find_cuts(graph, GRAINS[GRAINS.index(grain) + 1])
    return _with_ends(graph, names)


def find_named_cuts(graph: TracedGraph, names: Sequence[str]) -> tuple[CutPoint, ...]:
    """The cuts behind modules or values that the user names, between the two ends.

    Args:
        graph: The traced graph.
        names: Qualified names of modules (``layer2.0``, ``layer2``) or of traced values.

    Returns:
        ``cloud-only``, the cuts in the order of execution, ``edge-only``.

    Raises:
        UnknownNameError: Nothing of that name ends in this graph, or nothing can be cut there.
    """
    calls = _calls(graph)
    ends = {name: _absorb(graph, call.last) for name, call in calls.items()}
    for position in range(len(graph.nodes)):
        for value in graph.nodes[position].outputs:
            ends.setdefault(value, position)
    chosen: dict[int, str] = {}
    for name in names:
        if name in {CLOUD_ONLY, EDGE_ONLY}:
            continue
        if name not in ends or not _is_legal(graph, ends[name]):
            known = [cut.name for cut in find_cuts(graph)]
            hint = "(`splitdeploy cuts MODEL` lists them)"
            if name in ends:
                hint = f"(nothing can be cut behind {name}; `splitdeploy cuts MODEL` lists all)"
            raise UnknownNameError("cut", name, known, hint)
        chosen.setdefault(ends[name], name)
    return _with_ends(graph, dict(sorted(chosen.items())))


def _calls(graph: TracedGraph) -> dict[str, _Call]:
    """Every module call, with its span. A module that is called twice has two."""
    spans: dict[str, list[int]] = defaultdict(list)
    macs: dict[str, int] = defaultdict(int)
    kinds: dict[str, ModuleCall] = {}
    below: dict[str, dict[str, None]] = defaultdict(dict)
    for position, node in enumerate(graph.nodes):
        if not node.computes:
            continue
        outer = ""
        for call in node.stack:
            spans[call.name].append(position)
            macs[call.name] += node.macs
            kinds[call.name] = call
            below[outer].setdefault(call.name)
            outer = call.name
    calls = {
        name: _Call(kinds[name], min(at), max(at), macs[name], tuple(below[name]))
        for name, at in spans.items()
    }
    top = tuple(below[""])
    calls[""] = _Call(ModuleCall("", ""), 0, len(graph.nodes) - 1, graph.macs, top)
    return calls


def _positions_by_grain(graph: TracedGraph, calls: dict[str, _Call], grain: str) -> dict[int, str]:
    """Legal positions with their names, in the order of execution."""
    named: dict[int, str] = {}
    if grain == "block":
        for name in _blocks(calls, "", graph.macs):
            position = _absorb(graph, calls[name].last)
            inner = named.get(position, "")
            if len(graph.boundary(position)) == 1 and not inner.startswith(f"{name}."):
                named[position] = name
    else:
        for name, call in calls.items():
            if name and (not call.children):
                named.setdefault(call.last, name)
    if grain == "op":
        for position, node in enumerate(graph.nodes):
            if node.outputs:
                named.setdefault(position, node.outputs[0])
    legal = {at: named[at] for at in sorted(named) if _is_legal(graph, at)}
    return _without_repeats(graph, legal)


def _blocks(calls: dict[str, _Call], name: str, total_macs: int) -> Iterable[str]:
    """Depth first through what is a sequence, a body or a row of like parts; else a block."""
    for child in calls[name].children:
        if child in calls and _is_opened(calls, calls[child], total_macs):
            yield from _blocks(calls, child, total_macs)
        yield child


def _is_opened(calls: dict[str, _Call], call: _Call, total_macs: int) -> bool:
    if not call.children:
        return False
    if call.call.type == _SEQUENCE or call.macs > _BODY_SHARE * total_macs:
        return True
    types = [calls[child].call.type for child in call.children]
    parts = [t for t in types if not t.startswith("torch.")]
    return len(parts) >= 2 and len(set(types)) == 1


def _absorb(graph: TracedGraph, position: int) -> int:
    """Move behind what a compiler fuses with the block: activations, normalisation, views."""
    while position + 1 < len(graph.nodes):
        boundary = graph.boundary(position)
        if len(boundary) != 1:
            return position
        readers = graph.consumers.get(boundary[0], ())
        if len(readers) != 1 or boundary[0] in graph.outputs:
            return position
        following = graph.nodes[readers[0]]
        if following.kind not in ABSORBED_KINDS or len(following.outputs) != 1 or _opens(following):
            return position
        position = readers[0]
    return position


def _opens(node: GraphNode) -> bool:
    """Whether the node begins a larger module, such as the norm of a transformer's block."""
    return sum(not call.type.startswith("torch.nn.modules") for call in node.stack) > 1


def _is_legal(graph: TracedGraph, position: int) -> bool:
    """Whether something is on both sides, and no view crosses together with its base."""
    boundary = graph.boundary(position)
    if not boundary or set(boundary) <= set(graph.outputs):
        return False
    if any(spec.name in boundary for spec in graph.inputs) and not any(
        graph.producer[value] >= 0 for value in boundary
    ):
        return False
    live = set(boundary)
    return not any(
        graph.producer[value] >= 0
        and graph.nodes[graph.producer[value]].kind == "view"
        and live & set(graph.nodes[graph.producer[value]].inputs)
        for value in boundary
    )


def _without_repeats(graph: TracedGraph, named: dict[int, str]) -> dict[int, str]:
    """One name for each boundary: that of the last position which has it."""
    by_boundary: dict[tuple[str, ...], int] = {}
    for position in named:
        by_boundary[graph.boundary(position)] = position
    return {position: named[position] for position in sorted(by_boundary.values())}


def _with_ends(graph: TracedGraph, named: dict[int, str]) -> tuple[CutPoint, ...]:
    measure = _Measure(graph)
    cuts = [measure.cut(CLOUD_ONLY, -1, 0)]
    for index, (position, name) in enumerate(named.items(), start=1):
        cuts.append(measure.cut(name, position, index))
    cuts.append(measure.cut(EDGE_ONLY, len(graph.nodes) - 1, len(named) + 1))
    return tuple(cuts)


class _Measure:
    """Sums along the order of execution, computed once for all cuts."""

    def __init__(self, graph: TracedGraph) -> None:
        self.graph = graph
        self.macs = [0]
        self.parameters = [0]
        self.peak = [0]
        seen: set[str] = set()
        for position, node in enumerate(graph.nodes):
            new = set(node.parameters) - seen if node.computes else set()
            seen |= new
            held = sum(graph.parameter_elements.get(name, 0) for name in new)
            self.macs.append(self.macs[-1] + node.macs)
            self.parameters.append(self.parameters[-1] + held)
            self.peak.append(max(self.peak[-1], resident_bytes(graph, position)))

    def cut(self, name: str, position: int, index: int) -> CutPoint:
        graph = self.graph
        if name == EDGE_ONLY:
            tensors = tuple(graph.values[value] for value in dict.fromkeys(graph.outputs))
        else:
            tensors = tuple(graph.values[value] for value in graph.boundary(position))
        macs = self.macs[position + 1]
        return CutPoint(
            name=name,
            index=index,
            tensors=tensors,
            payload_bytes=payload_bytes(tensors),
            head_macs=macs,
            tail_macs=graph.macs - macs,
            head_parameters=self.parameters[position + 1],
            head_peak_activation_bytes=self.peak[position + 1],
            nodes=position + 1,
        )


def resident_bytes(graph: TracedGraph, position: int) -> int:
    """What is alive while a node runs: what it reads, what it makes, and what waits.

    Args:
        graph: The traced graph.
        position: Of the node.

    Returns:
        Bytes.
    """
    alive = set(graph.boundary(position - 1)) | set(graph.nodes[position].outputs)
    return sum(graph.values[value].bytes for value in alive)


def payload_bytes(tensors: Iterable[TensorSpec]) -> int:
    """What the tensors weigh on the wire, for one input.

    Args:
        tensors: The boundary.

    Returns:
        The sum of their sizes in bytes.
    """
    return sum(tensor.bytes for tensor in tensors)
