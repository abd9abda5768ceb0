"""What table and page say alike: titles, marks and short figures."""

from __future__ import annotations

import math
from collections.abc import Iterator

from splitdeploy.profiles.report import (
    AttackRecord,
    CutReport,
    Objective,
    PlaceInfo,
    SweepReport,
    row_name,
)
from splitdeploy.profiles.throughput import throughput_per_s
from splitdeploy.profiles.units import format_count, format_energy, format_rate, format_time

MISSING = "–"
"""Stands where there is no figure."""

UNCONVERGED = "*"
"""Marks the SSIM of an attack that had not converged."""


def title_of(report: SweepReport) -> str:
    """The title of a run: ``resnet18 on jetson-orin-nano (simulated, fp16, 15W) → …``."""
    title = (
        f"{report.model.name} on {place_of(report.edge)} → {place_of(report.cloud)} "
        f"over {report.network.name}"
    )
    parts = [title, *filter(None, (return_of(report), batch_of(report)))]
    return "; ".join(parts)


def return_of(report: SweepReport) -> str:
    """Where the last layers run, in words; nothing where there is one cut."""
    if report.return_at is None:
        return ""
    return f"the last layers, behind {report.return_at}, run at the edge"


def batch_of(report: SweepReport) -> str:
    """How many inputs a request has, in words; nothing where all have one."""
    found = sorted({report.batch_of(row) for row in report.cuts} or {report.batch})
    if found == [1]:
        return ""
    *first, last = map(str, found)
    return f"{', '.join(first)} or {last} inputs a request" if first else f"{last} inputs a request"


def per_of(report: SweepReport) -> str:
    """What figures are of where a request has several inputs; nothing where all have one."""
    if not batch_of(report):
        return ""
    return "latency and memory are of a request; energy, payload and throughput of an input"


def place_of(place: PlaceInfo) -> str:
    """A device with its source, precision and power mode, in words."""
    details = [place.source, place.precision, place.power_mode]
    return f"{place.device} ({', '.join(detail for detail in details if detail)})"


def runs_of(report: SweepReport) -> dict[str, str]:
    """Of a report of several runs joined, each run by its precision, and batch where it differs."""
    return {
        row_name(row.precision, None, row.batch): row.run or MISSING
        for row in report.cuts
        if row.precision
    }


def network_of(report: SweepReport) -> str:
    """The network's figures in words."""
    network = report.network
    return (
        f"{format_rate(network.uplink_bps)} up, {format_rate(network.downlink_bps)} down, "
        f"RTT {format_time(network.rtt_s)}"
    )


def fsinfo_of(row: CutReport) -> str:
    """FSInfo with its standard error, or a dash; its precision follows the error."""
    if row.leakage is None:
        return MISSING
    estimate = row.leakage.fsinfo
    return f"{estimate.value:.2f}±{estimate.standard_error:.2f}"


def ssim_of(attack: AttackRecord | None) -> str:
    """The SSIM of an attack, with a mark where it had not converged, or a dash."""
    if attack is None:
        return MISSING
    return f"{attack.ssim:.2f}" + ("" if attack.converged else UNCONVERGED)


def class_of(row: CutReport) -> str:
    """How many pictures keep their class with the codec, of how many; or a dash."""
    loss = row.codec_loss
    if loss is None or loss.changed is None:
        return MISSING
    return f"{loss.images - loss.changed}/{loss.images}"


def pace_of(row: CutReport, report: SweepReport) -> str:
    """Inputs a second with the stages side by side, or a dash."""
    rate = throughput_per_s(row.latency_s, report.network, report.batch_of(row))
    return MISSING if rate is None else format_count(rate)


def verified_of(row: CutReport) -> str:
    """Whether the cut was verified: yes, no, or a dash where it was not tried."""
    return MISSING if row.verified is None else ("yes" if row.verified.ok else "NO")


def status_of(row: CutReport) -> str:
    """Whether the row may be picked."""
    if row.error is not None:
        return "failed"
    return "yes" if row.feasible else "no"


def certainty_of(report: SweepReport) -> Iterator[tuple[str, str, str]]:
    """How sure the pick is under the stated errors: names, figures and what they are of.

    Args:
        report: A report; one of before there was a certainty has none.

    Yields:
        The probability that the pick is the best, and its regrets.
    """
    certainty = report.recommendation.certainty if report.recommendation else None
    if certainty is None:
        return
    yield "Probability best", f"{100 * certainty.probability_best:.0f} %", "under the stated errors"
    note = _REGRETS[certainty.regret_unit]
    for name, value in (
        ("Expected regret", certainty.expected_regret),
        ("Regret, 95 of 100 cases", certainty.p95_regret),
    ):
        yield name, _regret(value, certainty.regret_unit), note


_REGRETS = {
    "s": "of latency", "J": "of energy", "index": "of the leakage index",
    "ln": "of all that is weighed",
}  # fmt: skip


def _regret(value: float, unit: str) -> str:
    if unit == "s":
        return format_time(value)
    if unit == "J":
        return format_energy(value)
    return f"{100 * math.expm1(value):.2g} %" if unit == "ln" else f"{value:.2g}"


def milli(value: float | None) -> str:
    """Thousandths of a quantity, to three digits; a dash where there is none."""
    if value is None:
        return MISSING
    scaled = value * 1e3
    if scaled == 0:
        return "0"
    if abs(scaled) >= 100:
        return f"{scaled:.0f}"
    return f"{scaled:.1f}" if abs(scaled) >= 10 else f"{scaled:.2f}"


def minus(number: str) -> str:
    """A formatted number with a real minus sign in place of the hyphen."""
    return number.replace("-", "−")


def traded(objective: Objective) -> str:
    """What the Pareto set is over."""
    paced = "throughput, " if objective.name == "throughput" else ""
    return f"{paced}latency, energy and leakage index"


def footnotes(report: SweepReport) -> list[str]:
    """What the marks in a table mean, as far as they occur."""
    notes = [f"{row.name} failed: {row.error}" for row in report.cuts if row.error]
    if report.pareto:
        notes.append(f"◆ on the Pareto set of {traded(report.objective)}.")
    if per_of(report):
        notes.append(f"{batch_of(report)}: {per_of(report)}.")
    if any(row.codec_loss for row in report.cuts):
        notes.append(
            "class: pictures that keep their first class with the codec of the payload; a head "
            "that computes in fp16 or int8 is not in it."
        )
    attacks = [row.strongest_attack for row in report.cuts]
    if any(attack and not attack.converged for attack in attacks):
        notes.append(f"{UNCONVERGED} the attack had not converged: its SSIM is a lower bound.")
    if any(row.leakage and row.leakage.exact_fsinfo is None for row in report.cuts):
        notes.append(
            "FSInfo counts the information of a declared prior, so that it is finite; without the "
            "prior it is minus infinity where the head's Jacobian has not full rank."
        )
    return notes
