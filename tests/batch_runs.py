"""Runs whose requests carry several inputs, made by hand, for tests that need no model."""

from __future__ import annotations

from dataclasses import replace

from factories import RESULT_BYTES

from splitdeploy.profiles.measurement import Measurement
from splitdeploy.profiles.report import CutReport, SweepReport

FIXED = 0.4
"""Of the time of one input, what a request takes however many inputs it has."""


def in_batch(report: SweepReport, batch: int) -> SweepReport:
    """A report of requests of one input, as requests of several would have it."""
    rows = tuple(_row(row, report, batch) for row in report.cuts)
    return replace(report, cuts=rows, batch=batch)


def grown(seconds: float, batch: int) -> float:
    """How long a half takes with a request, by its time with one input."""
    return seconds * (FIXED + (1 - FIXED) * batch)


def _row(row: CutReport, report: SweepReport, batch: int) -> CutReport:
    s = row.latency_s
    if s is None:
        return row
    edge_s, cloud_s = (grown(stage.median, batch) for stage in (s.edge, s.cloud))
    link, up_s, down_s = report.network, 0.0, 0.0
    if s.uplink.median:
        up_s = batch * 8 * row.cut.payload_bytes / link.uplink_bps + link.rtt_s / 2
        down_s = batch * 8 * RESULT_BYTES / link.downlink_bps + link.rtt_s / 2
    total_s = edge_s + up_s + cloud_s + down_s
    error = s.edge.p95 / s.edge.median if s.edge.median else 1.0
    energy = row.energy_j
    if energy is not None:
        compute = energy.compute * grown(1.0, batch) / batch
        energy = replace(energy, compute=compute, total=compute + energy.radio)
    return replace(
        row,
        latency_s=replace(
            s,
            edge=Measurement.single(edge_s, "simulated", edge_s * error),
            uplink=Measurement.single(up_s, "predicted"),
            cloud=Measurement.single(cloud_s, "predicted"),
            downlink=Measurement.single(down_s, "predicted"),
            total=Measurement.single(total_s, "simulated", total_s + edge_s * (error - 1)),
        ),
        energy_j=energy,
    )
