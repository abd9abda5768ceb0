"""Runs of one model in several precisions, made by hand, for tests that need no model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from factories import make_report, only, with_row, write_png

from splitdeploy.partitioner.join_runs import FolderRun
from splitdeploy.profiles.codec_record import CodecRecord
from splitdeploy.profiles.cut import PRECISIONS, TensorSpec
from splitdeploy.profiles.measurement import Measurement
from splitdeploy.profiles.network import NETWORKS, NetworkProfile
from splitdeploy.profiles.report import CutReport, SweepReport
from splitdeploy.profiles.store import write_report

SPEED = {"fp32": 1.7, "fp16": 1.0, "int8": 0.8}
"""Times of the heads, over those in fp16."""

TAILS = {"fp32": "fp32", "fp16": "fp16", "int8": "fp16"}


def make_run(
    precision: str,
    network: NetworkProfile = NETWORKS["wifi"],
    *,
    shares: dict[str, float | None] | None = None,
    error: float = 0.1,
    speed: float | None = None,
    pictures: bool = False,
) -> SweepReport:
    """The report of `factories.make_report` as a run in another precision would have it."""
    report = make_report(network, pictures=pictures)
    rows = tuple(
        in_precision(
            row,
            precision,
            network,
            error,
            (shares or {}).get(row.name, 1.0),
            SPEED[precision] if speed is None else speed,
        )
        for row in report.cuts
    )
    return replace(
        report,
        cuts=rows,
        edge=replace(report.edge, precision=precision),
        cloud=replace(report.cloud, precision=TAILS[precision]),
    )


def in_precision(
    row: CutReport,
    precision: str,
    network: NetworkProfile,
    error: float,
    share: float | None,
    factor: float,
) -> CutReport:
    """The row with other times and another payload; the energy of computing goes with the time."""
    tensor = row.cut.tensors[0]
    sent = TensorSpec(tensor.name, tensor.shape, PRECISIONS[precision])
    s = row.latency_s
    assert s is not None and row.energy_j is not None
    edge_s = s.edge.median * factor
    up_s = network.uplink_s(sent.bytes) if s.uplink.median else 0.0
    total_s = edge_s + up_s + s.cloud.median + s.downlink.median
    compute = row.energy_j.compute * factor
    return replace(
        row,
        cut=replace(row.cut, tensors=(sent,), payload_bytes=sent.bytes),
        latency_s=replace(
            s,
            edge=Measurement.single(edge_s, "simulated", edge_s * (1 + error)),
            uplink=Measurement.single(up_s, "predicted"),
            cloud=Measurement.single(s.cloud.median, "predicted", s.cloud.median * (1 + error)),
            total=Measurement.single(total_s, "simulated", total_s * (1 + error)),
        ),
        energy_j=replace(row.energy_j, compute=compute, total=compute + row.energy_j.radio),
        codec_loss=None if precision == "fp32" else CodecRecord(8, share, 0.01),
    )


def folders(*reports: SweepReport) -> list[FolderRun]:
    """The runs in folders that bear their precision's name."""
    return [FolderRun(f"runs/{report.edge.precision}", report) for report in reports]


def truth(report: SweepReport, rng: np.random.Generator) -> np.ndarray:
    """True latencies of a joined report, drawn from the stated errors by code of their own.

    A side has one log-normal factor for all rows (three quarters of the stated variance), one for
    each precision but fp16 (half of all within 9 %, twice that where the ratio is one of peak
    rates), and for each precision a gamma process over the stretches between its cuts.
    """
    measured = math.log(1.09) / 0.6745
    ratio = {"edge": {"fp32": measured, "int8": measured}, "cloud": {"fp32": 2 * measured}}
    total = np.zeros(len(report.cuts))
    for side in ("edge", "cloud"):
        times = np.array([getattr(row.latency_s, side).median for row in report.cuts])
        timed = next(m for row in report.cuts if (m := getattr(row.latency_s, side)).median > 0)
        sigma = math.log(timed.p95 / timed.median) / 1.96
        factor = math.exp(rng.normal() * sigma * math.sqrt(0.75))
        kinds = [str(row.precision) for row in report.cuts]
        if side == "cloud":
            kinds = [TAILS[kind] for kind in kinds]
        for kind in set(kinds):
            places = [k for k, other in enumerate(kinds) if other == kind]
            mine = times[places]
            apart = math.exp(rng.normal() * ratio[side].get(kind, 0.0))
            total[places] += nested(mine, sigma**2 / 4, rng) * factor * apart
    link = report.network
    rate, trip = np.exp(rng.normal(size=2) * link.spread)
    for k, row in enumerate(report.cuts):
        if row.latency_s is not None and row.latency_s.uplink.median > 0:
            total[k] += 8 * row.cut.payload_bytes / (link.uplink_bps * rate)
            total[k] += 8 * 4000 / (link.downlink_bps * rate) + link.rtt_s * trip
    return total


def nested(times: np.ndarray, variance: float, rng: np.random.Generator) -> np.ndarray:
    """Times that grow by independent gammas between the cuts, each with its share of the error."""
    found, before, spent = np.zeros(len(times)), 0.0, 0.0
    longest = times.max()
    for k in np.argsort(times):
        share = (times[k] - before) / longest
        spent += rng.gamma(share / variance) * variance * longest if share > 0 else 0.0
        found[k], before = spent, times[k]
    return found


WIDTHS = {"fp32": 48, "fp16": 64, "int8": 80}
"""Of the pictures of each run, which tells them apart."""

SHARES = {
    "fp16": {"maxpool": 0.875, "layer3.1": 0.75},
    "int8": {"maxpool": 0.5, "layer2.1": 0.75, "layer3.0": 0.625, "layer4.0": 0.375,
             "avgpool": None, "edge-only": 0.875},
}  # fmt: skip
"""Of the pictures that keep their class."""


def write_runs(root: Path, cuts: Sequence[str] = ()) -> list[Path]:
    """Run folders in three precisions: with rows that failed, lack figures, or were found wrong.

    Each has pictures of its own; one is missing. With ``cuts`` they have these rows alone.
    """
    made = []
    for precision, width in WIDTHS.items():
        report = make_run(precision, shares=SHARES.get(precision), pictures=True)
        folder = root / precision
        for row in report.cuts:
            for attack in row.attacks:
                if attack.picture and (precision, row.name) != ("fp16", "layer4.0"):
                    write_png(folder / attack.picture, width, 32)
        if precision == "fp16":
            report = with_row(report, "layer1.0", error="an operator is missing", latency_s=None,
                              energy_j=None, leakage=None, attacks=(), verified=None)  # fmt: skip
        if precision == "int8":
            wrong = replace(report.find("layer2.0").verified, ok=False, max_rel_error=0.125)
            report = with_row(report, "layer2.0", verified=wrong)
            report = with_row(report, "layer1.1", codec_loss=None, edge_memory_bytes=None)
        report = only(report, *cuts) if cuts else report
        command = ("splitdeploy", "profile", "resnet18", "--precision", precision)
        report = replace(report, command=command, created=f"2025-03-0{width // 16}T12:00:00+00:00")
        write_report(report, folder)
        made.append(folder)
    return made
