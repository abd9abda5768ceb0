"""Decides where to cut: constraints first, then the objective, over all cuts and the two ends.

Everything here reads a finished report; nothing is measured. The objectives are ``latency``,
``energy``, ``leakage`` (the leakage index) and ``balanced``, whose one formula is in
``splitdeploy.partitioner.scoring``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from splitdeploy.partitioner.constraints import check_constraints, misses, why_infeasible
from splitdeploy.partitioner.pareto import pareto_front
from splitdeploy.partitioner.reasons import Decision, reasons, warnings_of
from splitdeploy.partitioner.rebase import with_network
from splitdeploy.partitioner.scoring import (
    Figures,
    Table,
    check_objective,
    lacks,
    rank_key,
    table_of,
)
from splitdeploy.partitioner.stability import stable_interval
from splitdeploy.profiles.errors import InfeasibleError
from splitdeploy.profiles.network import NetworkProfile
from splitdeploy.profiles.report import (
    Constraints,
    CutReport,
    Objective,
    Recommendation,
    SweepReport,
)


def recommend(
    report: SweepReport,
    *,
    constraints: Constraints,
    objective: Objective,
    network: NetworkProfile | None = None,
) -> SweepReport:
    """Decide anew from the stored figures.

    Args:
        report: A report with the figures of every cut.
        constraints: Hard limits; a row that lacks the figure that one asks for violates it.
        objective: What to minimise among the rows that violate none.
        network: See the report over this network, or None to leave its own.

    Returns:
        The report with feasibility, violations, Pareto set and recommendation decided anew. The
        Pareto set is over latency, energy and the leakage index, among all rows that did not fail.

    Raises:
        InfeasibleError: No row satisfies the constraints; the message names the constraint that
            binds and by how much the nearest cut misses it.
        UsageError: A limit or the objective cannot be meant, or the report lacks its figures.
    """
    judged = judge(report, constraints=constraints, objective=objective, network=network)
    table = table_of(judged)
    ranking = rank(judged, table, constraints, objective)
    if not ranking:
        raise InfeasibleError(why_infeasible(judged, constraints))
    pick = ranking[0]

    def pick_at(uplink_bps: float) -> str | None:
        there = with_network(judged, replace(judged.network, uplink_bps=uplink_bps))
        order = rank(there, table_of(there), constraints, objective)
        return order[0].name if order else None

    interval = stable_interval(pick_at, judged.network.uplink_bps, pick.name)
    unbound = rank(judged, table, Constraints(), objective)
    decision = Decision(judged, table, ranking, unbound[0], objective, interval)
    recommendation = Recommendation(
        cut=pick.name,
        why=reasons(decision),
        warnings=warnings_of(decision),
        runner_up=ranking[1].name if len(ranking) > 1 else None,
        stable_while={"uplink_bps": interval},
        objective=objective.name,
    )
    return replace(judged, recommendation=recommendation)


def judge(
    report: SweepReport,
    *,
    constraints: Constraints,
    objective: Objective,
    network: NetworkProfile | None = None,
) -> SweepReport:
    """Mark what is feasible and what is on the Pareto set, and pick nothing.

    What ``recommend`` does before it picks; a report that no cut satisfies can be shown this way.

    Args:
        report: A report with the figures of every cut.
        constraints: Hard limits.
        objective: What would be minimised.
        network: See the report over this network, or None to leave its own.

    Returns:
        The report with feasibility, violations and Pareto set, and no recommendation.

    Raises:
        UsageError: A limit or the objective cannot be meant, or the report lacks its figures.
    """
    check_constraints(constraints)
    if network is not None:
        report = with_network(report, network)
    table = table_of(report)
    check_objective(objective, table)
    rows = tuple(
        _judge_row(row, figures, constraints, objective)
        for row, figures in _with_figures(report, table)
    )
    return replace(
        report,
        cuts=rows,
        constraints=constraints,
        objective=objective,
        pareto=pareto_front({row.name: row.point for row in table.rows}),
        recommendation=None,
    )


def rank(
    report: SweepReport, table: Table, constraints: Constraints, objective: Objective
) -> Sequence[Figures]:
    """The feasible rows, the best first.

    Args:
        report: A report.
        table: Its figures.
        constraints: Hard limits.
        objective: What to minimise.

    Returns:
        The figures of the feasible rows; rows that tie in everything stay in the report's order.
    """
    feasible = [
        figures
        for row, figures in _with_figures(report, table)
        if figures is not None and not _violations(row, figures, constraints, objective)
    ]
    return sorted(feasible, key=lambda figures: rank_key(figures, table, objective))


def _with_figures(report: SweepReport, table: Table) -> Iterator[tuple[CutReport, Figures | None]]:
    """Every row with its figures; a row that failed has none."""
    by_name = {figures.name: figures for figures in table.rows}
    return ((row, by_name.get(row.name)) for row in report.cuts)


def _judge_row(
    row: CutReport, figures: Figures | None, constraints: Constraints, objective: Objective
) -> CutReport:
    violations = _violations(row, figures, constraints, objective)
    return replace(row, feasible=not violations, violations=violations)


def _violations(
    row: CutReport, figures: Figures | None, constraints: Constraints, objective: Objective
) -> tuple[str, ...]:
    if row.error is not None:
        return (f"failed: {row.error}",)
    if row.verified is not None and not row.verified.ok:
        return (
            "the tail on the head's output differs from the whole model "
            f"(relative error {row.verified.max_rel_error:.2g})",
        )
    violated = [miss.text for miss in misses(row, constraints)]
    lacking = None if figures is None else lacks(figures, objective)
    if lacking is not None:
        violated.append(f"has no {lacking} figure, which the objective asks for")
    return tuple(violated)
