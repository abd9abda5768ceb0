"""The template of every attack: who may see what, when to stop, and what is kept.

After foolbox (Rauber et al. 2020): hyper-parameters in the constructor, data in the call; the call
is final, a subclass writes `_run`. Judging lies outside, in `run_attack`, because an attack never
has the originals.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from splitdeploy.attacks.judging import Judges, judged
from splitdeploy.attacks.presets import WithPresets
from splitdeploy.attacks.steps import Run
from splitdeploy.attacks.target import AttackTarget, TargetView
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.profiles.errors import AttackError
from splitdeploy.profiles.report import AttackRecord

Progress = Callable[[float], None]
"""Told the share of the work that is done, on [0, 1]."""


@dataclass(frozen=True)
class Reconstruction:
    """What an attack returns.

    Attributes:
        pixels: ``[n, c, h, w]``, finite, clamped to the target's bounds.
        converged: Whether its own loss had stopped falling when it ended; False where it diverged
            or a deadline cut it short.
        steps: How many optimisation steps it made; 0 where it has none.
        losses: Its own loss at each of them.
        seconds: Wall-clock time.
        notes: What whoever reads the result should know, such as a divergence.
        stopped_early: Whether the deadline ended it, and more time would change it.
    """

    pixels: Tensor
    converged: bool
    steps: int
    losses: tuple[float, ...]
    seconds: float
    notes: tuple[str, ...] = ()
    stopped_early: bool = False


class Attack(WithPresets, ABC):
    """A reconstruction attack: a value that can be called on any number of targets.

    A subclass sets the class attributes, keeps its hyper-parameters as attributes of the same
    names, and writes `_run`. Where every image is independent, it works on the whole batch at once.

    Attributes:
        threat: What it needs to know.
        cost: What it takes, in words, for ``splitdeploy attacks``.
        paper: Whose idea it is.
    """

    threat: ClassVar[ThreatModel]
    cost: ClassVar[str]
    paper: ClassVar[str]

    def applies(self, target: AttackTarget) -> bool:
        """Whether it makes sense on this target; a sweep asks before it runs an attack."""
        return not target.lacks(self.threat)

    @final
    def __call__(
        self,
        target: AttackTarget,
        *,
        deadline_s: float | None = None,
        progress: Progress | None = None,
        folder: Path | None = None,
    ) -> Reconstruction:
        """Reconstruct the pictures behind an observation.

        Args:
            target: What was observed, and the head.
            deadline_s: Seconds that it may take; it then stops with what it has. At least one step
                is always made.
            progress: Told the share that is done.
            folder: Where an attack that trains keeps its state, so that the same call goes on
                after an interruption; None for nowhere.

        Returns:
            The reconstruction. Where the loss or the pictures left the finite numbers, the last
            finite state; grey where there is none.

        Raises:
            AttackError: The target lacks what the threat model takes for granted, or the deadline
                is not positive.
        """
        if deadline_s is not None and not deadline_s > 0:
            raise AttackError(f"expected a deadline above 0 s, got {deadline_s}")
        missing = target.lacks(self.threat)
        if missing:
            raise AttackError(f"{self.name} needs {' and '.join(missing)}, and there is none")
        view = target.granted(self.threat)
        run = Run(self.seed, deadline_s, progress, folder)
        with _frozen(target.pixel_head):
            final_pixels = self._run(view, run)
        seconds = time.perf_counter() - run.started_s
        finite = bool(torch.isfinite(final_pixels).all())
        pixels = final_pixels if finite and not run.diverged else run.last_finite
        if pixels is None:
            grey = sum(view.bounds) / 2
            pixels = torch.full((view.images, *view.image_shape), grey, device=view.device)
        return Reconstruction(
            pixels=pixels.detach().float().clamp(*view.bounds),
            converged=run.converged and finite and not run.diverged and not run.stopped_early,
            steps=len(run.losses),
            losses=tuple(run.losses),
            seconds=seconds,
            notes=tuple(run.notes),
            stopped_early=run.stopped_early,
        )

    @final
    def within(self, target: AttackTarget, run: Run) -> Tensor:
        """Reconstruct as a part of another attack, on a head that this one has made.

        Args:
            target: What was observed, and the head that stands in for the victim's.
            run: The part of the other attack's run.

        Returns:
            Pixels ``[n, c, h, w]``; they need be neither clamped nor finite.

        Raises:
            AttackError: The target lacks what the threat model takes for granted.
        """
        missing = target.lacks(self.threat)
        if missing:
            raise AttackError(f"{self.name} needs {' and '.join(missing)}, and there is none")
        with _frozen(target.pixel_head):
            return self._run(target.granted(self.threat), run)

    @abstractmethod
    def _run(self, target: TargetView, run: Run) -> Tensor:
        """Reconstruct.

        Args:
            target: What the threat model grants.
            run: The generator, the clock and the record of the losses. After every step call
                ``run.step`` and stop when it says so; set ``run.converged``. Work in several
                parts goes by ``run.part``, a training by `splitdeploy.attacks.training.train`.

        Returns:
            Pixels ``[n, c, h, w]``; they need be neither clamped nor finite.
        """


@contextmanager
def _frozen(head: nn.Module | None) -> Iterator[None]:
    """Without gradients for the parameters, which cost as much again as those for the pixels."""
    wanted = [p for p in head.parameters() if p.requires_grad] if head is not None else []
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def run_attack(
    attack: Attack,
    target: AttackTarget,
    originals: Tensor,
    *,
    deadline_s: float | None = None,
    progress: Progress | None = None,
    folder: Path | None = None,
    judges: Judges | None = None,
) -> tuple[AttackRecord, Reconstruction]:
    """Attack, and judge by the originals, which the attack itself never gets.

    Args:
        attack: The attack with its settings.
        target: What was observed, and the head.
        originals: The pictures behind the observation, ``[n, c, h, w]`` on [0, 1].
        deadline_s: Seconds that the attack may take.
        progress: Told the share that is done.
        folder: Where an attack that trains keeps its state; None for nowhere.
        judges: What to judge by beside the originals: a gallery, a classifier.

    Returns:
        The row for the report, and the reconstruction.

    Raises:
        AttackError: The originals do not belong to the observation, or the attack cannot run.
    """
    expected = (target.images, *target.image_shape)
    if tuple(originals.shape) != expected:
        raise AttackError(
            f"expected originals of shape {list(expected)} to judge by, got {list(originals.shape)}"
        )
    found = attack(target, deadline_s=deadline_s, progress=progress, folder=folder)
    fields = dict(judged(found.pixels, originals, judges or Judges(), converged=found.converged))
    record = AttackRecord(
        name=attack.name,
        preset=attack.preset_name,
        threat_model=_threat_in_words(attack, target),
        seconds=found.seconds,
        converged=found.converged,
        steps=found.steps,
        notes=(*found.notes, *fields.pop("notes")),
        **fields,
    )
    return record, found


def _threat_in_words(attack: Attack, target: AttackTarget) -> str:
    """What was granted, and what the pictures were that the attacker had of his own."""
    granted = attack.threat.auxiliary_data and target.auxiliary is not None
    return f"{attack.threat} ({target.auxiliary})" if granted else str(attack.threat)
