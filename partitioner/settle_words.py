"""Says in words how sure a pick is, and which measurement would make it surer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from splitdeploy.profiles.bandwidth_trace import TraceSample
from splitdeploy.profiles.certainty import Certainty, Settle
from splitdeploy.profiles.report import SweepReport
from splitdeploy.profiles.units import format_energy, format_time

SETTLED = 0.9
"""A pick that is the best with this probability needs no measurement."""

NEARLY_ALWAYS = 0.995
"""Beyond this there is nothing to weigh."""

SAFER = 0.9
"""Another row is the safer choice if its expected regret is below this share of the pick's."""

LITTLE = 0.1
"""What saves less than this share of the expected regret settles nothing."""


def regret_text(value: float, unit: str) -> str:
    """A regret in words.

    Args:
        value: The regret.
        unit: Of ``splitdeploy.profiles.certainty.REGRET_UNITS``.

    Returns:
        The regret with its unit.
    """
    if value <= 0:
        return "nothing"
    if unit == "s":
        return format_time(value)
    if unit == "J":
        return format_energy(value)
    if unit == "index":
        return f"{value:.2g} of the leakage index"
    return f"{100 * math.expm1(value):.2g} % of all that is weighed"


def settle_text(
    item: Settle,
    certainty: Certainty,
    report: SweepReport,
    trace: Sequence[TraceSample] | None = None,
) -> str:
    """What to measure for one part, and what it would be worth.

    Args:
        item: The part, its text not written yet.
        certainty: Of the pick.
        report: The report, which names the devices.
        trace: The link's rates over time, where they are known.

    Returns:
        One sentence.
    """
    unit = certainty.regret_unit
    before = regret_text(certainty.expected_regret, unit)
    if certainty.expected_regret <= 0 or item.value < LITTLE * certainty.expected_regret:
        return f"{_what(item.part, report, trace)} would hardly change the choice."
    after = regret_text(certainty.expected_regret - item.value, unit)
    return (
        f"{_what(item.part, report, trace)} would lower the expected regret from {before} to "
        f"{after}, and the cut chosen then would be the best with probability "
        f"{item.probability_best_then:.2f}."
    )


def _what(part: str, report: SweepReport, trace: Sequence[TraceSample] | None) -> str:
    if part == "edge":
        if report.edge.source == "measured":
            return f"Measuring {report.edge.device} again, steadier and longer,"
        return f"Measuring on the device, {report.edge.device} (--device ssh://USER@HOST),"
    if part == "cloud":
        again = " again, steadier and longer," if report.cloud.source == "measured" else ""
        return f"Measuring the cloud side, {report.cloud.device},{again}".replace(",,", ",")
    if part == "network":
        if trace is not None:
            return "Choosing the cut by the rate of the moment"
        return "Measuring the link (--uplink, --uplink-spread, or a --trace)"
    if part == "power":
        return "Measuring the device's power"
    return "More pictures, and longer attacks,"


def certainty_reasons(certainty: Certainty, pick: str, runner_up: str | None) -> tuple[str, ...]:
    """How sure a pick is, a sentence each.

    Args:
        certainty: Of the pick.
        pick: Its name.
        runner_up: The second best by the central figures.

    Returns:
        The probability and the regret; the row that most often beats it; what would settle it.
    """
    if len(certainty.candidates) < 2:
        return ()
    unit, rows = certainty.regret_unit, len(certainty.candidates)
    if certainty.probability_best >= NEARLY_ALWAYS:
        return (
            f"Under the stated errors {pick} is the best of the {rows} feasible rows in nearly "
            "every case.",
        )
    texts = [
        f"Under the stated errors {pick} is the best of the {rows} feasible rows with probability "
        f"{certainty.probability_best:.2f}; its expected regret is "
        f"{regret_text(certainty.expected_regret, unit)}, in 95 of 100 cases at most "
        f"{regret_text(certainty.p95_regret, unit)}."
    ]
    rival = max(
        (row for row in certainty.candidates if row.cut != pick),
        key=lambda row: (row.probability_best, row.cut == runner_up),
    )
    if rival.probability_best >= 0.01:
        texts.append(
            f"What else may be the best: {rival.cut}, with probability "
            f"{rival.probability_best:.2f}."
        )
    safer = certainty.least_regret
    if safer.cut != pick and safer.expected_regret < SAFER * certainty.expected_regret:
        texts.append(
            f"{safer.cut} is the safer choice: its expected regret is "
            f"{regret_text(safer.expected_regret, unit)}."
        )
    texts.append(_settled(certainty))
    return tuple(texts)


def _settled(certainty: Certainty) -> str:
    if certainty.probability_best >= SETTLED:
        return "No measurement is needed to settle the choice."
    useful = [
        item
        for item in certainty.settle
        if item.value > 0 and item.value >= LITTLE * certainty.expected_regret
    ]
    if not useful:
        return "No single measurement would settle it; the rows are that close."
    return useful[0].text


def limit_warnings(certainty: Certainty, pick: str, confidence: float | None) -> tuple[str, ...]:
    """Limits that the pick meets by its central figures, and may well miss.

    Args:
        certainty: Of the pick.
        pick: Its name.
        confidence: That each limit was asked to hold with; None where none was asked for.

    Returns:
        A sentence a limit; none where a confidence was asked for, since the pick has it.
    """
    if confidence is not None:
        return ()
    return tuple(
        f"{pick} meets --{name_of_limit(limit)} with probability {share:.2f} under the stated "
        "errors; --confidence asks for more."
        for limit, share in certainty.of(pick).meets.items()
        if share < 0.95
    )


def name_of_limit(limit: str) -> str:
    """The option of a limit, without its dashes: ``max-latency`` for ``max_latency_s``."""
    bare = limit.removesuffix("_s").removesuffix("_j").removesuffix("_bytes")
    return bare.replace("_", "-")
