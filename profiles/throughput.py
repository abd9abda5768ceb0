"""How many inputs a second a cut keeps up with when the stages work side by side.

In a pipeline each stage has the next request to work on, so that the slowest sets the pace. What
a signal takes from one side to the other keeps no stage busy: half a round trip is taken off the
uplink and the downlink. A request of several inputs counts as so many.
"""

from __future__ import annotations

from splitdeploy.profiles.network import NetworkProfile
from splitdeploy.profiles.report import StageLatency


def slowest_stage_s(latency: StageLatency, network: NetworkProfile, batch: int = 1) -> float:
    """How long the slowest stage is busy with one input: its share of the request.

    Args:
        latency: The stages of a request, over the network.
        network: Whose round trip is in them.
        batch: How many inputs the request has.

    Returns:
        Seconds; the pipeline's pace.
    """
    trip_s = network.rtt_s / 2
    busy_s = max(
        latency.edge.median,
        latency.cloud.median,
        latency.uplink.median - trip_s,
        latency.downlink.median - trip_s,
    )
    return busy_s / batch


def throughput_per_s(
    latency: StageLatency | None, network: NetworkProfile, batch: int = 1
) -> float | None:
    """How many inputs a second a pipeline of the stages completes.

    Args:
        latency: The stages of a request; None where they are not known.
        network: Whose round trip is in them.
        batch: How many inputs the request has.

    Returns:
        The rate; None where it is not known, or no stage takes any time.
    """
    if latency is None:
        return None
    slowest_s = slowest_stage_s(latency, network, batch)
    return 1.0 / slowest_s if slowest_s > 0 else None
