"""Clocks of CPU, GPU and memory, out of sysfs, and whether they are locked (``jetson_clocks``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from splitdeploy.edge_runtime.power.sysfs import read_number, real_folders

_GPU_NAMES = ("gpu", "gv11b", "gp10b", "gm20b", "ga10b", "gb10b")
_MHZ_OF_KHZ, _MHZ_OF_HZ = 1e-3, 1e-6

Locked = Literal["locked", "free", "unknown"]


@dataclass(frozen=True)
class Clock:
    """A clock, in MHz; None where it does not tell.

    Attributes:
        name: ``cpu0``, ``gpu``, ``emc``.
        now_mhz: What it runs at.
        lowest_mhz: What it may fall to.
        highest_mhz: What it may rise to.
    """

    name: str
    now_mhz: float | None
    lowest_mhz: float | None
    highest_mhz: float | None

    @property
    def is_locked(self) -> bool | None:
        """Whether it may not move; None where that is not known."""
        if self.lowest_mhz is None or self.highest_mhz is None:
            return None
        return self.lowest_mhz >= self.highest_mhz


def read_clocks(root: Path = Path("/")) -> tuple[Clock, ...]:
    """Every clock that can be read.

    Args:
        root: Of the file system.

    Returns:
        CPUs by policy, then GPU, then memory.
    """
    sys = root / "sys"
    found = [
        _clock(folder, f"cpu{folder.name.removeprefix('policy')}", "scaling_{}_freq", _MHZ_OF_KHZ)
        for folder in sorted((sys / "devices/system/cpu/cpufreq").glob("policy*"))
    ]
    devfreq = real_folders([*sys.glob("class/devfreq/*"), *sys.glob("devices/gpu.0/devfreq/*")])
    gpus = [f for f in devfreq if any(word in f.name for word in _GPU_NAMES)]
    memories = [f for f in devfreq if "emc" in f.name or "memory-controller" in f.name]
    for name, folders in (("gpu", gpus), ("emc", memories)):
        found += [_clock(folder, name, "{}_freq", _MHZ_OF_HZ) for folder in folders[:1]]
    if not memories:
        # For root alone; min_rate and max_rate lie beside it.
        emc = _clock(sys / "kernel/debug/bpmp/debug/clk/emc", "emc", "{}_rate", _MHZ_OF_HZ)
        found.append(emc)
    return tuple(clock for clock in found if clock.now_mhz is not None)


def _clock(folder: Path, name: str, form: str, unit_mhz: float) -> Clock:
    def read(file: str) -> float | None:
        value = read_number(folder / file)
        return None if value is None else value * unit_mhz

    now = read(form.format("cur"))
    return Clock(
        name,
        read("rate") if now is None else now,
        read(form.format("min")),
        read(form.format("max")),
    )


def locked(clocks: Sequence[Clock]) -> Locked:
    """Whether clocks are locked, as ``jetson_clocks`` locks them: lowest and highest are one.

    Args:
        clocks: Of the machine.

    Returns:
        ``locked`` where all that tell cannot move, ``free`` where one can.
    """
    told = [clock.is_locked for clock in clocks if clock.is_locked is not None]
    if not told:
        return "unknown"
    return "locked" if all(told) else "free"
