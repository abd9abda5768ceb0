"""Says in words which limits bind, where the pick flips, and what a trace makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from splitdeploy.partitioner.constraints import shown_limit
from splitdeploy.partitioner.flips import FACTORS, LimitFlip, Pick, with_limit
from splitdeploy.partitioner.limits import FLOORS
from splitdeploy.partitioner.reasons import Decision, compared, listed
from splitdeploy.profiles.bandwidth_trace import TraceOutcome
from splitdeploy.profiles.report import SweepReport
from splitdeploy.profiles.units import format_time


def limit_reasons(decision: Decision, flips: Sequence[LimitFlip], decide: Pick) -> Iterator[str]:
    """Which limits bind, and at which values of a limit the pick flips.

    Args:
        decision: The decision.
        flips: Of the limits on latency and leakage.
        decide: Picks with other limits.

    Yields:
        A sentence for each limit that binds where several are set, and for each flip that a reader
        may come upon: of limits that are set, and of the SSIM.
    """
    limits = decision.report.constraints
    named = [
        name for name, value in vars(limits).items() if value is not None and name != "confidence"
    ]
    if len(named) > 1:
        yield from _each_alone(decision, named, decide)
    for flip in flips:
        if flip.limit not in named and flip.limit != "max_ssim":
            continue
        at = shown_limit(flip.limit, flip.value)
        if flip.limit in FLOORS:
            when = f"Above {at}" if flip.tighter else f"At {at} and below"
        else:
            when = f"Below {at}" if flip.tighter else f"From {at} on"
        if flip.cut is None:
            yield f"{when} no row is left."
        else:
            yield f"{when} the pick is {flip.cut}: {_against(decision, flip.cut)}."


def _each_alone(decision: Decision, named: Sequence[str], decide: Pick) -> Iterator[str]:
    limits = decision.report.constraints
    binding = []
    for name in named:
        instead = decide(decision.report, with_limit(limits, name, None))
        if instead is not None and instead != decision.pick.name:
            binding.append(name)
            yield (
                f"{shown_limit(name, getattr(limits, name))} binds: without it alone the pick is "
                f"{instead}, {_against(decision, instead)}."
            )
    slack = [shown_limit(name, getattr(limits, name)) for name in named if name not in binding]
    if slack and binding:
        yield f"{listed(slack)} {'does' if len(slack) == 1 else 'do'} not bind."


def _against(decision: Decision, name: str) -> str:
    other = next(row for row in decision.table.rows if row.name == name)
    return compared(other, decision.pick, decision.table)


def edge_reason(report: SweepReport, speeds: tuple[float, float | None]) -> Iterator[str]:
    """How much faster or slower the device may be.

    Args:
        report: The report, which names the device.
        speeds: The factors of its times between which the pick stays.

    Yields:
        One sentence, where the report has latencies.
    """
    if all(row.latency_s is None for row in report.cuts):
        return
    low, high = speeds
    device = report.edge.device
    if low == 0 and high is None:
        least, most = FACTORS
        yield f"The pick is the same if {device} takes {least:g} to {most:g} times as long."
    elif high is None:
        yield f"The pick holds if {device} takes at least {low:.2g} times as long as stated."
    elif low == 0:
        yield f"The pick holds if {device} takes at most {high:.2g} times as long as stated."
    else:
        yield (
            f"The pick holds if {device} takes between {low:.2g} and {high:.2g} times as long as "
            "stated."
        )


def trace_reason(outcome: TraceOutcome | None) -> Iterator[str]:
    """What a trace makes of the cuts.

    Args:
        outcome: Of the trace; None where there is none.

    Yields:
        The best single cut, and what a schedule would gain.
    """
    if outcome is None:
        return
    best = next(row for row in outcome.cuts if row.cut == outcome.best_single)
    yield (
        f"Over the trace ({format_time(outcome.duration_s)}) {best.cut} is the best single cut: "
        f"mean latency {format_time(best.mean_latency_s)}, 95th percentile "
        f"{format_time(best.p95_latency_s)}."
    )
    switches = len(outcome.schedule) - 1
    if switches == 0:
        yield (
            f"Switching cuts over the trace gains nothing at {format_time(outcome.switch_cost_s)} "
            "a switch."
        )
        return
    used = list(dict.fromkeys(stretch.cut for stretch in outcome.schedule))
    yield (
        f"A schedule that knows the trace switches {switches} times between {listed(used)}: mean "
        f"latency {format_time(outcome.schedule_mean_latency_s)} with "
        f"{format_time(outcome.switch_cost_s)} a switch."
    )
