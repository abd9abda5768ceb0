"""One row for every cut: verified against the whole model, and priced."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

from onnx import ModelProto

from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.session import Session
from splitdeploy.partitioner import costs
from splitdeploy.partitioner.codec_cost import codec_record, end_codec_record
from splitdeploy.partitioner.kernels import kernel_groups
from splitdeploy.partitioner.measured import MeasuredSide, Places, Side
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.pieces import verify_in_pieces
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.slicing import Halves, write_slice
from splitdeploy.partitioner.state import State
from splitdeploy.partitioner.verify import compare, run_behind
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY, TAIL_PRECISIONS, CutPoint
from splitdeploy.profiles.errors import OutputError, SplitdeployError
from splitdeploy.profiles.measurement import Measurement
from splitdeploy.profiles.report import CutReport, Verification


def verify_cuts(plan: Plan, reporter: Reporter, state: State | None = None) -> list[CutReport]:
    """Verify every cut; one that fails keeps its row, which says why.

    Args:
        plan: The model, its cuts and its export.
        reporter: Told after every cut.
        state: Where finished rows are kept and taken up from; None to keep none.

    Returns:
        A row a cut, verified, with what its codec costs, and nothing else.
    """
    reporter.stage("verifying the cuts", len(plan.cuts))
    rows: dict[int, CutReport] = {}
    for sent in plan.sent:
        stored = None if state is None else state.load_row_part(_VERIFIED, sent.index)
        if stored is not None:
            rows[sent.index] = stored
            reporter.advance()
    for row in _together(plan, state, frozenset({sent.index for sent in plan.sent} - rows.keys())):
        rows[row.cut.index] = row
        reporter.advance()
    for cut, sent in zip(plan.cuts, plan.sent, strict=True):
        if sent.index not in rows:
            rows[sent.index] = _by_itself(plan, cut, sent, state)
            reporter.advance()
    return [rows[sent.index] for sent in plan.sent]


_VERIFIED = "verified"
"""The part of the state that a verified row is."""

_ALL_AT_ONCE = "the verification of all cuts at once"


def _together(plan: Plan, state: State | None, wanted: frozenset[int]) -> Iterator[CutReport]:
    """Rows of the cuts that one run verifies; where it fails, those of the cuts before."""
    if state is not None and state.watch.crashed(_ALL_AT_ONCE) is not None:
        return
    sent = {cut.index: cut for cut in plan.sent}
    began = time.perf_counter()
    with nullcontext() if state is None else state.watch.on(_ALL_AT_ONCE):
        try:
            for found in verify_in_pieces(plan, wanted):
                row = CutReport(
                    sent[found.index], verified=found.verified, codec_loss=found.codec_loss
                )
                _keep(state, row, began)
                began = time.perf_counter()
                yield row
        except OutputError:
            raise
        except (SplitdeployError, *FAILURES):
            return


def _by_itself(plan: Plan, cut: CutPoint, sent: CutPoint, state: State | None) -> CutReport:
    """The row of a cut whose halves are run."""
    step, row = partial(_verified, plan, cut), CutReport(sent)
    if state is None:
        return guarded(row, step)
    began = time.perf_counter()
    row = watched(state, f"the verification of {sent.name}", row, step)
    if row.error is None:
        _keep(state, row, began)
    return row


def _keep(state: State | None, row: CutReport, began: float) -> None:
    if state is not None:
        state.save_row_part(_VERIFIED, row)
        state.tell("verification", time.perf_counter() - began, row.name)


def run_halves_of(plan: Plan, row: CutReport) -> CutReport:
    """Verify one cut by its own halves, as they are deployed.

    Args:
        plan: The model, its cuts and its export.
        row: Of the cut, with all that is known of it.

    Returns:
        The row with the new verdict; where it fails, the row says why.
    """
    cut = next(cut for cut in plan.cuts if cut.index == row.cut.index)
    return guarded(row, partial(_verified, plan, cut))


def watched(
    state: State, work: str, row: CutReport, step: Callable[[CutReport], CutReport]
) -> CutReport:
    """Do one step of a row that may end the process; where it did before, the row says so.

    Args:
        state: Where it is marked as under way.
        work: In words.
        row: What is known so far.
        step: From the row to the row with more.

    Returns:
        The new row, or the old one with its error.
    """
    crash = state.watch.crashed(work)
    if crash is not None:
        return replace(row, error=row.error or crash)
    with state.watch.on(work):
        return guarded(row, step)


FAILURES = (RuntimeError, ValueError, ArithmeticError, LookupError, TypeError, MemoryError)
"""What a cut may fail with beside the errors raised on purpose, without ending the sweep."""


def guarded(row: CutReport, step: Callable[[CutReport], CutReport]) -> CutReport:
    """Do one step of a row; where it fails the row says why, and the sweep goes on.

    Args:
        row: What is known so far.
        step: From the row to the row with more.

    Returns:
        The new row, or the old one with its error.

    Raises:
        OutputError: The run folder cannot be written, which is no fault of the cut.
    """
    if row.error is not None:
        return row
    try:
        return step(row)
    except OutputError:
        raise
    except SplitdeployError as error:
        return replace(row, error=str(error))
    except FAILURES as error:
        return replace(row, error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _verified(plan: Plan, cut: CutPoint, row: CutReport) -> CutReport:
    if cut.is_end and cut.last is None:
        return replace(row, verified=plan.whole, codec_loss=end_codec_record(plan, cut, row.cut))
    halves = plan.slicer.cut(cut)
    with _sessions(plan, halves, "verify") as (head, tail, last):
        made = head.run(plan.feeds)
        verdict = compare(plan.expected, run_behind(made, tail, last), plan.images)
        if verdict.ok and plan.precision != "fp32":
            loss = codec_record(plan, row.cut, halves, made, tail, last)
            row = replace(row, codec_loss=loss)
    return _judged(row, verdict)


def _judged(row: CutReport, verdict: Verification) -> CutReport:
    if verdict.ok:
        return replace(row, verified=verdict)
    return replace(
        row,
        verified=verdict,
        error=f"the tail on the head's output differs from the whole model: largest relative "
        f"error {verdict.max_rel_error:.1e}",
    )


class _sessions:
    """The parts of a cut, opened for as long as a ``with`` lasts."""

    def __init__(self, plan: Plan, halves: Halves, name: str) -> None:
        whole = plan.exported.path
        self._head = OnnxRuntimeSession(write_slice(halves.head, whole, f"{name}.head.onnx"))
        self._tail = OnnxRuntimeSession(write_slice(halves.tail, whole, f"{name}.tail.onnx"))
        self._last: Session | None = None
        if halves.last is not None:
            self._last = OnnxRuntimeSession(write_slice(halves.last, whole, f"{name}.last.onnx"))

    def __enter__(self) -> tuple[Session, Session, Session | None]:
        return self._head, self._tail, self._last

    def __exit__(self, *_: object) -> None:
        self._head.close()
        self._tail.close()
        if self._last is not None:
            self._last.close()


def price_cuts(
    plan: Plan,
    rows: Sequence[CutReport],
    places: Places,
    options: ProfileOptions,
    reporter: Reporter,
) -> list[CutReport]:
    """Add latency, energy, memory and the uplink that a stream needs to every row.

    Args:
        plan: The model, its cuts and its export.
        rows: As far as they are.
        places: What runs the sides.
        options: Precision, power mode, network and stream.
        reporter: Told after every cut.

    Returns:
        The rows with their costs.
    """
    reporter.stage("pricing the cuts", len(rows))
    priced = []
    for cut, row in zip(plan.cuts, rows, strict=True):
        step = partial(_priced, plan, cut, places=places, options=options)
        priced.append(guarded(row, step))
        reporter.advance()
    return priced


def _priced(
    plan: Plan, cut: CutPoint, row: CutReport, *, places: Places, options: ProfileOptions
) -> CutReport:
    network, down_bytes = options.network, plan.downlink_bytes(row.cut)
    batch = options.batch
    sides = _sides(plan, cut, places, options)
    if cut.name != EDGE_ONLY:
        size_bytes = batch * (row.cut.payload_bytes + down_bytes)
        sides = _with_messages(sides, places, size_bytes)
    if not isinstance(places.edge, MeasuredSide):
        energy = costs.energy(
            row.cut, sides, places.edge, options.power_mode, network, down_bytes, batch
        )
    elif cut.name in places.edge.joules:
        joules = places.edge.joules[cut.name]
        energy = costs.measured_energy(row.cut, joules, network, down_bytes)
    else:
        energy = None
    return replace(
        row,
        latency_s=costs.stage_latency(row.cut, sides, network, down_bytes, batch),
        energy_j=energy,
        edge_memory_bytes=costs.edge_memory_bytes(row.cut, options.precision, batch),
        uplink_bps_needed=costs.uplink_needed_bps(row.cut, options.fps),
    )


def _sides(plan: Plan, cut: CutPoint, places: Places, options: ProfileOptions) -> costs.Sides:
    halves = plan.slicer.cut(cut)
    edge, load = _edge(places.edge, cut, halves, options)
    cloud = costs.NOTHING
    if cut.name != EDGE_ONLY:
        cloud, _ = _time(places.cloud, cut, halves.tail, options.batch, cloud_precision(options))
    return costs.Sides(edge, cloud, load)


def _with_messages(sides: costs.Sides, places: Places, size_bytes: int) -> costs.Sides:
    """Where an end was measured, with what a request costs it beside computing."""
    edge, cloud = (
        costs.with_messages(computing, place.messages.of(size_bytes))
        if isinstance(place, MeasuredSide) and place.messages is not None
        else computing
        for computing, place in ((sides.edge, places.edge), (sides.cloud, places.cloud))
    )
    return replace(sides, edge=edge, cloud=cloud)


def _edge(
    side: Side, cut: CutPoint, halves: Halves, options: ProfileOptions
) -> tuple[Measurement, float]:
    """How long the edge computes, on either side of the cloud, and how busy that keeps it."""
    if cut.name == CLOUD_ONLY and halves.last is None:
        return costs.NOTHING, 0.0
    settings = options.batch, options.precision, options.power_mode
    head = _time(side, cut, halves.head, *settings)
    if halves.last is None or isinstance(side, MeasuredSide):  # which has timed both parts as one
        return head
    return costs.one_after_other(head, _time(side, cut, halves.last, *settings))


def _time(
    side: Side, cut: CutPoint, half: ModelProto, batch: int, precision: str, mode: str | None = None
) -> tuple[Measurement, float]:
    """How long a half takes with a request, and how busy it keeps a simulated device."""
    if isinstance(side, MeasuredSide):
        return side.time(cut.name), 1.0
    return costs.simulated(kernel_groups(half, batch), side, precision, mode)


def cloud_precision(options: ProfileOptions) -> str:
    """What the tail computes in: an int8 payload is decoded and computed in fp16."""
    return TAIL_PRECISIONS[options.precision]
