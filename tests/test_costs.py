"""What a cut costs, against sums by hand; and how a sweep divides its time."""

from __future__ import annotations

import pytest

from splitdeploy.partitioner import costs
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY, CutPoint, TensorSpec
from splitdeploy.profiles.device import find_device
from splitdeploy.profiles.measurement import Measurement
from splitdeploy.profiles.network import NetworkProfile, find_network

NETWORK = NetworkProfile("test", 8e6, 16e6, 0.020, "wifi")


def cut(name: str = "c", payload: int = 1_000_000) -> CutPoint:
    tensor = TensorSpec("t", (1, payload), "int8")
    return CutPoint(name, 1, (tensor,), payload, 10, 20, 1000, 4000)


SIDES = costs.Sides(
    Measurement.single(0.005, "simulated", 0.008), Measurement.single(0.001, "predicted", 0.001)
)


def test_stages_add_up() -> None:
    stages = costs.stage_latency(cut(), SIDES, NETWORK, 2000)
    # 1 MB at 8 Mbit/s and half a round trip; 2 kB at 16 Mbit/s and the other half.
    assert stages.uplink.median == pytest.approx(1.0 + 0.010)
    assert stages.downlink.median == pytest.approx(0.001 + 0.010)
    assert stages.total.median == pytest.approx(0.005 + 1.010 + 0.001 + 0.011)
    assert stages.total.p95 == pytest.approx(stages.total.median + 0.003)
    assert stages.total.source == "simulated"


def test_nobody_waits_for_the_network_on_the_edge_alone() -> None:
    stages = costs.stage_latency(cut(EDGE_ONLY), SIDES, NETWORK, 2000)
    assert stages.uplink.median == stages.downlink.median == 0.0


def test_a_sum_is_measured_only_if_all_of_it_was() -> None:
    here = Measurement.from_samples([0.001] * 5)
    stages = costs.stage_latency(cut(EDGE_ONLY), costs.Sides(here, costs.NOTHING), NETWORK, 0)
    assert stages.total.source == "measured"
    stages = costs.stage_latency(cut(), costs.Sides(here, here), NETWORK, 0)
    assert stages.total.source == "predicted"


def test_energy_is_power_times_time_and_the_radio() -> None:
    nano = find_device("jetson-nano")
    found = costs.energy(cut(), SIDES, nano, None, find_network("wifi"), 0)
    assert found is not None
    active_w = nano.mode(None).active_w
    assert found.compute == pytest.approx(active_w * 0.005)
    assert found.total == pytest.approx(found.compute + found.radio)
    assert found.radio > 0
    alone = costs.energy(cut(EDGE_ONLY), SIDES, nano, None, find_network("wifi"), 0)
    assert alone is not None
    assert alone.radio == 0.0


def test_energy_without_a_power_model_is_not_made_up() -> None:
    assert costs.energy(cut(), SIDES, find_device("t4"), None, NETWORK, 0) is None


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("fp16", 2), ("int8", 1)])
def test_memory_is_weights_and_the_peak_of_activations(precision: str, size: int) -> None:
    assert costs.edge_memory_bytes(cut(), precision) == 1000 * size + 1000 * size
    assert costs.edge_memory_bytes(cut(CLOUD_ONLY), precision) == 0


def test_a_stream_needs_its_payload_times_its_rate() -> None:
    assert costs.uplink_needed_bps(cut(), 30.0) == 1_000_000 * 8 * 30
    assert costs.uplink_needed_bps(cut(), None) is None


def test_a_measured_board_and_a_modelled_radio_are_no_measurement() -> None:
    found = costs.measured_energy(cut(), 0.25, find_network("wifi"), 1000)
    assert found.compute == 0.25
    assert found.radio > 0
    assert found.total == found.compute + found.radio
    assert found.source == "predicted"
    alone = costs.measured_energy(cut(EDGE_ONLY), 0.25, find_network("wifi"), 1000)
    assert (alone.total, alone.source) == (0.25, "measured")
