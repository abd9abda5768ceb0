"""The power reader of this machine: the nearest to the sensor that works."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from splitdeploy.edge_runtime.board import find_board
from splitdeploy.edge_runtime.power import ina238, ina3221
from splitdeploy.edge_runtime.power.jtop_reader import open_jtop
from splitdeploy.edge_runtime.power.nvml import open_nvml
from splitdeploy.edge_runtime.power.rail_map import total_for
from splitdeploy.edge_runtime.power.rapl import open_rapl
from splitdeploy.edge_runtime.power.reader import NotMeasured, PowerReader
from splitdeploy.edge_runtime.power.sysfs import SysfsReader
from splitdeploy.edge_runtime.power.tegrastats import open_tegrastats


def find_power_reader(
    root: Path = Path("/"),
    *,
    tegrastats: Sequence[str] | None = None,
    load: Callable[[str], Any] = importlib.import_module,
) -> PowerReader | NotMeasured:
    """Find what tells this machine's draw.

    On a Jetson: the monitors' files, tegrastats, jtop. Elsewhere: NVML, RAPL, which cover a part of
    the machine, and say so.

    Args:
        root: Of the file system.
        tegrastats: The command that runs it; None looks for it on the path.
        load: Imports an optional module by name.

    Returns:
        A reader, to be closed; or why nothing can be measured, with what was tried.
    """
    board = find_board(root)
    name = None if board is None else board.profile
    command = tegrastats or _on_path("tegrastats")
    tried = [_open_sysfs(root, name)]
    if isinstance(tried[-1], NotMeasured) and command:
        tried.append(open_tegrastats(command, name))
    if isinstance(tried[-1], NotMeasured) and board is not None:
        tried.append(open_jtop(load, name))
    if isinstance(tried[-1], NotMeasured) and board is None:
        tried.append(open_nvml(load))
    if isinstance(tried[-1], NotMeasured) and board is None:
        tried.append(open_rapl(root))
    if isinstance(tried[-1], NotMeasured):
        return NotMeasured("; ".join(r.reason for r in tried if isinstance(r, NotMeasured)))
    return tried[-1]


def _open_sysfs(root: Path, board: str | None) -> PowerReader | NotMeasured:
    channels = [*ina3221.find_channels(root), *ina238.find_channels(root)]
    if not channels:
        return NotMeasured("there is no INA3221 or INA238 under /sys")
    total = total_for(board, [channel.name for channel in channels])
    return total if isinstance(total, NotMeasured) else SysfsReader(channels, total)


def _on_path(program: str) -> list[str] | None:
    found = shutil.which(program)
    return None if found is None else [found]
