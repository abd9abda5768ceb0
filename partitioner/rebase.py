"""A report seen over another network: nothing is measured again."""

from __future__ import annotations

from dataclasses import replace

from splitdeploy.profiles.cut import EDGE_ONLY
from splitdeploy.profiles.measurement import Measurement
from splitdeploy.profiles.network import NetworkProfile
from splitdeploy.profiles.power import radio_energy_j
from splitdeploy.profiles.report import CutReport, SweepReport


def with_network(report: SweepReport, network: NetworkProfile) -> SweepReport:
    """The same report over another network.

    Uplink, downlink and total latency and the radio's energy follow from the stored payloads. A
    stage that took no time in the report sends nothing, and takes none here either. The
    recommendation and the feasibility are left as they are: decide anew.

    Args:
        report: A report over any network.
        network: The network to see it over.

    Returns:
        The report, its network replaced; the report itself where the network is its own.
    """
    if network == report.network:
        return report
    rows = tuple(
        _row(row, network, downlink_bytes(report, row), report.batch_of(row)) for row in report.cuts
    )
    return replace(report, network=network, cuts=rows)


def downlink_bytes(report: SweepReport, row: CutReport) -> int:
    """What the downlink carries for one inference through a cut.

    Args:
        report: A report.
        row: One of its rows.

    Returns:
        The size of the result; with a second cut, of what comes back there.
    """
    return result_bytes(report) if row.cut.last is None else row.cut.last.downlink_bytes


def result_bytes(report: SweepReport) -> int:
    """The size of the result of one inference."""
    if report.result_bytes is not None:
        return report.result_bytes
    return next((row.cut.payload_bytes for row in report.cuts if row.cut.name == EDGE_ONLY), 0)


def _row(row: CutReport, network: NetworkProfile, down_bytes: int, batch: int) -> CutReport:
    latency = row.latency_s
    if latency is None:
        return row
    sends, receives = latency.uplink.median > 0, latency.downlink.median > 0
    up_s = network.uplink_s(batch * row.cut.payload_bytes) if sends else 0.0
    down_s = network.downlink_s(batch * down_bytes) if receives else 0.0
    uplink = Measurement.single(up_s, "predicted") if sends else latency.uplink
    downlink = Measurement.single(down_s, "predicted") if receives else latency.downlink
    # The rest of the total, compute and whatever joins it, does not depend on the network.
    rest_s = max(0.0, latency.total.median - latency.uplink.median - latency.downlink.median)
    rest_p95_s = max(rest_s, latency.total.p95 - latency.uplink.p95 - latency.downlink.p95)
    total = replace(
        latency.total,
        median=rest_s + up_s + down_s,
        p95=rest_p95_s + up_s + down_s,
        source="predicted" if latency.total.source == "measured" else latency.total.source,
    )
    stages = replace(latency, uplink=uplink, downlink=downlink, total=total)
    energy = row.energy_j
    if energy is not None:  # which is an input's, whatever the request has
        radio = radio_energy_j(
            network, row.cut.payload_bytes if sends else 0, down_bytes if receives else 0
        )
        energy = replace(energy, radio=radio, total=energy.compute + radio)
    return replace(row, latency_s=stages, energy_j=energy)
