"""The strong attacks of a sweep: which one a cut gets next, and what it finds.

The most valuable comes first; a cut that one of them breaks needs no other. One that its deadline
ended may be run again with twice the time, once all others had theirs. Its result then takes the
place of the shorter run's, whichever of them recovered more: to keep the better one would be to
choose by the originals.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from splitdeploy.attacks.base import run_attack
from splitdeploy.attacks.least_squares import LeastSquares
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.attacks.verdict import RECOGNISABLE
from splitdeploy.partitioner import privacy
from splitdeploy.partitioner.attack_set import Choice, strongest, why_not
from splitdeploy.partitioner.attack_state import file_name
from splitdeploy.partitioner.attack_target import Arsenal, deployed_target
from splitdeploy.partitioner.evidence import Scene
from splitdeploy.partitioner.scoring import attack_share
from splitdeploy.partitioner.sweep import FAILURES
from splitdeploy.profiles.errors import OutputError, SplitdeployError
from splitdeploy.profiles.report import AttackRecord, Constraints, CutReport

LATE = "not run for lack of time:"
"""How the note of a row begins that tells which attacks were left out."""

_LEAST_S = 4.0
_LEAST_STEPS = 40
"""An attack that cannot make so many steps of the quick one tells nothing new."""

_MARGIN_S = 0.5
"""For judging what an attack returns, and its picture."""


@dataclass(frozen=True)
class Next:
    """The attack that a cut gets next.

    Attributes:
        choice: The attack with its settings.
        least_s: Seconds below which it is not begun.
        again: Whether its deadline ended it before.
    """

    choice: Choice
    least_s: float
    again: bool = False


def fitting(arsenal: Arsenal, seed: int) -> tuple[Choice, ...]:
    """The attacks that the attacker has what it takes for, the most valuable first.

    Args:
        arsenal: What the attacker has beside what the model gives.
        seed: Of the attacks.

    Returns:
        They.
    """
    # The quick attack is least squares wherever that applies.
    wanted = [choice for choice in strongest() if choice.name != LeastSquares.name]
    return tuple(choice for choice in wanted if _fits(choice.make(seed).threat, arsenal))


def _fits(threat: ThreatModel, arsenal: Arsenal) -> bool:
    lacks_pictures = threat.auxiliary_data and arsenal.auxiliary is None
    return not (lacks_pictures or (threat.generator and arsenal.generator is None))


def stands(row: CutReport, constraints: Constraints) -> bool:
    """Whether no attack has broken a cut; the ends are none.

    Args:
        row: With its attacks.
        constraints: With the limit on what an attack may recover, if there is one.

    Returns:
        The answer.
    """
    attack, gained = row.strongest_attack, attack_share(row)
    if row.cut.is_end or row.error is not None or attack is None or gained is None:
        return False
    if constraints.max_ssim is not None:
        return attack.ssim <= constraints.max_ssim
    return gained < RECOGNISABLE


def next_attack(row: CutReport, choices: Sequence[Choice], pictures: int) -> Next | None:
    """The attack that is worth the next time on a cut.

    Args:
        row: With its attacks.
        choices: What there is, the most valuable first.
        pictures: How many are attacked.

    Returns:
        It; None where all had their time and ended by themselves.
    """
    least = least_s(row, pictures)
    for choice in choices:
        if not _settled(row, choice.label):
            return Next(choice, least)
    by_label = {_label(attack): attack for attack in row.attacks}
    for choice in choices:
        before = by_label.get(choice.label)
        if before is not None and privacy.CUT_SHORT in before.notes:
            return Next(choice, max(least, 2.0 * before.seconds + _MARGIN_S), again=True)
    return None


def left_over(row: CutReport, choices: Sequence[Choice]) -> list[str]:
    """The attacks that a cut has not had, by name and preset."""
    return [choice.label for choice in choices if not _settled(row, choice.label)]


def _label(attack: AttackRecord) -> str:
    return f"{attack.name}:{attack.preset}"


def _settled(row: CutReport, label: str) -> bool:
    """Whether an attack was run on a cut, or there is a note of why it cannot be."""
    told = any(note.startswith(f"{label} ") for note in row.attack_notes)
    return told or label in {_label(attack) for attack in row.attacks}


def step_s(row: CutReport) -> float:
    """Seconds of a step on one picture, by the slowest attack of a row; 0 where none has steps."""
    # An attack of n steps evaluates the head once more.
    known = [a.seconds / ((a.steps + 1) * max(1, a.images)) for a in row.attacks if a.steps]
    return max(known, default=0.0)


def least_s(row: CutReport, pictures: int) -> float:
    """Seconds below which a strong attack is not begun on a cut.

    Args:
        row: With its quick attack, by whose steps they are told.
        pictures: How many are attacked.

    Returns:
        Seconds.
    """
    return max(_LEAST_S, _LEAST_STEPS * pictures * step_s(row)) + _MARGIN_S


def attacked(scene: Scene, place: int, row: CutReport, wanted: Next, until: float) -> CutReport:
    """Run one attack on a cut, and keep what it finds.

    Args:
        scene: What the cuts of the sweep share.
        place: The cut's place in the plan.
        row: As far as it is.
        wanted: The attack.
        until: When it should be done, by ``time.perf_counter``.

    Returns:
        The row with one attack more, or with a note of why there is none.

    Raises:
        OutputError: The run folder cannot be written.
    """
    label, began = wanted.choice.label, time.perf_counter()
    found = _attacked(scene, place, row, wanted, until)
    scene.state.save(found)
    work = f"{label}, longer" if wanted.again else label
    scene.state.tell(work, time.perf_counter() - began, row.name)
    return found


def _attacked(scene: Scene, place: int, row: CutReport, wanted: Next, until: float) -> CutReport:
    plan, options, subjects = scene.plan, scene.options, scene.subjects
    attack, label = wanted.choice.make(options.seed), wanted.choice.label
    work = f"{label} on {row.name}"
    crash = scene.state.watch.crashed(work)
    if crash is not None:
        return _with_note(row, f"{label} failed: {crash}")
    try:
        with (
            scene.state.watch.on(work),
            deployed_target(
                plan, place, options.precision, subjects.pixels, subjects.arsenal
            ) as target,
        ):
            reason = why_not(attack, target)
            if reason is not None:
                return _with_note(row, f"{label} {reason}")
            record, found = run_attack(
                attack,
                target,
                subjects.pixels,
                deadline_s=max(_MARGIN_S, until - _MARGIN_S - time.perf_counter()),
                folder=scene.state.training(row.cut.index, file_name(label)),
                judges=subjects.judges,
            )
    except OutputError:
        raise
    except (SplitdeployError, *FAILURES) as error:
        reason = " ".join(str(error).split())[:300]
        return _with_note(row, f"{label} failed: {reason}")
    others = tuple(other for other in row.attacks if _label(other) != _label(record))
    name = file_name(label) if record.name in {o.name for o in others} else record.name
    picture = privacy.write_picture(scene.run, row.name, name, subjects.pixels, found.pixels)
    record = replace(privacy.noted(record, found), picture=picture)
    return replace(row, attacks=(*others, record))


def _with_note(row: CutReport, note: str) -> CutReport:
    # What an attack found before stays where a longer run of it fails.
    return row if note in row.attack_notes else replace(row, attack_notes=(*row.attack_notes, note))
