"""The closed form without weights: an affine head is known once it has answered for every pixel.

    a_i = (f(g + δ·e_i) − f(g)) / δ,    x* = g + argmin_v ‖Σ v_i·a_i − (z − f(g))‖²

for a head f(x) = A·x + b, grey g and unit pictures e_i: as many queries as a picture has numbers,
and one more. He et al. 2019 train networks on this cut (CIFAR-10's conv11) and report 50 dB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.steps import Run
from splitdeploy.attacks.target import AttackTarget, TargetView
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.profiles.errors import AttackError

MOST_NUMBERS = 4096
"""Of a picture: beyond it the queries and a matrix of that size take too long."""

_STEP = 0.5
_BEND = 1e-2
"""Of the largest answer: a payload of int8 is no smoother."""

_AT_ONCE = 64
_COLUMNS = 4096
_RIDGE = 1e-12
"""Beside the largest diagonal element: only what rounding would make singular is held back."""


class LinearByQueries(Attack):
    """Ask for every pixel, then solve; exact where the head is affine."""

    name = "linear-by-queries"
    threat = ThreatModel(weights=False, architecture=False, queries=True)
    cost = f"a query a number of a picture, at most {MOST_NUMBERS}; an affine head alone"
    paper = "least squares, Gauss 1809; ours as an attack"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"exact": {}}

    def applies(self, target: AttackTarget) -> bool:
        """Whether something answers, pictures are small, and answers look affine."""
        small = math.prod(target.image_shape) <= MOST_NUMBERS
        return small and super().applies(target) and _affine(target.granted(self.threat))

    def _run(self, target: TargetView, run: Run) -> Tensor:
        numbers = math.prod(target.image_shape)
        if numbers > MOST_NUMBERS:
            raise AttackError(
                f"expected pictures of at most {MOST_NUMBERS} numbers, got {numbers}: each takes a "
                "query; use inverse-network"
            )
        if not _affine(target):
            raise AttackError(
                "linear-by-queries needs an affine head, and what this one answers is not: use "
                "inverse-network"
            )
        grey = torch.full((1, *target.image_shape), _grey(target), device=target.device)
        base = _answers(target, grey)
        rows = []
        for start in range(0, numbers, _AT_ONCE):
            places = torch.arange(start, min(start + _AT_ONCE, numbers), device=target.device)
            asked = grey.flatten(1).repeat(len(places), 1)
            asked[torch.arange(len(places), device=target.device), places] += _STEP
            rows.append((_answers(target, asked.view(-1, *target.image_shape)) - base) / _STEP)
            share = 0.9 * (start + len(places)) / numbers
            # The loss is unknown until the system is whole.
            if not run.step(1.0, grey.expand(target.images, -1, -1, -1), share):
                run.note("stopped before every pixel had been asked for")
                return grey.expand(target.images, -1, -1, -1)
        observed = torch.cat([t.float().flatten(1) for t in target.observation], dim=1) - base
        found, residual = _solved(torch.cat(rows), observed)
        pixels = grey + found.view(target.images, *target.image_shape)
        run.step(residual, pixels, 1.0)
        run.converged = True
        return pixels


def _solved(matrix: Tensor, observed: Tensor) -> tuple[Tensor, float]:
    """The least-squares solution ``[n, d]`` of xᵀA = z, A ``[d, k]``, and the relative residual."""
    d = len(matrix)
    gram = matrix.new_zeros(d, d, dtype=torch.float64)
    right = matrix.new_zeros(d, len(observed), dtype=torch.float64)
    for start in range(0, matrix.shape[1], _COLUMNS):
        some = matrix[:, start : start + _COLUMNS].double()
        gram += some @ some.T
        right += some @ observed[:, start : start + _COLUMNS].double().T
    gram.diagonal().add_(_RIDGE * gram.diagonal().max().clamp_min(1e-30))
    factor, failed = torch.linalg.cholesky_ex(gram)
    found = (
        torch.linalg.lstsq(gram.cpu(), right.cpu(), driver="gelsd").solution.to(right)
        if int(failed)
        else torch.cholesky_solve(right, factor)
    )
    left = observed - found.T.float() @ matrix
    return found.T.float(), float(left.norm() / observed.norm().clamp_min(1e-30))


def _affine(target: TargetView) -> bool:
    """Whether answers to a blend of pictures are the blend of the answers."""
    draw = torch.Generator().manual_seed(0)
    low, high = target.bounds
    one, other = (
        (low + (high - low) * torch.rand(1, *target.image_shape, generator=draw, device="cpu")).to(
            target.device
        )
        for _ in range(2)
    )
    ends = [_answers(target, x) for x in (one, other, (one + other) / 2)]
    bend = (ends[2] - (ends[0] + ends[1]) / 2).abs().max()
    return float(bend) <= _BEND * float(ends[0].abs().max())


def _answers(target: TargetView, pixels: Tensor) -> Tensor:
    return torch.cat([t.float().flatten(1) for t in target.query(pixels, 0)], dim=1)


def _grey(target: TargetView) -> float:
    return sum(target.bounds) / 2
