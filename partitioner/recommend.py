"""Decides where to cut: constraints first, then the objective, over all cuts and the two ends.

Everything here reads a finished report; nothing is measured. The objectives are ``latency``,
``energy``, ``leakage`` (the leakage index), ``throughput`` (the pace of the slowest stage) and
``balanced``, whose one formula is in ``splitdeploy.partitioner.scoring``. How sure the pick is
under the errors of the figures is ``splitdeploy.partitioner.decide_under_error``'s part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from splitdeploy.partitioner.codec_words import codec_reasons, codec_warnings
from splitdeploy.partitioner.constraints import check_constraints, misses, why_infeasible
from splitdeploy.partitioner.decide_under_error import chances, decide_under_error, least_limits
from splitdeploy.partitioner.flips import (
    LimitFlip,
    Values,
    central_limits,
    edge_interval,
    limit_flips,
    told_limits,
)
from splitdeploy.partitioner.limit_words import edge_reason, limit_reasons, trace_reason
from splitdeploy.partitioner.limits import FLOORS, turned
from splitdeploy.partitioner.pareto import pareto_front
from splitdeploy.partitioner.reasons import Decision, reasons, warnings_of
from splitdeploy.partitioner.rebase import with_network
from splitdeploy.partitioner.schedule import network_of_trace, over_trace
from splitdeploy.partitioner.scoring import (
    Figures,
    Table,
    check_objective,
    lacks,
    rank_key,
    table_of,
)
from splitdeploy.partitioner.settle_words import certainty_reasons, limit_warnings
from splitdeploy.partitioner.stability import stable_interval
from splitdeploy.profiles.bandwidth_trace import TraceSample
from splitdeploy.profiles.errors import InfeasibleError
from splitdeploy.profiles.network import NetworkProfile
from splitdeploy.profiles.report import (
    Constraints,
    CutReport,
    Objective,
    Recommendation,
    SweepReport,
)

_AT_ONCE = 4
"""Rows whose chances are told together."""

Chances = Mapping[str, Mapping[str, float]]
"""With which probability each row meets each limit."""


def recommend(
    report: SweepReport,
    *,
    constraints: Constraints,
    objective: Objective,
    network: NetworkProfile | None = None,
    trace: Sequence[TraceSample] | None = None,
    switch_cost_s: float = 0.0,
    requests_per_s: float = 1.0,
) -> SweepReport:
    """Decide anew from the stored figures.

    Args:
        report: A report with the figures of every cut.
        constraints: Limits; a row that lacks the figure that one asks for violates it. Without a
            confidence the central figures have to hold them.
        objective: What to minimise among the rows that violate none, by the central figures.
        network: See the report over this network, or None to leave its own.
        trace: The link's rates over time; the decision is made for its medians, and the errors of
            the link are its rates.
        switch_cost_s: What a change of the cut costs in a schedule over the trace.
        requests_per_s: How often an inference is asked for in it.

    Returns:
        The report with feasibility, violations, Pareto set and recommendation decided anew. The
        Pareto set is over latency, energy and the leakage index, with the objective ``throughput``
        over the slowest stage too, among all rows that did not fail.

    Raises:
        InfeasibleError: No row satisfies the constraints; the message names the constraint that
            binds and by how much the nearest cut misses it.
        UsageError: A limit or the objective cannot be meant, or the report lacks its figures.
    """  # noqa: DOC502
    if trace is not None:
        network = network_of_trace(trace, network or report.network)
    judged = judge(
        report, constraints=constraints, objective=objective, network=network, trace=trace
    )
    table = table_of(judged)
    ranking = rank(judged, table, constraints, objective, trace)
    if not ranking:
        found = _chances(judged, constraints, trace)
        raise InfeasibleError(why_infeasible(judged, constraints, found))
    pick = ranking[0]

    def pick_of(there: SweepReport, limits: Constraints) -> str | None:
        return _first(there, limits, objective, trace)

    def pick_at(uplink_bps: float) -> str | None:
        there = with_network(judged, replace(judged.network, uplink_bps=uplink_bps))
        return pick_of(there, constraints)

    interval = stable_interval(pick_at, judged.network.uplink_bps, pick.name)
    speeds = edge_interval(judged, constraints, pick.name, pick_of)
    met = (
        central_limits(judged)
        if constraints.confidence is None
        else least_limits(judged, told_limits(judged), constraints.confidence, trace)
    )
    flips = tuple(limit_flips(judged, constraints, pick.name, pick_of, met))
    unbound = rank(judged, table, Constraints(), objective)
    decision = Decision(judged, table, ranking, unbound[0], objective, interval)
    runner_up = ranking[1].name if len(ranking) > 1 else None
    names = [row.name for row in ranking]
    certainty = decide_under_error(
        judged, names, pick.name, constraints=constraints, objective=objective, trace=trace
    )
    outcome = None
    if trace is not None:
        outcome = over_trace(
            judged, names, trace, switch_cost_s=switch_cost_s, requests_per_s=requests_per_s
        )
    recommendation = Recommendation(
        cut=pick.name,
        precision=judged.find(pick.name).precision,
        run=judged.find(pick.name).run,
        batch=judged.find(pick.name).batch,
        why=(
            *reasons(decision),
            *codec_reasons(decision),
            *limit_reasons(decision, flips, pick_of),
            *edge_reason(judged, speeds),
            *certainty_reasons(certainty, pick.name, runner_up),
            *trace_reason(outcome),
        ),
        warnings=(
            *warnings_of(decision),
            *codec_warnings(decision),
            *limit_warnings(certainty, pick.name, constraints.confidence),
        ),
        runner_up=runner_up,
        stable_while=_intervals(judged, pick.name, interval, speeds, flips, met),
        objective=objective.name,
        certainty=certainty,
        trace=outcome,
    )
    return replace(judged, recommendation=recommendation)


def recommend_or_judge(
    report: SweepReport,
    *,
    constraints: Constraints,
    objective: Objective,
    network: NetworkProfile | None = None,
    trace: Sequence[TraceSample] | None = None,
    switch_cost_s: float = 0.0,
    requests_per_s: float = 1.0,
) -> tuple[SweepReport, InfeasibleError | None]:
    """What `recommend` decides, or the rows as they are judged where none is left.

    Args:
        report: As `recommend` takes it.
        constraints: Likewise.
        objective: Likewise.
        network: Likewise.
        trace: Likewise.
        switch_cost_s: Likewise.
        requests_per_s: Likewise.

    Returns:
        The report, and why it has no recommendation; None where it has one.

    Raises:
        UsageError: As `recommend`.
    """  # noqa: DOC502
    try:
        decided = recommend(
            report, constraints=constraints, objective=objective, network=network, trace=trace,
            switch_cost_s=switch_cost_s, requests_per_s=requests_per_s,
        )  # fmt: skip
    except InfeasibleError as error:
        if trace is not None:
            network = network_of_trace(trace, network or report.network)
        judged = judge(
            report, constraints=constraints, objective=objective, network=network, trace=trace
        )
        return judged, error
    return decided, None


def _intervals(
    report: SweepReport,
    pick: str,
    uplink: tuple[float, float | None],
    speeds: tuple[float, float | None],
    flips: Sequence[LimitFlip],
    met: Values,
) -> dict[str, tuple[float, float | None]]:
    """In which interval of each quantity the pick stays the same, all else fixed."""
    intervals = {"uplink_bps": uplink}
    row = report.find(pick)
    if row.latency_s is not None and row.latency_s.edge.median > 0:
        intervals["edge_time_factor"] = speeds
    for limit, values in met.items():
        if pick in values:
            own = turned(limit, values[pick])
            ends = [flip.value for flip in flips if flip.limit == limit and not flip.tighter]
            # A limit flips the pick once where it is loosened; a floor is loosened downwards.
            end = ends[0] if ends else None
            intervals[limit] = (end or 0.0, own) if limit in FLOORS else (own, end)
    return intervals


def _first(
    report: SweepReport,
    constraints: Constraints,
    objective: Objective,
    trace: Sequence[TraceSample] | None,
) -> str | None:
    """The name of the best feasible row: what ``rank`` puts first."""
    if constraints.confidence is None:
        order = rank(report, table_of(report), constraints, objective)
        return order[0].name if order else None
    names = [row.name for row in rank(report, table_of(report), Constraints(), objective)]
    # A search asks very often, and mostly the first few rows answer.
    for start in range(0, len(names), _AT_ONCE):
        some = names[start : start + _AT_ONCE]
        found = chances(report, constraints, trace, some)
        for name in some:
            if all(share >= constraints.confidence for share in found[name].values()):
                return name
    return None


def judge(
    report: SweepReport,
    *,
    constraints: Constraints,
    objective: Objective,
    network: NetworkProfile | None = None,
    trace: Sequence[TraceSample] | None = None,
) -> SweepReport:
    """Mark what is feasible and what is on the Pareto set, and pick nothing.

    What ``recommend`` does before it picks; a report that no cut satisfies can be shown this way.

    Args:
        report: A report with the figures of every cut.
        constraints: Hard limits.
        objective: What would be minimised.
        network: See the report over this network, or None to leave its own.
        trace: The link's rates over time, for chances.

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
    found = _chances(report, constraints, trace)
    rows = tuple(
        _judge_row(row, figures, constraints, objective, found)
        for row, figures in _with_figures(report, table)
    )
    return replace(
        report,
        cuts=rows,
        constraints=constraints,
        objective=objective,
        pareto=pareto_front({row.name: row.trade_offs(objective) for row in table.rows}),
        recommendation=None,
    )


