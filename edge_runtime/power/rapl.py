"""RAPL: counters of energy in Intel's and AMD's processors.

/sys/class/powercap/intel-rapl:N is a package (or the whole platform, ``psys``) and
intel-rapl:N:M a part of it: cores lie within the package and are not added, memory (``dram``) lies
beside it and is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from splitdeploy.edge_runtime.board import read_text
from splitdeploy.edge_runtime.power.reader import (
    NotMeasured,
    PowerReader,
    PowerSample,
    RailReading,
)
from splitdeploy.edge_runtime.power.sysfs import read_number
from splitdeploy.profiles.errors import SensorError

_PLATFORM = "psys"
_SHORTEST_S = 0.005
"""Counters move about every millisecond; over less than a few, power would be noise."""


@dataclass(frozen=True)
class Domain:
    """A counter.

    Attributes:
        name: Such as ``package-0`` or ``package-0/dram``.
        file: The microjoules so far.
        wraps_at_uj: Where it begins again at zero.
    """

    name: str
    file: Path
    wraps_at_uj: float


class RaplReader(PowerReader):
    """Power as the difference of counters since the sample before.

    Args:
        domains: Counters that do not contain one another.
        clock: Tells the time of a sample.
        sleep: Waits until the counters have moved.
    """

    def __init__(
        self,
        domains: Sequence[Domain],
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = "RAPL"
        whole = domains[0].name == _PLATFORM
        self.covers = "platform" if whole else "CPU packages and memory alone, without a GPU"
        self.total_rails = tuple(domain.name for domain in domains)
        self.interval_s = 0.001
        self._domains = tuple(domains)
        self._clock = clock
        self._sleep = sleep
        self._before = self._counters()

    def sample(self) -> PowerSample:
        """The mean power since the last sample; the time is the middle between the two."""
        then_s, then = self._before
        if self._clock() - then_s < _SHORTEST_S:
            self._sleep(_SHORTEST_S)
        now_s, now = self._counters()
        self._before = now_s, now
        span_s = max(now_s - then_s, 1e-9)
        rails = []
        for domain, before, after in zip(self._domains, then, now, strict=True):
            moved = after - before
            if moved < 0:
                moved += domain.wraps_at_uj
            rails.append(RailReading(domain.name, moved * 1e-6 / span_s))
        total_w = sum(rail.power_w for rail in rails)
        return PowerSample((then_s + now_s) / 2, tuple(rails), total_w)

    def _counters(self) -> tuple[float, list[float]]:
        values = []
        for domain in self._domains:
            value = read_number(domain.file)
            if value is None:
                raise SensorError(f"RAPL: expected the counter {domain.file}, it cannot be read")
            values.append(value)
        return self._clock(), values


def find_domains(root: Path = Path("/")) -> list[Domain]:
    """Counters that add up to what is known: the platform's, or packages and their memory.

    Args:
        root: Of the file system.

    Returns:
        The counters, whether they can be read or not.
    """
    folders = sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
    named = {folder: read_text(folder / "name") or "" for folder in folders}
    tops = [folder for folder in folders if folder.name.count(":") == 1]
    platform = [folder for folder in tops if named[folder] == _PLATFORM]
    if platform:
        return [_domain(_PLATFORM, platform[0])]
    found = []
    for top in tops:
        found.append(_domain(named[top], top))
        found += [
            _domain(f"{named[top]}/{named[part]}", part)
            for part in folders
            if part.name.startswith(f"{top.name}:") and named[part] == "dram"
        ]
    return found


def _domain(name: str, folder: Path) -> Domain:
    return Domain(name, folder / "energy_uj", read_number(folder / "max_energy_range_uj") or 0.0)


def open_rapl(root: Path = Path("/")) -> RaplReader | NotMeasured:
    """Open the counters.

    Args:
        root: Of the file system.

    Returns:
        A reader, or why there is none.
    """
    domains = find_domains(root)
    if not domains:
        return NotMeasured("RAPL: there are no counters in /sys/class/powercap")
    locked = [domain for domain in domains if read_number(domain.file) is None]
    if locked:
        return NotMeasured(
            f"RAPL: the counter of {locked[0].name} is for root alone: run as root, or let your "
            f"group read {locked[0].file}"
        )
    return RaplReader(domains)
