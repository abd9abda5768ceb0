"""How far the segment sums are from cuts that are timed whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.segments import SegmentTimes
from splitdeploy.edge_runtime.session import Array, Session
from splitdeploy.edge_runtime.timing import time_session
from splitdeploy.profiles.errors import SessionError
from splitdeploy.profiles.measurement import Measurement


@dataclass(frozen=True)
class SlicedCut:
    """A cut as it is deployed: its place among the boundaries, and its two graphs."""

    boundary: int
    head: bytes | Path
    tail: bytes | Path


@dataclass(frozen=True)
class Calibration:
    """Cuts timed whole, against what their segment sums said.

    Attributes:
        boundaries: The cuts' places among the boundaries.
        heads: Their heads, timed whole.
        tails: Their tails, timed whole.
        head_ratio: The heads timed whole over their segment sums, all cuts added up, so that a
            graph of a few microseconds, which the caches hold, does not decide.
        tail_ratio: The same of the tails.
        worst_error: The largest difference of a head or tail between the two, over the time of the
            whole model.
    """

    boundaries: tuple[int, ...]
    heads: tuple[Measurement, ...]
    tails: tuple[Measurement, ...]
    head_ratio: float
    tail_ratio: float
    worst_error: float

    @property
    def stable(self) -> bool:
        """Whether all of them could be timed steadily; else the ratios tell of a busy machine."""
        return all(part.stability == "stable" for part in (*self.heads, *self.tails))


def calibrate(
    times: SegmentTimes,
    cuts: Sequence[SlicedCut],
    feeds: Mapping[str, Array],
    *,
    threads: int | None = None,
    repeats: int = 20,
    budget_s: float = 2.0,
) -> Calibration:
    """Time a few cuts whole, each graph in a session of its own, and compare.

    Args:
        times: The segment sums.
        cuts: The cuts to time, at least one; neither end, since an end has only one side.
        feeds: The model's inputs.
        threads: How many threads an operator may use, as for ``times``.
        repeats: Runs of each graph.
        budget_s: Seconds for each graph.

    Returns:
        The ratios, and what was timed.

    Raises:
        SessionError: No cut was given, one of them is an end, or a graph cannot be opened or run.
    """
    if not cuts:
        raise SessionError("expected at least one cut to calibrate with, got none")
    heads: list[Measurement] = []
    tails: list[Measurement] = []
    for cut in cuts:
        if not times.heads[cut.boundary].median or not times.tails[cut.boundary].median:
            raise SessionError(
                f"boundary {cut.boundary} has no operators on one side: choose a cut between them"
            )
        with OnnxRuntimeSession(cut.head, threads=threads) as head:
            heads.append(time_session(head, feeds, repeats=repeats, budget_s=budget_s))
            crossing = {**feeds, **head.run(feeds)}
        with OnnxRuntimeSession(cut.tail, threads=threads) as tail:
            needed = _only(crossing, tail)
            tails.append(time_session(tail, needed, repeats=repeats, budget_s=budget_s))
    return _compare(times, tuple(cut.boundary for cut in cuts), tuple(heads), tuple(tails))


def _only(values: Mapping[str, Array], session: Session) -> dict[str, Array]:
    """What a tail takes: boundary values, and inputs that cross the cut as they are."""
    names = {spec.name for spec in session.inputs}
    return {name: value for name, value in values.items() if name in names}


def _compare(
    times: SegmentTimes,
    boundaries: tuple[int, ...],
    heads: tuple[Measurement, ...],
    tails: tuple[Measurement, ...],
) -> Calibration:
    summed_heads = [times.heads[place].median for place in boundaries]
    summed_tails = [times.tails[place].median for place in boundaries]
    timed = [part.median for part in (*heads, *tails)]
    return Calibration(
        boundaries=boundaries,
        heads=heads,
        tails=tails,
        head_ratio=sum(part.median for part in heads) / sum(summed_heads),
        tail_ratio=sum(part.median for part in tails) / sum(summed_tails),
        worst_error=max(
            abs(whole - summed)
            for whole, summed in zip(timed, summed_heads + summed_tails, strict=True)
        )
        / times.whole.median,
    )
