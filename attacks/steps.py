"""What an iterative attack keeps as it goes: the clock, its losses, and whether they still fall."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class Run:
    """One run of an attack.

    Args:
        seed: Of the generator.
        deadline_s: Seconds that it may take; None for no limit.
        progress: Told the share that is done.

    Attributes:
        generator: The run's own random numbers.
        started_s: ``time.perf_counter()`` at the start.
        losses: The loss after each step.
        last_finite: The pixels at the last step whose loss and pixels were finite, or None.
        converged: For the attack to set.
        diverged: Whether a loss or pixels were not finite.
        stopped_early: Whether the deadline, not the attack, ended the run.
    """

    def __init__(
        self, seed: int, deadline_s: float | None, progress: Callable[[float], None] | None
    ) -> None:
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

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline, at least 0; infinite without one."""
        if self._deadline_s is None:
            return math.inf
        return max(0.0, self._deadline_s - (time.perf_counter() - self.started_s))

    def step(self, loss: float, pixels: Tensor, share: float) -> bool:
        """Record a step.

        Args:
            loss: The attack's own loss.
            pixels: The pixels that it belongs to; kept, so not to be changed in place.
            share: How much of the work is done, on [0, 1]; 1 at the last step.

        Returns:
            Whether to go on: not after the last step, a divergence or the deadline.
        """
        self.losses.append(loss)
        if not math.isfinite(loss) or not bool(torch.isfinite(pixels).all()):
            self.diverged = True
            return False
        self.last_finite = pixels.detach()
        if self._progress is not None:
            self._progress(share)
        if share >= 1.0:
            return False
        now_s = time.perf_counter()
        # Another step would take about as long as this one did.
        self.stopped_early = self.remaining_s < now_s - self._last_s
        self._last_s = now_s
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
