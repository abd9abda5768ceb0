"""What the edge spends: the board's power by mode and load, and the radio's by its rate.

Both are models with published constants, so their figures are estimates. The board's is good to
about a half (published idle draws of one board differ by that much), the radio's to 6 % on the
phones that it was fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from splitdeploy.profiles.device import DeviceProfile
from splitdeploy.profiles.errors import UnknownNameError, UsageError
from splitdeploy.profiles.network import NetworkProfile


@dataclass(frozen=True)
class RadioPower:
    """Power of a radio that sends or receives, ``P = alpha_u t_u + alpha_d t_d + beta``.

    The line was fitted to the throughputs of its time. No radio draws hundreds of watts, so that
    beyond ``highest_bps`` the draw stays where it is there: an assumption, not a measurement.
    The energy spent in the tail, while an LTE radio waits for more before it sleeps, is left out.

    Attributes:
        uplink_mw_per_mbps: ``alpha_u``, in milliwatts for each Mbit/s of uplink throughput.
        downlink_mw_per_mbps: ``alpha_d``, in milliwatts for each Mbit/s of downlink throughput.
        base_mw: ``beta``, the draw of a radio that is active, in milliwatts.
        source: Where the coefficients come from.
        highest_bps: The throughput in bit/s up to which the line is taken to hold.
    """

    uplink_mw_per_mbps: float
    downlink_mw_per_mbps: float
    base_mw: float
    source: str
    highest_bps: float = 20e6

    def power_w(self, uplink_bps: float, downlink_bps: float) -> float:
        """The power in watts at these throughputs in bits per second."""
        up_mbps = min(uplink_bps, self.highest_bps) / 1e6
        down_mbps = min(downlink_bps, self.highest_bps) / 1e6
        return 1e-3 * (
            self.uplink_mw_per_mbps * up_mbps + self.downlink_mw_per_mbps * down_mbps + self.base_mw
        )


_HUANG = (
    "Huang et al., A close examination of performance and power characteristics of 4G LTE "
    "networks, MobiSys 2012; the coefficients as later work repeats them"
)

RADIOS: dict[str, RadioPower] = {
    "3g": RadioPower(868.98, 122.12, 817.88, _HUANG),
    "lte": RadioPower(438.39, 51.97, 1288.04, _HUANG),
    "wifi": RadioPower(283.17, 137.01, 132.86, _HUANG),
    "wired": RadioPower(0.0, 0.0, 0.0, "a wired link has no radio; its interface is in the idle"),
}


def radio_energy_j(
    network: NetworkProfile,
    uplink_bytes: float,
    downlink_bytes: float,
    *,
    radios: Mapping[str, RadioPower] = RADIOS,
) -> float:
    """Energy of the edge's radio for one inference, in joules.

    ``E = (alpha_u t_u + beta) 8 b_u / r_u + (alpha_d t_d + beta) 8 b_d / r_d``, where ``r`` is the
    link's rate in bit/s and ``t`` the same in Mbit/s: the payload goes up at the full rate, then
    the result comes down. Nothing is charged for the round trip or while the cloud computes.

    Args:
        network: The link; its ``radio`` names the coefficients.
        uplink_bytes: What the edge sends.
        downlink_bytes: What it gets back.
        radios: The coefficients by radio, for others than the published ones.

    Returns:
        The energy; 0 on a wired link.

    Raises:
        UnknownNameError: The network names a radio that has no coefficients.
        UsageError: A size is negative.
    """
    if min(uplink_bytes, downlink_bytes) < 0:
        raise UsageError(
            f"expected sizes of zero bytes or more, got {uplink_bytes} up and {downlink_bytes} down"
        )
    if network.radio not in radios:
        raise UnknownNameError("radio", network.radio, radios)
    radio = radios[network.radio]
    uplink_s = uplink_bytes * 8 / network.uplink_bps
    downlink_s = downlink_bytes * 8 / network.downlink_bps
    return (
        radio.power_w(network.uplink_bps, 0.0) * uplink_s
        + radio.power_w(0.0, network.downlink_bps) * downlink_s
    )


def active_power_w(
    device: DeviceProfile, *, power_mode: str | None = None, load: float = 1.0
) -> float:
    """The board's draw while it computes, ``P = P_idle + load (P_full - P_idle)``.

    Args:
        device: The device.
        power_mode: One of its modes; None is its default.
        load: From 0 (waiting) to 1 (the GPU is never without work).

    Returns:
        The power in watts, of the whole board.

    Raises:
        UsageError: The load is outside [0, 1], or the device has no power model.
    """
    if not 0 <= load <= 1:
        raise UsageError(f"expected a load from 0 to 1, got {load}")
    full_w, idle_w = device.mode(power_mode).active_w, _idle_w(device)
    if full_w is None:
        raise UsageError(_NO_POWER.format(device.name))
    return idle_w + load * (full_w - idle_w)


_NO_POWER = (
    "expected a device with a power model, got {}: only the edge's energy is counted; take a Jetson"
)


def _idle_w(device: DeviceProfile) -> float:
    if device.idle_w is None:
        raise UsageError(_NO_POWER.format(device.name))
    return device.idle_w


def compute_energy_j(
    device: DeviceProfile,
    busy_s: float,
    *,
    power_mode: str | None = None,
    load: float = 1.0,
    wait_s: float = 0.0,
) -> float:
    """Energy that the board spends on the edge stage of one inference, in joules.

    ``E = P_active busy_s + P_idle wait_s``. The idle draw is part of the active power, as it is of
    every published measurement of a board. By default waiting costs nothing: the board idles
    between inferences whatever the cut, a stream has the next image to work on, and a figure that
    does not depend on the network stays right when the network changes. Whoever asks what a single
    inference takes from a battery, from the picture to the answer, gives the time that the edge
    waits for the network and the cloud as ``wait_s``.

    Args:
        device: The device.
        busy_s: How long the edge computes, in seconds.
        power_mode: One of its modes; None is its default.
        load: From 0 to 1; ``SimulatedLatency.load`` for a simulated latency.
        wait_s: How long it then waits, in seconds.

    Returns:
        The energy.

    Raises:
        UsageError: A time is negative, the load is outside [0, 1], or there is no power model.
    """
    if min(busy_s, wait_s) < 0:
        raise UsageError(f"expected times of zero or more, got {busy_s} s busy, {wait_s} s waiting")
    active_w = active_power_w(device, power_mode=power_mode, load=load)
    return active_w * busy_s + _idle_w(device) * wait_s
