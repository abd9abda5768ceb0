"""The figures that a decision rests on, and the one formula that weighs them.

The *leakage index* of a cut lies on [0, 1]: 0 where the smashed data says nothing of the input, 1
where it gives away what sending the input would. It is the larger of two shares:

- ``gain / max gain``: the Fisher information of the cut, as nats per input element that it adds to
  the prior, over the largest of all valid rows;
- ``(ssim - baseline) / (1 - baseline)``: what the strongest attack recovered beyond the best
  trivial reconstruction.

Both are lower bounds of what an attacker may learn, so an attack can raise the index and never
lower it: a weak one makes no cut look safe. The ends need no figure: ``cloud-only`` sends the input
itself and has 1, ``edge-only`` sends nothing but the result and has 0 unless a figure says more.
A cut with neither a gain nor a converged attack is unknown, and counts as 1.

The *balanced* score of a row, with latency L, energy E and leakage index q, is

    S = (w_L ln(L / L*) + w_E ln(E / E*) - w_P ln(1 - q)) / (w_L + w_E + w_P)

where L* and E* are the least of the cuts between the ends. It has no unit and no scale: doubling
the latency costs what doubling the energy costs, and what halving the share of the input that stays
private costs. No end runs away with the decision: a latency or energy below a tenth of the least
counts as a tenth of it, and 1 - q below 1 % as 1 %. So sending the input itself, q = 1, is made up
for by being ten times better than the best cut in both latency and energy, and by nothing less.
Constraints do not enter the score, so tightening one never improves that of the pick. A term of
which no row has the figure is dropped, and its weight with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY
from splitdeploy.profiles.errors import UnknownNameError, UsageError
from splitdeploy.profiles.report import CutReport, Objective, SweepReport
from splitdeploy.profiles.throughput import slowest_stage_s

OBJECTIVES = ("balanced", "latency", "energy", "leakage", "throughput")

COST_FLOOR = 0.1
"""The share of the least latency or energy of a cut below which less makes no difference."""

PRIVACY_FLOOR = 0.01
"""The share of the input that stays private below which less makes no difference."""


@dataclass(frozen=True)
class Figures:
    """What a decision about a row rests on.

    Attributes:
        name: The row's name.
        latency_s: Median of the total; infinite where there is none.
        energy_j: Total of the device; infinite where there is none.
        leakage: The leakage index on [0, 1].
        slowest_s: How long the slowest stage is busy with one input; infinite where there is no
            latency.
        is_end: Whether nothing is cut there.
        batch: How many inputs a request has.
    """

    name: str
    latency_s: float
    energy_j: float
    leakage: float
    slowest_s: float = 0.0
    is_end: bool = False
    batch: int = 1

    @property
    def point(self) -> tuple[float, float, float]:
        """Its place among the trade-offs."""
        return (self.latency_s, self.energy_j, self.leakage)

    def trade_offs(self, objective: Objective) -> tuple[float, ...]:
        """Its place among what this objective trades: with ``throughput`` the pace too."""
        return (self.slowest_s, *self.point) if objective.name == "throughput" else self.point


@dataclass(frozen=True)
class Table:
    """The figures of all valid rows, and which kinds of figure there are at all.

    A kind that no row has is zero in every row, so that it decides nothing. The least latency and
    energy are the smallest above zero of the cuts between the ends, or of all rows where there is
    none; zero where nothing is above zero.
    """

    rows: tuple[Figures, ...]
    has_latency: bool
    has_energy: bool
    has_leakage: bool
    least_latency_s: float
    least_energy_j: float


def is_valid(row: CutReport) -> bool:
    """Whether a row may be picked at all: it did not fail, neither in the sweep nor in the check.

    The two ends have nothing to verify; a cut that was not verified is told, not refused.

    Args:
        row: The row.

    Returns:
        Whether it neither failed nor was found wrong.
    """
    return row.error is None and (row.verified is None or row.verified.ok)


def table_of(report: SweepReport) -> Table:
    """The figures of every valid row.

    Args:
        report: A report.

    Returns:
        Their figures, in the order of the report.
    """
    rows = [row for row in report.cuts if is_valid(row)]
    has_latency = any(row.latency_s is not None for row in rows)
    has_energy = any(row.energy_j is not None for row in rows)
    indices = leakage_indices(report)
    figures = tuple(
        Figures(
            name=row.name,
            latency_s=_latency_s(row) if has_latency else 0.0,
            energy_j=_energy_j(row) if has_energy else 0.0,
            leakage=0.0 if indices is None else indices[row.name],
            slowest_s=_slowest_s(row, report) if has_latency else 0.0,
            is_end=row.cut.is_end,
            batch=report.batch_of(row),
        )
        for row in rows
    )
    return Table(
        rows=figures,
        has_latency=has_latency,
        has_energy=has_energy,
        has_leakage=indices is not None,
        least_latency_s=_least([(row.is_end, row.latency_s) for row in figures]),
        least_energy_j=_least([(row.is_end, row.energy_j) for row in figures]),
    )


def leakage_indices(report: SweepReport) -> dict[str, float] | None:
    """The leakage index of every valid row; see the module's text for its definition.

    Args:
        report: A report.

    Returns:
        Numbers on [0, 1] by name, or None where no cut between the ends has a figure.
    """
    rows = [row for row in report.cuts if is_valid(row)]
    largest = max((row.leakage.gain.value for row in rows if row.leakage), default=0.0)
    known = {row.name: _known_leakage(row, largest) for row in rows}
    if all(known[row.name] is None for row in rows if not row.cut.is_end):
        return None
    indices = {}
    for row in rows:
        value = known[row.name]
        if row.cut.name == CLOUD_ONLY:
            indices[row.name] = 1.0
        elif value is not None:
            indices[row.name] = value
        else:
            indices[row.name] = 0.0 if row.cut.name == EDGE_ONLY else 1.0
    return indices


def attack_share(row: CutReport) -> float | None:
    """What the strongest attack recovered beyond the baseline, on [0, 1]; None without attack."""
    attack = row.strongest_attack
    if attack is None:
        return None
    baseline = row.baseline.ssim if row.baseline else 0.0
    return min(1.0, max(0.0, (attack.ssim - baseline) / max(1e-9, 1.0 - baseline)))


def _known_leakage(row: CutReport, largest_gain: float) -> float | None:
    recovered = attack_share(row)
    if row.leakage is not None:
        gain = max(0.0, row.leakage.gain.value)
        share = gain / largest_gain if largest_gain > 0 else 0.0
        return max(share, recovered or 0.0)
    attack = row.strongest_attack
    return recovered if attack is not None and attack.converged else None


def _latency_s(row: CutReport) -> float:
    return math.inf if row.latency_s is None else row.latency_s.total.median


def _slowest_s(row: CutReport, report: SweepReport) -> float:
    if row.latency_s is None:
        return math.inf
    return slowest_stage_s(row.latency_s, report.network, report.batch_of(row))


def _energy_j(row: CutReport) -> float:
    return math.inf if row.energy_j is None else row.energy_j.total


def check_objective(objective: Objective, table: Table) -> None:
    """Refuse an objective that cannot be meant, or that the report has no figures for.

    Args:
        objective: What to minimise.
        table: The figures of the report.

    Raises:
        UnknownNameError: There is no such objective.
        UsageError: A weight is negative, all weights that count are zero, or no row has the figure
            that the objective asks for.
    """
    if objective.name not in OBJECTIVES:
        raise UnknownNameError("objective", objective.name, OBJECTIVES)
    weights = _weights(objective)
    if any(not math.isfinite(weight) or weight < 0 for weight in weights):
        shown = ":".join(f"{weight:g}" for weight in weights)
        raise UsageError(
            f"expected weights of zero or more for latency, energy and leakage, got {shown}"
        )
    if not table.rows:
        return
    present = (table.has_latency, table.has_energy, table.has_leakage)
    kinds = ("latency", "energy", "leakage")
    available = ", ".join(kind for kind, there in zip(kinds, present, strict=True) if there)
    needed = "latency" if objective.name == "throughput" else objective.name
    if needed in kinds and not present[kinds.index(needed)]:
        raise UsageError(
            f"the objective {objective.name} needs {needed} figures, and no cut of this "
            f"report has one; available: {available or 'none'}; choose among these, or profile anew"
        )
    counting = sum(weight for weight, there in zip(weights, present, strict=True) if there)
    if objective.name == "balanced" and counting <= 0:
        raise UsageError(
            "expected a positive weight for a figure that the report has "
            f"({available or 'none'}), got weights that are all zero for these"
        )


def lacks(figures: Figures, objective: Objective) -> str | None:
    """The kind of figure that the objective needs and this row has not, or None."""
    balanced = objective.name == "balanced"
    needs_latency = objective.name in {"latency", "throughput"} or (
        balanced and objective.weight_latency > 0
    )
    needs_energy = objective.name == "energy" or (balanced and objective.weight_energy > 0)
    if needs_latency and not math.isfinite(figures.latency_s):
        return "latency"
    return "energy" if needs_energy and not math.isfinite(figures.energy_j) else None


def balanced_score(figures: Figures, table: Table, objective: Objective) -> float:
    """The balanced score of a row; lower is better. See the module's text for the formula.

    Args:
        figures: The row's figures.
        table: All valid rows.
        objective: The weights.

    Returns:
        The score: a difference of ln 2 is a factor of two in everything at once.
    """
    latency, energy, leakage = _weights(objective)
    terms = []
    if table.has_latency and latency:
        terms.append((latency, _price(figures.latency_s, table.least_latency_s)))
    if table.has_energy and energy:
        terms.append((energy, _price(figures.energy_j, table.least_energy_j)))
    if table.has_leakage and leakage:
        terms.append((leakage, -math.log(max(PRIVACY_FLOOR, 1.0 - figures.leakage))))
    return sum(w * term for w, term in terms) / sum(w for w, _ in terms)


def _price(value: float, least: float) -> float:
    """ln(value / least), with the floor under it; zero where everything is zero."""
    return math.log(max(COST_FLOOR, value / least)) if least > 0 else 0.0


def _least(values: Sequence[tuple[bool, float]]) -> float:
    positive = [(is_end, value) for is_end, value in values if value > 0 and math.isfinite(value)]
    between = [value for is_end, value in positive if not is_end]
    return min(between or [value for _, value in positive], default=0.0)


def _weights(objective: Objective) -> tuple[float, float, float]:
    return (objective.weight_latency, objective.weight_energy, objective.weight_leakage)


def rank_key(figures: Figures, table: Table, objective: Objective) -> tuple[float, ...]:
    """What rows are sorted by; ties go to what is better in the other figures.

    So a pick is never dominated by a row that was feasible too.

    Args:
        figures: The row's figures.
        table: All valid rows.
        objective: What to minimise.

    Returns:
        A key; the least is the best.
    """
    latency, energy, leakage = figures.point
    if objective.name == "latency":
        return (latency, energy, leakage)
    if objective.name == "energy":
        return (energy, latency, leakage)
    if objective.name == "throughput":
        return (figures.slowest_s, latency, energy, leakage)
    if objective.name == "leakage":
        return (leakage, latency, energy)
    return (balanced_score(figures, table, objective), latency, energy, leakage)
