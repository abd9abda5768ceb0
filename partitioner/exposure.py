"""What every cut gives away: leakage and an attack, one cut after the other, within the budget."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from splitdeploy.attacks.baselines import best_baseline
from splitdeploy.attacks.judging import Judges
from splitdeploy.attacks.leakage.figures import record_figures
from splitdeploy.attacks.leakage.noise import Noise, noise_named, repeated, repetition_caveats
from splitdeploy.attacks.leakage.prior import ImagePrior, default_prior
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.partitioner import privacy
from splitdeploy.partitioner.arsenal import load_arsenal
from splitdeploy.partitioner.attack_target import Arsenal, check_twin
from splitdeploy.partitioner.deployed import observe
from splitdeploy.partitioner.forward_pass import (
    Sampled,
    Samples,
    load_samples,
    sample_cuts,
    sampled_from_json,
    sampled_to_json,
)
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.state import State
from splitdeploy.partitioner.sweep import watched
from splitdeploy.profiles.cut import CutPoint
from splitdeploy.profiles.errors import AttackError
from splitdeploy.profiles.figure import ordered
from splitdeploy.profiles.report import CutReport, LeakageRecord

_PICTURE_COST = 2e7
"""What handling the pictures costs beside the head's MACs, in MACs."""

_FORWARD_SHARE = 0.08
"""The part of the time that the figures of one pass forward may take, of all cuts together."""

_SHORTEST_S = 0.2
"""However late it is, every cut gets some evidence."""

_SAMPLED = "sampled"
_LEAKAGE = "leakage"
"""Parts of a row that are kept before it is whole."""


@dataclass(frozen=True)
class Subjects:
    """The pictures of a sweep, and what an attacker has.

    Attributes:
        samples: The pictures; the first ones are attacked.
        judges: What reconstructions are judged by beside their originals.
        arsenal: What the attacker has of his own.
        notes: What was left out of it.
    """

    samples: Samples
    judges: Judges
    arsenal: Arsenal
    notes: tuple[str, ...]

    @property
    def pixels(self) -> Tensor:
        """Those that are attacked, ``[n, c, h, w]`` on [0, 1]."""
        return self.samples.pixels[: self.samples.measured]


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


@dataclass(frozen=True)
class _Job:
    """What the cuts of a sweep share."""

    plan: Plan
    options: ProfileOptions
    pixels: Tensor
    noise: Noise
    prior: ImagePrior
    judges: Judges
    run: Path
    state: State
    sampled: Mapping[int, Sampled]
    caveats: tuple[str, ...]
    ends_at: float

    def hurried(self) -> _Job:
        """The same with its first picture alone: what is left to do when the time is over."""
        pixels = self.pixels[:1]
        caveats = (*self.caveats, "one picture alone, for lack of time")
        judges = replace(self.judges, baseline=best_baseline(pixels))
        return replace(self, pixels=pixels, judges=judges, caveats=caveats)


def expose_cuts(
    plan: Plan,
    rows: Sequence[CutReport],
    options: ProfileOptions,
    subjects: Subjects,
    state: State,
    run: Path,
    ends_at: float,
    reporter: Reporter,
) -> list[CutReport]:
    """Measure the leakage of every exported head, and attack it quickly.

    Every finished row is written at once; what an interrupted sweep had finished is taken up.

    Args:
        plan: The model, its cuts and its export.
        rows: As far as they are.
        options: Precision, noise and seed.
        subjects: The pictures, and what an attacker has.
        state: Where finished rows are kept.
        run: The run folder.
        ends_at: When all of it must be done, by ``time.perf_counter``.
        reporter: Told as it goes.

    Returns:
        The rows with leakage, an attack and baseline.
    """
    pixels = subjects.pixels
    prior = default_prior((pixels.shape[1], pixels.shape[2], pixels.shape[3]))
    noise = repeated(noise_named(options.noise), options.queries)
    done = _finished(rows, state)
    pending = [place for place, row in enumerate(rows) if row.cut.index not in done]
    reporter.stage("leakage and attacks", max(1, len(pending)))
    waiting = [plan.cuts[at] for at in pending]
    sampled = _sampled(plan, waiting, subjects.samples, noise, prior, state, ends_at)
    caveats = repetition_caveats(noise_named(options.noise), options.queries)
    job = _Job(
        plan, options, pixels, noise, prior, subjects.judges, run, state, sampled, caveats, ends_at
    )
    for nth, place in enumerate(pending):
        cost = [rows[later].cut.head_macs + _PICTURE_COST for later in pending[nth:]]
        now = time.perf_counter()
        share = privacy.first_share(cost, max(0.0, ends_at - now))
        cut = plan.cuts[place]
        work = f"leakage and the quick attack on {cut.name}"
        row = watched(state, work, rows[place], partial(_exposed, job, cut, now + share))
        state.save(row)
        if row.error is None:
            state.tell("quick attack", time.perf_counter() - now, cut.name)
        done[row.cut.index] = row
        reporter.advance()
    return [done[row.cut.index] for row in rows]


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


