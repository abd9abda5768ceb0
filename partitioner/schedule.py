"""Cuts over a bandwidth trace: the latency of each, the best single one, the cheapest schedule.

The rate is taken to stay as it is while one request is under way. The schedule minimises the sum
of what all inputs wait and of what the switches cost; it knows the whole trace beforehand, so
that it is a bound on what switching can gain, and not what a running system will reach. Every
input of a request waits for all of it, and for a switch before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from splitdeploy.partitioner.case_figures import case_figures
from splitdeploy.partitioner.scoring import table_of
from splitdeploy.partitioner.side_cases import Array
from splitdeploy.partitioner.uncertainty import central_cases
from splitdeploy.profiles.bandwidth_trace import (
    CutOverTrace,
    Stretch,
    TraceOutcome,
    TraceSample,
)
from splitdeploy.profiles.errors import UsageError
from splitdeploy.profiles.network import NetworkProfile
from splitdeploy.profiles.report import SweepReport


def network_of_trace(trace: Sequence[TraceSample], network: NetworkProfile) -> NetworkProfile:
    """The network in the middle of a trace: medians over its time.

    Args:
        trace: The samples.
        network: What the trace does not say is this one's.

    Returns:
        The network, named ``trace``.
    """
    weights = np.array([sample.duration_s for sample in trace])
    columns = np.array([sample.over(network) for sample in trace]).T
    up, down, rtt = (weighted_quantile(column, weights, 0.5) for column in columns)
    return replace(
        network, name="trace", uplink_bps=up, downlink_bps=down, rtt_s=rtt, source="trace"
    )


def weighted_quantile(values: Array, weights: Array, share: float) -> float:
    """The least value that holds for at least this share of the weight."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    place = int(np.searchsorted(reached, share * reached[-1] * (1 - 1e-12)))
    return float(values[order][min(place, len(values) - 1)])


def over_trace(
    report: SweepReport,
    candidates: Sequence[str],
    trace: Sequence[TraceSample],
    *,
    switch_cost_s: float = 0.0,
    requests_per_s: float = 1.0,
) -> TraceOutcome:
    """What a trace makes of every candidate.

    Args:
        report: The report; what the trace does not say of the link is its network's.
        candidates: The rows that may be used.
        trace: The samples.
        switch_cost_s: What a change of the cut costs.
        requests_per_s: How often an inference is asked for: inputs a second, whatever number of
            them makes a request.

    Returns:
        Latencies over the trace and the cheapest schedule.

    Raises:
        UsageError: The report has no latencies.
    """
    table = table_of(report)
    if not table.has_latency:
        raise UsageError("--trace needs latencies, and no cut of this report has one; profile anew")
    names, latencies = _latencies(report, candidates, trace)
    weights = np.array([sample.duration_s for sample in trace])
    means = weights @ latencies / weights.sum()
    requests = weights * requests_per_s
    batches = np.array([report.batch_of(report.find(name)) for name in names])
    path, cost_s = cheapest_path(requests[:, None] * latencies, switch_cost_s * batches)
    return TraceOutcome(
        duration_s=float(weights.sum()),
        samples=len(trace),
        requests_per_s=requests_per_s,
        switch_cost_s=switch_cost_s,
        best_single=names[int(np.argmin(means))],
        cuts=tuple(
            CutOverTrace(name, float(mean), weighted_quantile(latencies[:, k], weights, 0.95))
            for k, (name, mean) in enumerate(zip(names, means, strict=True))
        ),
        schedule=_stretches([names[k] for k in path], trace),
        schedule_mean_latency_s=cost_s / float(requests.sum()),
    )


def _latencies(
    report: SweepReport, candidates: Sequence[str], trace: Sequence[TraceSample]
) -> tuple[list[str], Array]:
    """Samples by candidates, in seconds; a row without latency is left out."""
    rates = np.array([sample.over(report.network) for sample in trace]).T
    cases = replace(central_cases(report), link=rates, link_is_factor=False)
    figures = case_figures(report, table_of(report), cases)
    kept = [
        k
        for k, name in enumerate(figures.names)
        if name in set(candidates) and np.isfinite(figures.latency_s[:, k]).all()
    ]
    return [figures.names[k] for k in kept], figures.latency_s[:, kept]


def cheapest_path(
    costs: Array, switch_cost: float | NDArray[np.float64]
) -> tuple[NDArray[np.int_], float]:
    """The cheapest choice for each step where a change costs the same from wherever; exact.

    Dynamic programming: the best way to be at a choice comes from the same choice, or from the best
    of all with a change paid. Where both cost the same it stays.

    Args:
        costs: Steps by choices.
        switch_cost: Of a change to each choice, or to any; zero or more.

    Returns:
        The choice of every step, and the sum of all costs.
    """
    steps, choices = costs.shape
    came_from = np.empty((steps, choices), dtype=np.int_)
    own = np.arange(choices)
    total = costs[0].astype(np.float64)
    for step in range(1, steps):
        best = int(np.argmin(total))
        moved = total[best] + switch_cost
        came_from[step] = np.where(moved < total, best, own)
        total = np.minimum(total, moved) + costs[step]
    path = np.empty(steps, dtype=np.int_)
    path[-1] = int(np.argmin(total))
    for step in range(steps - 1, 0, -1):
        path[step - 1] = came_from[step, path[step]]
    return path, float(total.min())


def _stretches(names: Sequence[str], trace: Sequence[TraceSample]) -> tuple[Stretch, ...]:
    """A schedule as the times between its switches."""
    stretches: list[Stretch] = []
    for name, sample in zip(names, trace, strict=True):
        end = sample.time_s + sample.duration_s
        if stretches and stretches[-1].cut == name:
            stretches[-1] = replace(stretches[-1], to_s=end)
        else:
            stretches.append(Stretch(sample.time_s, end, name))
    return tuple(stretches)
