"""How many inferences a second a cut keeps up with when the stages work side by side.

In a pipeline each stage has the next inference to work on, so that the slowest sets the pace. What
a signal takes from one side to the other keeps no stage busy: half a round trip is taken off the
uplink and the downlink.
"""

from __future__ import annotations

from splitdeploy.profiles.network import NetworkProfile
from splitdeploy.profiles.report import StageLatency


def slowest_stage_s(latency: StageLatency, network: NetworkProfile) -> float:
    """How long the slowest stage is busy with one inference.

    Args:
        latency: The stages, over the network.
        network: Whose round trip is in them.

    Returns:
        Seconds; the pipeline's pace.
    """
    trip_s = network.rtt_s / 2
    return max(
        latency.edge.median,
        latency.cloud.median,
        latency.uplink.median - trip_s,
        latency.downlink.median - trip_s,
    )


def throughput_per_s(latency: StageLatency | None, network: NetworkProfile) -> float | None:
    """How many inferences a second a pipeline of the stages completes.

    Args:
        latency: The stages; None where they are not known.
        network: Whose round trip is in them.

    Returns:
        The rate; None where it is not known, or no stage takes any time.
    """
    if latency is None:
        return None
    slowest_s = slowest_stage_s(latency, network)
    return 1.0 / slowest_s if slowest_s > 0 else None
