"""tegrastats: NVIDIA's own tool, which prints rails, clocks and temperatures a line at a time.

Power stands as ``NAME now/average``, in milliwatts, with a unit on newer releases and without on
older ones: ``VDD_IN 5971mW/5971mW``, ``POM_5V_IN 933/933``. Only the first of the pair is used.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from splitdeploy.edge_runtime.power.rail_map import Total, is_used, total_for
from splitdeploy.edge_runtime.power.reader import (
    NotMeasured,
    PowerReader,
    PowerSample,
    RailReading,
)
from splitdeploy.profiles.errors import SensorError

# A name that stands alone, two numbers, and nothing behind them but an optional mW: "RAM 5/8MB",
# "IRAM 0/252kB" and "SWAP 0/9MB" have another unit.
_RAIL = re.compile(r"(?<!\S)([A-Z][A-Za-z0-9_]*) (-?\d{1,7})(?:mW)?/-?\d{1,7}(?:mW)?(?!\S)")
_TEMPERATURE = re.compile(r"(?<!\S)([A-Za-z][\w-]*)@(-?\d{1,4}(?:\.\d{1,4})?)C(?!\S)")
_CLOCK_MHZ = re.compile(r"(?<!\S)(GR3D|EMC)_FREQ \d{1,3}%@\[?(\d{1,5})")
_ABSENT_C = -200.0
"""A sensor that is switched off says -256."""

_LONGEST_LINE = 16384


@dataclass(frozen=True)
class TegrastatsLine:
    """What a line of tegrastats says.

    Attributes:
        power_w: By rail; rails that are not connected are left out.
        temperature_c: By sensor.
        clock_mhz: Of ``GR3D`` (the GPU) and ``EMC`` (the memory), where the line has them.
    """

    power_w: Mapping[str, float]
    temperature_c: Mapping[str, float]
    clock_mhz: Mapping[str, float]


def parse_line(line: str) -> TegrastatsLine:
    """Read a line of tegrastats, of any release.

    Args:
        line: The line; anything else that it holds is passed over.

    Returns:
        What it says of power, temperatures and clocks; a rail that it names twice counts once.
    """
    line = line[:_LONGEST_LINE]
    power: dict[str, float] = {}
    for name, milliwatts in _RAIL.findall(line):
        if is_used(name):
            power.setdefault(name, int(milliwatts) * 1e-3)
    temperatures = {name: float(value) for name, value in _TEMPERATURE.findall(line)}
    return TegrastatsLine(
        power,
        {name: value for name, value in temperatures.items() if value > _ABSENT_C},
        {name: float(value) for name, value in _CLOCK_MHZ.findall(line)},
    )


class TegrastatsReader(PowerReader):
    """Runs tegrastats beside the work and keeps its newest line.

    Args:
        process: Runs already, with its standard output piped as text.
        total: Which rails are the total.
        interval_s: Between two lines.
        first: The line that was read to find the rails.
        clock: Tells the time of a line.
    """

    def __init__(
        self,
        process: subprocess.Popen[str],
        total: Total,
        interval_s: float,
        first: TegrastatsLine,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name = "tegrastats"
        self.covers = total.covers
        self.total_rails = total.rails
        self.interval_s = self._every_s = interval_s
        self._process = process
        self._total = total
        self._clock = clock
        self._newest = (clock(), first)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def sample(self) -> PowerSample:
        """The newest line; asked again before the next one, the same sample comes back."""
        at_s, line = self._newest
        if self._clock() - at_s > max(10 * self._every_s, 2.0):
            raise SensorError(
                "tegrastats: expected a line every "
                f"{self._every_s:g} s, the last came {self._clock() - at_s:.1f} s ago: it ended "
                f"or hangs (exit code {self._process.poll()})"
            )
        rails = tuple(RailReading(name, power_w) for name, power_w in line.power_w.items())
        total_w, missing = self._total.of(rails)
        return PowerSample(at_s, rails, total_w, missing)

    def close(self) -> None:
        """End the process."""
        stop(self._process)
        self._thread.join(timeout=2.0)

    def _follow(self) -> None:
        stream = self._process.stdout
        if stream is None:
            return
        # The stream closes under us when the reader is closed.
        with contextlib.suppress(ValueError, OSError):
            for text in stream:
                line = parse_line(text)
                if line.power_w:
                    self._newest = (self._clock(), line)


def open_tegrastats(
    command: Sequence[str], board: str | None, *, interval_s: float = 0.1, timeout_s: float = 3.0
) -> TegrastatsReader | NotMeasured:
    """Start tegrastats and look at its first line.

    Args:
        command: The program, with what goes before ``--interval``.
        board: Name of the board's profile; None where it is not known.
        interval_s: Between two lines.
        timeout_s: The longest to wait for the first.

    Returns:
        A reader, which ends the process when it is closed; or why there is none.
    """
    try:
        process = subprocess.Popen(
            [*command, "--interval", str(max(1, round(interval_s * 1e3)))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return NotMeasured(f"{command[0]} cannot be run: {error.strerror or error}")
    text = _first_line(process, timeout_s)
    line = parse_line(text)
    total = total_for(board, line.power_w) if line.power_w else None
    if isinstance(total, Total):
        return TegrastatsReader(process, total, interval_s, line)
    stop(process)
    if total is not None:
        return NotMeasured(f"tegrastats: {total.reason}")
    return NotMeasured(
        f"tegrastats: expected rails with their milliwatts, got {text.strip()[:80]!r} within "
        f"{timeout_s:g} s: it may need root, or the board has no power monitor"
    )


def _first_line(process: subprocess.Popen[str], timeout_s: float) -> str:
    """The first line, or nothing where none comes in time."""
    found: list[str] = []

    def read() -> None:
        with contextlib.suppress(ValueError, OSError):
            if process.stdout is not None:
                found.append(process.stdout.readline())

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return found[0] if found else ""


def stop(process: subprocess.Popen[str]) -> None:
    """End a process that was started here, gently at first.

    Args:
        process: Which.
    """
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        with contextlib.suppress(OSError, ValueError):
            process.stdout.close()
