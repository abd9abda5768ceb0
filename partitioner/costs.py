"""What a cut costs: the stages of its latency, the device's energy and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY, PRECISIONS, CutPoint, item_bytes
from splitdeploy.profiles.device import DeviceProfile
from splitdeploy.profiles.kernel import KernelGroup
from splitdeploy.profiles.measurement import Measurement, Source
from splitdeploy.profiles.network import NetworkProfile
from splitdeploy.profiles.power import compute_energy_j, radio_energy_j
from splitdeploy.profiles.report import Energy, StageLatency
from splitdeploy.profiles.simulate import simulate_latency

NOTHING = Measurement.single(0.0, "predicted")


@dataclass(frozen=True)
class Sides:
    """How long each half of a cut computes, and how busy the head keeps its device."""

    edge: Measurement
    cloud: Measurement
    edge_load: float = 1.0


def simulated(
    groups: Sequence[KernelGroup], device: DeviceProfile, precision: str, power_mode: str | None
) -> tuple[Measurement, float]:
    """The simulated time of one half.

    Args:
        groups: Its fused kernels.
        device: What it runs on.
        precision: What it computes in.
        power_mode: By name; None for the device's default.

    Returns:
        The median, with the 95th percentile by the device model's error; and the share of the time
        in which the device has work, from 0 to 1.
    """
    if not groups:
        return NOTHING, 0.0
    found = simulate_latency(groups, device, precision=precision, power_mode=power_mode)
    return Measurement.single(found.latency_s, device.latency_source, found.p95_s), found.load


def one_after_other(
    first: tuple[Measurement, float], second: tuple[Measurement, float]
) -> tuple[Measurement, float]:
    """Two parts of one simulated device, which computes them one after the other.

    Args:
        first: Its time and load, as `simulated` gives them.
        second: The same of the other part.

    Returns:
        Of both. Their 95th percentiles add up, for one model's error is behind both.
    """
    (one, load), (other, other_load) = first, second
    whole_s = one.median + other.median
    if not whole_s:
        return NOTHING, 0.0
    busy_s = one.median * load + other.median * other_load
    source = one.source if one.median else other.source
    return Measurement.single(whole_s, source, one.p95 + other.p95), busy_s / whole_s


def with_messages(computing: Measurement, request_s: float) -> Measurement:
    """What one end of a request takes in all, where it was measured.

    Args:
        computing: The time of its half.
        request_s: What making, sending, taking and reading messages costs it.

    Returns:
        Both, one after the other.
    """
    if not computing.median:
        return Measurement.single(request_s, "measured")
    median_s = computing.median + request_s
    return replace(
        computing,
        median=median_s,
        p95=computing.p95 + request_s,
        spread=computing.spread * computing.median / median_s,
    )


def stage_latency(
    cut: CutPoint, sides: Sides, network: NetworkProfile, result_bytes: int, batch: int = 1
) -> StageLatency:
    """All stages of one request, until the device has the results.

    On the edge alone nothing is waited for on the network. The round trip is paid once a request.

    Args:
        cut: Its tensors as they are sent.
        sides: The times of its halves, for the whole request.
        network: Between them.
        result_bytes: What comes back for one input.
        batch: How many inputs the request has.

    Returns:
        The stages and their sum. The sum's 95th percentile takes the stages as independent: their
        distances from the median add in squares.
    """
    up = down = NOTHING
    if cut.name != EDGE_ONLY:
        up = Measurement.single(network.uplink_s(batch * cut.payload_bytes), "predicted")
        down = Measurement.single(network.downlink_s(batch * result_bytes), "predicted")
    stages = (sides.edge, up, sides.cloud, down)
    median = sum(stage.median for stage in stages)
    tail = math.sqrt(sum((stage.p95 - stage.median) ** 2 for stage in stages))
    total = Measurement.single(median, _weakest(stages), median + tail)
    return StageLatency(sides.edge, up, sides.cloud, down, total)


def _weakest(stages: Sequence[Measurement]) -> Source:
    """The source of a sum: measured only if all of it was."""
    sources = {stage.source for stage in stages if stage.median > 0}
    for source in ("simulated", "predicted", "published"):
        if source in sources:
            return source
    return "measured"


def energy(
    cut: CutPoint,
    sides: Sides,
    device: DeviceProfile,
    power_mode: str | None,
    network: NetworkProfile,
    result_bytes: int,
    batch: int = 1,
) -> Energy | None:
    """What one inference costs the device, of a request its share.

    Args:
        cut: Its tensors as they are sent.
        sides: The times of its halves, for the whole request.
        device: What the head is simulated on.
        power_mode: By name; None for the device's default.
        network: Whose radio model applies.
        result_bytes: What comes back for one input.
        batch: How many inputs the request has.

    Returns:
        Joules for computing and for the radio, and their sum; None where no power model is known.
    """
    if device.idle_w is None or device.mode(power_mode).active_w is None:
        return None
    busy_s = sides.edge.median
    request_j = compute_energy_j(device, busy_s, power_mode=power_mode, load=sides.edge_load)
    compute = request_j / batch
    radio = _radio_j(cut, network, result_bytes)
    return Energy(compute, radio, compute + radio, device.latency_source)


def measured_energy(
    cut: CutPoint, compute_j: float, network: NetworkProfile, result_bytes: int
) -> Energy:
    """What one inference costs a device whose board was measured; the radio's share is a model's.

    Args:
        cut: Its tensors as they are sent.
        compute_j: What a run of the head costs the whole board, in joules.
        network: Whose radio model applies.
        result_bytes: What comes back.

    Returns:
        Joules for computing and for the radio, and their sum: measured only without a radio.
    """
    radio = _radio_j(cut, network, result_bytes)
    source: Source = "predicted" if radio else "measured"
    return Energy(compute_j, radio, compute_j + radio, source)


def _radio_j(cut: CutPoint, network: NetworkProfile, result_bytes: int) -> float:
    if cut.name == EDGE_ONLY:
        return 0.0
    return radio_energy_j(network, cut.payload_bytes, result_bytes)


def edge_memory_bytes(cut: CutPoint, precision: str, batch: int = 1) -> int:
    """What the edge's part occupies: its weights and the most activations that are alive at once.

    Args:
        cut: The cut.
        precision: What the head computes in.
        batch: How many inputs a request has, all of whose activations are alive.

    Returns:
        Bytes; an engine's workspace and the runtime itself come on top.
    """
    if cut.name == CLOUD_ONLY and cut.last is None:
        return 0
    size = item_bytes(PRECISIONS[precision])
    return cut.head_parameters * size + batch * cut.head_peak_activation_bytes * size // 4


def uplink_needed_bps(cut: CutPoint, fps: float | None) -> float | None:
    """What a stream of inputs needs of the uplink, however many make a request.

    Args:
        cut: Its tensors as they are sent.
        fps: Inputs a second; None where there is no stream.

    Returns:
        Bits per second, or None.
    """
    return None if fps is None else cut.payload_bytes * 8 * fps
