"""The strong attacks of a sweep, where they matter: on the cuts that a quick one did not break.

A part of the time is kept for them. They go, the most valuable attack first, to the cut that would
be picked, then to the others of the Pareto set, then to the rest; a cut that one of them breaks
needs no other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from splitdeploy.attacks.base import run_attack
from splitdeploy.attacks.least_squares import LeastSquares
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.attacks.verdict import RECOGNISABLE
from splitdeploy.partitioner import privacy
from splitdeploy.partitioner.attack_set import Choice, strongest, why_not
from splitdeploy.partitioner.attack_state import file_name
from splitdeploy.partitioner.attack_target import Arsenal, deployed_target
from splitdeploy.partitioner.exposure import Subjects
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.recommend import judge, rank
from splitdeploy.partitioner.scoring import attack_share, table_of
from splitdeploy.partitioner.state import State
from splitdeploy.partitioner.sweep import FAILURES
from splitdeploy.profiles.errors import SplitdeployError
from splitdeploy.profiles.report import Constraints, CutReport, SweepReport

STRONG_SHARE = 0.25
"""The part of the time for leakage and attacks that is kept for the strong ones."""

LATE = "not run for lack of time:"
"""How the note of a row begins that tells which attacks were left out."""

_LEAST_S = 4.0
_LEAST_STEPS = 40
"""An attack that cannot make so many steps of the quick one tells nothing new."""

_MARGIN_S = 0.5
"""For judging what an attack returns, and its picture."""


@dataclass(frozen=True)
class _Slot:
    """An attack on a cut that is worth its time."""

    place: int
    choice: Choice
    least_s: float


def strengthen(
    plan: Plan,
    report: SweepReport,
    options: ProfileOptions,
    subjects: Subjects,
    state: State,
    run: Path,
    ends_at: float,
    reporter: Reporter,
) -> list[CutReport]:
    """Run strong attacks on the cuts that stand, as long as there is time.

    Args:
        plan: The model, its cuts and its export.
        report: The sweep with a quick attack on every cut.
        options: Constraints and objective, by which cuts matter; precision and seed.
        subjects: The pictures, and what an attacker has.
        state: Where finished rows are kept; attacks of an interrupted sweep are not run again.
        run: The run folder.
        ends_at: When all of it must be done, by ``time.perf_counter``.
        reporter: Told as it goes.

    Returns:
        The rows with more attacks, and notes on those for which there was no time.
    """
    rows = list(report.cuts)
    slots = _slots(report, options, subjects.arsenal)
    reporter.stage("stronger attacks", max(1, len(slots)))
    while slots:
        left_s = ends_at - time.perf_counter()
        begun = _begun(slots, left_s)
        if not begun:
            break
        slot = begun[0]
        share_s = left_s * slot.least_s / sum(s.least_s for s in begun)
        until = time.perf_counter() + share_s - _MARGIN_S
        began = time.perf_counter()
        row = _attacked(plan, rows[slot.place], slot, options, subjects, state, run, until)
        state.save(row)
        state.tell(slot.choice.label, time.perf_counter() - began, row.name)
        rows[slot.place] = row
        stands = _stands(row, options.constraints)
        slots = [s for s in slots if s is not slot and (stands or s.place != slot.place)]
        reporter.advance()
    return _noted(rows, slots, state)


def _slots(report: SweepReport, options: ProfileOptions, arsenal: Arsenal) -> list[_Slot]:
    """What is worth running, the most valuable first; what a row has already is not."""
    # The quick attack is least squares wherever that applies.
    wanted = [c for c in strongest() if c.name != LeastSquares.name]
    choices = [c for c in wanted if _fits(c.make(options.seed).threat, arsenal)]
    places = _by_importance(report, options)
    slots = []
    for choice in choices:
        for place in places:
            if not _settled(report.cuts[place], choice.label):
                slots.append(_Slot(place, choice, least_s(report.cuts[place])))
    return slots


def _settled(row: CutReport, label: str) -> bool:
    """Whether an attack was run on a cut, or there is a note of why it cannot be."""
    told = any(note.startswith(f"{label} ") for note in row.attack_notes)
    return told or label in {f"{attack.name}:{attack.preset}" for attack in row.attacks}


def _fits(threat: ThreatModel, arsenal: Arsenal) -> bool:
    """Whether the attacker has what the attack takes; the rest is the model's, and is there."""
    lacks_pictures = threat.auxiliary_data and arsenal.auxiliary is None
    return not (lacks_pictures or (threat.generator and arsenal.generator is None))


