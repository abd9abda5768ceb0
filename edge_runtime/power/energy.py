"""Energy of an inference: power sampled beside the work, idle taken off, the error told.

    |-- idle --|-- warm-up --|------------- window: inferences one after another -------------|
         P_idle                       E = (∫ P dt - P_idle * window) / inferences

A sensor of ten readings a second cannot see an inference of milliseconds; the mean over a window of
seconds it can. The standard error is that of the mean over ten equal parts of the window, joined
with that of the idle draw, found in the same way.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from splitdeploy.edge_runtime.power.reader import NotMeasured, PowerReader, PowerSample
from splitdeploy.edge_runtime.power.samples import (
    Trace,
    block_means,
    standard_error,
    too_few,
    trace_of,
)
from splitdeploy.profiles.errors import SensorError

MOST_FAILED = 0.1
"""The share of readings that may fail before a measurement is refused."""


@dataclass(frozen=True)
class EnergyMeasurement:
    """What one inference costs.

    Attributes:
        energy_j: Above the idle draw, for one inference.
        standard_error_j: Of ``energy_j``.
        gross_energy_j: With the idle draw, for one inference.
        idle_w: What the machine draws while it waits.
        busy_w: What it draws in the window.
        inferences: In the window.
        window_s: How long it was.
        samples: Of power in the window.
        sample_rate_hz: Samples a second.
        sensor_interval_s: How often the sensor has a new value; None where it does not tell.
        failed_readings: How often it did not answer, in the idle time and in the window.
        reader: The sensor.
        rails: Of the total.
        covers: What the total stands for.
        source: Always ``measured``.
    """

    energy_j: float
    standard_error_j: float
    gross_energy_j: float
    idle_w: float
    busy_w: float
    inferences: int
    window_s: float
    samples: int
    sample_rate_hz: float
    sensor_interval_s: float | None
    failed_readings: int
    reader: str
    rails: tuple[str, ...]
    covers: str
    source: str = "measured"

    def to_json(self) -> dict[str, Any]:
        """As a document."""
        return asdict(self)


class Sampler:
    """Reads power over and over in a thread of its own, as long as a ``with`` lasts.

    Args:
        reader: What is read.
        interval_s: Between two readings.
    """

    def __init__(self, reader: PowerReader, interval_s: float) -> None:
        self._reader = reader
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: list[PowerSample] = []
        self.failures: list[str] = []

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self.samples.append(self._reader.sample())
            except SensorError as error:
                self.failures.append(str(error))
            self._ended.wait(self._interval_s)


@dataclass(frozen=True)
class Window:
    """Where the idle time and the work lie, by the clock of the samples, in seconds."""

    idle_from: float
    idle_to: float
    busy_from: float
    busy_to: float
    inferences: int

    @property
    def busy_s(self) -> float:
        """How long the work took."""
        return self.busy_to - self.busy_from


class EnergyMeter:
    """Measures the energy of work that can be repeated.

    Args:
        reader: What tells the power.
        interval_s: Between two readings of it.
        window_s: How long the work is repeated, at least.
        idle_s: How long the machine waits before, to be measured idle.
        warmup_s: How long the work is repeated before the window begins.
        clock: The clock of the reader's samples.
        sleep: Waits.
    """

    def __init__(
        self,
        reader: PowerReader,
        *,
        interval_s: float = 0.02,
        window_s: float = 5.0,
        idle_s: float = 3.0,
        warmup_s: float = 0.5,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._reader = reader
        self._interval_s = interval_s
        self._window_s = window_s
        self._idle_s = idle_s
        self._warmup_s = warmup_s
        self._clock = clock
        self._sleep = sleep

    def measure(self, infer: Callable[[], object]) -> EnergyMeasurement | NotMeasured:
        """Measure what one call costs.

        Args:
            infer: One inference; returns once it is done.

        Returns:
            The energy, or why there is none: too few samples, a rail that is missing, a sensor
            that fails, or a draw that does not rise above the idle one.
        """
        with Sampler(self._reader, self._interval_s) as sampler:
            idle_from = self._clock()
            self._sleep(self._idle_s)
            idle_to = self._clock()
            self._repeat(infer, self._warmup_s)
            busy_from = self._clock()
            inferences = self._repeat(infer, self._window_s)
            busy_to = self._clock()
            # The last sample lies behind the end, so that the power there is known.
            self._sleep(2 * self._interval_s)
        refused = self._refused(sampler)
        if refused is not None:
            return refused
        trace = trace_of([(s.at_s, s.total_w) for s in sampler.samples if s.total_w is not None])
        window = Window(idle_from, idle_to, busy_from, busy_to, inferences)
        return self.energy(trace, window, failed=len(sampler.failures))

    def _repeat(self, infer: Callable[[], object], least_s: float) -> int:
        ends_at, count = self._clock() + least_s, 0
        while True:
            infer()
            count += 1
            if self._clock() >= ends_at:
                return count

    def _refused(self, sampler: Sampler) -> NotMeasured | None:
        """Why the samples will not do, whatever they say."""
        failed, read = len(sampler.failures), len(sampler.samples)
        if failed > MOST_FAILED * (failed + read):
            return NotMeasured(
                f"{failed} of {failed + read} readings failed, at most {MOST_FAILED:.0%} may; "
                f"the last: {sampler.failures[-1]}"
            )
        partial = next((s for s in sampler.samples if s.total_w is None), None)
        if partial is not None:
            return NotMeasured(
                f"{self._reader.name}: {', '.join(partial.missing)} could not be read, and the "
                f"total is {' + '.join(self._reader.total_rails)}"
            )
        return None

    def energy(
        self, trace: Trace, window: Window, *, failed: int = 0
    ) -> EnergyMeasurement | NotMeasured:
        """Energy out of a trace.

        Args:
            trace: The power, from before the idle time until after the window.
            window: Where they lie.
            failed: Readings that failed.

        Returns:
            The energy, or why there is none.
        """
        interval_s = self._reader.interval_s
        for what, start_s, end_s in (
            ("idle", window.idle_from, window.idle_to),
            ("busy", window.busy_from, window.busy_to),
        ):
            lacking = too_few(trace, start_s, end_s, interval_s)
            if lacking is not None:
                return NotMeasured(f"{self._reader.name}, {what}: {lacking}")
        idle = block_means(trace, window.idle_from, window.idle_to)
        busy = block_means(trace, window.busy_from, window.busy_to)
        idle_w, busy_w = math.fsum(idle) / len(idle), math.fsum(busy) / len(busy)
        each_s = window.busy_s / window.inferences
        error_w = math.hypot(standard_error(idle), standard_error(busy))
        if busy_w <= idle_w:
            return NotMeasured(
                f"{self._reader.name}: the draw while computing ({busy_w:.3f} W) is not above that "
                f"while idle ({idle_w:.3f} W), to within {error_w:.3f} W: let the machine rest "
                "first, or measure for longer"
            )
        count = trace.inside(window.busy_from, window.busy_to)
        return EnergyMeasurement(
            energy_j=(busy_w - idle_w) * each_s,
            standard_error_j=error_w * each_s,
            gross_energy_j=busy_w * each_s,
            idle_w=idle_w,
            busy_w=busy_w,
            inferences=window.inferences,
            window_s=window.busy_s,
            samples=count,
            sample_rate_hz=count / window.busy_s,
            sensor_interval_s=interval_s,
            failed_readings=failed,
            reader=self._reader.name,
            rails=self._reader.total_rails,
            covers=self._reader.covers,
        )
