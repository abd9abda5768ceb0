"""Temperatures, out of sysfs."""

from __future__ import annotations

from pathlib import Path

from splitdeploy.edge_runtime.board import read_text
from splitdeploy.edge_runtime.power.sysfs import read_number

_LOWEST_C, _HIGHEST_C = -100.0, 300.0
"""A sensor that is switched off says -256; others say nothing at all."""


def read_temperatures_c(root: Path = Path("/")) -> dict[str, float]:
    """Every temperature that can be read.

    Args:
        root: Of the file system.

    Returns:
        Degrees Celsius by the zone's name, without ``-thermal`` behind it.
    """
    found: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name, value = read_text(zone / "type"), read_number(zone / "temp")
        if not name or value is None or not _LOWEST_C < value * 1e-3 < _HIGHEST_C:
            continue
        for suffix in ("-thermal", "_thermal", "-therm"):
            name = name.removesuffix(suffix)
        found.setdefault(name, value * 1e-3)
    return found
