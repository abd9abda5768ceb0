"""Which constraints a cut violates, and by how much."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from splitdeploy.partitioner.limits import FLOORS, agreement
from splitdeploy.partitioner.scoring import is_valid
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY
from splitdeploy.profiles.errors import UsageError
from splitdeploy.profiles.report import Constraints, CutReport, SweepReport
from splitdeploy.profiles.units import format_energy, format_size, format_time


@dataclass(frozen=True)
class Miss:
    """A constraint that a cut violates.

    Attributes:
        flag: The option that sets it: ``--max-latency``.
        text: The violation in words.
        relative: The miss over the limit (for FSInfo, which is a logarithm, the difference in
            nats); infinite where the cut has no such figure.
    """

    flag: str
    text: str
    relative: float


def check_constraints(constraints: Constraints) -> None:
    """Refuse limits that cannot be meant.

    Args:
        constraints: The limits.

    Raises:
        UsageError: A limit is not a number, or one that must be positive is not.
    """
    for flag, limit, must_be_positive in (
        ("--max-latency", constraints.max_latency_s, True),
        ("--max-energy", constraints.max_energy_j, True),
        ("--max-edge-memory", constraints.max_edge_memory_bytes, True),
        ("--max-ssim", constraints.max_ssim, False),
        ("--max-fsinfo", constraints.max_fsinfo, False),
    ):
        if limit is None:
            continue
        if not math.isfinite(limit) or (must_be_positive and limit <= 0):
            bound = "a number above zero" if must_be_positive else "a number"
            raise UsageError(f"expected {bound} for {flag}, got {limit:g}")
    share = constraints.min_agreement
    if share is not None and not 0 < share <= 1:
        raise UsageError(
            "expected a share above 0 and at most 1 for --min-agreement, such as 0.95, "
            f"got {share:g}"
        )
    confidence = constraints.confidence
    if confidence is not None and not 0 < confidence < 1:
        raise UsageError(
            f"expected a probability between 0 and 1 for --confidence, such as 0.95, "
            f"got {confidence:g}"
        )


def misses(
    row: CutReport, constraints: Constraints, chance: Mapping[str, float] | None = None
) -> list[Miss]:
    """The constraints that a valid row violates.

    A row without the figure that a constraint asks for violates it. The ends need no attack:
    ``cloud-only`` sends the input itself, whose SSIM is 1, and ``edge-only`` nothing but the
    result.

    Args:
        row: The row.
        constraints: The limits.
        chance: With which probability it meets each limit, where a confidence is asked for.

    Returns:
        One entry a violated constraint, none where the row is feasible.
    """
    central = list(_misses(row, constraints))
    if constraints.confidence is None or chance is None:
        return central
    # Without the figure there is no chance to tell.
    lacking = [miss for miss in central if math.isinf(miss.relative)]
    return lacking or list(_unlikely(chance, constraints, constraints.confidence))


def _unlikely(
    chance: Mapping[str, float], limits: Constraints, confidence: float
) -> Iterator[Miss]:
    for name, (flag, what, shown) in _TOLD.items():
        if chance.get(name, 1.0) < confidence:
            limit = shown(getattr(limits, name))
            holds = "reaches" if name in FLOORS else "stays within"
            yield Miss(
                flag,
                f"{what} {holds} {flag} {limit} with probability {chance[name]:.2f}, "
                f"below --confidence {confidence:g}",
                confidence - chance[name],
            )


def _misses(row: CutReport, limits: Constraints) -> Iterator[Miss]:
    if limits.max_latency_s is not None:
        value = row.latency_s.total.median if row.latency_s else None
        yield from _miss("total latency", "--max-latency", value, limits.max_latency_s, format_time)
    if limits.max_energy_j is not None:
        value = row.energy_j.total if row.energy_j else None
        yield from _miss("energy", "--max-energy", value, limits.max_energy_j, format_energy)
    if limits.max_edge_memory_bytes is not None:
        yield from _miss(
            "edge memory", "--max-edge-memory", row.edge_memory_bytes,
            limits.max_edge_memory_bytes, format_size,
        )  # fmt: skip
    if limits.max_ssim is not None and (row.attacks or row.cut.name != EDGE_ONLY):
        yield from _miss("SSIM", "--max-ssim", _ssim(row), limits.max_ssim, _plain)
    if limits.max_fsinfo is not None and (row.leakage or row.cut.name != EDGE_ONLY):
        value = row.leakage.fsinfo.value if row.leakage else None
        yield from _miss("FSInfo", "--max-fsinfo", value, limits.max_fsinfo, _nats)
    if limits.min_agreement is not None:
        yield from _disagreement(agreement(row), limits.min_agreement)


def _disagreement(share: float | None, limit: float) -> Iterator[Miss]:
    flag = "--min-agreement"
    if share is None:
        yield Miss(flag, f"has no codec agreement figure, which {flag} asks for", math.inf)
    elif share < limit:
        by, relative = limit - share, (limit - share) / limit
        yield Miss(
            flag,
            f"codec agreement {_plain(share)} falls short of {flag} {_plain(limit)} by "
            f"{_plain(by)} ({relative * 100:.0f} %)",
            relative,
        )


def _ssim(row: CutReport) -> float | None:
    if row.cut.name == CLOUD_ONLY:
        return 1.0
    attack = row.strongest_attack
    return attack.ssim if attack else None


def _miss(
    what: str, flag: str, value: float | None, limit: float, shown: Callable[[float], str]
) -> Iterator[Miss]:
    if value is None:
        yield Miss(flag, f"has no {what} figure, which {flag} asks for", math.inf)
    elif value > limit:
        if flag == "--max-fsinfo":
            relative, by = value - limit, shown(value - limit)
        else:
            relative = (value - limit) / max(abs(limit), 1e-12)
            by = f"{shown(value - limit)}" + (f" ({relative * 100:.0f} %)" if limit > 0 else "")
        yield Miss(flag, f"{what} {shown(value)} exceeds {flag} {shown(limit)} by {by}", relative)


def _plain(value: float) -> str:
    return f"{value:.3g}"


def _nats(value: float) -> str:
    return f"{value:.3g} nats"


_TOLD: dict[str, tuple[str, str, Callable[[float], str]]] = {
    "max_latency_s": ("--max-latency", "total latency", format_time),
    "max_energy_j": ("--max-energy", "energy", format_energy),
    "max_edge_memory_bytes": ("--max-edge-memory", "edge memory", format_size),
    "max_ssim": ("--max-ssim", "SSIM", _plain),
    "max_fsinfo": ("--max-fsinfo", "FSInfo", _nats),
    "min_agreement": ("--min-agreement", "codec agreement", _plain),
}
"""Each limit's option, what it is on, and how its values are shown."""


