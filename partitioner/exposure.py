"""What every cut gives away: leakage and an attack, one cut after the other, within the budget."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitdeploy.attacks.baselines import best_baseline
from splitdeploy.attacks.leakage.figures import record_figures
from splitdeploy.attacks.leakage.noise import Noise, noise_named, repeated, repetition_caveats
from splitdeploy.attacks.leakage.prior import ImagePrior, default_prior
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.partitioner import privacy
from splitdeploy.partitioner.deployed import TWIN_TOLERANCE, observe, twin_error
from splitdeploy.partitioner.forward_pass import Sampled, load_samples, sample_cuts
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.state import State
from splitdeploy.partitioner.sweep import guarded
from splitdeploy.profiles.cut import CutPoint
from splitdeploy.profiles.errors import AttackError
from splitdeploy.profiles.figure import ordered
from splitdeploy.profiles.report import Baseline, CutReport, LeakageRecord

_PICTURE_COST = 2e7
"""What handling the pictures costs beside the head's MACs, in MACs."""

_FORWARD_SHARE = 0.08
"""The part of the time that the figures of one pass forward may take, of all cuts together."""

_SHORTEST_S = 0.2
"""However late it is, every cut gets some evidence."""


@dataclass(frozen=True)
class _Job:
    """What the cuts of a sweep share."""

    plan: Plan
    options: ProfileOptions
    pixels: Tensor
    noise: Noise
    prior: ImagePrior
    baseline: Baseline
    run: Path
    sampled: Mapping[int, Sampled]
    caveats: tuple[str, ...]
    ends_at: float

    def hurried(self) -> _Job:
        """The same with its first picture alone: what is left to do when the time is over."""
        pixels = self.pixels[:1]
        caveats = (*self.caveats, "one picture alone, for lack of time")
        return replace(self, pixels=pixels, baseline=best_baseline(pixels), caveats=caveats)


def expose_cuts(
    plan: Plan,
    rows: Sequence[CutReport],
    options: ProfileOptions,
    state: State,
    run: Path,
    ends_at: float,
    reporter: Reporter,
) -> list[CutReport]:
    """Measure the leakage of every exported head, and attack it.

    Every finished row is written at once; what an interrupted sweep had finished is taken up.

    Args:
        plan: The model, its cuts and its export.
        rows: As far as they are.
        options: Precision, noise and seed.
        state: Where finished rows are kept.
        run: The run folder.
        ends_at: When all of it must be done, by ``time.perf_counter``.
        reporter: Told as it goes.

    Returns:
        The rows with leakage, attacks and baseline.

    Raises:
        AttackError: The model's input is no picture.
    """
    if plan.pixels is None:
        raise AttackError("expected a model of pictures to attack; use --no-privacy for others")
    pixels = torch.from_numpy(plan.pixels)
    prior = default_prior((pixels.shape[1], pixels.shape[2], pixels.shape[3]))
    noise = repeated(noise_named(options.noise), options.queries)
    done = _finished(rows, state)
    pending = [place for place, row in enumerate(rows) if row.cut.index not in done]
    reporter.stage("leakage and attacks", max(1, len(pending)))
    sampled = _sampled(plan, [plan.cuts[at] for at in pending], options, noise, prior, ends_at)
    caveats = repetition_caveats(noise_named(options.noise), options.queries)
    job = _Job(
        plan, options, pixels, noise, prior, best_baseline(pixels), run, sampled, caveats, ends_at
    )
    for nth, place in enumerate(pending):
        cost = [rows[later].cut.head_macs + _PICTURE_COST for later in pending[nth:]]
        now = time.perf_counter()
        share = privacy.first_share(cost, max(0.0, ends_at - now))
        row = guarded(rows[place], partial(_exposed, job, plan.cuts[place], now + share))
        state.save(row)
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
                row, leakage=stored.leakage, attacks=stored.attacks, baseline=stored.baseline
            )
    return done


def _sampled(
    plan: Plan,
    cuts: Sequence[CutPoint],
    options: ProfileOptions,
    noise: Noise,
    prior: ImagePrior,
    ends_at: float,
) -> dict[int, Sampled]:
    """What one pass forward says of all cuts together."""
    if plan.pixels is None or not cuts or plan.pixel_head(cuts[0]) is None:
        return {}
    measured = len(plan.pixels)
    samples = load_samples(
        options.images, options.labels, shape=prior.shape, measured=measured, seed=options.seed
    )
    left_s = max(0.0, ends_at - time.perf_counter())
    return sample_cuts(
        plan.model, cuts, samples, noise=noise, prior=prior, deadline_s=_FORWARD_SHARE * left_s
    )


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
    _check_twin(head, job.pixels, seen, job.options.precision)
    left_s = max(_SHORTEST_S, ends_at - time.perf_counter())
    leaked = privacy.leakage(
        head,
        job.pixels,
        noise=job.noise,
        prior=job.prior,
        deadline_s=privacy.LEAKAGE_SHARE * left_s,
        seed=seed,
    )
    left_s = max(_SHORTEST_S, ends_at - time.perf_counter())
    record, found = privacy.attack(head, seen, job.pixels, deadline_s=left_s, seed=seed)
    picture = privacy.write_picture(job.run, cut.name, record.name, job.pixels, found)
    return replace(
        row,
        leakage=_with_figures(leaked, job.prior, job.sampled[cut.index], job.caveats),
        attacks=(replace(record, picture=picture),),
        baseline=job.baseline,
    )


def _check_twin(
    head: PixelHead, pixels: Tensor, seen: Sequence[NDArray[np.float32]], precision: str
) -> None:
    """The figures of the torch head are those of the exported one only if both give the same."""
    with torch.no_grad():
        own = head(pixels)
    error = twin_error(own, [torch.from_numpy(sent) for sent in seen])
    if error > TWIN_TOLERANCE[precision]:
        raise AttackError(
            f"expected the torch head to give what the exported head sends, they differ by "
            f"{error:.1e} of the largest value: its gradients would be another head's"
        )
