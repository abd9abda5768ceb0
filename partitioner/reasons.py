"""Says in words why a cut was picked, and what the pick should not be trusted for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from splitdeploy.partitioner.scoring import Figures, Table, attack_share, is_valid
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY
from splitdeploy.profiles.report import (
    Constraints,
    CutReport,
    Objective,
    SweepReport,
    row_name,
)
from splitdeploy.profiles.units import format_count, format_energy, format_rate, format_time


@dataclass(frozen=True)
class Decision:
    """A decision, and what it was made from.

    Attributes:
        report: The report, judged.
        table: The figures of its valid rows.
        ranking: The feasible rows, the best first; at least one.
        unbound: The best row if there were no constraints.
        objective: What was minimised.
        interval: The uplink rates between which the pick stays.
    """

    report: SweepReport
    table: Table
    ranking: Sequence[Figures]
    unbound: Figures
    objective: Objective
    interval: tuple[float, float | None]

    @property
    def pick(self) -> Figures:
        """The figures of the pick."""
        return self.ranking[0]

    @property
    def row(self) -> CutReport:
        """The row of the pick."""
        return self.report.find(self.pick.name)


def reasons(decision: Decision) -> tuple[str, ...]:
    """Why the pick was picked, a sentence each.

    Args:
        decision: The decision.

    Returns:
        What is minimised, how the pick compares with both ends, which constraint binds, what the
        runner-up would cost, and how far the uplink may change.
    """
    return tuple(_reasons(decision))


def warnings_of(decision: Decision) -> tuple[str, ...]:
    """What the pick rests on that should not be relied on, a sentence each.

    Args:
        decision: The decision.

    Returns:
        The warnings; none where there is nothing to warn of.
    """
    return (
        *_attack_warnings(decision), *_figure_warnings(decision), *_return_warnings(decision)
    )  # fmt: skip


def _return_warnings(decision: Decision) -> Iterator[str]:
    if decision.report.return_at is not None and decision.row.cut.name == EDGE_ONLY:
        yield (
            "run the bundle of edge-only with splitdeploy run --local: its tail does nothing but "
            "hand the result on, and whoever serves it sees the result"
        )


def _reasons(decision: Decision) -> Iterator[str]:
    pick, objective = decision.pick, decision.objective
    rows = len(decision.report.cuts)
    count = f"{len(decision.ranking)} feasible of {rows} rows"
    if len(decision.ranking) == 1:
        yield f"{pick.name} is the only one of {rows} rows that is feasible."
    elif objective.name == "balanced":
        yield (
            f"{pick.name} has the lowest balanced score of the {count}: "
            f"{_weights_in_words(objective, decision.table)}."
        )
    else:
        noun = {
            "latency": "lowest total latency",
            "energy": "lowest energy",
            "leakage": "lowest leakage index",
            "throughput": "highest throughput",
        }
        yield (
            f"{pick.name} has the {noun[objective.name]} of the {count}: "
            f"{_one_figure(pick, objective.name)}."
        )
    valid = {row.name: row for row in decision.table.rows}
    kind = decision.row.precision, decision.row.batch
    for end in (row_name(name, *kind) for name in (CLOUD_ONLY, EDGE_ONLY)):
        if end in valid and end != pick.name:
            yield f"Against {end}: {compared(pick, valid[end], decision.table)}."
    yield from _binding(decision)
    yield from _others(decision)
    yield _stability(decision)


def _others(decision: Decision) -> Iterator[str]:
    pick, table = decision.pick, decision.table
    kinds = [
        kind
        for kind, there in (
            ("throughput", decision.objective.name == "throughput"),
            ("latency", table.has_latency),
            ("energy", table.has_energy),
            ("leakage", table.has_leakage),
        )
        if there
    ]
    if decision.report.pareto == (pick.name,) and len(table.rows) > 1:
        yield f"No other row is better in {' or '.join(kinds)}."
    if len(decision.ranking) > 1:
        second = decision.ranking[1]
        yield f"The runner-up is {second.name}: {compared(second, pick, table)}."
    if all(row.is_end for row in decision.ranking[:2]):
        between = next((row for row in decision.ranking if not row.is_end), None)
        if between is not None:
            yield f"The best cut between the ends is {between.name}: " + (
                f"{compared(between, pick, table)}."
            )


def _weights_in_words(objective: Objective, table: Table) -> str:
    weighed = [
        (name, weight)
        for name, weight, there in (
            ("latency", objective.weight_latency, table.has_latency),
            ("energy", objective.weight_energy, table.has_energy),
            ("leakage", objective.weight_leakage, table.has_leakage),
        )
        if there and weight > 0
    ]
    names = listed([name for name, _ in weighed])
    ratio = " : ".join(f"{weight:g}" for _, weight in weighed)
    return names if len(weighed) == 1 else f"{names} weighed {ratio}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _one_figure(figures: Figures, name: str) -> str:
    if name == "latency":
        return format_time(figures.latency_s)
    if name == "throughput":
        rate = format_count(1 / figures.slowest_s) if figures.slowest_s > 0 else "any number"
        busy = format_time(figures.batch * figures.slowest_s)
        inputs = "" if figures.batch == 1 else f" for {figures.batch} inputs"
        return f"{rate} a second, the slowest stage taking {busy}{inputs}"
    return format_energy(figures.energy_j) if name == "energy" else f"{figures.leakage:.2f}"


def compared(one: Figures, other: Figures, table: Table) -> str:
    """How one row's figures compare with another's, in words.

    Args:
        one: What is told of.
        other: What it is compared with.
        table: Which kinds of figure there are.

    Returns:
        Latency, energy and leakage, as far as they are there.
    """
    parts = []
    if table.has_latency:
        word = _factor(one.latency_s, other.latency_s, "faster", "slower")
        parts.append(
            f"{word} ({format_time(one.latency_s)} against {format_time(other.latency_s)})"
        )
    if table.has_energy:
        word = _factor(one.energy_j, other.energy_j, "less energy", "more energy")
        parts.append(
            f"{word} ({format_energy(one.energy_j)} against {format_energy(other.energy_j)})"
        )
    if table.has_leakage:
        parts.append(f"leakage index {one.leakage:.2f} against {other.leakage:.2f}")
    return ", ".join(parts)


def _factor(value: float, other: float, less: str, more: str) -> str:
    """How a value compares with another one, in words: ``2.3 times faster``, ``12 % slower``."""
    if value == other:
        return "no " + more
    if min(value, other) <= 0:
        return less if value < other else more
    ratio = max(value, other) / min(value, other)
    word = less if value < other else more
    if word in {"faster", "slower"}:
        return f"{ratio:.1f} times {word}" if ratio >= 1.5 else f"{(ratio - 1) * 100:.1f} % {word}"
    share = abs(value - other) / other * 100
    return f"{ratio:.1f} times the energy" if share >= 100 else f"{share:.1f} % {word}"


def _binding(decision: Decision) -> Iterator[str]:
    limits = replace(decision.report.constraints, confidence=None)
    if limits == Constraints():
        return
    refused = sum(not row.feasible and is_valid(row) for row in decision.report.cuts)
    if decision.unbound.name == decision.pick.name:
        yield f"The constraints rule out {refused} rows and do not change the pick."
        return
    row = decision.report.find(decision.unbound.name)
    yield (
        f"Without the constraints {row.name} would be better, but its "
        f"{' and its '.join(row.violations)}."
    )


def _stability(decision: Decision) -> str:
    low, high = decision.interval
    if low == 0 and high is None:
        return "The pick is the same at every uplink, all else fixed."
    if high is None:
        return f"The pick holds above an uplink of {format_rate(low)}, all else fixed."
    if low == 0:
        return f"The pick holds below an uplink of {format_rate(high)}, all else fixed."
    return (
        f"The pick holds while the uplink is between {format_rate(low)} and "
        f"{format_rate(high)}, all else fixed."
    )


def _attack_warnings(decision: Decision) -> Iterator[str]:
    row, attack = decision.row, decision.row.strongest_attack
    if row.cut.name == CLOUD_ONLY:
        yield f"{row.name} sends the input itself: whoever runs the cloud sees it."
    if not decision.table.has_leakage:
        yield "No cut has a leakage figure: leakage has no part in this pick."
    if row.cut.name == CLOUD_ONLY or not decision.table.has_leakage:
        return
    if row.leakage is None and row.cut.name != EDGE_ONLY:
        yield f"{row.name} has no Fisher-information figure."
    if attack is None:
        if row.cut.name != EDGE_ONLY:
            yield f"No attack was run on {row.name}."
        return
    if not attack.converged:
        rests = "" if decision.report.constraints.max_ssim is None else ", and so does --max-ssim"
        yield (
            f"The attack {attack.name} on {row.name} had not converged when it ended: the SSIM of "
            f"{attack.ssim:.2f} rests on it{rests}; a longer attack may recover more."
        )
    for note in row.attack_notes:
        yield f"Attacks on {row.name}: {note}."
    yield from _untested(decision.report, row)
    if row.baseline is not None and attack_share(row) == 0:
        yield (
            f"The attack on {row.name} (SSIM {attack.ssim:.2f}) does not beat the trivial "
            f"reconstruction ({row.baseline.ssim:.2f}): it shows nothing, neither risk nor safety."
        )


def _untested(report: SweepReport, row: CutReport) -> Iterator[str]:
    """Which attacks the pick was tested with, and which others only elsewhere."""
    run = sorted({attack.name for attack in row.attacks})
    elsewhere = sorted({a.name for other in report.cuts for a in other.attacks} - set(run))
    text = f"Tested on {row.name}: {listed(run)}."
    if elsewhere:
        text += f" Not tested on it, but on other rows: {listed(elsewhere)}."
    yield f"{text} No other attack was tried (see: splitdeploy attacks)."


def _figure_warnings(decision: Decision) -> Iterator[str]:
    report, row = decision.report, decision.row
    if decision.objective.name == "balanced" and not decision.table.has_energy:
        yield "No cut has an energy figure: energy has no part in this pick."
    if report.model.weights.startswith("random"):
        yield (
            f"The weights are not trained ({report.model.weights}): leakage of an untrained "
            "network is not that of a trained one."
        )
    for side, place in (("edge", report.edge), ("cloud", report.cloud)):
        if place.source != "measured":
            note = f": {place.note}" if place.note else ""
            yield f"The {side} figures of {place.device} are {place.source}, not measured{note}."
    if row.latency_s is not None:
        for stage in ("edge", "cloud"):
            if getattr(row.latency_s, stage).stability in {"unstable", "too few samples"}:
                yield f"The {stage} timing of {row.name} is not stable; measure again."
    if row.verified is None and not row.cut.is_end:
        yield f"{row.name} was not verified against the whole model."
    failed = [other.name for other in report.cuts if not is_valid(other)]
    if failed:
        yield f"Left out, because they failed: {listed(failed)}."
