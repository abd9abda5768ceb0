"""What is asked of the figures of a sweep: over which link, within which limits, best in what.

``profile`` asks it of the figures that it makes, ``recommend`` of those that a run has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from splitdeploy.cli.options import all_of
from splitdeploy.profiles.bandwidth_trace import TraceSample, read_trace
from splitdeploy.profiles.errors import UsageError
from splitdeploy.profiles.network import NETWORKS, NetworkProfile, find_network
from splitdeploy.profiles.report import Constraints, Objective
from splitdeploy.profiles.units import (
    parse_energy_j,
    parse_rate_bps,
    parse_size_bytes,
    parse_time_s,
)

OBJECTIVES = ("latency", "energy", "leakage", "balanced", "throughput")

network_options = all_of(
    click.option("--network", metavar="NAME", help=f"One of {', '.join(NETWORKS)}; default wifi."),
    click.option("--uplink", metavar="RATE", help="Bits per second to the cloud, such as 10mbit."),
    click.option("--downlink", metavar="RATE", help="Bits per second from the cloud."),
    click.option("--rtt", metavar="TIME", help="Round trip of a small message, such as 20ms."),
    click.option("--uplink-spread", type=click.FloatRange(0), metavar="SHARE",
                 help="How far the rates vary, as a share: 0.3; default: usual of the radio."),
)  # fmt: skip

decision_options = all_of(
    click.option("--max-latency", metavar="TIME", help="Of the total, such as 30ms."),
    click.option("--max-energy", metavar="ENERGY", help="Of the device an inference, as 200mJ."),
    click.option("--max-edge-memory", metavar="SIZE", help="Of the head, such as 512MB."),
    click.option("--max-ssim", type=float, help="Of the strongest attack's reconstructions."),
    click.option("--max-fsinfo", type=float, help="FSInfo in nats per input element."),
    click.option("--min-agreement", type=click.FloatRange(0, 1, min_open=True), metavar="SHARE",
                 help="Of the pictures that keep their class with the codec, such as 0.95."),
    click.option("--confidence", type=click.FloatRange(0, 1, min_open=True, max_open=True),
                 metavar="P", help="Each limit has to hold with this probability, such as 0.95; "
                 "default: the median has to."),
    click.option("--objective", metavar="NAME", default="balanced", show_default=True,
                 help=f"What to minimise: {', '.join(OBJECTIVES)}."),
    click.option("--weight-latency", type=float, default=1.0, show_default=True,
                 help="Of latency in balanced."),
    click.option("--weight-energy", type=float, default=1.0, show_default=True,
                 help="Of energy in balanced."),
    click.option("--weight-leakage", type=float, default=1.0, show_default=True,
                 help="Of leakage in balanced."),
)  # fmt: skip

trace_options = all_of(
    click.option("--trace", type=click.Path(path_type=Path), metavar="FILE.csv",
                 help="The link over time: time_s,uplink_bps[,downlink_bps,rtt_s]."),
    click.option("--switch-cost", metavar="TIME",
                 help="Of a change of the cut, in a schedule over --trace; default 0ms."),
)  # fmt: skip

schedule_option = click.option(
    "--fps", type=click.FloatRange(0, min_open=True), metavar="N",
    help="Inferences a second, in a schedule over --trace; default 1.",
)  # fmt: skip

question_options = all_of(network_options, decision_options, trace_options)


@dataclass(frozen=True)
class Question:
    """What ``question_options`` ask.

    Attributes:
        network: Between edge and cloud; None where none was given.
        uplink_spread: How far its rates vary; None for what is usual of it.
        constraints: Hard limits.
        objective: What to minimise.
        trace: The link over time; None without.
        switch_cost_s: Of a change of the cut, in a schedule over it.
    """

    network: NetworkProfile | None
    uplink_spread: float | None
    constraints: Constraints
    objective: Objective
    trace: tuple[TraceSample, ...] | None
    switch_cost_s: float

    def network_or(self, usual: NetworkProfile) -> NetworkProfile:
        """The network that was given, or else the usual one, with the spread that was given."""
        network = self.network or usual
        if self.uplink_spread is None:
            return network
        return replace(network, uplink_spread=self.uplink_spread)


def given_question(
    given: Mapping[str, Any], *, needs_trace: Sequence[str] = ("switch_cost",)
) -> Question:
    """What ``question_options`` ask.

    Args:
        given: Their values.
        needs_trace: Options of the command that mean nothing without ``--trace``.

    Returns:
        The question.

    Raises:
        UsageError: An option contradicts the trace, or means nothing without one.
    """
    network = _network(given)
    constraints, objective = _constraints(given), _objective(given)
    for name in ("uplink", "uplink_spread") if given["trace"] else needs_trace:
        if given[name] is not None:
            flag = f"--{name.replace('_', '-')}"
            told = "a trace tells the rates itself" if given["trace"] else "it needs a --trace"
            raise UsageError(f"expected no {flag} here, got {given[name]}: {told}; drop one")
    switch_cost_s = parse_time_s(given["switch_cost"] or "0ms", zero=True)
    trace = None if given["trace"] is None else read_trace(given["trace"])
    return Question(network, given["uplink_spread"], constraints, objective, trace, switch_cost_s)


def _network(given: Mapping[str, Any]) -> NetworkProfile | None:
    """The network that ``network_options`` describe; None where none of them was given."""
    network, uplink, downlink, rtt = (
        given[name] for name in ("network", "uplink", "downlink", "rtt")
    )
    if network is None and uplink is None and downlink is None and rtt is None:
        return None
    base = find_network(network or "wifi")
    if uplink is None and downlink is None and rtt is None:
        return base
    uplink_bps = parse_rate_bps(uplink) if uplink else base.uplink_bps
    # Who gives the uplink alone has no slower a link the other way.
    downlink_bps = parse_rate_bps(downlink) if downlink else max(base.downlink_bps, uplink_bps)
    return replace(
        base,
        name=base.name if network else "custom",
        uplink_bps=uplink_bps,
        downlink_bps=downlink_bps,
        rtt_s=parse_time_s(rtt, zero=True) if rtt else base.rtt_s,
        source="given",
    )


def _constraints(given: Mapping[str, Any]) -> Constraints:
    """The constraints that ``decision_options`` describe."""
    latency, energy = given["max_latency"], given["max_energy"]
    memory = given["max_edge_memory"]
    return Constraints(
        max_latency_s=parse_time_s(latency) if latency else None,
        max_energy_j=parse_energy_j(energy) if energy else None,
        max_edge_memory_bytes=parse_size_bytes(memory) if memory else None,
        max_ssim=given["max_ssim"],
        max_fsinfo=given["max_fsinfo"],
        min_agreement=given["min_agreement"],
        confidence=given["confidence"],
    )


def _objective(given: Mapping[str, Any]) -> Objective:
    """The objective that ``decision_options`` describe."""
    return Objective(
        given["objective"],
        given["weight_latency"],
        given["weight_energy"],
        given["weight_leakage"],
    )
