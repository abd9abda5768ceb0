"""Under what conditions a device measures: what it is, its power mode, clocks, temperatures."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from splitdeploy.edge_runtime.device_state import read_state


def conditions(root: Path = Path("/")) -> dict[str, Any]:
    """What can be told right now; what the device does not tell is null or left out.

    Args:
        root: Of the file system.

    Returns:
        Names and values that JSON can hold.
    """
    state = read_state(root)
    clocks = {clock.name: clock.now_mhz for clock in state.clocks if clock.now_mhz is not None}
    return {
        "board": None if state.board is None else state.board.model,
        "jetpack": None if state.board is None else state.board.jetpack,
        "machine": platform.machine(),
        "power_mode": state.power_mode,
        "clocks_mhz": clocks,
        "clocks_locked": state.to_json()["locked"],
        "temperatures_c": dict(state.temperatures_c),
    }
