"""The evidence on one cut: its leakage, and the quick attack, on one picture or on all of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from splitdeploy.partitioner.attack_target import Arsenal, check_twin
from splitdeploy.partitioner.deployed import codec_ranges, observe
from splitdeploy.partitioner.forward_pass import Sampled, Samples, sampled_from_json
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.state import State
from splitdeploy.profiles.cut import CutPoint
from splitdeploy.profiles.errors import AttackError
from splitdeploy.profiles.figure import ordered
from splitdeploy.profiles.report import Baseline, CutReport, LeakageRecord

ONE_PICTURE = "one picture alone, for lack of time"
"""The note of a leakage that is not of all pictures."""

LEAKAGE_SHARE = 0.6
"""The part of a cut's time that its leakage may take; the attack gets what is left of it. Few
quadrature steps leave the ranking of the cuts open, few steps of an attack rarely do."""

_SHORTEST_S = 0.2
"""However late it is, leakage and attack make a step each."""

SAMPLED = "sampled"
"""The part of the state with what one pass forward says of all cuts."""

_LEAKAGE = "leakage"
"""The part of a row that is kept before it is whole."""


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


@dataclass(frozen=True)
class Scene:
    """What the cuts of a sweep share.

    Attributes:
        plan: The model, its cuts and its export.
        options: Precision and seed.
        subjects: The pictures, and what an attacker has.
        noise: What the smashed data carries.
        prior: What is taken as known of pictures.
        caveats: What every leakage has to say.
        state: Where finished work is kept.
        run: The run folder.
        sampled: What one pass forward says, by the index of each cut.
        guess: The best guess on the first picture alone.
    """

    plan: Plan
    options: ProfileOptions
    subjects: Subjects
    noise: Noise
    prior: ImagePrior
    caveats: tuple[str, ...]
    state: State
    run: Path
    sampled: Mapping[int, Sampled]
    guess: Baseline

    @property
    def pictures(self) -> int:
        """How many there are to measure and attack."""
        return len(self.subjects.pixels)

    def evidence(self, cut: CutPoint, row: CutReport, until: float, pictures: int) -> CutReport:
        """Measure the leakage of an exported head, and attack it quickly.

        Args:
            cut: The cut, its tensors as the model computes them.
            row: As far as it is.
            until: When it should be done, by ``time.perf_counter``.
            pictures: On how many it is done: all, or the first alone.

        Returns:
            The row with leakage, an attack and baseline, in place of what it had.

        Raises:
            AttackError: The model has no torch graph.
        """
        head = self.plan.pixel_head(cut)
        if head is None:
            raise AttackError(f"{self.plan.model.name} has no torch graph to take gradients from")
        pixels, judges = self.subjects.pixels[:pictures], self.subjects.judges
        if pictures < self.pictures:
            judges = replace(judges, baseline=self.guess)
        seen = observe(self.plan, cut, row.cut, self.options.precision, pictures)
        sent = [torch.from_numpy(tensor) for tensor in seen]
        ranges = codec_ranges(self.plan, self.plan.slicer.cut(cut).head)
        check_twin(head, pixels, sent, self.options.precision, ranges)
        leaked = self._leaked(cut, head, until, row, pixels)
        began = time.perf_counter()
        record, found = privacy.attack(
            head, seen, pixels, deadline_s=max(_SHORTEST_S, until - began),
            seed=self.options.seed, judges=judges,
        )  # fmt: skip
        picture = privacy.write_picture(self.run, cut.name, record.name, pixels, found)
        others = tuple(a for a in row.attacks if (a.name, a.preset) != (record.name, record.preset))
        whole = replace(
            row,
            leakage=leaked,
            attacks=(replace(record, picture=picture), *others),
            baseline=judges.baseline,
        )
        self.state.save(whole)
        self.state.tell(self._work("quick attack", pictures), time.perf_counter() - began, cut.name)
        return whole

    def _leaked(
        self, cut: CutPoint, head: PixelHead, until: float, row: CutReport, pixels: Tensor
    ) -> LeakageRecord:
        """The leakage of a cut, kept before the attack begins."""
        kept = self.state.load_row_part(_LEAKAGE, cut.index)
        if kept is not None and kept.leakage is not None and kept.leakage.images == len(pixels):
            return kept.leakage
        began = time.perf_counter()
        measured = privacy.leakage(
            head,
            pixels,
            noise=self.noise,
            prior=self.prior,
            deadline_s=LEAKAGE_SHARE * max(_SHORTEST_S, until - began),
            seed=self.options.seed,
            bayesian=len(pixels) == self.pictures,
        )
        leaked = self._with_figures(measured, self.sampled.get(cut.index, Sampled((), ())))
        self.state.save_row_part(_LEAKAGE, replace(row, leakage=leaked))
        work = self._work("leakage", len(pixels))
        self.state.tell(work, time.perf_counter() - began, cut.name)
        return leaked

    def _with_figures(self, record: LeakageRecord, sampled: Sampled) -> LeakageRecord:
        """The record with the whole table."""
        figures = ordered([*record_figures(record, self.prior), *sampled.figures])
        alone = () if record.images >= self.pictures else (ONE_PICTURE,)
        notes = (*record.notes, *sampled.notes, *self.caveats, *alone)
        return replace(record, figures=figures, notes=notes)

    def _work(self, what: str, pictures: int) -> str:
        return what if pictures >= self.pictures else f"{what} on one picture"


def load_scene(
    plan: Plan, options: ProfileOptions, subjects: Subjects, state: State, run: Path
) -> Scene:
    """What the cuts of a sweep share, as far as it is kept.

    Args:
        plan: The model, its cuts and its export.
        options: Precision, noise and seed.
        subjects: The pictures, and what an attacker has.
        state: Where finished work is kept.
        run: The run folder.

    Returns:
        It.
    """
    channels, height, width = subjects.pixels.shape[1:]
    noise = noise_named(options.noise)
    return Scene(
        plan=plan,
        options=options,
        subjects=subjects,
        noise=repeated(noise, options.queries),
        prior=default_prior((channels, height, width)),
        caveats=repetition_caveats(noise, options.queries),
        state=state,
        run=run,
        sampled=sampled_from_json(state.load_part(SAMPLED)),
        guess=best_baseline(subjects.pixels[:1]),
    )
