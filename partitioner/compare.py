"""Several runs in one table, and two runs cut by cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from splitdeploy.partitioner.constraints import shown_limit
from splitdeploy.partitioner.scoring import leakage_indices
from splitdeploy.partitioner.wording import (
    MISSING,
    batch_of,
    minus,
    network_of,
    place_of,
    status_of,
)
from splitdeploy.profiles.report import Constraints, CutReport, SweepReport
from splitdeploy.profiles.units import format_energy, format_size, format_time

Change = Literal["same", "less", "more", "other", "none"]

HEADINGS = (
    "run", "model", "pick", "latency", "energy", "payload", "leakage index", "SSIM",
    "probability best", "edge", "cloud", "network",
)  # fmt: skip
"""Of the line of a run."""

SETTING = ("model", "edge", "cloud", "network")
"""Those of ``HEADINGS`` that were chosen, and not found."""


@dataclass(frozen=True)
class Run:
    """A run and what it is called among others.

    Attributes:
        label: Its folder's name, or its path where two have the same.
        folder: Where it lies.
        report: What it found.
    """

    label: str
    folder: Path
    report: SweepReport


@dataclass(frozen=True)
class Cell:
    """A figure of one cut in two runs.

    Attributes:
        one: In the first run, as text.
        other: In the second.
        change: Whether the second is less or more; ``other`` where it is no number that differs,
            ``none`` where a run lacks it.
        text: By how much, with a sign; empty where nothing can be said.
    """

    one: str
    other: str
    change: Change
    text: str

    @property
    def mark(self) -> str:
        """A sign that tells the change without colour."""
        return {"same": "=", "less": "▼", "more": "▲", "other": "≠", "none": ""}[self.change]

    @property
    def line(self) -> str:
        """Both figures and the change in one line."""
        if self.change == "same":
            return f"{self.one} ="
        if self.one == self.other:
            return self.one
        return " ".join(filter(None, (f"{self.one} → {self.other}", self.mark, self.text)))


@dataclass(frozen=True)
class Pair:
    """A cut in two runs.

    Attributes:
        name: Its name.
        one: Its row in the first run, or None.
        other: Its row in the second, or None.
        cells: A figure each, in the order of ``QUANTITIES``.
    """

    name: str
    one: CutReport | None
    other: CutReport | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Quantity:
    """What two rows are compared by.

    Attributes:
        heading: Its name.
        value: Its figure of a row, or None.
        shown: The figure as text.
        relative: Whether a change is told in percent, or as a difference.
    """

    heading: str
    value: Callable[[CutReport], float | None]
    shown: Callable[[float], str]
    relative: bool = True


def _plain(value: float) -> str:
    return minus(f"{value:.2f}")


def _ssim(row: CutReport) -> float | None:
    attack = row.strongest_attack
    return attack.ssim if attack else None


QUANTITIES = (
    Quantity("Payload", lambda row: row.cut.payload_bytes, format_size),
    Quantity(
        "Latency", lambda row: row.latency_s.total.median if row.latency_s else None, format_time
    ),
    Quantity("Energy", lambda row: row.energy_j.total if row.energy_j else None, format_energy),
    Quantity("Memory", lambda row: row.edge_memory_bytes, format_size),
    Quantity(
        "FSInfo", lambda row: row.leakage.fsinfo.value if row.leakage else None, _plain, False
    ),
    Quantity("SSIM", _ssim, _plain, False),
)


def name_runs(folders: Sequence[Path], reports: Sequence[SweepReport]) -> tuple[Run, ...]:
    """Give every run a label of its own.

    Args:
        folders: Where the runs lie, or their ``report.json``.
        reports: What they found, in the same order.

    Returns:
        The runs.
    """
    places = [path if path.is_dir() else path.parent for path in folders]
    short = [place.resolve().name for place in places]
    labels = [
        name if short.count(name) == 1 else str(place)
        for name, place in zip(short, places, strict=True)
    ]
    return tuple(Run(*parts) for parts in zip(labels, places, reports, strict=True))


def line_of(run: Run) -> tuple[str, ...]:
    """The line of a run in a table of several.

    Args:
        run: The run.

    Returns:
        A text for each of ``HEADINGS``.
    """
    report = run.report
    places = (place_of(report.edge), place_of(report.cloud))
    setting = (*places, f"{report.network.name}: {network_of(report)}")
    model = "; ".join(filter(None, (report.model.name, batch_of(report))))
    pick = report.find(report.recommendation.cut) if report.recommendation else None
    if pick is None:
        return (run.label, model, "none is feasible", *(MISSING,) * 6, *setting)
    index = (leakage_indices(report) or {}).get(pick.name)
    attack = pick.strongest_attack
    return (
        run.label, model, pick.name,
        format_time(pick.latency_s.total.median) if pick.latency_s else MISSING,
        format_energy(pick.energy_j.total) if pick.energy_j else MISSING,
        format_size(pick.cut.payload_bytes),
        MISSING if index is None else f"{index:.2f}",
        MISSING if attack is None else f"{attack.ssim:.2f}",
        _probability(report), *setting,
    )  # fmt: skip


def _probability(report: SweepReport) -> str:
    certainty = report.recommendation.certainty if report.recommendation else None
    return MISSING if certainty is None else f"{certainty.probability_best:.2f}"


def pairs_of(one: SweepReport, other: SweepReport) -> tuple[Pair, ...]:
    """The cuts of two runs side by side, by name.

    Args:
        one: The first run.
        other: The second.

    Returns:
        A pair for each name that either has, in the order of execution.
    """
    first = {row.name: row for row in one.cuts}
    second = {row.name: row for row in other.cuts}
    return tuple(
        _pair(name, first.get(name), second.get(name)) for name in _merged([*first], [*second])
    )


def _merged(first: list[str], second: list[str]) -> list[str]:
    """The names of both; one that the first lacks stands after the one before it in the second."""
    names = list(first)
    place = 0
    for name in second:
        if name in first:
            place = names.index(name) + 1
        else:
            names.insert(place, name)
            place += 1
    return names


def _pair(name: str, one: CutReport | None, other: CutReport | None) -> Pair:
    cells = tuple(_cell(quantity, one, other) for quantity in QUANTITIES)
    states = [MISSING if row is None else status_of(row) for row in (one, other)]
    change: Change = "none" if MISSING in states else "other"
    if states[0] == states[1]:
        change = "same"
    return Pair(name, one, other, (*cells, Cell(states[0], states[1], change, "")))


def _cell(quantity: Quantity, one: CutReport | None, other: CutReport | None) -> Cell:
    values = [None if row is None else quantity.value(row) for row in (one, other)]
    texts = [MISSING if value is None else quantity.shown(value) for value in values]
    before, after = values
    if before is None or after is None:
        return Cell(texts[0], texts[1], "none", "")
    if before == after or texts[0] == texts[1]:
        return Cell(texts[0], texts[1], "same", "")
    return Cell(
        texts[0], texts[1], "less" if after < before else "more",
        _difference(before, after, relative=quantity.relative),
    )  # fmt: skip


def _difference(before: float, after: float, *, relative: bool) -> str:
    if not relative:
        return minus(f"{after - before:+.2f}")
    if before == 0:
        return ""
    share = after / before
    if share >= 10:
        return f"× {share:.3g}"
    if 0 < share <= 0.1:
        return f"÷ {1 / share:.3g}"
    return minus(f"{(share - 1) * 100:+.3g} %")


def settings_of(one: SweepReport, other: SweepReport) -> tuple[tuple[str, str, str], ...]:
    """What the two runs rest on, side by side.

    Args:
        one: The first run.
        other: The second.

    Returns:
        Name, and text of either.
    """
    named = zip(_settings(one), _settings(other), strict=True)
    return tuple((name, first, second) for (name, first), (_, second) in named)


def _settings(report: SweepReport) -> Iterator[tuple[str, str]]:
    model, recommendation = report.model, report.recommendation
    yield "Pick", recommendation.cut if recommendation else "none is feasible"
    yield "Model", model.name
    yield "Weights", f"{model.weights} ({model.weights_sha256[:12]}…)"
    yield "Input", f"{' × '.join(map(str, model.input_shape))} {model.input_dtype}"
    yield "Edge", place_of(report.edge)
    yield "Cloud", place_of(report.cloud)
    yield "Network", f"{report.network.name}: {network_of(report)}"
    yield "Batch", batch_of(report) or "1 input a request"
    yield "Objective", report.objective.name
    yield "Limits", _limits(report.constraints)
    yield "Seed", str(report.seed)
    yield "Created", report.created


def _limits(constraints: Constraints) -> str:
    given = {key: value for key, value in vars(constraints).items() if value is not None}
    confidence = given.pop("confidence", None)
    told = [shown_limit(key, value) for key, value in given.items()]
    told += [] if confidence is None else [f"--confidence {confidence:g}"]
    return ", ".join(told) or "none"
