"""Which Jetson this machine is, by its device tree."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from splitdeploy.edge_runtime.power.rail_map import RAIL_MAPS

_L4T = re.compile(r"R(?P<major>\d+) \(release\), REVISION: (?P<minor>[\d.]+)")

# Jetson Linux releases, and the JetPack that brings them (NVIDIA's JetPack archive).
_JETPACK = (
    ("38.", "7"), ("36.4", "6.1 or 6.2"), ("36.3", "6.0"), ("36.2", "6.0 DP"),
    ("35.", "5.1"), ("34.", "5.0 DP"), ("32.7", "4.6.1 or later"), ("32.6", "4.6"),
    ("32.", "4"),
)  # fmt: skip


@dataclass(frozen=True)
class Board:
    """A Jetson.

    Attributes:
        profile: Name of its device profile; None for one that has none.
        model: As its device tree says.
        l4t: Jetson Linux, such as ``36.4.3``; None where it does not tell.
        jetpack: The JetPack that brings it, in words; None where that is not known.
    """

    profile: str | None
    model: str
    l4t: str | None
    jetpack: str | None


def find_board(root: Path = Path("/")) -> Board | None:
    """The Jetson that this machine is.

    Args:
        root: Of the file system.

    Returns:
        The board, or None on any other machine.
    """
    model = _text(root / "proc/device-tree/model")
    compatible = _text(root / "proc/device-tree/compatible")
    release = read_text(root / "etc/nv_tegra_release")
    profile = _profile(model, compatible)
    told = "jetson" in model.lower() or "nvidia,tegra" in compatible or profile is not None
    if not told and release is None:
        return None
    l4t = _l4t(release or "")
    return Board(profile, model or "unnamed", l4t, jetpack_of(l4t))


def jetpack_of(l4t: str | None) -> str | None:
    """The JetPack that brings a Jetson Linux.

    Args:
        l4t: Such as ``36.4.3``.

    Returns:
        Its version, in words; None where it is not known.
    """
    return next((name for start, name in _JETPACK if l4t and l4t.startswith(start)), None)


def _l4t(release: str) -> str | None:
    found = _L4T.search(release)
    return None if found is None else f"{found['major']}.{found['minor']}"


def _profile(model: str, compatible: str) -> str | None:
    lowered = model.lower()
    for name, known in RAIL_MAPS.items():
        if any(word in lowered for word in known.model):
            return name
    for name, known in RAIL_MAPS.items():
        if any(word in compatible for word in known.part):
            return name
    return None


def _text(path: Path) -> str:
    """A text of the device tree, where strings end with a zero byte."""
    return (read_text(path) or "").replace("\0", " ").strip()


def read_text(path: Path) -> str | None:
    """A small file of the system.

    Args:
        path: The file.

    Returns:
        Its text without the blanks around it; None where it cannot be read.
    """
    try:
        return path.read_text("utf-8", errors="replace").strip()
    except OSError:
        return None