def rank(
    report: SweepReport,
    table: Table,
    constraints: Constraints,
    objective: Objective,
    trace: Sequence[TraceSample] | None = None,
) -> Sequence[Figures]:
    """The feasible rows, the best first.

    Args:
        report: A report.
        table: Its figures.
        constraints: Hard limits.
        objective: What to minimise.
        trace: The link's rates over time, for chances.

    Returns:
        The figures of the feasible rows; rows that tie in everything stay in the report's order.
    """
    found = _chances(report, constraints, trace)
    feasible = [
        figures
        for row, figures in _with_figures(report, table)
        if figures is not None and not _violations(row, figures, constraints, objective, found)
    ]
    return sorted(feasible, key=lambda figures: rank_key(figures, table, objective))


def _with_figures(report: SweepReport, table: Table) -> Iterator[tuple[CutReport, Figures | None]]:
    """Every row with its figures; a row that failed has none."""
    by_name = {figures.name: figures for figures in table.rows}
    return ((row, by_name.get(row.name)) for row in report.cuts)


def _chances(
    report: SweepReport, constraints: Constraints, trace: Sequence[TraceSample] | None
) -> Chances:
    """What a confidence is compared with; nothing where none is asked for."""
    return {} if constraints.confidence is None else chances(report, constraints, trace)


def _judge_row(
    row: CutReport,
    figures: Figures | None,
    constraints: Constraints,
    objective: Objective,
    found: Chances,
) -> CutReport:
    violations = _violations(row, figures, constraints, objective, found)
    return replace(row, feasible=not violations, violations=violations)


def _violations(
    row: CutReport,
    figures: Figures | None,
    constraints: Constraints,
    objective: Objective,
    found: Chances,
) -> tuple[str, ...]:
    if row.error is not None:
        return (f"failed: {row.error}",)
    if row.verified is not None and not row.verified.ok:
        return (
            "the tail on the head's output differs from the whole model "
            f"(relative error {row.verified.max_rel_error:.2g})",
        )
    violated = [miss.text for miss in misses(row, constraints, found.get(row.name))]
    lacking = None if figures is None else lacks(figures, objective)
    if lacking is not None:
        violated.append(f"has no {lacking} figure, which the objective asks for")
    return tuple(violated)
