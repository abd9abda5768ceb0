"""What every cut gives away: cheap evidence for all of them, before any of them gets more."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from splitdeploy.attacks.baselines import best_baseline
from splitdeploy.attacks.judging import Judges
from splitdeploy.partitioner.arsenal import load_arsenal
from splitdeploy.partitioner.evidence import SAMPLED, Scene, Subjects, load_scene
from splitdeploy.partitioner.forward_pass import load_samples, sample_cuts, sampled_to_json
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.rungs import first_pass, weigh
from splitdeploy.partitioner.state import State
from splitdeploy.partitioner.sweep import watched
from splitdeploy.profiles.cut import CutPoint
from splitdeploy.profiles.errors import AttackError
from splitdeploy.profiles.report import CutReport

FIRST_SHARE = 0.25
"""The part of the time for leakage and attacks that the first pass over all cuts should take."""

ALL_SHARE = 0.5
"""The part that it may take where that is enough for all pictures of every cut at once."""

UNSEEN = "not measured and not attacked for lack of time"
"""The note of a row that there was not even the time of one picture for."""

_PICTURE_COST = 2e7
"""What handling the pictures costs beside the head's MACs, in MACs."""

_FORWARD_SHARE = 0.08
"""The part of the time that the figures of one pass forward may take, of all cuts together."""

_WHOLE_PASSES = 400.0
_WHOLE_S = 0.3
"""What leakage and a quick attack take that end by themselves, in passes forward a picture, and
beside these: measured, from above."""


def load_subjects(plan: Plan, options: ProfileOptions) -> Subjects:
    """Load what leakage is measured on and attacks are judged by.

    Args:
        plan: The model and its pictures.
        options: Where pictures and the attacker's own things come from.

    Returns:
        They.

    Raises:
        AttackError: The model's input is no picture, or what the attacker has does not fit it.
    """
    if plan.pixels is None:
        raise AttackError("expected a model of pictures to attack; use --no-privacy for others")
    pixels = torch.from_numpy(plan.pixels)
    shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
    samples = load_samples(
        options.images, options.labels, shape=shape, measured=len(pixels), seed=options.seed
    )
    judges = Judges(gallery=samples.pixels[len(pixels) :], baseline=best_baseline(pixels))
    arsenal, notes = load_arsenal(options.lent, pixels, seed=options.seed)
    return Subjects(samples, judges, arsenal, notes)


def expose_cuts(
    plan: Plan,
    rows: Sequence[CutReport],
    options: ProfileOptions,
    subjects: Subjects,
    state: State,
    run: Path,
    ends_at: float,
    reporter: Reporter,
    order: Sequence[int] | None = None,
) -> list[CutReport]:
    """Measure the leakage of every exported head, and attack it quickly: once over all cuts.

    One picture must do for now, unless there is ample time for all pictures of all cuts. Every
    finished row is written at once; what an interrupted sweep had finished is taken up. Where the
    time is not enough even for that, the last ones get a note.

    Args:
        plan: The model, its cuts and its export.
        rows: As far as they are.
        options: Precision, noise and seed.
        subjects: The pictures, and what an attacker has.
        state: Where finished rows are kept.
        run: The run folder.
        ends_at: When nothing more may begin, by ``time.perf_counter``.
        reporter: Told as it goes.
        order: The places of the rows, the most important first; None for as they come.

    Returns:
        The rows with leakage, an attack and baseline.
    """
    done = _finished(rows, state)
    places = range(len(rows)) if order is None else order
    pending = [place for place in places if rows[place].cut.index not in done]
    reporter.stage("leakage and attacks", max(1, len(pending)))
    scene = load_scene(plan, options, subjects, state, run)
    scene = _sampled(scene, [plan.cuts[place] for place in pending], ends_at)
    left_s = max(0.0, ends_at - time.perf_counter())
    costs = [rows[place].cut.head_macs + _PICTURE_COST for place in pending]
    ample = bool(pending) and _whole_s(scene, costs) <= ALL_SHARE * left_s

    def serve(nth: int, until: float) -> None:
        place = pending[nth]
        cut = plan.cuts[place]
        # Where the input itself is sent, all pictures cost no more than one.
        pictures = scene.pictures if ample or not cut.head_macs else 1
        step = partial(_exposed, scene, cut, until, pictures)
        work = f"leakage and the quick attack on {cut.name}"
        row = watched(state, work, rows[place], step)
        if row.error is not None:
            state.save(row)
        done[cut.index] = row
        reporter.advance()

    share = ALL_SHARE if ample else FIRST_SHARE
    first_pass(
        weigh(costs), serve, seconds=share * left_s, ends_at=ends_at, clock=time.perf_counter
    )
    return [done.get(row.cut.index) or _unseen(row) for row in rows]


def _finished(rows: Sequence[CutReport], state: State) -> dict[int, CutReport]:
    """The rows that an interrupted sweep had finished, with the costs of this one."""
    done = {}
    for row in rows:
        stored = state.load(row.cut.index)
        if stored is not None and stored.error is None:
            done[row.cut.index] = replace(
                row, leakage=stored.leakage, attacks=stored.attacks, baseline=stored.baseline,
                attack_notes=stored.attack_notes,
            )  # fmt: skip
    return done


def _sampled(scene: Scene, cuts: Sequence[CutPoint], ends_at: float) -> Scene:
    """With what one pass forward says of all cuts together, unless that is known."""
    plan, known = scene.plan, all(cut.index in scene.sampled for cut in cuts)
    if known or plan.pixel_head(cuts[0]) is None:
        return scene
    began = time.perf_counter()
    found = sample_cuts(
        plan.model, cuts, scene.subjects.samples, noise=scene.noise, prior=scene.prior,
        deadline_s=_FORWARD_SHARE * max(0.0, ends_at - began),
    )  # fmt: skip
    scene.state.save_part(SAMPLED, sampled_to_json(found))
    scene.state.tell("pass forward", time.perf_counter() - began)
    return replace(scene, sampled=found)


def _whole_s(scene: Scene, costs: Sequence[float]) -> float:
    """What all pictures of all cuts would take, by a pass forward with one."""
    plan = scene.plan
    head = plan.pixel_head(plan.cuts[-1])
    if head is None:
        return 0.0
    times = []
    for _ in range(3):  # the first one is slower
        began = time.perf_counter()
        with torch.no_grad():
            head(scene.subjects.pixels[:1])
        times.append(time.perf_counter() - began)
    pass_s = min(times) / (plan.cuts[-1].head_macs + _PICTURE_COST)
    return sum(_WHOLE_S + _WHOLE_PASSES * scene.pictures * pass_s * cost for cost in costs)


def _exposed(scene: Scene, cut: CutPoint, until: float, pictures: int, row: CutReport) -> CutReport:
    return scene.evidence(cut, row, until, pictures)


def _unseen(row: CutReport) -> CutReport:
    return row if row.error else replace(row, attack_notes=(*row.attack_notes, UNSEEN))
