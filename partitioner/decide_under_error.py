"""How sure a pick is: cases drawn from the errors of the figures, the same cases for every row.

In each case the best candidate is the one with the least objective; ties go to what is better in
the other figures, as in the decision itself. The *regret* of a row is by how much the best is
better. Candidates are the rows that satisfy the limits, by their central figures or with the
confidence that was asked for; with which probability each meets each limit is told beside it.

What a measurement is worth: decide in each case knowing one part, with the others at their central
figures, and see by how much the expected objective falls. It is a lower bound of the expected value
of knowing that part, and equals it where the parts add up, as latency's do.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from splitdeploy.partitioner.case_figures import (
    CaseFigures,
    case_figures,
    case_scores,
    limit_values,
)
from splitdeploy.partitioner.limits import ceiling
from splitdeploy.partitioner.rebase import result_bytes
from splitdeploy.partitioner.scoring import Table, is_valid, table_of
from splitdeploy.partitioner.settle_words import settle_text
from splitdeploy.partitioner.side_cases import Array
from splitdeploy.partitioner.uncertainty import (
    DRAWS,
    SEED,
    Cases,
    central_cases,
    draw_cases,
    uncertain_parts,
)
from splitdeploy.profiles.bandwidth_trace import TraceSample
from splitdeploy.profiles.certainty import (
    REGRET_UNITS,
    Candidate,
    Certainty,
    Settle,
    UncertainPart,
)
from splitdeploy.profiles.report import Constraints, Objective, SweepReport

_FIELDS = {
    "edge": ("edge_s",),
    "cloud": ("cloud_s",),
    "network": ("link", "link_is_factor"),
    "power": ("power", "radio"),
    "leakage": ("gain", "ssim", "fsinfo"),
}
"""Of ``Cases``, by the part that they belong to."""


def decide_under_error(
    report: SweepReport,
    candidates: Sequence[str],
    pick: str,
    *,
    constraints: Constraints,
    objective: Objective,
    trace: Sequence[TraceSample] | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Certainty:
    """How sure a pick is among the candidates.

    Args:
        report: The report, over the network that is meant.
        candidates: The rows that may be picked, the pick among them.
        pick: What was picked.
        constraints: The limits, whose chances are told.
        objective: What is minimised.
        trace: The link's rates over time, where they are known.
        draws: How many cases.
        seed: Of their random numbers.

    Returns:
        Probabilities and regrets of all candidates, and what measurement would settle it.
    """
    table = table_of(report)
    parts = uncertain_parts(report, trace)
    codec = constraints.min_agreement is not None
    cases = draw_cases(report, parts, trace=trace, draws=draws, seed=seed, codec=codec)
    figures = case_figures(report, table, cases)
    names = [name for name in figures.names if name in set(candidates)]
    columns = np.array([figures.names.index(name) for name in names])
    scores = _whole(case_scores(figures, table, objective), draws)[:, columns]
    best = _winners(figures, scores, columns)
    regrets = scores - scores[np.arange(draws), best][:, None]
    meets = {
        limit: _shares(values, ceiling(constraints, limit), draws)
        for limit, values in limit_values(report, cases, constraints).items()
    }
    rows = tuple(
        Candidate(
            cut=name,
            probability_best=float((best == place).mean()),
            expected_regret=max(0.0, float(regrets[:, place].mean())),
            p95_regret=max(0.0, float(np.quantile(regrets[:, place], 0.95))),
            p95_latency_s=_p95_s(figures, table, columns[place]),
            meets={limit: float(shares[columns[place]]) for limit, shares in meets.items()},
        )
        for place, name in enumerate(names)
    )
    own = rows[names.index(pick)]
    certainty = Certainty(
        probability_best=own.probability_best,
        expected_regret=own.expected_regret,
        p95_regret=own.p95_regret,
        regret_unit=REGRET_UNITS[objective.name],
        draws=draws,
        candidates=rows,
        parts=parts,
    )
    known = [
        _known(part, report, table, cases, columns, scores, best, own.expected_regret, objective)
        for part in parts
        if _varies(cases, part.name)
    ]
    settle = sorted(known, key=lambda item: -item.value)
    told = [replace(item, text=settle_text(item, certainty, report, trace)) for item in settle]
    return replace(certainty, settle=tuple(told))


def chances(
    report: SweepReport,
    constraints: Constraints,
    trace: Sequence[TraceSample] | None = None,
    names: Collection[str] | None = None,
) -> dict[str, Mapping[str, float]]:
    """With which probability each valid row meets each limit.

    Args:
        report: The report, over the network that is meant.
        constraints: The limits.
        trace: The link's rates over time, where they are known.
        names: Of the rows that are asked for; None for all.

    Returns:
        Probabilities by row, then by the limit's name.
    """
    asked, cases = _limit_cases(report, constraints, trace, names)
    held = {
        limit: _shares(values, ceiling(constraints, limit), DRAWS)
        for limit, values in limit_values(asked, cases, constraints).items()
    }
    return {
        row.name: {limit: float(shares[column]) for limit, shares in held.items()}
        for column, row in enumerate(asked.cuts)
    }


def least_limits(
    report: SweepReport,
    limits: Collection[str],
    confidence: float,
    trace: Sequence[TraceSample] | None = None,
) -> dict[str, dict[str, float]]:
    """The least value of each limit that each valid row meets with a confidence.

    Args:
        report: The report, over the network that is meant.
        limits: Their names, as in ``Constraints``.
        confidence: The probability.
        trace: The link's rates over time, where they are known.

    Returns:
        Values by the limit's name, then by row, less being stricter: those of a floor have the
        other sign. A row without the figure is left out.
    """
    # Which limits are set is all that matters here.
    every = Constraints(**dict.fromkeys(limits, 0))
    asked, cases = _limit_cases(report, every, trace, None)
    # The first place in order of size at which the share of cases reaches the confidence.
    place = min(DRAWS, math.ceil(confidence * DRAWS - 1e-9)) - 1
    found = {}
    for limit, values in limit_values(asked, cases, every).items():
        reached = np.sort(_whole(values, DRAWS), axis=0)[place]
        found[limit] = {
            row.name: float(value)
            for row, value in zip(asked.cuts, reached, strict=True)
            if math.isfinite(value)
        }
    return found


def _limit_cases(
    report: SweepReport,
    constraints: Constraints,
    trace: Sequence[TraceSample] | None,
    names: Collection[str] | None,
) -> tuple[SweepReport, Cases]:
    """The rows that are asked for, and their cases as far as the limits need them."""
    leaks = constraints.max_ssim is not None or constraints.max_fsinfo is not None
    parts = uncertain_parts(report, trace)
    codec = constraints.min_agreement is not None
    cases = draw_cases(report, parts, trace=trace, leakage=leaks, codec=codec, names=names)
    rows = tuple(
        row for row in report.cuts if is_valid(row) and (names is None or row.name in names)
    )
    return replace(report, cuts=rows, result_bytes=result_bytes(report)), cases


def _shares(values: Array, most: float, draws: int) -> Array:
    """In which share of the cases each row stays within a limit."""
    shares: Array = _whole((values <= most).astype(np.float64), draws).mean(axis=0)
    return shares


def _whole(values: Array, draws: int) -> Array:
    """One row a case, also where nothing varies."""
    return np.broadcast_to(values, (draws, values.shape[1]))


def _winners(figures: CaseFigures, scores: Array, columns: NDArray[np.int_]) -> NDArray[np.int_]:
    """The best candidate of every case: the least score, then latency, energy and leakage."""
    tied = scores == scores.min(axis=1, keepdims=True)
    for values in (figures.latency_s, figures.energy_j, figures.leakage):
        if (tied.sum(axis=1) <= 1).all():
            break
        kept = np.where(tied, _whole(values, len(scores))[:, columns], np.inf)
        tied &= kept == kept.min(axis=1, keepdims=True)
    winners: NDArray[np.int_] = np.argmax(tied, axis=1)
    return winners


def _p95_s(figures: CaseFigures, table: Table, column: int) -> float | None:
    if not table.has_latency:
        return None
    worst = float(np.quantile(figures.latency_s[:, column], 0.95))
    return worst if np.isfinite(worst) else None


def _varies(cases: Cases, part: str) -> bool:
    name = _FIELDS[part][0]
    values = getattr(cases, name)
    if part == "network":
        return bool(np.ptp(values, axis=1).any())
    return any(
        bool((np.ptp(np.nan_to_num(getattr(cases, field)), axis=0) > 0).any())
        for field in _FIELDS[part]
    )


def _known(
    part: UncertainPart,
    report: SweepReport,
    table: Table,
    cases: Cases,
    columns: NDArray[np.int_],
    scores: Array,
    best: NDArray[np.int_],
    expected_regret: float,
    objective: Objective,
) -> Settle:
    """What it is worth to know one part before choosing."""
    only = replace(
        central_cases(report), **{name: getattr(cases, name) for name in _FIELDS[part.name]}
    )
    figures = case_figures(report, table, only)
    draws = len(scores)
    seen = _whole(case_scores(figures, table, objective), draws)[:, columns]
    chosen = _winners(figures, seen, columns)
    every = np.arange(draws)
    left = float((scores[every, chosen] - scores[every, best]).mean())
    return Settle(
        part=part.name,
        value=min(expected_regret, max(0.0, expected_regret - left)),
        probability_best_then=float((chosen == best).mean()),
        text="",
    )
