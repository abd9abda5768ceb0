"""jtop (the package jetson-stats): used where it is installed; it is AGPL and never shipped here.

``jetson.power`` is ``{"rail": {NAME: {"power", "volt", "curr", …}}, "tot": {…}}`` in mW, mV and mA.
Its own total is not used: releases of it have added rails twice or left some out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from splitdeploy.edge_runtime.power.rail_map import Total, is_used, total_for
from splitdeploy.edge_runtime.power.reader import (
    NotMeasured,
    PowerReader,
    PowerSample,
    RailReading,
)
from splitdeploy.profiles.errors import SensorError


def parse_power(power: Mapping[str, Any]) -> tuple[RailReading, ...]:
    """The rails of what jtop says of power.

    Args:
        power: ``jtop().power``.

    Returns:
        The rails that are connected.

    Raises:
        SensorError: It has another shape, of an older or newer jtop.
    """
    try:
        return tuple(
            RailReading(
                str(name),
                float(rail["power"]) * 1e-3,
                float(rail["volt"]) * 1e-3 if "volt" in rail else None,
                float(rail["curr"]) * 1e-3 if "curr" in rail else None,
            )
            for name, rail in power["rail"].items()
            if is_used(str(name))
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SensorError(
            f"jtop: expected rails with their power, got another form ({type(error).__name__}: "
            f"{error}): use jetson-stats 4.2 or newer"
        ) from error


class JtopReader(PowerReader):
    """Reads from the service behind jtop.

    Args:
        jetson: A ``jtop`` object that was started.
        total: Which rails are the total.
        interval_s: How often the service has new values.
        clock: Tells the time of a sample.
    """

    def __init__(
        self,
        jetson: Any,
        total: Total,
        interval_s: float,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name = "jtop"
        self.covers = total.covers
        self.total_rails = total.rails
        self.interval_s = interval_s
        self._jetson = jetson
        self._total = total
        self._clock = clock

    def sample(self) -> PowerSample:
        """What the service said last."""
        rails = parse_power(self._jetson.power)
        total_w, missing = self._total.of(rails)
        return PowerSample(self._clock(), rails, total_w, missing)

    def close(self) -> None:
        """Leave the service."""
        self._jetson.close()


def open_jtop(
    load: Callable[[str], Any], board: str | None, *, interval_s: float = 0.5
) -> JtopReader | NotMeasured:
    """Connect to the service.

    Args:
        load: Imports a module by name.
        board: Name of the board's profile; None where it is not known.
        interval_s: How often it should have new values.

    Returns:
        A reader, or why there is none.
    """
    try:
        module = load("jtop")
    except ImportError:
        return NotMeasured("jtop: the package jetson-stats is not installed")
    jetson = None
    try:
        jetson = module.jtop(interval=interval_s)
        jetson.start()
        rails = parse_power(jetson.power) if jetson.ok() else ()
    except Exception as error:  # whatever a package of others raises, there is no reading
        if jetson is not None:
            jetson.close()
        return NotMeasured(f"jtop: {error}: is the service running, and are you in group jtop?")
    total = total_for(board, [rail.name for rail in rails])
    if isinstance(total, NotMeasured):
        jetson.close()
        return NotMeasured(f"jtop: {total.reason}")
    return JtopReader(jetson, total, interval_s)