def _sampled(
    plan: Plan,
    cuts: Sequence[CutPoint],
    samples: Samples,
    noise: Noise,
    prior: ImagePrior,
    state: State,
    ends_at: float,
) -> dict[int, Sampled]:
    """What one pass forward says of all cuts together, or what an interrupted sweep had of it."""
    if not cuts or plan.pixel_head(cuts[0]) is None:
        return {}
    kept = sampled_from_json(state.load_part(_SAMPLED))
    if all(cut.index in kept for cut in cuts):
        return kept
    began = time.perf_counter()
    found = sample_cuts(
        plan.model, cuts, samples, noise=noise, prior=prior,
        deadline_s=_FORWARD_SHARE * max(0.0, ends_at - began),
    )  # fmt: skip
    state.save_part(_SAMPLED, sampled_to_json(found))
    state.tell("pass forward", time.perf_counter() - began)
    return found


def _with_figures(
    record: LeakageRecord, prior: ImagePrior, sampled: Sampled, caveats: tuple[str, ...]
) -> LeakageRecord:
    """The record with the whole table."""
    figures = ordered([*record_figures(record, prior), *sampled.figures])
    return replace(record, figures=figures, notes=(*record.notes, *sampled.notes, *caveats))


def _exposed(job: _Job, cut: CutPoint, ends_at: float, row: CutReport) -> CutReport:
    head = job.plan.pixel_head(cut)
    if head is None:
        raise AttackError(f"{job.plan.model.name} has no torch graph to take gradients from")
    if time.perf_counter() > job.ends_at:
        job = job.hurried()
    seed = job.options.seed
    seen = observe(job.plan, cut, row.cut, job.options.precision)
    seen = [tensor[: len(job.pixels)] for tensor in seen]
    sent = [torch.from_numpy(tensor) for tensor in seen]
    check_twin(head, job.pixels, sent, job.options.precision)
    leaked = _leaked(job, cut, head, ends_at, row)
    left_s = max(_SHORTEST_S, ends_at - time.perf_counter())
    record, found = privacy.attack(
        head, seen, job.pixels, deadline_s=left_s, seed=seed, judges=job.judges
    )
    picture = privacy.write_picture(job.run, cut.name, record.name, job.pixels, found)
    return replace(
        row,
        leakage=leaked,
        attacks=(replace(record, picture=picture),),
        baseline=job.judges.baseline,
    )


def _leaked(
    job: _Job, cut: CutPoint, head: PixelHead, ends_at: float, row: CutReport
) -> LeakageRecord:
    """The leakage of a cut, kept before the attack begins."""
    kept = job.state.load_row_part(_LEAKAGE, cut.index)
    if kept is not None and kept.leakage is not None:
        return kept.leakage
    began = time.perf_counter()
    measured = privacy.leakage(
        head,
        job.pixels,
        noise=job.noise,
        prior=job.prior,
        deadline_s=privacy.LEAKAGE_SHARE * max(_SHORTEST_S, ends_at - began),
        seed=job.options.seed,
    )
    leaked = _with_figures(measured, job.prior, job.sampled[cut.index], job.caveats)
    job.state.save_row_part(_LEAKAGE, replace(row, leakage=leaked))
    job.state.tell("leakage", time.perf_counter() - began, cut.name)
    return leaked
