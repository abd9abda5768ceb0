"""Energy of the board and of its radio, against hand calculations."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.profiles.device import DEVICES, find_device
from splitdeploy.profiles.errors import UnknownNameError, UsageError
from splitdeploy.profiles.network import NETWORKS, find_network
from splitdeploy.profiles.power import (
    RADIOS,
    RadioPower,
    active_power_w,
    compute_energy_j,
    radio_energy_j,
)


def test_no_radio_draws_hundreds_of_watts() -> None:
    wifi = RADIOS["wifi"]
    assert wifi.power_w(20e6, 0.0) == pytest.approx(1e-3 * (283.17 * 20 + 132.86))
    assert wifi.power_w(1e9, 0.0) == wifi.power_w(20e6, 0.0)
    assert wifi.power_w(1e6, 0.0) < wifi.power_w(20e6, 0.0)


def test_lte_by_hand() -> None:
    # 731,250 bytes are 5.85 Mbit: one second up, at 438.39 * 5.85 + 1288.04 mW.
    energy = radio_energy_j(find_network("lte"), 731_250, 0)
    assert energy == pytest.approx((438.39 * 5.85 + 1288.04) * 1e-3)
    # 1,720,000 bytes are 13.76 Mbit: one second down.
    energy = radio_energy_j(find_network("lte"), 0, 1_720_000)
    assert energy == pytest.approx((51.97 * 13.76 + 1288.04) * 1e-3)


@given(
    name=st.sampled_from(sorted(NETWORKS)),
    up=st.integers(0, 10**9),
    down=st.integers(0, 10**9),
)
def test_radio_energy_adds_up_and_never_falls(name: str, up: int, down: int) -> None:
    network = find_network(name)
    both = radio_energy_j(network, up, down)
    apart = radio_energy_j(network, up, 0) + radio_energy_j(network, 0, down)
    assert both == pytest.approx(apart)
    assert 0 <= both <= radio_energy_j(network, up + 1, down + 1)


def test_a_wire_costs_nothing_and_nothing_sent_costs_nothing() -> None:
    assert radio_energy_j(find_network("ethernet"), 10**9, 10**9) == 0
    assert radio_energy_j(find_network("3g"), 0, 0) == 0


def test_other_coefficients_may_be_given() -> None:
    network = find_network("wifi")
    radios = {"wifi": RadioPower(0.0, 0.0, 1000.0, "one watt whatever it does")}
    sent = network.uplink_bps / 8 * 3
    assert radio_energy_j(network, sent, 0, radios=radios) == pytest.approx(3.0)


def test_every_network_has_coefficients_with_a_source() -> None:
    assert {network.radio for network in NETWORKS.values()} <= RADIOS.keys()
    assert all(radio.source for radio in RADIOS.values())


def test_energy_is_power_times_time() -> None:
    board = find_device("jetson-orin-nano")
    assert compute_energy_j(board, 2.0, power_mode="15W") == pytest.approx(2 * 10.21)
    waiting = compute_energy_j(board, 2.0, power_mode="15W", wait_s=3.0)
    assert board.idle_w is not None
    assert waiting == pytest.approx(2 * 10.21 + 3 * board.idle_w)


def test_power_runs_from_idle_to_active_with_the_load() -> None:
    board = find_device("jetson-nano")
    full_w = board.mode().active_w
    assert board.idle_w is not None
    assert full_w is not None
    assert active_power_w(board, load=0.0) == board.idle_w
    assert active_power_w(board, load=1.0) == pytest.approx(full_w)
    assert active_power_w(board, load=0.5) == pytest.approx((full_w + board.idle_w) / 2)


def test_every_edge_device_has_a_power_model_in_each_mode() -> None:
    for device in DEVICES.values():
        if device.kind == "edge":
            for name in device.modes:
                assert compute_energy_j(device, 1.0, power_mode=name) > 0


def test_a_cloud_device_has_no_energy_to_count() -> None:
    with pytest.raises(UsageError, match="expected a device with a power model, got t4"):
        compute_energy_j(find_device("t4"), 1.0)


def test_what_cannot_be_meant_is_refused() -> None:
    nano, lte = find_device("jetson-nano"), find_network("lte")
    with pytest.raises(UsageError, match="load from 0 to 1, got 1.5"):
        active_power_w(nano, load=1.5)
    with pytest.raises(UsageError, match="times of zero or more, got -1.0 s busy"):
        compute_energy_j(nano, -1.0)
    with pytest.raises(UsageError, match="zero bytes or more, got -1 up and 0 down"):
        radio_energy_j(lte, -1, 0)
    with pytest.raises(UnknownNameError, match="unknown radio 'zigbee'"):
        radio_energy_j(dataclasses.replace(lte, radio="zigbee"), 1, 1)
