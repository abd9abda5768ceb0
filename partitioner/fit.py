"""Fits the constants of the latency model to published latencies.

All boards are fitted at once, in logarithms, by least squares:

    sum over rows of (log(simulated / published) / 0.05)^2
        + sum over constants of (log(constant / expected) / width)^2

The second sum keeps a constant that few rows speak of where hardware of its kind lies. Two
constants describe how libraries compute, not the board, and are shared; the overlap is fixed.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from splitdeploy.profiles.device import DeviceProfile, ModelConstants, ModelError
from splitdeploy.profiles.kernel import KernelGroup
from splitdeploy.profiles.simulate import simulate_latency

OVERLAP = 1.4
"""Exponent that joins arithmetic and traffic. Chosen among 1 to 3 by the errors on families left
out; from 1.2 to 1.5 they hardly differ."""

ROW_WIDTH = 0.05
"""Relative error of a row that counts as one. Rows published twice differ by up to 10 %."""

SHARED = {"winograd_gain": (1.5, 0.3), "tail_tiles": (1.0, 0.7)}
"""Constants that all boards share: what is expected, and the width in logarithms.

Winograd's F(2x2, 3x3) saves a factor 2.25 of multiplications, of which transforms take a part; the
last wave of tiles leaves each multiprocessor idle for about one tile."""

_MAXWELL = {
    "compute_efficiency": (0.6, 0.3),
    "depthwise_efficiency": (0.1, 0.7),
    "memory_efficiency": (0.7, 0.15),
    "launch_s": (20e-6, 0.3),
    "sync_s": (0.3e-3, 0.4),
}
_VOLTA = _MAXWELL | {
    "compute_efficiency": (0.5, 0.3),
    "depthwise_efficiency": (0.05, 0.7),
    "launch_s": (12e-6, 0.3),
}
EXPECTED: dict[str, dict[str, tuple[float, float]]] = {
    "jetson-nano": _MAXWELL,
    "jetson-agx-xavier": _VOLTA,
}
"""The constants of each board: what is expected, and the width in logarithms.

The synchronisation is the published latency less the time between results at full throughput, 0.24
to 0.37 ms on Xavier and from 0.3 ms on Nano; matrix libraries reach about half of a peak; DRAM 0.55
to 0.85 of its; depthwise convolution cannot use tensor cores."""

FAMILIES = (
    "alexnet", "squeezenet", "resnet", "densenet", "vgg", "mobilenet", "shufflenet", "mnasnet",
)  # fmt: skip
"""A family is left out whole, on every board at once."""


@dataclass(frozen=True)
class PublishedLatency:
    """A published row.

    Attributes:
        device: Name of the device profile.
        model: torchvision's name.
        precision: What it was measured in.
        latency_s: Of one synchronised call.
        date: Of the run.
        source: Where it was published.
    """

    device: str
    model: str
    precision: str
    latency_s: float
    date: str
    source: str

    @property
    def family(self) -> str:
        """The family of its model."""
        return next(family for family in FAMILIES if self.model.startswith(family))

    @property
    def disputed(self) -> bool:
        """Whether another run on the same board differs beyond all noise.

        Xavier's DenseNets took 1.8 to 2.9 times as long in October 2019 as in June, while all
        other models agreed within 10 %.
        """
        return (
            self.device == "jetson-agx-xavier"
            and self.family == "densenet"
            and self.date.startswith("2019-10")
        )


def published_latencies() -> tuple[PublishedLatency, ...]:
    """Every published row, the disputed ones included."""
    data = resources.files("splitdeploy.profiles").joinpath("data/published_latency.csv")
    return tuple(
        PublishedLatency(
            device=row["device"],
            model=row["model"],
            precision=row["precision"],
            latency_s=float(row["latency_ms"]) * 1e-3,
            date=row["date"],
            source=row["source"],
        )
        for row in csv.DictReader(data.read_text("utf-8").splitlines())
    )


Graphs = Mapping[str, Sequence[KernelGroup]]
Boards = Mapping[str, DeviceProfile]


@dataclass(frozen=True)
class Fit:
    """Fitted constants, and how far off they are on each row.

    Attributes:
        constants: By board.
        rows: What was fitted to.
        fitted: Relative error of each row, by constants that were fitted to all of them.
        left_out: Relative error of each row, by constants that never saw its family.
    """

    constants: dict[str, ModelConstants]
    rows: tuple[PublishedLatency, ...]
    fitted: tuple[float, ...]
    left_out: tuple[float, ...]

    def fitted_of(self, device: str) -> tuple[float, ...]:
        """The errors of the fit to all rows on one board's rows."""
        pairs = zip(self.rows, self.fitted, strict=True)
        return tuple(error for row, error in pairs if row.device == device)

    def error(self, device: str) -> ModelError:
        """The errors on one board's rows, without their signs.

        Args:
            device: The board.

        Returns:
            Medians, worst and 95th percentile.
        """
        mine = [index for index, row in enumerate(self.rows) if row.device == device]
        return model_error(
            [self.fitted[index] for index in mine], [self.left_out[index] for index in mine]
        )


