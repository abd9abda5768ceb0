"""Heads and tails of all cuts, timed in one profiled run of the whole model.

Timing N cuts whole takes 2 N sessions. Here one session runs the whole model, and the time of a
head is the sum over the operators that its boundary needs::

    operators   conv  pool  conv  conv  add | reorder | conv  conv  add  reduce  gemm
    head of i   #################################
    tail of i                                           ##########################
    whole       ############################           ##########################

What ONNX Runtime inserts only to hand a boundary out (a change of memory layout, ``reorder``) is
charged to its own head alone. What no operator accounts for (dispatch, the call itself) is spread
evenly over the operators of the run. ``calibrate`` says how far such sums are from cuts timed
whole, and ``SegmentTimes.corrected`` applies it.
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
class SegmentSamples:
    """Seconds, run by run; in every run ``heads + tails == whole + handovers``.

    Attributes:
        heads: Of each head, with its share of the overhead: ``[runs, boundaries]``.
        tails: Of each tail, likewise: ``[runs, boundaries]``.
        whole: Of the model without its boundaries: ``[runs]``.
        handovers: What only hands a boundary out, part of its head: ``[runs, boundaries]``.
        overhead: What no operator accounts for, spread over the others: ``[runs]``.
    """

    heads: Array
    tails: Array
    whole: Array
    handovers: Array
    overhead: Array


@dataclass(frozen=True)
class SegmentTimes:
    """The times of all cuts.

    Attributes:
        heads: One for each boundary, in the order in which they were given.
        tails: One for each boundary.
        whole: The model without its boundaries.
        overhead: The part of a run that no operator accounts for; it is spread over the others.
        samples: What stands behind them, run by run.
    """

    heads: tuple[Measurement, ...]
    tails: tuple[Measurement, ...]
    whole: Measurement
    overhead: Measurement
    samples: SegmentSamples

    @classmethod
    def from_samples(cls, samples: SegmentSamples) -> SegmentTimes:
        """Summarise what was measured run by run."""
        return cls(
            heads=tuple(_measurement(column) for column in samples.heads.T),
            tails=tuple(_measurement(column) for column in samples.tails.T),
            whole=_measurement(samples.whole),
            overhead=_measurement(samples.overhead),
            samples=samples,
        )

    def corrected(self, head_ratio: float, tail_ratio: float) -> SegmentTimes:
        """The same times scaled by what a calibration found, sample by sample.

        Args:
            head_ratio: What heads take when timed whole over what their sums say.
            tail_ratio: The same of tails; the whole model is scaled by it too, being the tail of
                the cut before everything.

        Returns:
            Corrected times. The overhead stays as it was measured.
        """
        was = self.samples
        return SegmentTimes.from_samples(
            replace(
                was,
                heads=was.heads * head_ratio,
                tails=was.tails * tail_ratio,
                whole=was.whole * tail_ratio,
            )
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
        runs: Runs that count, at least one.
        budget_s: After this long, in seconds, no further run is begun; one always counts.

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
    return SegmentTimes.from_samples(attribute(profile, boundaries, outputs))


def attribute(
    profile: NodeProfile, boundaries: Sequence[Sequence[str]], outputs: Sequence[str] = ()
) -> SegmentSamples:
    """Sum the operators of each head and tail, run by run.

    Args:
        profile: The times of the operators.
        boundaries: For each cut the values that cross it.
        outputs: Those of the model's own outputs that lie in a boundary.

    Returns:
        The sums, with the overhead of each run spread evenly over its operators.

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
    charged = profile.kernel_s + profile.overhead_s[:, None] / max(1, count)
    return SegmentSamples(
        heads=charged @ heads.T,
        tails=charged @ (core & ~heads).T,
        whole=charged @ core,
        handovers=charged @ (heads & ~core).T,
        overhead=profile.overhead_s,
    )


def _mask(graph: Graph, values: set[str]) -> Array:
    """Which nodes these values need: one truth value a node."""
    mask = np.zeros(len(graph.nodes), dtype=bool)
    mask[sorted(graph.ancestors(values))] = True
    return mask


def _measurement(samples_s: Array) -> Measurement:
    """Summarise samples; a part without operators takes no time, which was not measured."""
    if not samples_s.any():
        return Measurement.single(0.0, "measured")
    return Measurement.from_samples([float(sample) for sample in samples_s])
