"""The table 'Leakage of each cut' of a report: which figures it has, and how each is written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from splitdeploy.partitioner.wording import minus
from splitdeploy.profiles.figure import Figure
from splitdeploy.profiles.report import SweepReport

_HEADINGS = {
    "gain": "gain",
    "fsinfo": "FSInfo",
    "bayesian_fsinfo": "FSInfo, Bayesian",
    "exact_fsinfo": "FSInfo, no prior",
    "information_prior": "I(X; Z) ≤, prior",
    "information_covariance": "I(X; Z) ≤, covariance",
    "rank_share": "rank / d",
    "dfil": "dFIL",
    "fil_max": "FIL",
    "distance_correlation": "distance correlation²",
    "class_radius": "R_c² share",
    "mse_determinant": "MSE ≥, determinant",
    "mse_trace": "MSE ≥, 1/dFIL",
    "mse_mean_determinant": "MSE ≥, Bayesian",
    "mse_van_trees": "MSE ≥, van Trees",
    "mse_covariance": "MSE ≥, covariance",
}
"""What a column is headed by; a figure that is not among these, by its name."""

_BINDS = {"": "nobody", "any": "any attacker", "unbiased": "unbiased attackers"}

_ASSUMES = {
    "prior": "pictures that follow the prior",
    "local": "the neighbourhood of each picture",
    "local, full rank": "the neighbourhood of each picture, and full rank",
    "variances": "variances over the pictures",
    "prior, variances": "pictures that follow the prior, and variances over the pictures",
    "samples": "the pictures alone",
    "labels": "the pictures and their labels",
}


@dataclass(frozen=True)
class Column:
    """A figure of the table.

    Attributes:
        name: As the report has it.
        heading: Short.
        text: What it is.
        unit: Of its values.
        binds: Whom, in words.
        assumes: What it rests on.
    """

    name: str
    heading: str
    text: str
    unit: str
    binds: str
    assumes: str


@dataclass(frozen=True)
class Cell:
    """A value, its error (empty where it was not estimated), and how many pictures it rests on."""

    value: str
    error: str
    images: int


@dataclass(frozen=True)
class LeakageTable:
    """The whole table.

    Attributes:
        columns: Of every figure that some cut has, in the order of the report.
        rows: The name of each cut, with a cell a column; None where the cut lacks it.
        notes: A cut and a sentence on what is not there, and why; one for several cuts alike.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    notes: tuple[tuple[str, str], ...]


def leakage_table(report: SweepReport) -> LeakageTable | None:
    """The table of a report.

    Args:
        report: Any.

    Returns:
        The table, or None where no cut has more than the flat figures of older reports.
    """
    held = {row.name: row.leakage.figures for row in report.cuts if row.leakage}
    columns: dict[str, Column] = {}
    for figures in held.values():
        for figure in figures:
            columns.setdefault(figure.name, _column(figure))
    if not columns:
        return None
    # A figure that the first cuts lack keeps its place: bounds on the error come last.
    names = sorted(columns, key=lambda name: (name.startswith("mse"), _place(name)))
    rows = []
    for row in report.cuts:
        found = {figure.name: _cell(figure) for figure in held.get(row.name, ())}
        rows.append((row.name, tuple(found.get(name) for name in names)))
    return LeakageTable(tuple(columns[name] for name in names), tuple(rows), tuple(_notes(report)))


def _column(figure: Figure) -> Column:
    return Column(
        name=figure.name,
        heading=_HEADINGS.get(figure.name, figure.name),
        text=figure.text,
        unit=figure.unit,
        binds=_BINDS.get(figure.binds, figure.binds),
        assumes=_ASSUMES.get(figure.assumes, figure.assumes),
    )


def _place(name: str) -> int:
    order = list(_HEADINGS)
    return order.index(name) if name in order else len(order)


def _cell(figure: Figure) -> Cell:
    error = figure.standard_error
    told = error is not None and error > 0
    return Cell(_short(figure.value), _short(error or 0.0) if told else "", figure.images)


def _short(value: float) -> str:
    """Three digits, infinite as ∞; a real minus sign."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return minus(f"{value:.3g}")


def _notes(report: SweepReport) -> Iterator[tuple[str, str]]:
    """Each note once, with the cuts that have it."""
    cuts: dict[str, list[str]] = {}
    for row in report.cuts:
        for note in row.leakage.notes if row.leakage else ():
            cuts.setdefault(note, []).append(row.name)
    for note, names in cuts.items():
        everywhere = len(names) > 3 and len(names) == sum(1 for row in report.cuts if row.leakage)
        yield ("every cut" if everywhere else ", ".join(names)), note
