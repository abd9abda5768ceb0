"""The face of every power reader, and what stands in for one where nothing can be measured."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from splitdeploy.profiles.closing import Closing


@dataclass(frozen=True)
class RailReading:
    """One rail at one moment.

    Attributes:
        name: As the board calls it.
        power_w: Its draw.
        voltage_v: None where the sensor does not tell.
        current_a: None where the sensor does not tell.
    """

    name: str
    power_w: float
    voltage_v: float | None = None
    current_a: float | None = None


@dataclass(frozen=True)
class PowerSample:
    """All rails at one moment.

    Attributes:
        at_s: When, by ``time.perf_counter``.
        rails: Each rail once.
        total_w: What the machine draws; None where a rail that belongs to it is missing.
        missing: The rails that are expected and were not read.
    """

    at_s: float
    rails: tuple[RailReading, ...]
    total_w: float | None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class NotMeasured:
    """Stands where a figure would: there is none, and this is why. It is never a zero.

    Attributes:
        reason: One line: what was expected, what came, what to do.
    """

    reason: str

    def __str__(self) -> str:
        return f"not measured: {self.reason}"


class PowerReader(Closing):
    """Reads what a machine draws.

    Attributes:
        name: The sensor: ``INA3221``.
        covers: What the total stands for: ``module``, ``GPU board alone``.
        total_rails: The rails that the total is made of.
        interval_s: How often the sensor itself has a new value; None where it does not tell.
    """

    name: str
    covers: str
    total_rails: tuple[str, ...]
    interval_s: float | None

    def rails(self) -> tuple[RailReading, ...]:
        """Every rail now, those outside the total included."""
        return self.sample().rails

    @abstractmethod
    def sample(self) -> PowerSample:
        """Read all rails once.

        Returns:
            What they draw; two samples with the same ``at_s`` are one.

        Raises:
            SensorError: The sensor does not answer.
        """

    def close(self) -> None:
        """Release what the reader holds; most hold nothing."""

    def describe(self) -> str:
        """For people: the sensor, the rails of the total, what it covers."""
        return f"{self.name}, {' + '.join(self.total_rails)} ({self.covers})"
