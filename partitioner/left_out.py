"""What a budget had no room for, and what more time would buy."""

from __future__ import annotations

from collections.abc import Sequence

from splitdeploy.partitioner.deepening import picture_s
from splitdeploy.partitioner.evidence import ONE_PICTURE
from splitdeploy.partitioner.exposure import UNSEEN
from splitdeploy.partitioner.strong_attacks import LATE, least_s
from splitdeploy.profiles.report import CutReport
from splitdeploy.profiles.units import format_time

HURRIED = "for lack of time"
"""What every note of something left out says."""

_UNUSED = 0.15
"""The part of a budget that may go unused without a word."""

_NAMED = 3


def left_out(
    rows: Sequence[CutReport], *, budget_s: float, fixed_s: float, pictures: int
) -> str | None:
    """A line on what was left out for lack of time.

    Args:
        rows: Of the sweep, with their notes.
        budget_s: That it had.
        fixed_s: What of it went into everything but leakage and attacks.
        pictures: How many there were to attack.

    Returns:
        The line; None where nothing was.
    """
    parts = []
    unseen = [row for row in rows if UNSEEN in row.attack_notes]
    if unseen:
        parts.append(f"leakage and attack of {_some(unseen)}")
    alone = [row for row in rows if row.leakage and ONE_PICTURE in row.leakage.notes]
    if alone:
        parts.append(f"all pictures but one of {_some(alone)}")
    late = [row for row in rows if _late(row)]
    if late:
        attacks = sum(len(_late(row)) for row in late)
        parts.append(f"{attacks} stronger attack{'s' if attacks > 1 else ''} on {_some(late)}")
    hurried = [row for row in rows if row not in alone and _hurried(row)]
    if hurried:
        parts.append(f"figures of the leakage of {_some(hurried)}")
    if not parts:
        return None
    told = f"left out of a budget of {format_time(budget_s)}: {'; '.join(parts)}"
    if not (unseen or alone or late):
        return f"{told}: a longer --budget, begun anew, has room for them"
    more_s = sum(picture_s(row, pictures) or 0.0 for row in alone)
    more_s += sum(least_s(row, pictures) * len(_late(row)) for row in late)
    if unseen:  # what they cost is not known
        more_s += budget_s * len(rows) / max(1, len(rows) - len(unseen))
    enough_s = max(fixed_s + more_s, budget_s)
    return (
        f"{told}; with --resume and --budget {round(enough_s)}s or more this is added to what is "
        "finished"
    )


def not_used_up(rows: Sequence[CutReport], *, budget_s: float, used_s: float) -> str | None:
    """A line on a budget that was longer than needed.

    Args:
        rows: Of the sweep, with their notes.
        budget_s: That it had.
        used_s: That it took.

    Returns:
        The line; None where it was used up.
    """
    late = any(_late(row) or _hurried(row) or UNSEEN in row.attack_notes for row in rows)
    if late or used_s > (1 - _UNUSED) * budget_s:
        return None
    return (
        f"the budget of {format_time(budget_s)} was not used up: every cut that may be picked was "
        "broken by an attack, or has had all attacks that apply, to their end"
    )


def _late(row: CutReport) -> list[str]:
    """The attacks that a row has a late note of."""
    notes = [note.removeprefix(LATE) for note in row.attack_notes if note.startswith(LATE)]
    return [label for note in notes for label in note.split(",") if label.strip()]


def _hurried(row: CutReport) -> bool:
    return row.leakage is not None and any(HURRIED in note for note in row.leakage.notes)


def _some(rows: Sequence[CutReport]) -> str:
    names = [row.name for row in rows]
    shown = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} cut{'s' if len(names) > 1 else ''} ({shown}{more})"
