"""The energy of heads: each is run over and over while the machine's sensor is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from splitdeploy.edge_runtime.power.energy import EnergyMeter
from splitdeploy.edge_runtime.power.find import find_power_reader
from splitdeploy.edge_runtime.power.reader import NotMeasured, PowerReader
from splitdeploy.edge_runtime.session import Array, Session

_IDLE_SHARE = 0.6
"""Of the window, for the idle draw before it."""


class EnergyGauge:
    """Measures heads with one sensor.

    Args:
        reader: The sensor, or why there is none.
        window_s: How long each head is run over and over; 0 leaves it out.
    """

    def __init__(self, reader: PowerReader | NotMeasured, window_s: float) -> None:
        self._reader = reader
        self._window_s = window_s

    def measure(self, session: Session, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """What a run of a head costs, or why it is not known.

        Args:
            session: The head.
            feeds: Its inputs.

        Returns:
            ``joules`` with the idle draw, and all that the meter tells; where there is no figure
            ``joules`` is None and ``why`` says so. Never 0 for what was not measured.
        """
        if self._window_s <= 0:
            return {"joules": None, "why": "it was not asked for"}
        if isinstance(self._reader, NotMeasured):
            return {"joules": None, "why": self._reader.reason}
        meter = EnergyMeter(
            self._reader, window_s=self._window_s, idle_s=_IDLE_SHARE * self._window_s
        )
        found = meter.measure(lambda: session.run(feeds))
        if isinstance(found, NotMeasured):
            return {"joules": None, "why": found.reason}
        return {"joules": found.gross_energy_j, "why": None, **found.to_json()}


@contextmanager
def energy_gauge(window_s: float, root: Path = Path("/")) -> Iterator[EnergyGauge]:
    """Open this machine's sensor for as long as this lasts.

    Args:
        window_s: How long each head is run over and over; 0 opens no sensor.
        root: Of the file system.

    Yields:
        What measures.
    """
    if window_s <= 0:
        yield EnergyGauge(NotMeasured("it was not asked for"), 0.0)
        return
    reader = find_power_reader(root)
    try:
        yield EnergyGauge(reader, window_s)
    finally:
        if not isinstance(reader, NotMeasured):
            reader.close()
