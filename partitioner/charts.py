"""The charts of ``report.html``, drawn as SVG.

Each takes a width in CSS pixels, so that a page can hold one drawing for a desk and one for a
phone with text of the same size in both. They return an empty string where there is nothing to
show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from splitdeploy.partitioner import svg
from splitdeploy.partitioner.scoring import Figures, table_of
from splitdeploy.partitioner.wording import minus
from splitdeploy.profiles.report import CutReport, SweepReport
from splitdeploy.profiles.units import format_count, format_time

STAGES = ("edge", "uplink", "cloud", "downlink")
ROW = 26.0
AXIS = 42.0


def latency_bars(report: SweepReport, width: float) -> str:
    """Bars of the total latency of every cut, stacked by stage.

    Args:
        report: What to show.
        width: In CSS pixels.

    Returns:
        An ``svg`` element, or nothing where no cut has a latency.
    """
    totals = [sum(_stages_s(row)) for row in report.cuts if row.latency_s]
    if not totals or max(totals) <= 0:
        return ""
    frame = _Frame(report, width, 0.0, max(totals) * 1e3, right=62)
    elements = frame.background("milliseconds, median of each stage")
    for position, row in enumerate(report.cuts):
        top = position * ROW + 4
        if row.latency_s is None:
            elements.append(svg.text(frame.left, top + 13, row.error or "no figure", "muted"))
            continue
        x = frame.left
        for stage, seconds in zip(STAGES, _stages_s(row), strict=True):
            span = frame.x(seconds * 1e3) - frame.left
            source = getattr(row.latency_s, stage).source
            tip = f"{row.name}, {stage}: {format_time(seconds)} ({source})"
            # A hairline apart, so that neighbours are told apart by more than their colour.
            elements.append(
                svg.rectangle(x, top, span - min(1.0, span / 4), ROW - 8, f"s-{stage}", tip)
            )
            x += span
        elements.append(svg.text(x + 6, top + 13, format_time(row.latency_s.total.median), "value"))
    return svg.drawing(
        width, frame.height, "Latency of every cut by stage", elements, frame.size_class
    )


def fsinfo_dots(report: SweepReport, width: float) -> str:
    """FSInfo along the depth, with two standard errors on either side.

    Args:
        report: What to show.
        width: In CSS pixels.

    Returns:
        An ``svg`` element, or nothing where no cut has the figure.
    """
    dots = [
        None
        if row.leakage is None
        else _Dot(
            row.leakage.fsinfo.value,
            row.leakage.fsinfo.value - 2 * row.leakage.fsinfo.standard_error,
            row.leakage.fsinfo.value + 2 * row.leakage.fsinfo.standard_error,
            True,
            f"{row.name}: FSInfo {row.leakage.fsinfo.value:.3f} "
            f"± {row.leakage.fsinfo.standard_error:.3f} nats per input element",
        )
        for row in report.cuts
    ]
    return _dots(report, width, dots, "FSInfo along the depth", "nats per input element", "s-edge")


def ssim_dots(report: SweepReport, width: float) -> str:
    """SSIM of the strongest attack along the depth, its 95 % interval, and the baseline.

    Args:
        report: What to show.
        width: In CSS pixels.

    Returns:
        An ``svg`` element, or nothing where no attack was run.
    """
    dots = [_ssim_dot(row) for row in report.cuts]
    baselines = [None if row.baseline is None else row.baseline.ssim for row in report.cuts]
    return _dots(
        report, width, dots, "SSIM of the strongest attack along the depth", "SSIM", "s-uplink",
        baselines, (0.0, 1.0),
    )  # fmt: skip


def _ssim_dot(row: CutReport) -> _Dot | None:
    attack = row.strongest_attack
    if attack is None:
        return None
    low, high = attack.ssim_ci95
    state = "converged" if attack.converged else "had not converged"
    return _Dot(
        attack.ssim, low, high, attack.converged,
        f"{row.name}: SSIM {attack.ssim:.3f} ({low:.3f} to {high:.3f}), {attack.name} {state}",
    )  # fmt: skip


@dataclass(frozen=True)
class _Dot:
    value: float
    low: float
    high: float
    filled: bool
    title: str


@dataclass(frozen=True)
class _Frame:
    """Rows of cuts, the first on top, over one horizontal axis."""

    report: SweepReport
    width: float
    low: float
    high: float
    right: float = 14

    @property
    def left(self) -> float:
        longest = max(svg.text_width(row.name, 12.5) for row in self.report.cuts)
        return min(longest, self.width * 0.38) + 16

    @property
    def bottom(self) -> float:
        return len(self.report.cuts) * ROW

    @property
    def height(self) -> float:
        return self.bottom + AXIS

    @property
    def size_class(self) -> str:
        return _size_class(self.width)

    def x(self, value: float) -> float:
        """Where a value lies."""
        share = (value - self.low) / (self.high - self.low)
        return self.left + share * (self.width - self.left - self.right)

    def background(self, axis: str) -> list[str]:
        """The band of the pick, the names, the grid and the axis."""
        picked = self.report.recommendation.cut if self.report.recommendation else None
        elements = []
        for position, row in enumerate(self.report.cuts):
            y = position * ROW
            css = "name"
            if row.name == picked:
                elements.append(svg.rectangle(0, y, self.width, ROW, "band", "recommended", 4))
                css = "name pick"
            name = _shortened(row.name, self.left - 12)
            elements.append(svg.text(self.left - 8, y + 17, name, css, "end"))
        room = self.width - self.left - self.right
        for tick in svg.ticks(self.low, self.high, max(4, int(room / 80))):
            x = self.x(tick)
            elements.append(svg.line(x, 0, x, self.bottom, "zero" if tick == 0 else "grid"))
            elements.append(svg.text(x, self.bottom + 16, minus(f"{tick:g}"), "tick", "middle"))
        middle = self.left + room / 2
        elements.append(svg.text(middle, self.bottom + 34, axis, "axis", "middle"))
        return elements


def _dots(
    report: SweepReport,
    width: float,
    dots: Sequence[_Dot | None],
    title: str,
    axis: str,
    css: str,
    baselines: Sequence[float | None] = (),
    limits: tuple[float, float] | None = None,
) -> str:
    present = [dot for dot in dots if dot is not None]
    if not present:
        return ""
    low = min([dot.low for dot in present] + ([limits[0]] if limits else []))
    high = max([dot.high for dot in present] + ([limits[1]] if limits else []))
    margin = 0.0 if limits else 0.04 * ((high - low) or 1.0)
    frame = _Frame(report, width, low - margin, high + margin)
    elements = frame.background(axis)
    places = [(position * ROW + ROW / 2, dot) for position, dot in enumerate(dots)]
    kinds = [(row.precision, row.batch) for row in report.cuts]
    for kind in dict.fromkeys(kinds):  # a trace each, or it would leap between them
        along = [p for p, other in zip(places, kinds, strict=True) if other == kind]
        elements.append(svg.path([(frame.x(d.value), y) for y, d in along if d], f"trace {css}"))
    level = [
        (frame.x(value), position * ROW + edge)
        for position, value in enumerate(baselines)
        if value is not None
        for edge in (0.0, ROW)
    ]
    if level:
        elements.append(svg.path(level, "baseline"))
    for y, dot in places:
        if dot is not None:
            elements.append(svg.line(frame.x(dot.low), y, frame.x(dot.high), y, f"whisker {css}"))
            shape = f"dot {css}" if dot.filled else f"dot hollow {css}"
            elements.append(svg.circle(frame.x(dot.value), y, 5, shape, dot.title))
    return svg.drawing(width, frame.height, title, elements, frame.size_class)


def trade_off(report: SweepReport, width: float) -> str:
    """Latency against the leakage index; the Pareto set as labelled diamonds.

    Args:
        report: What to show.
        width: In CSS pixels.

    Returns:
        An ``svg`` element, or nothing where either figure is missing.
    """
    table = table_of(report)
    rows = [row for row in table.rows if math.isfinite(row.latency_s)]
    if not rows or not table.has_leakage or not table.has_latency:
        return ""
    height = max(320.0, min(400.0, width * 0.72))
    left, bottom, top, right = 46.0, height - 46, 12.0, width - 16
    along = _latency_axis([row.latency_s * 1e3 for row in rows], left, right)

    def y_of(leakage: float) -> float:
        return bottom - 20 - leakage * (bottom - top - 30)

    elements = []
    for tick in along.ticks:
        x = along.x(tick)
        elements.append(svg.line(x, top, x, bottom, "grid"))
        elements.append(svg.text(x, bottom + 16, f"{tick:g}", "tick", "middle"))
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        elements.append(svg.line(left, y_of(tick), right, y_of(tick), "grid"))
        elements.append(svg.text(left - 7, y_of(tick) + 4, f"{tick:g}", "tick", "end"))
    axis = "total latency, ms" + (" (logarithmic)" if along.logarithmic else "")
    elements.append(svg.text((left + right) / 2, height - 10, axis, "axis", "middle"))
    places = {row.name: (along.x(row.latency_s * 1e3), y_of(row.leakage)) for row in rows}
    elements += _points(report, rows, places)
    elements += _labels(report, places, (left, right, top, bottom))
    return svg.drawing(width, height, "Latency against leakage", elements, _size_class(width))


@dataclass(frozen=True)
class _LatencyAxis:
    x: Callable[[float], float]
    ticks: list[float]
    logarithmic: bool


def _latency_axis(values_ms: Sequence[float], left: float, right: float) -> _LatencyAxis:
    """Linear, or logarithmic where the largest is over ten times the least."""
    least, most = min(values_ms), max(values_ms)
    if least > 0 and most > 10 * least:
        low, high = math.log(least / 1.25), math.log(most * 1.25)
        return _LatencyAxis(
            lambda v: left + (math.log(v) - low) / (high - low) * (right - left),
            svg.log_ticks(math.exp(low), math.exp(high)),
            True,
        )
    margin = 0.1 * ((most - least) or most or 1.0)
    start, end = max(0.0, least - margin) if least > most / 3 else 0.0, most + margin
    about = max(4, int((right - left) / 90))
    return _LatencyAxis(
        lambda v: left + (v - start) / (end - start) * (right - left),
        svg.ticks(start, end, about),
        False,
    )


def _points(
    report: SweepReport, rows: Sequence[Figures], places: dict[str, tuple[float, float]]
) -> list[str]:
    picked = report.recommendation.cut if report.recommendation else None
    feasible = {row.name: row.feasible for row in report.cuts}
    paced = report.objective.name == "throughput"
    elements = []
    for row in rows:
        x, y = places[row.name]
        tip = f"{row.name}: {format_time(row.latency_s)}, leakage index {row.leakage:.2f}"
        if paced and row.slowest_s > 0:
            tip += f", {format_count(1 / row.slowest_s)} a second"
        tip += "" if feasible[row.name] else ", violates a constraint"
        if row.name == picked:
            elements.append(svg.circle(x, y, 11, "halo"))
        hollow = "" if feasible[row.name] else " hollow"
        if row.name in report.pareto:
            elements.append(svg.diamond(x, y, 6.5, f"dot s-edge{hollow}", tip))
        else:
            elements.append(svg.circle(x, y, 4.5, f"dot s-other{hollow}", tip))
    return elements


def _labels(
    report: SweepReport,
    places: dict[str, tuple[float, float]],
    frame: tuple[float, float, float, float],
) -> list[str]:
    """Names beside the points, the pick's and the Pareto set's first, where there is room."""
    left, right, top, bottom = frame
    picked = report.recommendation.cut if report.recommendation else None
    order = sorted(places, key=lambda name: (name != picked, name not in report.pareto))
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in places.values()]
    elements = []
    for name in order:
        x, y = places[name]
        wide = svg.text_width(name, 12)
        beyond = 1.4 if name == picked else 1.0
        for dx, dy, anchor in ((dx * beyond, dy, anchor) for dx, dy, anchor in _LABEL_PLACES):
            start = x + dx - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
            box = (start, y + dy - 10, start + wide, y + dy + 3)
            inside = box[0] >= left and box[2] <= right and box[1] >= top and box[3] <= bottom
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                css = "label pick" if name == picked else "label"
                elements.append(svg.text(x + dx, y + dy, name, css, anchor))
                break
    return elements


_LABEL_PLACES = (
    (12.0, 4.0, "start"), (-12.0, 4.0, "end"), (0.0, -13.0, "middle"), (0.0, 22.0, "middle"),
    (10.0, -9.0, "start"), (-10.0, -9.0, "end"), (10.0, 17.0, "start"), (-10.0, 17.0, "end"),
)  # fmt: skip


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _stages_s(row: CutReport) -> list[float]:
    latency = row.latency_s
    return [] if latency is None else [getattr(latency, stage).median for stage in STAGES]


def _size_class(width: float) -> str:
    return "narrow" if width < 400 else "wide"


def _shortened(name: str, room: float) -> str:
    """The name, its middle left out where it does not fit."""
    fits = int(room / (12.5 * 0.56))
    if len(name) <= fits:
        return name
    keep = max(2, fits - 1)
    return f"{name[: keep // 2]}…{name[-(keep - keep // 2) :]}"
