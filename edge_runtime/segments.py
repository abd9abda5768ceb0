"""Heads and tails of all cuts, timed in one profiled run of the whole model.

Timing N cuts whole takes 2 N sessions. Here one session runs the whole model, and the time of a
head is the sum over the operators that its boundary needs::

    operators   conv  pool  conv  conv  add | reorder | conv  conv  add  reduce  gemm
    head of i   #################################
    tail of i                                           ##########################
    whole       ############################           ##########################

What ONNX Runtime inserts only to hand a boundary out (a change of memory layout, ``reorder``) is
charged to its own head alone. The operators add up to a run without the profiler: the difference,
dispatch less what the profiler costs, is spread evenly over them. ``calibrate`` says how far such
sums are from cuts timed whole, and ``SegmentTimes.corrected`` applies it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from splitdeploy.edge_runtime.graph_reader import Graph
from splitdeploy.edge_runtime.node_profile import NodeProfile, profile_nodes
from splitdeploy.edge_runtime.session import Array
from splitdeploy.profiles.errors import SessionError
from splitdeploy.profiles.measurement import Measurement


@dataclass(frozen=True)
class SegmentSums:
    """Seconds, run by run; in every run ``heads + tails == whole + handovers``.

    Attributes:
        heads: Of each head: ``[runs, boundaries]``.
        tails: Of each tail, likewise: ``[runs, boundaries]``.
        whole: Of the model without its boundaries: ``[runs]``.
        handovers: What only hands a boundary out, part of its head: ``[runs, boundaries]``.
    """

    heads: Array
    tails: Array
    whole: Array
    handovers: Array

    def scaled(self, head_ratio: float, tail_ratio: float) -> SegmentSums:
        """The sums times a ratio for each side; the whole model is the tail of no head."""
        return SegmentSums(
            self.heads * head_ratio,
            self.tails * tail_ratio,
            self.whole * tail_ratio,
            self.handovers * head_ratio,
        )


@dataclass(frozen=True)
class SegmentTimes:
    """The times of all cuts.

    A median here is the sum of the operators' medians, corrected alike, so that the medians of head
    and tail add up as their samples do, and a pause of the process in one operator of a run does
    not count.

    Attributes:
        heads: One for each boundary, in the order in which they were given.
        tails: One for each boundary.
        whole: The model without its boundaries.
        correction_s: What was added to the profiled operators of a run so that they add up to one
            without the profiler; negative where it was taken off.
        typical: The sums over the operators' medians, as one run.
        samples: The sums run by run.
    """

    heads: tuple[Measurement, ...]
    tails: tuple[Measurement, ...]
    whole: Measurement
    correction_s: float
    typical: SegmentSums
    samples: SegmentSums

    @classmethod
    def summarise(
        cls, typical: SegmentSums, samples: SegmentSums, correction_s: float
    ) -> SegmentTimes:
        """Medians from the typical run, everything else from the samples."""
        return cls(
            heads=_measurements(typical.heads, samples.heads),
            tails=_measurements(typical.tails, samples.tails),
            whole=_measurement(float(typical.whole[0]), samples.whole),
            correction_s=correction_s,
            typical=typical,
            samples=samples,
        )

    def around(self, first: int | None, second: int) -> tuple[Measurement, Measurement]:
        """What lies outside two cuts, and what lies between them.

        Args:
            first: The first cut's place among the boundaries; None where nothing comes before it.
            second: The second cut's place, behind the first.

        Returns:
            The head of the first cut and the tail of the second, as one; and the rest, with handing
            out the second boundary.
        """

        def parts(sums: SegmentSums) -> tuple[Array, Array]:
            end = sums.tails[:, second]
            if first is None:
                head, rest = np.zeros_like(end), sums.whole
            else:
                head, rest = sums.heads[:, first], sums.tails[:, first]
            return head + end, np.maximum(rest - end, 0.0) + sums.handovers[:, second]

        typical, samples = parts(self.typical), parts(self.samples)
        outer, between = (
            _measurement(float(one[0]), several)
            for one, several in zip(typical, samples, strict=True)
        )
        return outer, between

    def corrected(self, head_ratio: float, tail_ratio: float) -> SegmentTimes:
        """The same times scaled by what a calibration found, sample by sample.

        Args:
            head_ratio: What heads take when timed whole over what their sums say.
            tail_ratio: The same of tails; the whole model is scaled by it too, being the tail of
                the cut before everything.

        Returns:
            Corrected times. ``correction_s`` stays as it was.
        """
        return SegmentTimes.summarise(
            self.typical.scaled(head_ratio, tail_ratio),
            self.samples.scaled(head_ratio, tail_ratio),
            self.correction_s,
        )


def time_segments(
    model: bytes | Path,
    boundaries: Sequence[Sequence[str]],
    feeds: Mapping[str, Array],
    *,
    outputs: Sequence[str] = (),
    threads: int | None = None,
    warmup: int = 3,
    runs: int = 20,
    budget_s: float = 5.0,
) -> SegmentTimes:
    """Time the head and the tail of every cut, in one session.

    Args:
        model: An ONNX model in which the boundary values are graph outputs, beside its own, so
            that no fusion runs across a cut.
        boundaries: For each cut the values that cross it. A cut that only inputs cross has a head
            that takes no time.
        feeds: The model's inputs.
        outputs: Those of the model's own outputs that lie in a boundary; the others are known.
        threads: How many threads an operator may use; None leaves it to ONNX Runtime.
        warmup: Runs before those that count.
        runs: Runs that count, at least one, with the profiler and again without it.
        budget_s: Seconds for all of them, half with the profiler; one of each always counts.

    Returns:
        The times of every head and tail, and of the whole model.

    Raises:
        SessionError: The model cannot be opened or run, or a boundary value is no output of it.
    """
    crossing = {name for boundary in boundaries for name in boundary}
    profile = profile_nodes(
        model,
        feeds,
        skip=crossing - set(outputs),
        threads=threads,
        warmup=warmup,
        runs=runs,
        budget_s=budget_s,
    )
    return attribute(profile, boundaries, outputs)


def attribute(
    profile: NodeProfile, boundaries: Sequence[Sequence[str]], outputs: Sequence[str] = ()
) -> SegmentTimes:
    """Sum the operators of each head and tail, run by run.

    Args:
        profile: The times of the operators.
        boundaries: For each cut the values that cross it.
        outputs: Those of the model's own outputs that lie in a boundary.

    Returns:
        The times of every head, every tail and the whole model.

    Raises:
        SessionError: A boundary value is neither an input nor an output of the graph.
    """
    graph = profile.graph
    known = {*graph.inputs, *graph.outputs}
    crossing = {name for boundary in boundaries for name in boundary}
    for name in sorted(crossing - known):
        raise SessionError(
            f"boundary value {name!r} is no output of the graph: available: "
            f"{', '.join(graph.outputs)}; add it to the outputs before the graph is optimised"
        )
    count = len(graph.nodes)
    core = _mask(graph, (set(graph.outputs) - crossing) | set(outputs))
    heads = np.array([_mask(graph, set(boundary)) for boundary in boundaries]).reshape(-1, count)

    def sums(charged: Array) -> SegmentSums:
        return SegmentSums(
            heads=charged @ heads.T,
            tails=charged @ (core & ~heads).T,
            whole=charged @ core,
            handovers=charged @ (heads & ~core).T,
        )

    operator_s = profile.operator_s[None]
    moved = operator_s - np.median(profile.kernel_s, axis=0)
    samples = sums(np.maximum(profile.kernel_s + moved, 0.0))
    return SegmentTimes.summarise(sums(operator_s), samples, profile.correction_s)


def _mask(graph: Graph, values: set[str]) -> Array:
    """Which nodes these values need: one truth value a node."""
    mask = np.zeros(len(graph.nodes), dtype=bool)
    mask[sorted(graph.ancestors(values))] = True
    return mask


def _measurements(typical_s: Array, samples_s: Array) -> tuple[Measurement, ...]:
    return tuple(
        _measurement(float(value), column)
        for value, column in zip(typical_s[0], samples_s.T, strict=True)
    )


def _measurement(typical_s: float, samples_s: Array) -> Measurement:
    """A part without operators takes no time, which nobody measured repeatedly."""
    if not samples_s.any():
        return Measurement.single(0.0, "measured")
    found = Measurement.from_samples([float(sample) for sample in samples_s])
    return replace(found, median=typical_s, p95=max(typical_s, found.p95))
