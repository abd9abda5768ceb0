"""What the codec of every cut costs the answers, found while the cuts are verified.

The head has run by then. Its output goes through the very nodes that a bundle has at the cut, and
on through the tail that was verified: a run of the tail more, and no session of any size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import GraphProto, ModelProto, TypeProto

from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.session import Session
from splitdeploy.partitioner.answer_loss import relative_error, same_class
from splitdeploy.partitioner.codec import QuantisationRange, add_codec
from splitdeploy.partitioner.deployed import codec_ranges
from splitdeploy.partitioner.plan import Array, Plan
from splitdeploy.partitioner.slicing import PASSED, Halves, write_slice
from splitdeploy.partitioner.verify import Runs, run_behind
from splitdeploy.profiles.codec_record import CodecRecord
from splitdeploy.profiles.cut import CLOUD_ONLY, CutPoint, TensorSpec

_GIVEN, _TAKEN = "__given", "__taken"


def through_codec(
    part: ModelProto,
    values: Mapping[str, Array],
    tensors: Sequence[TensorSpec],
    precision: str,
    ranges: Mapping[str, QuantisationRange],
) -> dict[str, Array]:
    """What the other side reads of what a part puts out.

    Args:
        part: The part, whose outputs are sent.
        values: Its outputs by name.
        tensors: Those that are encoded, in the dtypes in which they are sent.
        precision: Of the payload.
        ranges: For ``int8`` the range of every tensor.

    Returns:
        All values by name, encoded and decoded where they are sent.
    """
    types = {value.name: value.type for value in part.graph.output}
    sender, reader = (_passing(part, types, back=back) for back in (False, True))
    halves = add_codec(Halves(sender, reader), tuple(tensors), precision, ranges)
    found = {f"{name}{_GIVEN}": values[name] for name in types}
    for half in (halves.head, halves.tail):
        with OnnxRuntimeSession(half.SerializeToString()) as session:
            found = session.run(found)
    return {name: found[f"{name}{_TAKEN}"] for name in types}


def _passing(part: ModelProto, types: Mapping[str, TypeProto], *, back: bool) -> ModelProto:
    """A graph that hands values on: what a sender puts out, or what a reader takes in."""
    model = ModelProto(ir_version=part.ir_version, graph=GraphProto(name="codec"))
    model.opset_import.extend(part.opset_import)
    for name, kind in types.items():
        ends = (name, f"{name}{_TAKEN}") if back else (f"{name}{_GIVEN}", name)
        for group, end in zip((model.graph.input, model.graph.output), ends, strict=True):
            group.add(name=end).type.CopyFrom(kind)
        model.graph.node.add(op_type="Identity", name=name, input=ends[:1], output=ends[1:])
    return model


def codec_record(
    plan: Plan,
    sent: CutPoint,
    halves: Halves,
    made: Mapping[str, Array],
    tail: Runs,
    last: Session | None = None,
) -> CodecRecord:
    """Answers with the codec against those of the whole model.

    Args:
        plan: The model, its export and what that puts out.
        sent: The cut, its tensors as they are sent.
        halves: Its parts, without a codec.
        made: What the head puts out.
        tail: The tail's session, or what stands for it.
        last: The last part's, where there is a second cut.

    Returns:
        What the codec costs.
    """
    kind = plan.precision
    read = through_codec(halves.head, made, sent.tensors, kind, codec_ranges(plan, halves.head))
    if last is None or sent.last is None:
        return compared(plan.expected, run_behind(read, tail), plan.images, note=_note(plan))
    given = tail.run({spec.name: read[spec.name] for spec in tail.inputs})
    ranges = codec_ranges(plan, halves.tail)
    back = through_codec(halves.tail, given, sent.last.returned, kind, ranges)
    answers = run_behind({**made, **back}, last)
    return compared(plan.expected, answers, plan.images, note=_note(plan))


def end_codec_record(plan: Plan, end: CutPoint, sent: CutPoint) -> CodecRecord | None:
    """The same of an end, where one side is empty.

    Args:
        plan: The model, its export and what that puts out.
        end: ``cloud-only``, whose input is sent, or ``edge-only``, whose results are.
        sent: The same, its tensors as they are sent.

    Returns:
        What the codec costs; None where there is none.
    """
    if plan.precision == "fp32":
        return None
    halves = plan.slicer.cut(end)
    if end.name == CLOUD_ONLY:
        made = {f"{name}{PASSED}": value for name, value in plan.feeds.items()}
        tail = write_slice(halves.tail, plan.exported.path, "codec.tail.onnx")
        with OnnxRuntimeSession(tail) as session:
            return codec_record(plan, sent, halves, made, session)
    made = dict(zip(plan.exported.results, plan.expected, strict=True))
    ranges = codec_ranges(plan, halves.head)
    read = through_codec(halves.head, made, sent.tensors, plan.precision, ranges)
    answers = [read[name] for name in plan.exported.results]
    return compared(plan.expected, answers, plan.images, note=_note(plan))


def compared(
    wanted: Sequence[Array], got: Sequence[Array], images: int, *, note: str = ""
) -> CodecRecord:
    """How far answers are from those that are wanted.

    Args:
        wanted: Every result, the batch first.
        got: The same with a codec; a picture with a result that is not finite keeps no class.
        images: How many pictures.
        note: What ran it.

    Returns:
        The record.
    """
    worst = 0.0
    for before, after in zip(wanted, got, strict=True):
        if before.size:
            error = relative_error(before.astype(np.float64), after.astype(np.float64))
            worst = max(worst, error if math.isfinite(error) else math.inf)
    first = np.asarray(got[0])
    share, _ = same_class(wanted[0], first)
    if share is not None and not np.isfinite(first).all():
        kept = (wanted[0].argmax(1) == first.argmax(1)) & np.isfinite(first).all(axis=1)
        share = float(kept.mean())
    return CodecRecord(images, share, worst, note=note)


def _note(plan: Plan) -> str:
    kind = plan.precision
    text = (
        f"ONNX Runtime ran the parts in float32 on this machine, with the {kind} codec between "
        f"them; what a head that computes in {kind} changes is not in it "
        f"(splitdeploy export --head-precision {kind} tells)"
    )
    if plan.ranges is not None and not plan.ranges.aside:
        text += "; the codec was calibrated on the same pictures, since there are no others"
    return text
