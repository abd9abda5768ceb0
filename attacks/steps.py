"""What an iterative attack keeps as it goes: the clock, its losses, and whether they still fall."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from splitdeploy.attacks.checkpoint import Checkpoint


class Run:
    """One run of an attack.

    Args:
        seed: Of the generator.
        deadline_s: Seconds that it may take; None for no limit.
        progress: Told the share that is done.
        folder: Where what is trained keeps its state; None for nowhere.

    Attributes:
        generator: The run's own random numbers.
        started_s: ``time.perf_counter()`` at the start.
        losses: The loss after each step.
        last_finite: The pixels at the last step whose loss and pixels were finite, or None.
        converged: For the attack to set.
        diverged: Whether a loss or pixels were not finite.
        stopped_early: Whether the deadline, not the attack, ended the run.
        notes: What whoever reads the result should know.
    """

    def __init__(
        self,
        seed: int,
        deadline_s: float | None,
        progress: Callable[[float], None] | None,
        folder: Path | None = None,
    ) -> None:
        self.seed = seed
        self.folder = folder
        self.notes: list[str] = []
        self.generator = torch.Generator().manual_seed(seed)
        self.started_s = time.perf_counter()
        self.losses: list[float] = []
        self.last_finite: Tensor | None = None
        self.converged = False
        self.diverged = False
        self.stopped_early = False
        self._deadline_s = deadline_s
        self._progress = progress
        self._last_s = self.started_s
        self._share = 0.0
        self._whole: Run | None = None

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline, at least 0; infinite without one."""
        if self._deadline_s is None:
            return math.inf
        return max(0.0, self._deadline_s - (time.perf_counter() - self.started_s))

    def note(self, text: str) -> None:
        """Say something to whoever reads the result."""
        (self._whole or self).notes.append(text)

    def checkpoint(self, name: str, identity: str) -> Checkpoint | None:
        """Where a training of this run keeps its state.

        Args:
            name: Of what is trained, one of its kind in the run.
            identity: What it is trained on and with which settings.

        Returns:
            The checkpoint; None where the run keeps nothing.
        """
        if self.folder is None:
            return None
        return Checkpoint(self.folder / f"{name}.npz", f"{identity}, seed {self.seed}")

    def part(self, until: float) -> Run:
        """The next part of the work: its own losses, generator and deadline.

        What it records goes into this run's record too.

        Args:
            until: The share of the whole, in time and progress, at which it ends; above what
                earlier parts took, at most 1.

        Returns:
            A run for that part; the seconds that earlier parts left over are its own.
        """
        start, self._share = self._share, until
        rest = self.remaining_s * (until - start) / max(1e-9, 1.0 - start)
        told = self._progress
        progress = None if told is None else lambda s: told(start + (until - start) * s)
        child = Run(self.seed, None if math.isinf(rest) else rest, progress, self.folder)
        child.generator = self.generator
        child._whole = self._whole or self  # noqa: SLF001 - its own kind
        return child

    def learned(self, loss: float, share: float) -> bool:
        """Record a step of a training, which has no pictures yet.

        Args:
            loss: Finite.
            share: How much of the training is done, on [0, 1].

        Returns:
            Whether there is time for another step.
        """
        self._record(loss)
        return self._goes_on(share)

    def step(self, loss: float, pixels: Tensor, share: float) -> bool:
        """Record a step.

        Args:
            loss: The attack's own loss.
            pixels: The pixels that it belongs to; kept, so not to be changed in place.
            share: How much of the work is done, on [0, 1]; 1 at the last step.

        Returns:
            Whether to go on: not after the last step, a divergence or the deadline.
        """
        self._record(loss)
        if not math.isfinite(loss) or not bool(torch.isfinite(pixels).all()):
            self._diverge()
            return False
        self._keep(pixels.detach())
        return self._goes_on(share)

    def _record(self, loss: float) -> None:
        self.losses.append(loss)
        if self._whole is not None:
            self._whole.losses.append(loss)

    def _diverge(self) -> None:
        self.diverged = True
        self.note(f"diverged at step {len(self.losses)}: the last finite state is kept")
        if self._whole is not None:
            self._whole.diverged = True

    def _keep(self, pixels: Tensor) -> None:
        self.last_finite = pixels
        if self._whole is not None:
            self._whole.last_finite = pixels

    def _goes_on(self, share: float) -> bool:
        if self._progress is not None:
            self._progress(share)
        if share >= 1.0:
            return False
        now_s = time.perf_counter()
        # Another step would take about as long as this one did.
        self.stopped_early = self.remaining_s < now_s - self._last_s
        self._last_s = now_s
        if self.stopped_early and self._whole is not None:
            self._whole.stopped_early = True
        return not self.stopped_early


@dataclass(frozen=True)
class Plateau:
    """Decides by an attack's own losses whether it had stopped making progress.

    Converged means: over the last ``window`` of the *effort*, the lowest loss fell by less than
    ``tolerance`` of itself. Effort is the sum of the step sizes, not the number of steps: under a
    decaying step size the loss stands still at the end because the steps are small, whether or not
    there is more to gain, and counting steps would call that converged.

    Attributes:
        window: Share of the effort to look back over.
        tolerance: Relative fall of the lowest loss below which it counts as standing still.
        min_steps: With fewer steps there is no verdict but no.
    """

    window: float = 0.2
    tolerance: float = 0.01
    min_steps: int = 20

    def reached(self, losses: Sequence[float], efforts: Sequence[float] | None = None) -> bool:
        """The verdict.

        Args:
            losses: The loss after each step.
            efforts: The size of each step; all equal where None.

        Returns:
            Whether the losses had stopped falling; False for too few or non-finite ones.

        Raises:
            ValueError: There are not as many efforts as losses.
        """
        sizes = [1.0] * len(losses) if efforts is None else list(efforts)
        if len(sizes) != len(losses):
            raise ValueError(f"expected {len(losses)} efforts, got {len(sizes)}")
        if len(losses) < self.min_steps or not all(map(math.isfinite, losses)):
            return False
        late = self.window * sum(sizes)
        start = len(losses)
        while start > 1 and late > 0:
            start -= 1
            late -= sizes[start]
        before, best = min(losses[:start]), min(losses)
        return before - best <= self.tolerance * abs(before)
