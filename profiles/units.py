"""Quantities with units: parsed from what people type, formatted for what people read.

Inside the program every quantity is in SI base units, and its name says which: ``latency_s``,
``energy_j``, ``uplink_bps``, ``payload_bytes``.
"""

from __future__ import annotations

import math
import re

from splitdeploy.profiles.errors import UsageError

_NUMBER = re.compile(r"^\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-zµ/]*)\s*$")

_TIME_S = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_RATE_BPS = {
    "bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9,
    "bps": 1.0, "kbps": 1e3, "mbps": 1e6, "gbps": 1e9,
    "bit/s": 1.0, "kbit/s": 1e3, "mbit/s": 1e6, "gbit/s": 1e9,
}  # fmt: skip
_ENERGY_J = {"uj": 1e-6, "µj": 1e-6, "mj": 1e-3, "j": 1.0}
_SIZE_BYTES = {
    "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30,
}  # fmt: skip


def _parse(text: str, units: dict[str, float], what: str, example: str, *, zero: bool) -> float:
    match = _NUMBER.match(text)
    known = ", ".join(units)
    if match is None or match[2].lower() not in units:
        raise UsageError(
            f"expected a {what} with a unit such as {example}, got {text!r}; units: {known}"
        )
    value = float(match[1]) * units[match[2].lower()]
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        bound = "of zero or more" if zero else "above zero"
        raise UsageError(f"expected a {what} {bound} such as {example}, got {text!r}")
    return value


def parse_time_s(text: str, *, zero: bool = False) -> float:
    """Seconds from text such as ``30ms``, ``60s``, ``10m`` or ``2h``.

    Args:
        text: A number and a unit.
        zero: Whether zero is allowed.

    Returns:
        The time in seconds.

    Raises:
        UsageError: There is no unit, an unknown one, or the number is out of range.
    """
    return _parse(text, _TIME_S, "time", "30ms", zero=zero)


def parse_rate_bps(text: str) -> float:
    """Bits per second from text such as ``10mbit``, ``5.85mbps`` or ``1gbit``.

    Bytes per second are refused on purpose: the unit of a link is the bit.

    Args:
        text: A number and a unit.

    Returns:
        The rate in bits per second.

    Raises:
        UsageError: There is no unit, an unknown one, or the number is not above zero.
    """
    return _parse(text, _RATE_BPS, "bit rate", "10mbit", zero=False)


def parse_energy_j(text: str) -> float:
    """Joules from text such as ``200mJ``.

    Args:
        text: A number and a unit.

    Returns:
        The energy in joules.

    Raises:
        UsageError: There is no unit, an unknown one, or the number is not above zero.
    """
    return _parse(text, _ENERGY_J, "energy", "200mJ", zero=False)


def parse_size_bytes(text: str) -> int:
    """Bytes from text such as ``512MB`` (10^6) or ``512MiB`` (2^20).

    Args:
        text: A number and a unit.

    Returns:
        The size in bytes, rounded to the nearest.

    Raises:
        UsageError: There is no unit, an unknown one, or the number is not above zero.
    """
    return round(_parse(text, _SIZE_BYTES, "size", "512MB", zero=False))


def _scaled(value: float, steps: list[tuple[float, str]]) -> str:
    if value == 0:
        return f"0 {next(unit for factor, unit in steps if factor == 1.0)}"
    for factor, unit in steps:
        # Three digits of 999.9 are those of 1000, which the next larger unit shows as 1.
        if abs(value) >= 0.9995 * factor or (factor, unit) == steps[-1]:
            return f"{value / factor:.3g} {unit}"
    raise AssertionError("the last step always matches")


def format_time(value_s: float) -> str:
    """A time for people: ``11.4 ms``."""
    return _scaled(value_s, [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")])


def format_rate(value_bps: float) -> str:
    """A bit rate for people: ``5.85 Mbit/s``."""
    return _scaled(value_bps, [(1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"), (1.0, "bit/s")])


def format_energy(value_j: float) -> str:
    """An energy for people: ``83 mJ``."""
    return _scaled(value_j, [(1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ")])


def format_size(value_bytes: float) -> str:
    """A size for people, in powers of ten: ``401 kB``."""
    return _scaled(value_bytes, [(1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")])


def format_count(value: float) -> str:
    """A count for people: ``1.81 G``."""
    return _scaled(value, [(1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")]).strip()
