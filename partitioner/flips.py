"""Where a pick flips, besides the uplink: the device's speed, and each limit.

A limit changes a decision only where it passes what a row has: its own figure, or under a
confidence the least value that it meets with it. So these flips are exact. The device's speed is
searched as the uplink is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from splitdeploy.partitioner.limits import agreement, ceiling, turned
from splitdeploy.partitioner.stability import stable_interval
from splitdeploy.profiles.cut import CLOUD_ONLY
from splitdeploy.profiles.measurement import Measurement
from splitdeploy.profiles.report import Constraints, CutReport, SweepReport

FACTORS = (0.1, 10.0)
"""How much faster or slower a device is looked at."""

Pick = Callable[[SweepReport, Constraints], str | None]


@dataclass(frozen=True)
class LimitFlip:
    """What a limit does to the pick.

    Attributes:
        limit: Its name, as in ``Constraints``.
        value: At which another row is picked.
        cut: That row; None where none is left.
        tighter: Whether the limit has to be stricter than the value for it, and not at it or
            looser.
    """

    limit: str
    value: float
    cut: str | None
    tighter: bool


def slower_edge(report: SweepReport, factor: float) -> SweepReport:
    """The report with another speed of the device: times and energy of the heads multiplied.

    Args:
        report: A report.
        factor: Of the time; 2 is half as fast.

    Returns:
        The report.
    """
    return replace(report, cuts=tuple(_slower(row, factor) for row in report.cuts))


def _slower(row: CutReport, factor: float) -> CutReport:
    if row.latency_s is None:
        return row
    s = row.latency_s
    edge, more_s = _times(s.edge, factor), (factor - 1) * s.edge.median
    total = replace(
        s.total,
        median=s.total.median + more_s,
        p95=s.total.p95 + (factor - 1) * s.edge.p95,
    )
    energy = row.energy_j
    if energy is not None:
        compute = factor * energy.compute
        energy = replace(energy, compute=compute, total=compute + energy.radio)
    return replace(row, latency_s=replace(s, edge=edge, total=total), energy_j=energy)


def _times(time: Measurement, factor: float) -> Measurement:
    return replace(time, median=factor * time.median, p95=factor * time.p95)


def edge_interval(
    report: SweepReport, constraints: Constraints, pick: str, decide: Pick
) -> tuple[float, float | None]:
    """Between which factors of the device's times the pick stays.

    Args:
        report: A report.
        constraints: The limits.
        pick: What is picked at factor 1.
        decide: Picks.

    Returns:
        The ends, as ``stable_interval`` gives them.
    """
    low, high = FACTORS
    return stable_interval(
        lambda factor: decide(slower_edge(report, factor), constraints),
        1.0, pick, lowest=low, highest=high,
    )  # fmt: skip


LIMITS = ("max_latency_s", "max_ssim", "max_fsinfo")
"""Of which it is told where they flip the pick."""

Values = Mapping[str, Mapping[str, float]]
"""The strictest value of a limit that a row meets, turned, by limit and row."""


def told_limits(report: SweepReport) -> tuple[str, ...]:
    """The limits of which it is told where they flip the pick.

    Args:
        report: A report.

    Returns:
        ``LIMITS``, and the one on the codec where there is one.
    """
    coded = any(row.codec_loss is not None for row in report.cuts)
    return (*LIMITS, "min_agreement") if coded else LIMITS


def central_limits(report: SweepReport) -> Values:
    """What the limits are on, by the central figures.

    Args:
        report: A report.

    Returns:
        Figures by the limit's name, then by row, turned.
    """
    return {
        limit: {
            row.name: turned(limit, value)
            for row in report.cuts
            if (value := figure(row, limit)) is not None
        }
        for limit in told_limits(report)
    }


def with_limit(constraints: Constraints, limit: str, value: float | None) -> Constraints:
    """The constraints with one limit set otherwise, or without it.

    Args:
        constraints: The limits.
        limit: The name of one.
        value: Of it; None for no such limit.

    Returns:
        The limits.
    """
    return Constraints(**(vars(constraints) | {limit: value}))


def limit_flips(
    report: SweepReport, constraints: Constraints, pick: str, decide: Pick, values: Values
) -> Iterator[LimitFlip]:
    """At which values of the limits on latency and leakage the pick changes.

    Args:
        report: A report.
        constraints: The limits as they are.
        pick: What is picked with them.
        decide: Picks.
        values: The strictest value of each limit that each row meets, turned.

    Yields:
        For each limit the flip where it is tightened, and where it is loosened, if there is one.
    """
    for limit, met in values.items():
        own = met.get(pick)
        lower = [value for value in met.values() if own is not None and value < own]
        if own is not None and lower:
            stricter = turned(limit, max(lower))
            instead = decide(report, with_limit(constraints, limit, stricter))
            yield LimitFlip(limit, turned(limit, own), instead, tighter=True)
        if getattr(constraints, limit) is None:
            continue
        set_to = ceiling(constraints, limit)
        for value in sorted({value for value in met.values() if value > set_to}):
            looser = turned(limit, value)
            instead = decide(report, with_limit(constraints, limit, looser))
            if instead != pick:
                yield LimitFlip(limit, looser, instead, tighter=False)
                break


def figure(row: CutReport, limit: str) -> float | None:
    """The figure of a row that a limit is on; None where it has none.

    Args:
        row: The row.
        limit: As in ``Constraints``.

    Returns:
        The figure.
    """
    value: float | None = None
    if limit == "max_latency_s" and row.latency_s is not None:
        value = row.latency_s.total.median
    elif limit == "max_energy_j" and row.energy_j is not None:
        value = row.energy_j.total
    elif limit == "max_edge_memory_bytes":
        value = row.edge_memory_bytes
    elif limit == "max_ssim":
        attack = row.strongest_attack
        value = 1.0 if row.cut.name == CLOUD_ONLY else None if attack is None else attack.ssim
    elif limit == "max_fsinfo" and row.leakage is not None:
        value = row.leakage.fsinfo.value
    elif limit == "min_agreement":
        value = agreement(row)
    return value if value is not None and math.isfinite(value) else None
