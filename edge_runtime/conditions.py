"""Under what conditions a device measures: what it is, its power mode, clocks, temperatures."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from splitdeploy.profiles.errors import UsageError


def conditions(root: Path = Path("/")) -> dict[str, Any]:
    """What can be told right now; what the device does not tell is null.

    Args:
        root: Of the file system.

    Returns:
        Names and values that JSON can hold.
    """
    return {
        "board": None,
        "machine": platform.machine(),
        "power_mode": None,
        "clocks_mhz": {},
        "temperatures_c": {},
    }


@contextlib.contextmanager
def in_power_mode(name: str | None) -> Iterator[None]:
    """Measure in a power mode, and restore the one that was.

    Args:
        name: By name; None leaves it as it is.

    Yields:
        While it is set.

    Raises:
        UsageError: This device's mode cannot be set.
    """
    if name is not None:
        raise UsageError(f"the power mode {name!r} cannot be set on this device: leave it out")
    yield
