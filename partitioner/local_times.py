"""The halves of all cuts timed on this machine, in one profiled run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from splitdeploy.edge_runtime.calibration import Calibration, SlicedCut, calibrate
from splitdeploy.edge_runtime.segments import SegmentTimes, time_segments
from splitdeploy.partitioner.measured import MeasuredSide
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.slicing import write_slice
from splitdeploy.partitioner.two_cuts import as_one_cut
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY, CutPoint
from splitdeploy.profiles.measurement import Measurement


@dataclass(frozen=True)
class LocalTimes:
    """The times of all cuts on this machine, and how far they are from cuts timed whole."""

    times: SegmentTimes
    check: Calibration | None
    boundaries: Mapping[str, int]
    back: int | None = None
    """The second cut's place among the boundaries, where there is one."""

    def heads(self, precision: str) -> MeasuredSide:
        """What the edge computes; all of the model on the edge alone."""
        warnings = list(self._unsteady())
        if precision != "fp32":
            warnings.append(f"this machine computes in fp32; {precision} is the payload's alone")
        times = self._of(self.times.heads) | self._around(0) | {EDGE_ONLY: self.times.whole}
        return MeasuredSide(times, self._note(), warnings=tuple(warnings))

    def tails(self) -> MeasuredSide:
        """What the cloud computes; all of the model on the cloud alone."""
        times = self._of(self.times.tails) | {CLOUD_ONLY: self.times.whole} | self._around(1)
        return MeasuredSide(times, self._note(), warnings=self._unsteady())

    def _around(self, side: int) -> dict[str, Measurement]:
        """With a second cut: both parts of the edge, or what the cloud computes between them."""
        if self.back is None:
            return {}
        places: dict[str, int | None] = {CLOUD_ONLY: None, **self.boundaries}
        return {name: self.times.around(at, self.back)[side] for name, at in places.items()}

    def _unsteady(self) -> tuple[str, ...]:
        if self.check is None or self.check.stable:
            return ()
        return ("the timings on this machine are not steady: close other programs and run again",)

    def _of(self, sides: Sequence[Measurement]) -> dict[str, Measurement]:
        return {name: sides[place] for name, place in self.boundaries.items()}

    def _note(self) -> str:
        note = "measured in ONNX Runtime on this machine, in fp32; energy is not measured here"
        if self.check is None:
            return note
        return (
            f"{note}; {len(self.check.boundaries)} cuts timed whole differ from the profiled sums "
            f"by at most {self.check.worst_error:.0%} of the model's time"
            + (", which corrects them" if self.check.stable else "; they were not steady")
        )


def time_locally(plan: Plan, reporter: Reporter, budget_s: float, batch: int = 1) -> LocalTimes:
    """Time every half on this machine, in one profiled run, and check two cuts whole.

    Args:
        plan: The model, its cuts and its export.
        reporter: Told as it goes.
        budget_s: Seconds for the profiled run and as many for the check.
        batch: How many inputs a request has.

    Returns:
        The times, corrected by what the check found where it was steady.
    """
    reporter.stage("timing on this machine", 2)
    inner = [as_one_cut(cut) for cut in plan.cuts if not cut.is_end]
    every = inner if plan.back is None else [*inner, plan.back]
    boundaries = [[tensor.name for tensor in cut.tensors] for cut in every]
    crossing = {name for boundary in boundaries for name in boundary}
    results = [name for name in plan.exported.results if name in crossing]
    feeds = plan.request(batch)
    times = time_segments(plan.exported.path, boundaries, feeds, outputs=results, budget_s=budget_s)
    reporter.advance()
    # A side whose operators are too short for the profiler sums to nothing: no check there.
    timed = [
        place
        for place, (head, tail) in enumerate(zip(times.heads, times.tails, strict=True))
        if head.median and tail.median and place < len(inner)
    ]
    places = sorted({timed[len(timed) // 3], timed[2 * len(timed) // 3]}) if timed else []
    check = None
    if places:
        sliced = [_sliced(plan, inner[place], place) for place in places]
        check = calibrate(times, sliced, feeds, budget_s=budget_s / (2 * len(sliced)))
        if check.stable:
            times = times.corrected(check.head_ratio, check.tail_ratio)
    reporter.advance()
    found = {cut.name: place for place, cut in enumerate(inner)}
    return LocalTimes(times, check, found, None if plan.back is None else len(inner))


def _sliced(plan: Plan, cut: CutPoint, place: int) -> SlicedCut:
    halves, whole = plan.slicer.cut(cut), plan.exported.path
    return SlicedCut(
        place,
        write_slice(halves.head, whole, f"timed{place}.head.onnx"),
        write_slice(halves.tail, whole, f"timed{place}.tail.onnx"),
    )
