"""Networks between the edge and the cloud, and how long a payload takes on them."""

from __future__ import annotations

from dataclasses import dataclass

from splitdeploy.profiles.errors import UnknownNameError


@dataclass(frozen=True)
class NetworkProfile:
    """A link, seen from the edge.

    Attributes:
        name: A profile's name, or ``custom``.
        uplink_bps: Bits per second towards the cloud.
        downlink_bps: Bits per second from the cloud.
        rtt_s: Round-trip time of a small message, in seconds.
        radio: The radio whose power model applies: ``3g``, ``lte``, ``wifi``, or ``wired``.
        source: Where the numbers come from.
        uplink_spread: How far the rates are from what is met, as the standard deviation of their
            logarithm (0.3: about 30 %); None for what is usual with the radio.
    """

    name: str
    uplink_bps: float
    downlink_bps: float
    rtt_s: float
    radio: str = "wifi"
    source: str = "given"
    uplink_spread: float | None = None

    @property
    def spread(self) -> float:
        """The standard deviation of the logarithm of the rates: as given, or usual."""
        if self.uplink_spread is not None:
            return self.uplink_spread
        return USUAL_SPREAD.get(self.radio, max(USUAL_SPREAD.values()))

    def uplink_s(self, payload_bytes: int) -> float:
        """Seconds from the first byte sent until the last has arrived: transfer and half an RTT."""
        return payload_bytes * 8 / self.uplink_bps + self.rtt_s / 2

    def downlink_s(self, payload_bytes: int) -> float:
        """Seconds for the answer: transfer and half an RTT."""
        return payload_bytes * 8 / self.downlink_bps + self.rtt_s / 2


USUAL_SPREAD = {"wired": 0.02, "wifi": 0.2, "lte": 0.3, "3g": 0.3}
"""Spread of a link whose own is not given, by radio. An assumption, no measurement."""

_DADS = "uplink: DADS, INFOCOM 2019, table I; downlink: JointDNN; RTT: typical"

NETWORKS: dict[str, NetworkProfile] = {
    n.name: n
    for n in (
        NetworkProfile("3g", 1.1e6, 2.03e6, 0.100, "3g", _DADS),
        NetworkProfile("lte", 5.85e6, 13.76e6, 0.050, "lte", _DADS),
        NetworkProfile("5g", 50e6, 200e6, 0.020, "lte", "typical mid-band; radio power as LTE"),
        NetworkProfile("wifi", 18.88e6, 54.97e6, 0.010, "wifi", _DADS),
        NetworkProfile("ethernet", 1e9, 1e9, 0.001, "wired", "gigabit line rate"),
    )
}


def find_network(name: str) -> NetworkProfile:
    """The named network.

    Args:
        name: One of ``NETWORKS``.

    Returns:
        Its profile.

    Raises:
        UnknownNameError: There is no such network.
    """
    if name not in NETWORKS:
        raise UnknownNameError("network", name, NETWORKS, "or give --uplink, --downlink and --rtt")
    return NETWORKS[name]
