"""What the smashed data adds to a prior: (1/2d)·ln det(1 + C^½ I(x) C^½), bracketed.

Upper bounds: Gauss quadrature (see `lanczos`), and what an operator of bounded rank can have at
most. Lower bounds: Gauss-Radau quadrature, and zero.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitdeploy.attacks.leakage.lanczos import Bidiagonal, LogMean, bidiagonalise, rademacher
from splitdeploy.attacks.leakage.sides import Side, Whitened, input_side, output_side

_TIGHT = 0.1
"""A bracket narrower than this share of the error from elsewhere needs no further steps."""

_QUADRATURE_SHARE, _PROBE_SHARE = 0.5, 0.85
"""What of a relative error each may have, in squares together 1: a few more steps halve the
quadrature's, the probes' takes four times as many. What these leave, the quadrature has too."""

_FEW_OUTPUTS = 1 / 8
"""With fewer smashed-data elements, as a share of the pixels, the output side wins (measured)."""

_EVERY_STEP = 16
"""Up to so many steps the quadrature is evaluated after each of them."""

_BOTH_ELEMENTS, KEPT_ELEMENTS = 1 << 23, 1 << 27
"""Up to so many elements both bases are kept and reorthogonalised; beyond, so many of one: 512 MiB
in float32, which saves a quarter of the steps for less than their time (measured)."""


@dataclass(frozen=True)
class Gain:
    """The gain of each image, in nats per input element.

    Attributes:
        lower: ``[n]``: at least that, up to the probes' error.
        upper: ``[n]``: at most that, up to the probes' error.
        probe_error: ``[n]``: a bound on the standard error from random probes.
        side: ``input`` or ``output``: where it was computed.
        steps: Quadrature steps that were made with the last probe.
        probes: Probes that were used.
        late: Whether the last probe ended for lack of time.
    """

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    probe_error: NDArray[np.float64]
    side: str
    steps: int
    probes: int
    late: bool = False

    @property
    def value(self) -> NDArray[np.float64]:
        """The middle of each bracket: no other value has a smaller largest error."""
        return (self.lower + self.upper) / 2

    @property
    def half_width(self) -> NDArray[np.float64]:
        """Half of each bracket: the quadrature's error is at most that."""
        return (self.upper - self.lower) / 2


def measure_gain(
    whitened: Whitened,
    ranks: Tensor,
    *,
    steps: int,
    probes: int,
    seed: int,
    ends: float | None = None,
    relative_error: float | None = None,
) -> Gain:
    """The gain of each image, by quadrature on the side that promises the narrower bracket.

    With a relative error to reach, steps go on until the bracket's half-width over √3 is within
    what the probes will leave of it, or narrow beside their error; probes until theirs is within
    its share.

    Args:
        whitened: The head's Jacobian in white coordinates.
        ranks: ``[n]``: an upper bound on each image's rank.
        steps: At most so many quadrature steps a probe.
        probes: How many probes, averaged.
        seed: Of the probes.
        ends: The reading of ``time.perf_counter`` at which it should be done; one step is made
            in any case.
        relative_error: Of the gain; None makes all steps and probes.

    Returns:
        Brackets and probe errors.
    """
    side = _choose_side(whitened, seed=seed + 1, patient=relative_error is not None)
    d = whitened.jacobian.inputs
    size = side.dimensions.double().cpu().numpy()
    base = side.base.cpu().numpy()
    ceiling = np.array([
        rank_ceiling(means, int(rank))
        for means, rank in zip(_white_diagonal(whitened), ranks.tolist(), strict=True)
    ])  # fmt: skip
    found: list[list[LogMean]] = []
    made, late = steps, False

    def gain() -> Gain:
        lower = np.mean([[log.lower for log in logs] for logs in found], axis=0)
        upper = np.mean([[log.upper for log in logs] for logs in found], axis=0)
        errors = [
            max(logs[image].probe_error(max(int(size[image]), 1)) for logs in found)
            for image in range(len(size))
        ]
        high = np.maximum(np.minimum((base + size * upper) / (2 * d), ceiling), 0.0)
        low = np.minimum(np.maximum((base + size * lower) / (2 * d), 0.0), high)
        error = size * np.array(errors) / (2 * d) / np.sqrt(len(found))
        return Gain(low, high, error, side.name, made, len(found), late)

    def enough(logs: list[LogMean]) -> bool:
        """Whether this probe's bracket is within the error that is asked for."""
        if relative_error is None:
            return False
        lower = base + size * np.array([log.lower for log in logs])
        upper = np.minimum(base + size * np.array([log.upper for log in logs]), 2 * d * ceiling)
        middle = np.maximum((upper + lower) / 2, 0.0)
        errors = [log.probe_error(max(int(m), 1)) for log, m in zip(logs, size, strict=True)]
        random = np.divide(
            size * np.array(errors), middle, out=np.zeros_like(middle), where=middle > 0
        )
        # What as many probes as it takes will leave of the error is the quadrature's.
        count = np.clip(np.ceil((random / (_PROBE_SHARE * relative_error)) ** 2), 1, probes)
        left = relative_error**2 - random**2 / count.max()
        allowed = np.sqrt(np.maximum(left, (_QUADRATURE_SHARE * relative_error) ** 2))
        return bool(np.all((upper - lower) / 2 / math.sqrt(3.0) <= allowed * middle))

    for i in range(probes):
        started = time.perf_counter()
        if found and relative_error is not None:
            so_far = gain()
            if bool(np.all(so_far.probe_error <= _PROBE_SHARE * relative_error * so_far.value)):
                break
        made, late, logs = _quadrature(
            side,
            steps=steps,
            seed=seed + 2 + i,
            ends=ends,
            enough=enough,
        )
        found.append(logs)
        # A probe that cannot make as many steps as those before it would widen their bracket.
        now = time.perf_counter()
        if ends is not None and now + (now - started) > ends:
            break
    return gain()


