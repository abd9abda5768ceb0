"""How long a device takes for a graph's fused kernels: an analytical model.

The latency of one call is

    T = sync + sum over kernels of (launch + (c^p + m^p)^(1/p))

    c = (macs / w + tail * 64 * 64 * K * S) / (e * P / 2)        arithmetic
    m = (inputs + outputs + weights) * item size / (b * B)       memory traffic

with the device's peak rate P (operations a second, by precision), its bandwidth B, its
multiprocessors S, and the constants of ``ModelConstants``: the efficiencies e (dense or depthwise)
and b, the gain w of 3x3 filters of stride one (Winograd; 1 for all else), the overlap p. K is how
many products are summed for one result. A convolution is cut into tiles of 64x64 results, and its
last tiles leave multiprocessors idle: ``tail`` is how many tiles' worth of time each of them loses.
That makes small, deep layers inefficient on large devices, as they are. A concatenation costs
nothing, since the kernels before it write their part in place.

A call for several inputs has their arithmetic and their activations; weights, launches, the call
itself and each multiprocessor's lost tiles are there once. Nothing published was compared with the
model beyond one input.

A power mode scales P by clock and active cores, S by active cores, B by the memory's clock. Launch
and synchronisation are the CPU's and stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitdeploy.profiles.device import DeviceProfile, ModelConstants, PowerMode
from splitdeploy.profiles.errors import UnknownNameError
from splitdeploy.profiles.kernel import KernelGroup

ITEM_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
"""Bytes of an element, by precision."""

TILE = 64
"""Edge of the square of results that one multiprocessor computes at a time."""

UNVALIDATED_FACTOR = 2.0
"""By how much the error of a device that nothing was compared with is taken to exceed that of the
fit which it derives from. An assumption, stated in the device's description."""

_TILED = frozenset({"conv", "pointwise", "grouped"})


@dataclass(frozen=True)
class SimulatedLatency:
    """A simulated latency, what it is made of, and how far to trust it.

    Attributes:
        latency_s: For one call; the sum of the four parts.
        p95_s: What 95 of 100 models of families unseen by the fit stay below, by its error. It
            speaks of the model's error, not of the spread between calls.
        compute_s: Arithmetic.
        memory_s: Memory traffic, where it exceeds what arithmetic hides.
        launch_s: Starting kernels.
        sync_s: The call itself.
        relative_error_median: Of the fit, on model families left out of it.
        relative_error_worst: The same.
        precision: What the device computes in; not what was asked for, where it has no such unit.
        power_mode: The mode's name.
    """

    latency_s: float
    p95_s: float
    compute_s: float
    memory_s: float
    launch_s: float
    sync_s: float
    relative_error_median: float
    relative_error_worst: float
    precision: str
    power_mode: str

    @property
    def load(self) -> float:
        """The share of the time in which the GPU has work, from 0 to 1."""
        return (self.compute_s + self.memory_s) / self.latency_s if self.latency_s else 0.0


def simulate_latency(
    groups: Sequence[KernelGroup],
    device: DeviceProfile,
    *,
    precision: str,
    power_mode: str | None = None,
) -> SimulatedLatency:
    """Simulate one call; the module's description holds the formula.

    Args:
        groups: The graph's fused kernels, for as many inputs as the call has; an empty graph takes
            no time.
        device: What it runs on.
        precision: ``fp32``, ``fp16`` or ``int8``.
        power_mode: One of the device's modes; None is its default.

    Returns:
        The latency in seconds with its parts and its error.

    Raises:
        UnknownNameError: There is no such precision or power mode.
    """
    if precision not in ITEM_BYTES:
        raise UnknownNameError("precision", precision, ITEM_BYTES)
    mode = device.mode(power_mode)
    native = precision if precision in device.peak_flops else "fp16"
    computed, slowdown = native, 1.0
    if native in device.precision_time:
        computed, slowdown = "fp16", device.precision_time[native]
    rates = _Rates.of(device, mode, computed)
    compute_s = memory_s = launch_s = 0.0
    for group in groups:
        if group.kind == "concat":
            continue
        arithmetic_s, traffic_s = rates.work_s(group)
        compute_s += arithmetic_s * slowdown
        memory_s += traffic_s * slowdown
        launch_s += device.constants.launch_s
    sync_s = device.constants.sync_s if groups else 0.0
    latency_s = compute_s + memory_s + launch_s + sync_s
    factor = 1.0 if device.derived_from is None else UNVALIDATED_FACTOR
    return SimulatedLatency(
        latency_s=latency_s,
        p95_s=latency_s * (1 + factor * device.error.left_out_p95),
        compute_s=compute_s,
        memory_s=memory_s,
        launch_s=launch_s,
        sync_s=sync_s,
        relative_error_median=factor * device.error.left_out_median,
        relative_error_worst=factor * device.error.left_out_worst,
        precision=native,
        power_mode=mode.name,
    )


@dataclass(frozen=True)
class _Rates:
    """What a device reaches in one mode and precision."""

    constants: ModelConstants
    macs_per_s: float
    bytes_per_s: float
    item_bytes: int
    multiprocessors: float

    @classmethod
    def of(cls, device: DeviceProfile, mode: PowerMode, precision: str) -> _Rates:
        clock = mode.gpu_mhz / device.max_gpu_mhz
        peak = device.peak_flops[precision] * clock * mode.cores_share
        bandwidth = device.bandwidth_bytes_per_s * mode.bandwidth_share
        return cls(
            constants=device.constants,
            macs_per_s=peak / 2,
            bytes_per_s=bandwidth * device.constants.memory_efficiency,
            item_bytes=ITEM_BYTES[precision],
            multiprocessors=device.multiprocessors * mode.cores_share,
        )

    def work_s(self, group: KernelGroup) -> tuple[float, float]:
        """A kernel's time without its launch, split between arithmetic and traffic."""
        arithmetic_s = self._arithmetic_s(group)
        elements = group.input_elements + group.output_elements + group.weight_elements
        traffic_s = elements * self.item_bytes / self.bytes_per_s
        power = self.constants.overlap
        parts = arithmetic_s**power, traffic_s**power
        both = sum(parts)
        if not both:
            return 0.0, 0.0
        total_s = both ** (1 / power)
        return total_s * parts[0] / both, total_s * parts[1] / both

    def _arithmetic_s(self, group: KernelGroup) -> float:
        constants = self.constants
        macs = float(group.macs)
        if group.kind == "conv" and group.kernel_size == 9 and group.stride == 1:
            macs /= constants.winograd_gain
        if group.kind in _TILED:
            macs += constants.tail_tiles * TILE**2 * group.reduction * self.multiprocessors
        return macs / (self.macs_per_s * self._efficiency(group))

    def _efficiency(self, group: KernelGroup) -> float:
        dense, depthwise = self.constants.compute_efficiency, self.constants.depthwise_efficiency
        if group.kind == "depthwise":
            return depthwise
        # Between the two, for want of a published row.
        return (dense * depthwise) ** 0.5 if group.kind == "grouped" else dense
