"""Which cuts a decision hangs on, the first the most.

What attacks found decides where time is spent, and their SSIM is known to whoever evaluates, not to
an attacker. Within an attack nothing is chosen by it: no restart, no step, no weight.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from splitdeploy.partitioner.decide_under_error import decide_under_error
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.recommend import judge, rank
from splitdeploy.partitioner.scoring import table_of
from splitdeploy.profiles.report import Constraints, Objective, SweepReport

_DRAWS = 500
"""Cases behind the chance of a row to be the best: enough to put rows into an order."""

_BY_PRICE = {"leakage": Objective("latency")}
"""What is asked before anything is known of leakage."""


def by_price(report: SweepReport, options: ProfileOptions) -> list[int]:
    """The places of the rows, those first that would be picked if nothing leaked.

    A cut between the ends comes first of all: without one there is nothing to compare.

    Args:
        report: Priced.
        options: What is decided by.

    Returns:
        Every place once.
    """
    limits = _without_leakage(options.constraints)
    objective = _BY_PRICE.get(options.objective.name, options.objective)
    ranked = rank(report, table_of(report), limits, objective, options.trace)
    order = _places(report, [figures.name for figures in ranked])
    inner = [place for place in order if not report.cuts[place].cut.is_end]
    return list(dict.fromkeys([*inner[:1], *order]))


def by_decision(report: SweepReport, options: ProfileOptions) -> list[int]:
    """The places of the rows that may yet be picked, those first that the decision hangs on.

    By the chance to be the best under the errors of the figures; among those without one, the rows
    that no other beats in everything come first. A row that violates a limit which no attack can
    mend is left out.

    Args:
        report: With evidence.
        options: What is decided by.

    Returns:
        Places.
    """
    limits, objective, trace = options.constraints, options.objective, options.trace
    judged = judge(report, constraints=limits, objective=objective, trace=trace)
    table = table_of(judged)
    ranked = [figures.name for figures in rank(judged, table, limits, objective, trace)]
    possible = [
        figures.name for figures in rank(judged, table, _without_leakage(limits), objective, trace)
    ]
    chance = dict.fromkeys(possible, 0.0)
    if ranked:
        found = decide_under_error(
            judged, ranked, ranked[0], constraints=limits, objective=objective, trace=trace,
            draws=_DRAWS,
        )  # fmt: skip
        chance |= {candidate.cut: candidate.probability_best for candidate in found.candidates}
    place = {name: nth for nth, name in enumerate(dict.fromkeys([*ranked, *possible]))}
    ordered = sorted(
        place, key=lambda name: (-chance[name], name not in judged.pareto, place[name])
    )
    first = ranked[:1]  # the pick itself, whatever its chance
    names = {row.name: nth for nth, row in enumerate(report.cuts)}
    return [names[name] for name in dict.fromkeys([*first, *ordered])]


def _places(report: SweepReport, names: Iterable[str]) -> list[int]:
    """Of these rows, then of all others."""
    by_name = {row.name: place for place, row in enumerate(report.cuts)}
    return list(dict.fromkeys([*(by_name[name] for name in names), *by_name.values()]))


def _without_leakage(limits: Constraints) -> Constraints:
    return replace(limits, max_ssim=None, max_fsinfo=None)
