"""Channels of power monitors that the kernel shows as files, and the reader over them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from splitdeploy.edge_runtime.board import read_text
from splitdeploy.edge_runtime.power.rail_map import Total
from splitdeploy.edge_runtime.power.reader import PowerReader, PowerSample, RailReading
from splitdeploy.profiles.errors import SensorError


@dataclass(frozen=True)
class Channel:
    """One rail as files. Where there is a file of the power, it goes before voltage and current.

    Attributes:
        name: The rail.
        chip: The monitor: ``INA3221``.
        power: A file and the watts of one of its units; None where there is none.
        voltage: A file in millivolts; None where there is none.
        current: A file in milliamperes; None where there is none.
        interval_s: How often the monitor has a new value; None where it does not tell.
    """

    name: str
    chip: str
    power: tuple[Path, float] | None
    voltage: Path | None
    current: Path | None
    interval_s: float | None = None

    def read(self) -> RailReading | None:
        """The rail now; None where its files cannot be read."""
        volts, amperes = _milli(self.voltage), _milli(self.current)
        if self.power is not None:
            file, unit_w = self.power
            value = read_number(file)
            if value is not None:
                return RailReading(self.name, value * unit_w, volts, amperes)
        if volts is None or amperes is None:
            return None
        return RailReading(self.name, volts * amperes, volts, amperes)


def read_number(path: Path) -> float | None:
    """The number in a file of the kernel.

    Args:
        path: The file.

    Returns:
        The number; None where it cannot be read or holds something else.
    """
    text = read_text(path)
    try:
        return None if text is None else float(int(text))
    except ValueError:
        return None


def _milli(path: Path | None) -> float | None:
    value = None if path is None else read_number(path)
    return None if value is None else value * 1e-3


def real_folders(folders: Iterable[Path]) -> list[Path]:
    """Folders without those that are another name of one before: sysfs shows a device many times.

    Args:
        folders: In any order.

    Returns:
        Each once, by name.
    """
    found: dict[Path, Path] = {}
    for folder in sorted(folders):
        if folder.is_dir():
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


class SysfsReader(PowerReader):
    """Reads the channels of the board's monitors.

    Args:
        channels: Every rail once.
        total: Which of them are the total.
        clock: Tells the time of a sample.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        total: Total,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name = " and ".join(dict.fromkeys(channel.chip for channel in channels))
        self.covers = total.covers
        self.total_rails = total.rails
        intervals = [c.interval_s for c in channels if c.name in total.rails and c.interval_s]
        self.interval_s = max(intervals, default=None)
        self._channels = tuple(channels)
        self._total = total
        self._clock = clock

    def sample(self) -> PowerSample:
        """Read every channel; the time is that of the middle of the reading."""
        began = self._clock()
        readings = [(channel.name, channel.read()) for channel in self._channels]
        at_s = (began + self._clock()) / 2
        rails = tuple(reading for _, reading in readings if reading is not None)
        if not rails:
            raise SensorError(
                f"{self.name}: expected readings of {', '.join(self.total_rails)}, none of the "
                "files can be read: is the monitor's driver still loaded?"
            )
        total_w, _ = self._total.of(rails)
        # Rails outside the total may be missing too; that is told as well.
        missing = tuple(name for name, reading in readings if reading is None)
        return PowerSample(at_s, rails, total_w, missing)