def _by_importance(report: SweepReport, options: ProfileOptions) -> list[int]:
    """The cuts that stand: the pick, then the others of the Pareto set, then the rest."""
    limits, objective, trace = options.constraints, options.objective, options.trace
    judged = judge(report, constraints=limits, objective=objective, trace=trace)
    table = table_of(judged)
    ranked = [f.name for f in rank(judged, table, limits, objective, trace)]
    names = [row.name for row in report.cuts]
    first = [*ranked[:1], *(n for n in ranked if n in judged.pareto), *ranked, *names]
    return [
        names.index(name)
        for name in dict.fromkeys(first)
        if _stands(report.find(name), options.constraints)
    ]


def _stands(row: CutReport, constraints: Constraints) -> bool:
    """Whether no attack has broken a cut; the ends are none."""
    attack, gained = row.strongest_attack, attack_share(row)
    if row.cut.is_end or row.error is not None or attack is None or gained is None:
        return False
    if constraints.max_ssim is not None:
        return attack.ssim <= constraints.max_ssim
    return gained < RECOGNISABLE


def least_s(row: CutReport) -> float:
    """Seconds below which a strong attack is not begun on a cut.

    Args:
        row: With its quick attack, by whose steps they are told.

    Returns:
        Seconds.
    """
    steps = [a.seconds / a.steps for a in row.attacks if a.steps]
    return max(_LEAST_S, _LEAST_STEPS * max(steps, default=0.0)) + _MARGIN_S


def _begun(slots: Sequence[_Slot], left_s: float) -> list[_Slot]:
    """Those to begin; where there is too little time for any, the first gets what there is."""
    return _affordable(slots, left_s) or list(slots[:1] if left_s > _LEAST_S + _MARGIN_S else [])


def _affordable(slots: Sequence[_Slot], left_s: float) -> list[_Slot]:
    """Those for which there is time, the most valuable first."""
    begun = []
    for slot in slots:
        if slot.least_s <= left_s:
            begun.append(slot)
            left_s -= slot.least_s
    return begun


def _attacked(
    plan: Plan,
    row: CutReport,
    slot: _Slot,
    options: ProfileOptions,
    subjects: Subjects,
    state: State,
    run: Path,
    until: float,
) -> CutReport:
    """The row with one attack more, or with a note of why there is none."""
    attack, label = slot.choice.make(options.seed), slot.choice.label
    work = f"{label} on {row.name}"
    crash = state.watch.crashed(work)
    if crash is not None:
        return replace(row, attack_notes=(*row.attack_notes, f"{label} failed: {crash}"))
    try:
        with (
            state.watch.on(work),
            deployed_target(
                plan, slot.place, options.precision, subjects.pixels, subjects.arsenal
            ) as target,
        ):
            reason = why_not(attack, target)
            if reason is not None:
                return replace(row, attack_notes=(*row.attack_notes, f"{label} {reason}"))
            record, found = run_attack(
                attack,
                target,
                subjects.pixels,
                deadline_s=max(_MARGIN_S, until - time.perf_counter()),
                folder=state.training(row.cut.index, file_name(label)),
                judges=subjects.judges,
            )
    except (SplitdeployError, *FAILURES) as error:
        reason = " ".join(str(error).split())[:300]
        return replace(row, attack_notes=(*row.attack_notes, f"{label} failed: {reason}"))
    taken = {other.name for other in row.attacks}
    name = file_name(label) if record.name in taken else record.name
    picture = privacy.write_picture(run, row.name, name, subjects.pixels, found.pixels)
    return replace(row, attacks=(*row.attacks, replace(record, picture=picture)))


def _noted(rows: Sequence[CutReport], slots: Sequence[_Slot], state: State) -> list[CutReport]:
    """The rows, with notes on what there was no time for; notes of an earlier sweep are renewed."""
    noted = []
    for place, row in enumerate(rows):
        labels = [slot.choice.label for slot in slots if slot.place == place]
        notes = [n for n in row.attack_notes if not n.startswith(LATE)]
        if labels:
            notes.append(f"{LATE} {', '.join(labels)}")
        if tuple(notes) != row.attack_notes:
            row = replace(row, attack_notes=tuple(notes))
            state.save(row)
        noted.append(row)
    return noted
