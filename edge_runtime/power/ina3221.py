"""INA3221: the monitor of three rails on most Jetsons, over both layouts that kernels show it in.

hwmon (JetPack 5 and later)   hwmon*/in{n}_label, in{n}_input in mV, curr{n}_input in mA
iio (JetPack 4)               iio:device*/rail_name_{n}, in_voltage{n}_input in mV,
                              in_current{n}_input in mA, in_power{n}_input in mW
"""

from __future__ import annotations

from pathlib import Path

from splitdeploy.edge_runtime.board import read_text
from splitdeploy.edge_runtime.power.rail_map import is_used
from splitdeploy.edge_runtime.power.sysfs import Channel, read_number, real_folders

_CHIP = "INA3221"
_CHANNELS = 3


def find_channels(root: Path = Path("/")) -> list[Channel]:
    """Every rail of every INA3221, each once, whichever way sysfs leads to it.

    Args:
        root: Of the file system.

    Returns:
        The rails by address and channel; without those that are not connected or switched off.
    """
    bus = root / "sys/bus/i2c"
    chips = [
        folder
        for folder in bus.glob("devices/*")
        if (read_text(folder / "name") or "").startswith("ina3221")
    ]
    chips += bus.glob("drivers/ina3221*/*-*")
    hwmon = [folder for chip in chips for folder in chip.glob("hwmon/hwmon*")]
    hwmon += [
        folder
        for folder in (root / "sys/class/hwmon").glob("hwmon*")
        if read_text(folder / "name") == "ina3221"
    ]
    iio = [folder for chip in chips for folder in chip.glob("iio:device*")]
    iio += [
        folder
        for folder in (root / "sys/bus/iio/devices").glob("iio:device*")
        if (folder / "rail_name_0").exists()
    ]
    found = [c for folder in real_folders(hwmon) for c in _hwmon_channels(folder)]
    found += [c for folder in real_folders(iio) for c in _iio_channels(folder)]
    # A kernel that shows both layouts shows the same rail twice.
    return list({channel.name: channel for channel in reversed(found)}.values())[::-1]


def _hwmon_channels(folder: Path) -> list[Channel]:
    interval_ms = read_number(folder / "update_interval")
    found = []
    for number in range(1, _CHANNELS + 1):
        name = read_text(folder / f"in{number}_label") or ""
        enabled = read_number(folder / f"in{number}_enable") != 0
        if is_used(name) and enabled:
            voltage, current = folder / f"in{number}_input", folder / f"curr{number}_input"
            interval_s = interval_ms * 1e-3 if interval_ms else None
            found.append(Channel(name, _CHIP, None, voltage, current, interval_s))
    return found


def _iio_channels(folder: Path) -> list[Channel]:
    found = []
    for number in range(_CHANNELS):
        name = read_text(folder / f"rail_name_{number}") or ""
        if is_used(name):
            power = folder / f"in_power{number}_input"
            voltage = folder / f"in_voltage{number}_input"
            current = folder / f"in_current{number}_input"
            found.append(Channel(name, _CHIP, (power, 1e-3), voltage, current))
    return found
