"""Device profiles: complete, sourced, and errors that help."""

import dataclasses

import pytest

from splitdeploy.profiles.device import DEVICES, DeviceProfile, ModelConstants, find_device
from splitdeploy.profiles.errors import UnknownNameError

JETSONS = (
    "jetson-nano", "jetson-tx2", "jetson-xavier-nx", "jetson-agx-xavier", "jetson-orin-nano",
    "jetson-orin-nx", "jetson-agx-orin",
)  # fmt: skip
UNSOURCED = {
    "name", "title", "kind", "architecture", "max_gpu_mhz", "default_mode", "constants",
    "precision_time", "derived_from", "validation", "latency_source", "provenance",
    "fitted_precision",
}  # fmt: skip
"""Names, words, and what the provenance of another field covers."""

every_device = pytest.mark.parametrize("device", DEVICES.values(), ids=lambda d: d.name)


def test_all_jetsons_and_the_cloud_are_there() -> None:
    assert set(JETSONS) | {"t4", "a100"} <= DEVICES.keys()
    assert all(find_device(name).kind == "edge" for name in JETSONS)
    assert find_device("t4").latency_source == "predicted"
    assert find_device("jetson-nano").latency_source == "simulated"


@every_device
def test_every_number_has_its_provenance(device: DeviceProfile) -> None:
    fields = {field.name for field in dataclasses.fields(device)} - UNSOURCED
    constants = {field.name for field in dataclasses.fields(ModelConstants)}
    assert fields | constants <= device.provenance.keys()
    assert all(device.provenance[field] for field in fields | constants)
    if device.precision_time:
        assert "YOLO" in device.provenance["precision_time"]


@every_device
def test_numbers_are_within_what_is_physical(device: DeviceProfile) -> None:
    constants = device.constants
    for share in (
        constants.compute_efficiency, constants.depthwise_efficiency, constants.memory_efficiency,
    ):  # fmt: skip
        assert 0 < share < 1
    assert 1 <= constants.winograd_gain <= 2.25, "F(2x2, 3x3) saves no more than 2.25"
    assert {"fp32", "fp16"} <= device.peak_flops.keys()
    assert device.peak_flops["fp32"] < device.peak_flops["fp16"]
    for mode in device.modes.values():
        assert 0 < mode.gpu_mhz <= device.max_gpu_mhz
        assert 0 < mode.cores_share <= 1
        assert 0 < mode.bandwidth_share <= 1
        if device.idle_w is not None and mode.active_w is not None:
            assert device.idle_w < mode.active_w
        if mode.watts is not None and mode.active_w is not None:
            assert mode.active_w <= mode.watts


@every_device
def test_validation_says_what_it_is(device: DeviceProfile) -> None:
    if device.derived_from is None:
        assert "fitted to and compared with" in device.validation
    else:
        assert "not validated" in device.validation
        assert find_device(device.derived_from).title in device.validation
    assert "%" in device.validation
    assert "{" not in device.validation


def test_the_modes_of_a_board_are_found_by_name_in_any_case() -> None:
    board = find_device("jetson-orin-nano")
    assert board.mode("maxn_super") is board.modes["MAXN_SUPER"]
    assert board.mode() is board.modes[board.default_mode]


def test_an_unknown_device_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown device 'jetson-nan': .*jetson-nano"):
        find_device("jetson-nan")


def test_an_unknown_mode_offers_those_of_the_board() -> None:
    with pytest.raises(UnknownNameError, match=r"power mode of jetson-nano '99W': .*10W"):
        find_device("jetson-nano").mode("99W")