def _choose_side(whitened: Whitened, *, seed: int, patient: bool) -> Side:
    """The output side where the smashed data is small; else the input side, where there is time.

    A few steps say more on the side whose determinant cannot be large: the input side's lower bound
    comes only when its spectrum's end is seen.

    Returns:
        The side.
    """
    outputs = output_side(whitened, seed=seed)
    if float(outputs.dimensions.max()) <= _FEW_OUTPUTS * whitened.jacobian.inputs:
        return outputs
    inputs = input_side(whitened)
    if patient:
        return inputs
    return min((inputs, outputs), key=lambda side: float(side.hadamard.sum()))


def _quadrature(
    side: Side,
    *,
    steps: int,
    seed: int,
    ends: float | None,
    enough: Callable[[list[LogMean]], bool],
) -> tuple[int, bool, list[LogMean]]:
    n, dimension = side.scale.shape
    probe = rademacher(n, dimension, seed=seed, like=side.scale) * side.active
    # 1 + G ⪰ 1, so the preconditioned operator's spectrum starts no lower than the least 1/P.
    floors = (1.0 / side.scale.double()).amin(dim=1).tolist()
    size = side.dimensions.clamp_min(1).tolist()
    started, made = time.perf_counter(), 0

    def evaluate(bidiagonals: tuple[Bidiagonal, ...]) -> list[LogMean]:
        return [
            b.log_mean(floor, reached=side.floor_reached)
            for b, floor in zip(bidiagonals, floors, strict=True)
        ]

    for bidiagonals in bidiagonalise(
        side.stacked,
        side.stacked_adjoint,
        probe,
        reorthogonalise=steps * probe.numel() <= _BOTH_ELEMENTS,
        kept=KEPT_ELEMENTS // probe.numel(),
    ):
        made += 1
        now = time.perf_counter()
        late = ends is not None and now + (now - started) / made > ends
        last = made >= steps or late
        # The quadrature of m steps costs m³: beyond a few it is looked at every tenth of them.
        if not last and made > _EVERY_STEP and made % (made // _EVERY_STEP):
            continue
        logs = evaluate(bidiagonals)
        tight = all(
            log.upper - log.lower < _TIGHT * log.probe_error(m)
            for log, m in zip(logs, size, strict=True)
        )
        if last or tight or enough(logs):
            return made, late and made < steps, logs
    # The Krylov space is exhausted, perhaps at a step that was not looked at.
    return made, False, evaluate(bidiagonals)


def _white_diagonal(whitened: Whitened) -> Tensor:
    """diag(C^½ I C^½) averaged over rings, for each image and coefficient: ``[n, d]`` float64."""
    squares = (whitened.probes * whitened.half).double().square().mean(dim=0)
    sums = squares.new_zeros(len(squares), len(whitened.ring_size))
    means = sums.index_add_(1, whitened.ring, squares) / whitened.ring_size.clamp_min(1)
    return means[:, whitened.ring]


def rank_ceiling(diagonal: Tensor, rank: int) -> float:
    """The most that (1/2d)·ln det(1 + G) can be, given G's diagonal and a bound on its rank.

    With p the diagonal and W = p^-½ G p^-½, trace W = d, the eigenvalues of G are log-majorised by
    p_i·w_i, both sorted (Horn), so that Σ ln(1 + λ_i) ≤ Σ_{i ≤ rank} ln(1 + p_i w_i); the largest
    that any w of sum d makes of it is found by water-filling.

    Args:
        diagonal: ``[d]`` float64, positive where G is not zero.
        rank: An upper bound on the rank.

    Returns:
        The ceiling in nats per input element.
    """
    d = len(diagonal)
    p = torch.sort(diagonal, descending=True).values[: max(0, min(rank, d))]
    p = p[p > 0]
    if len(p) == 0:
        return 0.0
    # Σ max(0, level − 1/p_i) = d over the m largest p; the level must exceed 1/p_m.
    inverse = 1.0 / p
    count = torch.arange(1, len(p) + 1, dtype=torch.float64, device=p.device)
    level = (d + inverse.cumsum(0)) / count
    m = int((level > inverse).sum())
    return float((level[m - 1] * p[:m]).log().sum()) / (2 * d)
