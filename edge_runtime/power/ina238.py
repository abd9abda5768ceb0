"""INA238: the monitor of the input of a Jetson AGX Thor's carrier.

hwmon*/in1_input in mV (in0 is the shunt), curr1_input in mA, power1_input in µW.
"""

from __future__ import annotations

from pathlib import Path

from splitdeploy.edge_runtime.board import read_text
from splitdeploy.edge_runtime.power.rail_map import is_used
from splitdeploy.edge_runtime.power.sysfs import Channel, read_number, real_folders

_CHIP = "INA238"
_INPUT = "VIN"


def find_channels(root: Path = Path("/")) -> list[Channel]:
    """The rail of every INA238.

    Args:
        root: Of the file system.

    Returns:
        The rails; one that bears no name is ``VIN``, where the only such monitor sits.
    """
    folders = [
        folder
        for folder in (root / "sys/class/hwmon").glob("hwmon*")
        if read_text(folder / "name") == "ina238"
    ]
    folders += [
        folder
        for chip in (root / "sys/bus/i2c/devices").glob("*")
        if read_text(chip / "name") == "ina238"
        for folder in chip.glob("hwmon/hwmon*")
    ]
    found: dict[str, Channel] = {}
    for folder in real_folders(folders):
        name = read_text(folder / "in1_label") or read_text(folder / "label") or _INPUT
        interval_ms = read_number(folder / "update_interval")
        if is_used(name):
            channel = Channel(
                name,
                _CHIP,
                (folder / "power1_input", 1e-6),
                folder / "in1_input",
                folder / "curr1_input",
                interval_ms * 1e-3 if interval_ms else None,
            )
            found.setdefault(name, channel)
    return list(found.values())
