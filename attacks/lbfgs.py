"""Limited-memory BFGS over a batch of independent problems, each with its own curvature and step.

Liu and Nocedal 1989, with Armijo backtracking. A joint optimiser over all pictures would give them
one step length and one line search, set by the worst of them; here every picture has its own, and
one pass through the head serves the whole batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Of points ``[n, d]``: losses ``[n]`` and their gradients ``[n, d]``."""

_SUFFICIENT = 1e-4  # Armijo: the share of the linear prediction that a step must deliver
_FLAT = 1e-10  # a curvature pair below this cosine says nothing


class BatchedLbfgs:
    """The state of n minimisations that advance together, an evaluation at a time.

    Args:
        evaluate: The losses and gradients of a batch of points.
        start: Where to begin, ``[n, d]``.
        history: How many curvature pairs to keep.
        first_step: Root mean square of the first step's elements, before any curvature is known.
        project: On a convex set that every point must lie in, as ``start`` does; None for all.

    Attributes:
        point: The best point of each problem so far, ``[n, d]``.
        loss: Its loss, ``[n]``.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        start: Tensor,
        *,
        history: int,
        first_step: float,
        project: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._project = project
        self._evaluate = evaluate
        self._first_step = first_step
        self._pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=history)
        self.point = start
        self.loss, self._gradient = evaluate(start)
        self._direction = self._steepest()
        self._length = torch.ones_like(self.loss)

    def advance(self) -> None:
        """One evaluation: a step for every problem that the line search lets take it."""
        trial, slope = self._trial()
        loss, gradient = self._evaluate(trial)
        # False for NaN too, so a step off the edge is taken back and shortened.
        accepted = loss <= self.loss + _SUFFICIENT * self._length * slope
        self._length = torch.where(
            accepted, torch.ones_like(self._length), self._shorter(loss, slope)
        )
        if not bool(accepted.any()):
            return
        taken = accepted.unsqueeze(1)
        step = torch.where(taken, trial - self.point, torch.zeros_like(trial))
        change = torch.where(taken, gradient - self._gradient, torch.zeros_like(trial))
        self._remember(step, change)
        self.point = torch.where(taken, trial, self.point)
        self._gradient = torch.where(taken, gradient, self._gradient)
        self.loss = torch.where(accepted, loss, self.loss)
        self._direction = torch.where(taken, self._newton(), self._direction)

    def _trial(self) -> tuple[Tensor, Tensor]:
        """Where to step, and the slope there an unit of length."""
        trial = self.point + self._length.unsqueeze(1) * self._direction
        if self._project is None:
            return trial, (self._gradient * self._direction).sum(1)
        trial = self._project(trial)
        fall = (self._gradient * (trial - self.point)).sum(1)
        # A projected quasi-Newton step may lead uphill; a projected gradient never does.
        uphill = (fall >= 0).unsqueeze(1)
        if bool(uphill.any()):
            self._direction = torch.where(uphill, self._steepest(), self._direction)
            steepest = self.point + self._length.unsqueeze(1) * self._direction
            trial = torch.where(uphill, self._project(steepest), trial)
            fall = (self._gradient * (trial - self.point)).sum(1)
        return trial, fall / self._length

    def _shorter(self, loss: Tensor, slope: Tensor) -> Tensor:
        """The minimum of the parabola through the rejected step, within a tenth and a half."""
        bend = loss - self.loss - self._length * slope
        parabola = -slope * self._length**2 / (2 * bend)
        low, high = 0.1 * self._length, 0.5 * self._length
        return torch.where(torch.isfinite(parabola), parabola.clamp(low, high), low)

    def _steepest(self) -> Tensor:
        size = self._gradient.square().mean(1, keepdim=True).sqrt().clamp_min(1e-30)
        return -self._gradient * (self._first_step / size)

    def _remember(self, step: Tensor, change: Tensor) -> None:
        curvature = (step * change).sum(1)
        useful = curvature > _FLAT * step.norm(dim=1) * change.norm(dim=1)
        inverse = torch.where(useful, 1.0 / curvature, torch.zeros_like(curvature))
        self._pairs.append((step, change, inverse))

    def _newton(self) -> Tensor:
        """The two-loop recursion, for all problems at once; a useless pair has weight 0."""
        q = self._gradient
        weights = []
        for step, change, inverse in reversed(self._pairs):
            weight = inverse * (step * q).sum(1)
            weights.append(weight)
            q = q - weight.unsqueeze(1) * change
        q = q * self._scale().unsqueeze(1)
        for (step, change, inverse), weight in zip(self._pairs, reversed(weights), strict=True):
            q = q + (weight - inverse * (change * q).sum(1)).unsqueeze(1) * step
        # Where no pair is useful yet, the scaled gradient is the first step's once more.
        return torch.where(self._known().unsqueeze(1), -q, self._steepest())

    def _known(self) -> Tensor:
        return torch.stack([inverse for _, _, inverse in self._pairs]).gt(0).any(0)

    def _scale(self) -> Tensor:
        """The latest useful sᵀy/yᵀy of each problem: the initial inverse curvature."""
        scale = torch.ones_like(self.loss)
        for _, change, inverse in self._pairs:
            fresh = 1.0 / (inverse * change.square().sum(1))
            scale = torch.where(inverse > 0, fresh, scale)
        return scale
