"""What can be changed where a generator's stage restarts, as one vector a picture.

A point holds the deviations of every tensor of the stage's state from where the stage began, in
units of their root mean square, and then those of the residual (`Residual`), which is N(0, 1).
In stage 0 the state is the latent itself, and deviations are from 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from splitdeploy.attacks.generator import Generator, State
from splitdeploy.attacks.generator_search import restart_distances
from splitdeploy.attacks.generators.residual import Residual
from splitdeploy.attacks.l1_ball import project_on_l1_ball
from splitdeploy.attacks.lbfgs import Evaluate
from splitdeploy.attacks.objective import FeatureDistance, outside

_BOUNDS_WEIGHT = 10.0


class StageSearch:
    """The problem of one stage, for restarts ``r`` of ``n`` pictures.

    Args:
        generator: Of pictures.
        distance: To the observation.
        place: Which stage restarts; 0 is the latent.
        begin: The state that it begins with, tensors ``[r·n, …]``; zeros in stage 0.
        residual: Beside the generator's range; None for nothing.
        white: The residual that the stage begins with, ``[r·n, c·h·w]``, or without columns where
            there is none.
    """

    def __init__(
        self,
        generator: Generator,
        distance: FeatureDistance,
        place: int,
        begin: State,
        residual: Residual | None,
        white: Tensor,
    ) -> None:
        self._generator, self._distance, self._place = generator, distance, place
        self._begin, self._residual, self._white = begin, residual, white
        self._units = tuple(torch.ones_like(t[:1]) if place == 0 else _rms(t) for t in begin)
        self._sizes = [t[0].numel() for t in begin] + [white.shape[1]]

    def origin(self) -> Tensor:
        """The point where the stage begins, all zeros."""
        return self._white.new_zeros(len(self._white), sum(self._sizes))

    def state(self, points: Tensor) -> tuple[State, Tensor]:
        """The stage's state and the residual at points ``[r·n, p]``."""
        *moves, more = torch.split(points, self._sizes, dim=1)
        state = tuple(
            t + unit * move.view_as(t)
            for t, unit, move in zip(self._begin, self._units, moves, strict=True)
        )
        return state, self._white + more

    def pixels(self, points: Tensor) -> Tensor:
        """Pictures ``[r·n, c, h, w]``, not clamped; differentiable."""
        state, white = self.state(points)
        pixels = self._generator.from_stage(self._place, state)
        return pixels if self._residual is None else pixels + self._residual.pixels(white)

    def distances(self, points: Tensor) -> Tensor:
        """The distance of the smashed data alone, ``[r·n]``, by which stages are compared."""
        with torch.no_grad():
            return restart_distances(self._distance, self.pixels(points))

    def evaluate(self, weight: float) -> Evaluate:
        """What is minimised.

        Args:
            weight: Of how unlikely a point is: the sum of its squares, and the residual's, an
                element of the picture.

        Returns:
            From points to losses and gradients.
        """
        bounds = self._distance.target.bounds

        def evaluated(points: Tensor) -> tuple[Tensor, Tensor]:
            points = points.detach().requires_grad_()
            pixels = self.pixels(points)
            moves = points[:, : sum(self._sizes[:-1])]
            unlikely = moves.square().sum(1) + self.state(points)[1].square().sum(1)
            losses = restart_distances(self._distance, pixels)
            losses = losses + _BOUNDS_WEIGHT * outside(pixels, bounds)
            losses = losses + weight * unlikely / pixels[0].numel()
            (gradient,) = torch.autograd.grad(losses.sum(), points)
            return losses.detach(), gradient

        return evaluated

    def project(self, points: Tensor, radius: float) -> tuple[Tensor, float]:
        """Each tensor's deviation on the ℓ1 ball of so much an element.

        Args:
            points: ``[r·n, p]``.
            radius: τ.

        Returns:
            Points in all balls, and the share of the deviations that were outside theirs.
        """
        parts, out = [], []
        for part in torch.split(points, self._sizes, dim=1):
            if not part.shape[1]:
                continue
            limit = radius * part.shape[1]
            out.append((part.abs().sum(1) > limit).float().mean())
            parts.append(project_on_l1_ball(part, limit))
        return torch.cat(parts, dim=1), float(torch.stack(out).mean())


def _rms(tensor: Tensor) -> Tensor:
    """Of each sample, ``[m, 1, …]``."""
    size = tensor.square().flatten(1).mean(1).sqrt()
    return size.view(-1, *(1,) * (tensor.dim() - 1))
