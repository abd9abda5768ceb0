"""In which precision each row computes, and how far its times are from another precision's.

A device model is fitted to runs in fp16. What another precision takes follows from published
ratios, or from the peak rates alone; that factor has an error of its own, which all rows of the
precision share and rows of another one do not. Likewise for several inputs at a time, which no
device model was compared with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from splitdeploy.profiles.cut import TAIL_PRECISIONS
from splitdeploy.profiles.device import DEVICES
from splitdeploy.profiles.report import CutReport, PlaceInfo, SweepReport, row_name

FITTED_IN = "fp16"
"""What the device models' rows were measured in."""

MEASURED_RATIO_SPREAD = math.log(1.09) / 0.6745
"""Of ratios to fp16 where there are published ones: half of eight rows were within 9 %, the worst
was 20 % off (docs/device-model.md)."""

ASSUMED_RATIO_SPREAD = 2 * MEASURED_RATIO_SPREAD
"""Of ratios of peak rates, which nothing was compared with: taken to err twice as much."""


DOUBLING_SPREAD = MEASURED_RATIO_SPREAD
"""Of the factor by which a model is off with twice as many inputs at a time, beyond what it is off
with: an assumption. So 16 at a time are as uncertain as a ratio of peak rates."""


def side_precisions(report: SweepReport, side: str, rows: Sequence[CutReport]) -> list[str]:
    """What tells rows of a side apart that were found separately.

    Args:
        report: The report that the rows are of.
        side: ``edge`` or ``cloud``.
        rows: Some of its rows.

    Returns:
        For each row the precision that the side computes in; of a side that was measured, that of
        the run with its batch behind it, since each run was measured by itself.
    """
    place = _place(report, side)
    if place.source == "measured":
        return [row_name(row.precision or place.precision, None, row.batch) for row in rows]
    if side == "edge":
        return [row.precision or place.precision for row in rows]
    return [
        place.precision if row.precision is None else TAIL_PRECISIONS[row.precision] for row in rows
    ]


def precision_spreads(report: SweepReport, side: str, kinds: Sequence[str]) -> Mapping[str, float]:
    """The error that each precision has for itself on a simulated side.

    Args:
        report: The report.
        side: ``edge`` or ``cloud``.
        kinds: The precisions of its rows.

    Returns:
        Standard deviations of the logarithm of the time, by precision; those that have none are
        left out.
    """
    name = _place(report, side).device
    found = {kind: _spread(name, kind, alone=len(set(kinds)) == 1) for kind in dict.fromkeys(kinds)}
    return {kind: spread for kind, spread in found.items() if spread}


def batch_spreads(batches: Iterable[int]) -> Mapping[str, float]:
    """The error that rows have for the number of their inputs, where rows differ in it.

    Args:
        batches: Inputs a request, of each row of a simulated side.

    Returns:
        Standard deviations of the logarithm of the time, by the number; one input at a time, which
        models are fitted to, has none and is left out.
    """
    found = sorted(set(batches))
    if len(found) == 1:
        return {}
    return {
        str(count): DOUBLING_SPREAD * math.sqrt(math.log2(count)) for count in found if count > 1
    }


def _spread(name: str, kind: str, *, alone: bool) -> float:
    if name not in DEVICES:
        # A device of the user's own: fitted in one of them, and nobody says in which.
        return 0.0 if alone else ASSUMED_RATIO_SPREAD / math.sqrt(2)
    device = DEVICES[name]
    # Without a unit for it, the device computes in fp16, and takes as long.
    if kind == FITTED_IN or kind not in device.peak_flops:
        return 0.0
    return MEASURED_RATIO_SPREAD if kind in device.precision_time else ASSUMED_RATIO_SPREAD


def _place(report: SweepReport, side: str) -> PlaceInfo:
    return report.edge if side == "edge" else report.cloud
