"""One side of every cut as it was measured somewhere: on this machine, or on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from splitdeploy.profiles.device import DeviceProfile
from splitdeploy.profiles.errors import SessionError
from splitdeploy.profiles.measurement import Measurement
from splitdeploy.profiles.message_cost import MessageCost


@dataclass(frozen=True)
class MeasuredSide:
    """The heads, or the tails, of all cuts on one machine.

    Attributes:
        times: By cut.
        note: What it was measured with and under what conditions, in words.
        joules: What a run costs the whole machine, by cut; a cut without a figure is not there.
        failures: Why a cut has no time, by cut.
        power_mode: That it was measured in; None where there is none.
        warnings: What a reader of the report must know.
        facts: What the machine told of itself, for the record.
        messages: What a request costs this end beside computing; None where that is not known.
    """

    times: Mapping[str, Measurement]
    note: str
    joules: Mapping[str, float] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    power_mode: str | None = None
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    messages: MessageCost | None = None

    def time(self, cut: str) -> Measurement:
        """The time of one cut.

        Args:
            cut: Its name.

        Returns:
            The time.

        Raises:
            SessionError: It failed there.
        """
        if cut not in self.times:
            raise SessionError(self.failures.get(cut, f"{cut} was not measured"))
        return self.times[cut]


Side = DeviceProfile | MeasuredSide


@dataclass(frozen=True)
class Places:
    """What runs the two sides: a simulated device, or a machine that was measured."""

    edge: Side
    cloud: Side