def shown_limit(name: str, value: float) -> str:
    """A limit with its option and unit: ``--max-latency 30 ms``.

    Args:
        name: As in ``Constraints``.
        value: Of the limit.

    Returns:
        The text.
    """
    flag, _, shown = _TOLD[name]
    return f"{flag} {shown(value)}"


def why_infeasible(
    report: SweepReport,
    constraints: Constraints,
    chances: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """The one line that tells why no cut is feasible.

    The nearest cut is the one whose largest relative miss is the smallest; that miss names the
    constraint that binds.

    Args:
        report: A report in which no valid row satisfies the constraints.
        constraints: The limits.
        chances: With which probability each row meets each limit, where a confidence is asked for.

    Returns:
        The message of the error.
    """
    rows = [row for row in report.cuts if is_valid(row)]
    if not rows:
        reason = next((row.error for row in report.cuts if row.error), "none was verified")
        return f"no cut can be picked: all {len(report.cuts)} failed; the first: {reason}"
    missed = [(max(found, key=lambda m: m.relative), row) for row in rows
              if (found := misses(row, constraints, (chances or {}).get(row.name)))]  # fmt: skip
    if not missed:
        return "no cut has the figures that the objective asks for; profile anew"
    binding, nearest = min(missed, key=lambda pair: pair[0].relative)
    if math.isinf(binding.relative):
        how = "" if binding.flag == "--min-agreement" else " (without --no-privacy)"
        return (
            f"no cut satisfies the constraints: {nearest.name} {binding.text}; "
            f"profile anew with that figure{how}, or drop {binding.flag}"
        )
    return (
        f"no cut satisfies the constraints: {binding.flag} binds: the nearest cut is "
        f"{nearest.name}, whose {binding.text}; {_contradiction(rows, constraints, chances)}"
        "relax it, or choose another network or device"
    )


def _contradiction(
    rows: Sequence[CutReport],
    constraints: Constraints,
    chances: Mapping[str, Mapping[str, float]] | None,
) -> str:
    """Limits that can each be met, and not together: which rows each of them leaves."""
    left: dict[str, list[str]] = {}
    for name, (flag, _, _) in _TOLD.items():
        if getattr(constraints, name) is None:
            continue
        alone = Constraints(**{name: getattr(constraints, name)}, confidence=constraints.confidence)
        left[flag] = [
            row.name
            for row in rows
            if not any(m.flag == flag for m in misses(row, alone, _one(chances, row, name)))
        ]
    impossible = [flag for flag, names in left.items() if not names]
    if impossible:
        return f"no row meets {' or '.join(impossible)}; "
    if len(left) < 2:
        return ""
    told = "; ".join(
        f"{flag} leaves {', '.join(names[:3])}" + (f" and {len(names) - 3} more" * (len(names) > 3))
        for flag, names in left.items()
    )
    return f"the limits contradict each other ({told}); "


def _one(
    chances: Mapping[str, Mapping[str, float]] | None, row: CutReport, limit: str
) -> Mapping[str, float] | None:
    """A row's chance of one limit alone."""
    if chances is None or row.name not in chances:
        return None
    return {name: share for name, share in chances[row.name].items() if name == limit}
