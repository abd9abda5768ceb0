"""More evidence where the decision hangs, by successive halving, until the time is over.

A cut of which one picture was measured gets all pictures first. Then come the strong attacks, the
most valuable first, and behind them those that a deadline ended, with twice their time. A cut that
an attack has broken needs no other; one that violates a limit of latency, energy or memory needs
none at all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from splitdeploy.partitioner.attack_set import Choice
from splitdeploy.partitioner.evidence import Scene, Subjects, load_scene
from splitdeploy.partitioner.importance import by_decision
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.rungs import Contender, halve
from splitdeploy.partitioner.state import State
from splitdeploy.partitioner.strong_attacks import (
    LATE,
    attacked,
    fitting,
    left_over,
    next_attack,
    stands,
    step_s,
)
from splitdeploy.partitioner.sweep import FAILURES
from splitdeploy.profiles.errors import OutputError, SplitdeployError
from splitdeploy.profiles.report import Constraints, CutReport, SweepReport

ALL_PICTURES = "all pictures"
"""What the note of a row begins with whose evidence could not be renewed."""

_WORTH_S = 4.5
"""With so much time left an attack is begun that it is too short for: something may come of it."""

_PICTURE_STEPS = 16
_PICTURES_S = 0.5
"""What the evidence of one more picture takes at least, in steps of the quick attack, and what
all of them take beside that."""


def deepen(
    plan: Plan,
    report: SweepReport,
    options: ProfileOptions,
    subjects: Subjects,
    state: State,
    run: Path,
    ends_at: float,
    reporter: Reporter,
) -> list[CutReport]:
    """Spend the time that is left on the cuts that may yet be picked.

    Args:
        plan: The model, its cuts and its export.
        report: The sweep with cheap evidence on every cut.
        options: Constraints and objective, by which cuts matter; precision and seed.
        subjects: The pictures, and what an attacker has.
        state: Where finished rows are kept; what an interrupted sweep finished is not done again.
        run: The run folder.
        ends_at: When nothing more may begin, by ``time.perf_counter``.
        reporter: Told as it goes.

    Returns:
        The rows with more evidence, and notes on what there was no time for.
    """
    left_s = ends_at - time.perf_counter()
    reporter.stage("more where the decision hangs", max(1.0, left_s))
    work = _Work(load_scene(plan, options, subjects, state, run), report, reporter)
    halve(work.contenders, work.serve, ends_at=ends_at, worth_s=_WORTH_S, clock=time.perf_counter)
    return work.noted()


def picture_s(row: CutReport, pictures: int) -> float | None:
    """Seconds that the evidence of all pictures takes at least.

    Args:
        row: With evidence.
        pictures: How many there are.

    Returns:
        Seconds; None where there is nothing to gain.
    """
    if row.leakage is None or row.leakage.images >= pictures or _failed(row):
        return None
    return _PICTURES_S + _PICTURE_STEPS * pictures * step_s(row)


def open_attacks(row: CutReport, choices: Sequence[Choice], constraints: Constraints) -> list[str]:
    """The attacks that a cut which stands has not had.

    Args:
        row: With its attacks.
        choices: What there is.
        constraints: By which it stands.

    Returns:
        Their names and presets.
    """
    return left_over(row, choices) if stands(row, constraints) else []


def _failed(row: CutReport) -> bool:
    return any(note.startswith(f"{ALL_PICTURES} ") for note in row.attack_notes)


class _Work:
    """The rows as they become more."""

    def __init__(self, scene: Scene, report: SweepReport, reporter: Reporter) -> None:
        self._scene, self._report, self._reporter = scene, report, reporter
        self._rows = list(report.cuts)
        self._choices = fitting(scene.subjects.arsenal, scene.options.seed)

    def contenders(self) -> list[Contender]:
        """Those that may be picked and have something to gain, the most important first."""
        if not any(self._least_s(row) is not None for row in self._rows):
            return []
        report = replace(self._report, cuts=tuple(self._rows))
        places = by_decision(report, self._scene.options)
        least = [(place, self._least_s(self._rows[place])) for place in places]
        return [Contender(place, seconds) for place, seconds in least if seconds is not None]

    def _least_s(self, row: CutReport) -> float | None:
        if row.error is not None:
            return None
        seconds = picture_s(row, self._scene.pictures)
        if seconds is not None:
            return seconds
        wanted = None
        if stands(row, self._scene.options.constraints):
            wanted = next_attack(row, self._choices, self._scene.pictures)
        return None if wanted is None else wanted.least_s

    def serve(self, place: int, until: float) -> None:
        """Do the next piece of work on a cut."""
        row, pictures, began = self._rows[place], self._scene.pictures, time.perf_counter()
        if picture_s(row, pictures) is not None:
            self._rows[place] = self._renewed(place, row, until)
        else:
            wanted = next_attack(row, self._choices, pictures)
            if wanted is not None:
                self._rows[place] = attacked(self._scene, place, row, wanted, until)
        self._reporter.advance(time.perf_counter() - began)

    def _renewed(self, place: int, row: CutReport, until: float) -> CutReport:
        """The row with evidence of all pictures, or with a note of why it has none."""
        scene, work = self._scene, f"{ALL_PICTURES} of {row.name}"
        reason = scene.state.watch.crashed(work)
        if reason is None:
            try:
                with scene.state.watch.on(work):
                    return scene.evidence(scene.plan.cuts[place], row, until, scene.pictures)
            except OutputError:
                raise
            except (SplitdeployError, *FAILURES) as error:
                reason = " ".join(str(error).split())[:300]
        row = replace(row, attack_notes=(*row.attack_notes, f"{ALL_PICTURES} failed: {reason}"))
        scene.state.save(row)
        return row

    def noted(self) -> list[CutReport]:
        """The rows with notes on what there was no time for; those of before are renewed."""
        noted = []
        for row in self._rows:
            labels = open_attacks(row, self._choices, self._scene.options.constraints)
            notes = [note for note in row.attack_notes if not note.startswith(LATE)]
            if labels:
                notes.append(f"{LATE} {', '.join(labels)}")
            if tuple(notes) != row.attack_notes:
                row = replace(row, attack_notes=tuple(notes))
                self._scene.state.save(row)
            noted.append(row)
        return noted
