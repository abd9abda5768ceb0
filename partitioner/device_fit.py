"""A user's own device: the constants of the latency model, fitted to what a run measured on it.

    sum over heads of (log(simulated / measured) / 0.05)^2
        + sum over constants of (log(constant / start) / 100)^2

A head is the graph before a cut, the whole model for ``edge-only``. The peaks are those of a device
that is shipped: only peak times efficiency can be told from latencies, so an efficiency may stand
for a machine that is ten times slower. The second sum is weak, and holds what the heads do not
speak of where it began. Winograd's gain, the tail and the overlap stay those of the device that
lent the peaks.

Where heads speak of two constants together (arithmetic and traffic of the same kernels), the
latencies are met and the constants may still be others than the machine's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from splitdeploy.partitioner.fit import ROW_WIDTH, model_error, with_constants
from splitdeploy.partitioner.rebase import downlink_bytes
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY
from splitdeploy.profiles.device import DeviceProfile, ModelConstants, ModelError, PowerMode
from splitdeploy.profiles.device_file import FittedRow
from splitdeploy.profiles.errors import UsageError
from splitdeploy.profiles.kernel import KernelGroup
from splitdeploy.profiles.report import CutReport, SweepReport
from splitdeploy.profiles.simulate import simulate_latency

LEAST_HEADS = 5
"""As many as there are constants at most; with fewer, any latency could be met by any of them."""

_LEAST_S = 1e-9
"""Below this a head was too short to be timed."""

_WIDTH = 100.0
_FOLDS = 5
_ALWAYS = ("compute_efficiency", "memory_efficiency", "launch_s", "sync_s")
_OF_DEPTHWISE = "depthwise_efficiency"


@dataclass(frozen=True)
class MeasuredHead:
    """A head, and how long it took.

    Attributes:
        name: The cut.
        groups: Its fused kernels.
        latency_s: The median that was measured.
    """

    name: str
    groups: tuple[KernelGroup, ...]
    latency_s: float


@dataclass(frozen=True)
class FittedDevice:
    """A device, and what it was fitted to."""

    device: DeviceProfile
    rows: tuple[FittedRow, ...]


def measured_latencies(report: SweepReport) -> dict[str, float]:
    """The latencies of the edge that a run measured.

    Args:
        report: Of the run.

    Returns:
        Medians in seconds by cut; a head whose operators were too short to be timed is left out.

    Raises:
        UsageError: Nothing was measured on its edge, or too little.
    """
    if report.edge.source != "measured":
        raise UsageError(
            f"expected a run whose edge was measured, got one whose edge ({report.edge.device}) is "
            f"{report.edge.source}: run splitdeploy profile with --device local on the device, or "
            "--device ssh://user@host"
        )
    if report.return_at is not None:
        raise UsageError(
            f"expected a run with one cut, got one whose last layers, behind {report.return_at}, "
            "run at the edge too: profile without --return-at"
        )
    heads = {row.name: _head_s(report, row) for row in report.cuts if row.name != CLOUD_ONLY}
    found = {name: head_s for name, head_s in heads.items() if head_s > _LEAST_S}
    if len(found) < LEAST_HEADS:
        raise UsageError(
            f"expected {LEAST_HEADS} measured heads or more, got {len(found)}: profile with more "
            "cuts (--cuts layer) or a larger model"
        )
    return found


def _head_s(report: SweepReport, row: CutReport) -> float:
    """What the head of a row was measured to compute, without its messages; 0 where it was not."""
    if row.error is not None or row.latency_s is None or row.latency_s.edge.source != "measured":
        return 0.0
    edge_s = row.latency_s.edge.median
    if report.edge.messages is None or row.name == EDGE_ONLY:
        return edge_s
    size_bytes = report.batch * (row.cut.payload_bytes + downlink_bytes(report, row))
    return edge_s - report.edge.messages.of(size_bytes)


def fit_device(
    heads: Sequence[MeasuredHead],
    like: DeviceProfile,
    *,
    name: str,
    title: str,
    precision: str,
    power_mode: str | None,
    origin: str,
) -> FittedDevice:
    """Fit a device to measured heads.

    Args:
        heads: What was measured.
        like: Lends peaks, multiprocessors and the constants that are not fitted.
        name: Of the new device.
        title: As people call it.
        precision: What the heads computed in.
        power_mode: That they were measured in; None where that is not known.
        origin: Where they come from, in words, for the provenance.

    Returns:
        The device, whose errors are those of heads left out, a fifth of them at a time.
    """
    mode = PowerMode(power_mode or "as measured", None, like.max_gpu_mhz, 1.0, 1.0, None)
    blank = replace(
        like,
        name=name,
        title=title,
        kind="edge",
        modes={mode.name: mode},
        default_mode=mode.name,
        idle_w=None,
        precision_time={},
        derived_from=None,
        latency_source="simulated",
        fitted_precision=precision,
    )
    device = _fitted(heads, blank, precision)
    simulated = [_latency_s(head, device, precision) for head in heads]
    left_out = _left_out(heads, blank, precision)
    rows = tuple(
        FittedRow(head.name, head.latency_s, now_s, unseen_s)
        for head, now_s, unseen_s in zip(heads, simulated, left_out, strict=True)
    )
    error = _error(rows)
    return FittedDevice(
        replace(
            device,
            error=error,
            validation=(
                f"fitted to {len(rows)} measured heads of one model ({origin}): median "
                f"{error.fitted_median:.1%}, worst {error.fitted_worst:.1%} on them; median "
                f"{error.left_out_median:.1%}, worst {error.left_out_worst:.1%} on heads left out "
                "of the fit. Other models, precisions and power modes are not validated"
            ),
            provenance=_provenance(blank, like, heads, origin),
        ),
        rows,
    )


def _names(heads: Sequence[MeasuredHead]) -> tuple[str, ...]:
    kinds = {group.kind for head in heads for group in head.groups}
    return (*_ALWAYS, _OF_DEPTHWISE) if kinds & {"depthwise", "grouped"} else _ALWAYS


def _fitted(heads: Sequence[MeasuredHead], blank: DeviceProfile, precision: str) -> DeviceProfile:
    """The device with the constants that meet these heads best, from two starts."""
    names = _names(heads)
    model = _Model.of(heads, blank, precision)
    measured = np.log([head.latency_s for head in heads])
    first = np.log([getattr(blank.constants, name) for name in names])
    slower = float(np.median(measured - np.log(model.latencies_s(blank.constants))))
    # From the lender's own constants, and from those of a machine as much slower as it seems.
    signs = np.array([1.0 if name.endswith("_s") else -1.0 for name in names])
    found = []
    for start in (first, first + slower * signs):

        def residuals(
            point: NDArray[np.float64], start: NDArray[np.float64] = start
        ) -> NDArray[np.float64]:
            times = np.log(model.latencies_s(_constants(blank, names, point)))
            return np.concatenate([(times - measured) / ROW_WIDTH, (point - start) / _WIDTH])

        found.append(least_squares(residuals, start, xtol=1e-10, ftol=1e-10, x_scale=0.1))
    best = min(found, key=lambda result: float(result.cost))
    return with_constants(blank, _constants(blank, names, best.x))


@dataclass(frozen=True)
class _Model:
    """The latency model over all heads at once, for constants that change.

    Heads contain one another, so each kernel is simulated once, at the constants that the device
    came with; for others its arithmetic and its traffic are rescaled.

    Attributes:
        at: The constants that the kernels were simulated with.
        counts: How often each head has each kernel.
        kernels: How many launches each head makes.
        arithmetic_s: Of each kernel alone, were there no traffic.
        traffic_s: Of each kernel alone, were there no arithmetic.
        depthwise: To which power the depthwise efficiency goes in each kernel, from 0 to 1.
    """

    at: ModelConstants
    counts: NDArray[np.float64]
    kernels: NDArray[np.float64]
    arithmetic_s: NDArray[np.float64]
    traffic_s: NDArray[np.float64]
    depthwise: NDArray[np.float64]

    @classmethod
    def of(cls, heads: Sequence[MeasuredHead], device: DeviceProfile, precision: str) -> _Model:
        places: dict[KernelGroup, int] = {}
        for head in heads:
            for group in head.groups:
                places.setdefault(group, len(places))
        counts = np.zeros((len(heads), len(places)))
        for row, head in enumerate(heads):
            for group in head.groups:
                counts[row, places[group]] += 1
        alone = [simulate_latency((group,), device, precision=precision) for group in places]
        work_s = np.array([one.compute_s + one.memory_s for one in alone])
        share = np.array([one.compute_s for one in alone]) / np.where(work_s > 0, work_s, 1.0)
        power = 1 / device.constants.overlap
        launches = np.array([one.launch_s for one in alone]) / device.constants.launch_s
        return cls(
            at=device.constants,
            counts=counts,
            kernels=counts @ launches,
            arithmetic_s=work_s * share**power,
            traffic_s=work_s * (1 - share) ** power,
            depthwise=np.array([_DEPTHWISE_POWER.get(group.kind, 0.0) for group in places]),
        )

    def latencies_s(self, constants: ModelConstants) -> NDArray[np.float64]:
        """Of every head."""
        dense = self.at.compute_efficiency / constants.compute_efficiency
        depthwise = self.at.depthwise_efficiency / constants.depthwise_efficiency
        arithmetic_s = self.arithmetic_s * dense ** (1 - self.depthwise) * depthwise**self.depthwise
        traffic_s = self.traffic_s * self.at.memory_efficiency / constants.memory_efficiency
        power = constants.overlap
        work_s = (arithmetic_s**power + traffic_s**power) ** (1 / power)
        total: NDArray[np.float64] = (
            constants.sync_s + self.kernels * constants.launch_s + self.counts @ work_s
        )
        return total


_DEPTHWISE_POWER = {"depthwise": 1.0, "grouped": 0.5}
"""How the model mixes both efficiencies; a grouped convolution takes their geometric mean."""


def _constants(
    device: DeviceProfile, names: Sequence[str], point: NDArray[np.float64]
) -> ModelConstants:
    values = dict(zip(names, map(float, np.exp(point)), strict=True))
    return replace(device.constants, **values)


def _latency_s(head: MeasuredHead, device: DeviceProfile, precision: str) -> float:
    return simulate_latency(head.groups, device, precision=precision).latency_s


def _left_out(heads: Sequence[MeasuredHead], blank: DeviceProfile, precision: str) -> list[float]:
    """Each head by constants that saw neither it nor its neighbours, which contain each other."""
    order = sorted(range(len(heads)), key=lambda place: heads[place].latency_s)
    found = [0.0] * len(heads)
    for fold in np.array_split(np.array(order), min(_FOLDS, len(heads))):
        out = {int(place) for place in fold}
        seen = [head for place, head in enumerate(heads) if place not in out]
        device = _fitted(seen, blank, precision)
        for place in out:
            found[place] = _latency_s(heads[place], device, precision)
    return found


def _error(rows: Sequence[FittedRow]) -> ModelError:
    return model_error(
        [row.simulated_s / row.measured_s - 1 for row in rows],
        [row.left_out_s / row.measured_s - 1 for row in rows],
    )


def _provenance(
    blank: DeviceProfile, like: DeviceProfile, heads: Sequence[MeasuredHead], origin: str
) -> Mapping[str, str]:
    lent = f"lent by {like.title}; only peak times efficiency is told by the fit"
    fitted = f"fitted to {len(heads)} measured heads ({origin})"
    names = _names(heads)
    constants = {
        name: fitted if name in names else f"lent by {like.title}, not fitted"
        for name in vars(blank.constants)
    }
    return {
        "peak_flops": lent,
        "bandwidth_bytes_per_s": lent,
        "multiprocessors": f"lent by {like.title}",
        "modes": "the one that was measured in",
        "idle_w": "not known: no power model",
        "error": f"of the fit, a fifth of the heads left out at a time ({origin})",
        **constants,
    }
