"""What a budget had no room for, and what more time would buy."""

from __future__ import annotations

from collections.abc import Sequence

from splitdeploy.partitioner.strong_attacks import LATE, least_s
from splitdeploy.profiles.report import CutReport
from splitdeploy.profiles.units import format_time

HURRIED = "for lack of time"
"""What every note of something left out says."""

_NAMED = 3


def left_out(rows: Sequence[CutReport], budget_s: float) -> str | None:
    """A line on what was left out for lack of time.

    Args:
        rows: Of the sweep, with their notes.
        budget_s: That it had.

    Returns:
        The line; None where nothing was.
    """
    parts = []
    late = {row.name: _late(row) for row in rows if _late(row)}
    if late:
        attacks = sum(len(labels) for labels in late.values())
        parts.append(f"{attacks} stronger attacks on {_some(list(late))}")
    hurried = [row.name for row in rows if row.leakage and _hurried(row.leakage.notes)]
    if hurried:
        parts.append(f"figures of the leakage of {_some(hurried)}")
    if not parts:
        return None
    told = f"left out of a budget of {format_time(budget_s)}: {'; '.join(parts)}"
    if not late:
        return f"{told}: a longer --budget, begun anew, has room for them"
    more_s = sum(least_s(row) * len(late.get(row.name, ())) for row in rows)
    return (
        f"{told}; with --resume and --budget {max(round(more_s), round(budget_s))}s or more the "
        "attacks are added to what is finished"
    )


def _late(row: CutReport) -> list[str]:
    """The attacks that a row has a late note of."""
    notes = [note.removeprefix(LATE) for note in row.attack_notes if note.startswith(LATE)]
    return [label for note in notes for label in note.split(",") if label.strip()]


def _hurried(notes: Sequence[str]) -> bool:
    return any(HURRIED in note for note in notes)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} cut{'s' if len(names) > 1 else ''} ({shown}{more})"
