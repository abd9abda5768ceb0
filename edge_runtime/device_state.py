"""The state that a machine was measured in: board, power mode, clocks, temperatures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from splitdeploy.edge_runtime.board import Board, find_board
from splitdeploy.edge_runtime.clocks import Clock, Locked, locked, read_clocks
from splitdeploy.edge_runtime.power_mode import Nvpmodel
from splitdeploy.edge_runtime.thermal import read_temperatures_c
from splitdeploy.profiles.errors import SensorError


@dataclass(frozen=True)
class DeviceState:
    """A record for reports; taken before and after a measurement, it tells whether it held still.

    Attributes:
        board: None on a machine that is no Jetson.
        power_mode: By name; None where there is none.
        clocks: CPU, GPU, memory.
        locked: Whether the clocks cannot move.
        temperatures_c: By zone.
    """

    board: Board | None
    power_mode: str | None
    clocks: tuple[Clock, ...]
    locked: Locked
    temperatures_c: Mapping[str, float]

    @property
    def hottest_c(self) -> float | None:
        """The highest temperature; None where none can be read."""
        return max(self.temperatures_c.values(), default=None)

    def to_json(self) -> dict[str, Any]:
        """As a document."""
        return asdict(self)


def read_state(root: Path = Path("/"), nvpmodel: Nvpmodel | None = None) -> DeviceState:
    """Read what can be read.

    Args:
        root: Of the file system.
        nvpmodel: How the power mode is asked.

    Returns:
        The state; what cannot be read is left out.
    """
    board, mode = find_board(root), None
    if board is not None or nvpmodel is not None:
        try:
            mode = (nvpmodel or Nvpmodel()).current().name
        except SensorError:
            mode = None
    clocks = read_clocks(root)
    return DeviceState(board, mode, clocks, locked(clocks), read_temperatures_c(root))