def model_error(fitted: Sequence[float], left_out: Sequence[float]) -> ModelError:
    """How far a model is off, summed up.

    Args:
        fitted: Relative errors of rows that it was fitted to, signed; at least one.
        left_out: Those of rows that were left out of the fit, signed; at least one.

    Returns:
        Medians, worst and 95th percentile of their magnitudes.
    """
    seen, unseen = np.abs(fitted), np.abs(left_out)
    return ModelError(
        fitted_median=float(np.median(seen)),
        fitted_worst=float(seen.max()),
        left_out_median=float(np.median(unseen)),
        left_out_worst=float(unseen.max()),
        left_out_p95=float(np.quantile(unseen, 0.95)),
    )


def fit_constants(
    rows: Sequence[PublishedLatency], graphs: Graphs, boards: Boards
) -> dict[str, ModelConstants]:
    """Fit the constants of all boards to published rows.

    Args:
        rows: What to fit to; a board without rows stays where it is expected.
        graphs: Fused kernels by model.
        boards: Profiles of the boards in ``EXPECTED``; their own constants do not matter.

    Returns:
        The constants by board.
    """
    names = [("", key) for key in SHARED]
    names += [(board, key) for board in EXPECTED for key in EXPECTED[board]]
    expected = [*SHARED.values(), *(pair for keys in EXPECTED.values() for pair in keys.values())]
    centre = np.log([value for value, _ in expected])
    width = np.array([spread for _, spread in expected])
    cases = sorted({(row.device, row.model, row.precision) for row in rows})
    published = np.log([row.latency_s for row in rows])
    places = [cases.index((row.device, row.model, row.precision)) for row in rows]

    def residuals(point: NDArray[np.float64]) -> NDArray[np.float64]:
        constants = _constants(names, np.exp(point))
        times = np.log([
            simulate_latency(
                graphs[model], with_constants(boards[device], constants[device]),
                precision=precision,
            ).latency_s
            for device, model, precision in cases
        ])  # fmt: skip
        of_rows = (times[places] - published) / ROW_WIDTH
        return np.concatenate([of_rows, (point - centre) / width])

    found = least_squares(residuals, centre, xtol=1e-6, ftol=1e-6)
    return _constants(names, np.exp(found.x))


def fit(rows: Sequence[PublishedLatency], graphs: Graphs, boards: Boards) -> Fit:
    """Fit to all rows, and once more without each family.

    Args:
        rows: What to fit to.
        graphs: Fused kernels by model.
        boards: Profiles of the boards in ``EXPECTED``.

    Returns:
        Constants and errors.
    """
    constants = fit_constants(rows, graphs, boards)
    fitted = [relative_error(row, graphs, boards, constants) for row in rows]
    left_out: dict[PublishedLatency, float] = {}
    for family in dict.fromkeys(row.family for row in rows):
        seen = [row for row in rows if row.family != family]
        others = fit_constants(seen, graphs, boards)
        for row in rows:
            if row.family == family:
                left_out[row] = relative_error(row, graphs, boards, others)
    errors = tuple(left_out[row] for row in rows)
    return Fit(constants, tuple(rows), tuple(fitted), errors)


def relative_error(
    row: PublishedLatency, graphs: Graphs, boards: Boards, constants: Mapping[str, ModelConstants]
) -> float:
    """Simulated over published latency, less one.

    Args:
        row: What was published.
        graphs: Fused kernels by model.
        boards: Profiles by name.
        constants: By board.

    Returns:
        The error; positive where the simulation is too slow.
    """
    device = with_constants(boards[row.device], constants[row.device])
    simulated = simulate_latency(graphs[row.model], device, precision=row.precision)
    return simulated.latency_s / row.latency_s - 1


def with_constants(device: DeviceProfile, constants: ModelConstants) -> DeviceProfile:
    """The same device with other constants of the latency model."""
    return replace(device, constants=constants)


def _constants(
    names: Sequence[tuple[str, str]], values: NDArray[np.float64]
) -> dict[str, ModelConstants]:
    given = dict(zip(names, map(float, values), strict=True))
    shared = {key: given["", key] for key in SHARED}
    return {
        board: ModelConstants(
            **shared, **{key: given[board, key] for key in EXPECTED[board]}, overlap=OVERLAP
        )
        for board in EXPECTED
    }
