"""Every cut verified by one run of the model, in pieces from each cut to the next.

    input ─> piece ─ cut ─> piece ─ cut ─> … ─ cut ─> piece ─> results

The head of a cut is the pieces before it, node by node, and its tail those behind it: what comes
out at the end is what the tail puts out on its head's output, but for the rounding of operators
that are fused across another cut. N cuts take one run, where halves one after the other take N.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from onnx import ModelProto, NodeProto

from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.session import Array, Session
from splitdeploy.partitioner.codec_cost import codec_record
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.slicing import PASSED, Halves, Slicer, write_slice
from splitdeploy.partitioner.verify import compare
from splitdeploy.profiles.codec_record import CodecRecord
from splitdeploy.profiles.cut import CutPoint, TensorSpec
from splitdeploy.profiles.report import PIECES, Verification


@dataclass(frozen=True)
class Verdict:
    """What one run in pieces says of a cut.

    Attributes:
        index: The cut's.
        verified: Whether its halves give what the whole model gives.
        codec_loss: What its codec costs; None where nothing is encoded.
    """

    index: int
    verified: Verification
    codec_loss: CodecRecord | None


def verify_in_pieces(plan: Plan, wanted: frozenset[int]) -> Iterator[Verdict]:
    """Verify cuts whose heads lie in each other, all at once.

    Args:
        plan: The model, its cuts and its export.
        wanted: Indices of the cuts that are to be told of.

    Yields:
        One a cut; none of a cut whose halves are not made of the pieces' very nodes (such as a tail
        that reads the batch's size elsewhere), of an end, or of any cut where the results are not
        those of the whole model: such halves have to be run themselves.
    """
    every = [cut for cut in plan.every if not cut.is_end and cut.last is None]
    if not wanted & {cut.index for cut in every}:
        return
    halves = {cut.index: plan.slicer.cut(cut) for cut in every}
    chain = nested(every, [_made(halves[cut.index].head) for cut in every])
    if len(chain) < 2:
        return
    pieces = cut_in_pieces(plan.slicer, chain)
    where = _Where(pieces)
    sent = {cut.index: cut for cut in plan.sent}
    with ExitStack() as held:
        sessions = [held.enter_context(_opened(plan, piece)) for piece in pieces]
        results = list(_run(sessions, plan.feeds).values())
        verdict = compare(plan.expected, results, plan.images, ran=PIECES)
        if not verdict.ok:
            return
        values: Mapping[str, Array] = plan.feeds
        for place, cut in enumerate(chain, start=1):
            if plan.precision != "fp32":
                values = _run(sessions[place - 1 : place], values)
            own = halves[cut.index]
            if cut.index not in wanted or not where.split(own, place):
                continue
            loss = None
            if plan.precision != "fp32":
                made = {value.name: values[_plain(value.name)] for value in own.head.graph.output}
                rest = _Behind(own.tail, sessions[place:])
                loss = codec_record(plan, sent[cut.index], own, made, rest)
            yield Verdict(cut.index, verdict, loss)


def nested(cuts: Sequence[CutPoint], heads: Sequence[frozenset[str]]) -> list[CutPoint]:
    """The longest sequence of cuts of which each has all that the one before it has, and more.

    Args:
        cuts: By the size of their heads.
        heads: What each head makes.

    Returns:
        It; the first of several.
    """
    lengths: list[int] = []
    before: list[int | None] = []
    for place, head in enumerate(heads):
        inner = [at for at in range(place) if heads[at] < head]
        best = max(inner, key=lambda at: lengths[at], default=None)
        lengths.append(1 if best is None else lengths[best] + 1)
        before.append(best)
    at = max(range(len(cuts)), key=lambda place: lengths[place], default=None)
    found: list[CutPoint] = []
    while at is not None:
        found.append(cuts[at])
        at = before[at]
    return found[::-1]


def cut_in_pieces(slicer: Slicer, chain: Sequence[CutPoint]) -> list[ModelProto]:
    """The model in pieces, one more than there are cuts.

    Args:
        slicer: Of the whole model.
        chain: Cuts whose heads lie in each other, the smallest first.

    Returns:
        The pieces, from the model's inputs to its results.
    """
    ends = [
        slicer.exported.inputs,
        *([tensor.name for tensor in cut.tensors] for cut in chain),
        slicer.exported.results,
    ]
    return [slicer.extract(one, other) for one, other in zip(ends, ends[1:], strict=False)]


class _Where:
    """Which pieces hold a node or a weight.

    Names are those of the whole model everywhere, so a node that is there to the byte makes the
    same value. What only hands a value on under its second name is no part of either.
    """

    def __init__(self, pieces: Sequence[ModelProto]) -> None:
        self._first: dict[bytes, int] = {}
        self._last: dict[bytes, int] = {}
        for place, piece in enumerate(pieces):
            for part in _parts(piece):
                self._first.setdefault(part, place)
                self._last[part] = place

    def split(self, halves: Halves, place: int) -> bool:
        """Whether every part of the head lies before a place, and of the tail at it or behind."""
        return all(self._first.get(part, place) < place for part in _parts(halves.head)) and all(
            self._last.get(part, -1) >= place for part in _parts(halves.tail)
        )


def _parts(model: ModelProto) -> Iterator[bytes]:
    """Nodes and weights, each with the name of what it makes."""
    for node in model.graph.node:
        if node.output[0].endswith(PASSED):
            continue
        part = NodeProto()
        part.CopyFrom(node)
        part.input[:] = [_plain(name) for name in node.input]
        yield part.SerializeToString(deterministic=True)
    for tensor in model.graph.initializer:
        yield tensor.SerializeToString(deterministic=True)


def _made(model: ModelProto) -> frozenset[str]:
    made = (node.output[0] for node in model.graph.node)
    return frozenset(name for name in made if not name.endswith(PASSED))


def _plain(name: str) -> str:
    return name.removesuffix(PASSED)


def _opened(plan: Plan, piece: ModelProto) -> OnnxRuntimeSession:
    return OnnxRuntimeSession(write_slice(piece, plan.exported.path, "piece.onnx"))


def _run(sessions: Sequence[Session], values: Mapping[str, Array]) -> dict[str, Array]:
    found = dict(values)
    for session in sessions:
        made = session.run({spec.name: found[spec.name] for spec in session.inputs})
        found = {_plain(name): value for name, value in made.items()}
    return found


class _Behind:
    """The pieces behind a cut, run as its tail is."""

    def __init__(self, tail: ModelProto, sessions: Sequence[Session]) -> None:
        self._names = [value.name for value in tail.graph.input]
        self._sessions = sessions

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        specs = {spec.name: spec for spec in self._sessions[0].inputs}
        return tuple(replace(specs[_plain(name)], name=name) for name in self._names)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return _run(self._sessions, {_plain(name): value for name, value in feeds.items()})
