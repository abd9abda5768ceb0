"""FSInfo from the whole Jacobian, where it is small enough: exact, and as the paper's code has it.

FSInfo (arXiv 2504.10016) is (1/2d)·ln det I(x) − ½·ln(2πe) in nats per input element, averaged over
images. It is minus infinity where the Jacobian has not full rank; the authors' code takes only the
diagonal, adds 1e-10 to it and assumes a noise variance of 0.01, which hides that.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from splitdeploy.attacks.leakage.information import information, squared_columns
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.profiles.errors import LeakageError

DENSE_LIMIT = 4096
"""The most input elements for which the information matrix is formed."""

GAUSSIAN_ENTROPY = 0.5 * math.log(2 * math.pi * math.e)
"""½·ln(2πe): the entropy of a standard normal variable, in nats."""

PAPER_VARIANCE = 0.01
"""The noise that the authors' code assumes, which nobody adds: σ = 0.1."""

_PAPER_EPSILON = 1e-10

_POWER_BLOCK, _POWER_STEPS, _MARGIN = 4, 8, 1.5
"""How the largest eigenvalue is estimated, and by how much it may be larger."""


@dataclass(frozen=True)
class ExactFsinfo:
    """FSInfo without a prior.

    Attributes:
        values: For each image, nats per input element; ``-inf`` where the rank is not full.
        ranks: For each image, the rank of the Jacobian at the accuracy of its float type.
        left_out: How many of the last images there was no time for; they have no value.
    """

    values: tuple[float, ...]
    ranks: tuple[int, ...]
    left_out: int = 0


def exact_fsinfo(
    jacobian: HeadJacobian, sigma: Tensor, *, deadline_s: float | None = None
) -> ExactFsinfo:
    """FSInfo of I(x) = Jᵀ Σ⁻¹ J in float64; no epsilon anywhere.

    Args:
        jacobian: J at each image, with at most `DENSE_LIMIT` input elements.
        sigma: ``[k]``: the noise of each smashed-data element.
        deadline_s: Seconds after which no further image is begun; one is made in any case.

    Returns:
        Value and rank of each image. Singular values of Σ^-½ J that are below max(k, d) roundings
        of the largest count as zero.
    """
    _check_size(jacobian)
    started = time.perf_counter()
    d = jacobian.inputs
    resolution = max(d, jacobian.outputs) * torch.finfo(jacobian.features.dtype).eps
    # A Gram matrix in float64 has its own rounding, relative to its largest eigenvalue.
    floor = max(resolution**2, d * torch.finfo(torch.float64).eps)
    values: list[float] = []
    ranks: list[int] = []
    for image in range(jacobian.images):
        late = deadline_s is not None and time.perf_counter() - started > deadline_s
        if late and values:
            break
        log_det, rank = log_det_and_rank(information(jacobian, image, sigma), floor)
        ranks.append(rank)
        values.append(log_det / (2 * d) - GAUSSIAN_ENTROPY if rank == d else -math.inf)
    return ExactFsinfo(tuple(values), tuple(ranks), jacobian.images - len(values))


def log_det_and_rank(matrix: Tensor, floor: float) -> tuple[float, int]:
    """The log-determinant and rank, where eigenvalues below floor times the largest count as zero.

    By Sylvester's law of inertia no eigenvalue is below τ if A − τ has a Cholesky factor. That and
    the one of A take a third of the time of the eigenvalues, which are wanted only where it fails.

    Args:
        matrix: ``[d, d]`` float64, symmetric, no eigenvalue below zero but for rounding.
        floor: The share of the largest eigenvalue below which one counts as zero.

    Returns:
        ln det of a matrix of full rank, else minus infinity; and the rank.
    """
    shifted = matrix.clone()
    shifted.diagonal().sub_(_MARGIN * floor * _largest_eigenvalue(matrix))
    _, failed = torch.linalg.cholesky_ex(shifted)
    if not int(failed):
        diagonal = torch.linalg.cholesky(matrix).diagonal()
        return 2.0 * float(diagonal.log().sum()), len(matrix)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    kept = eigenvalues[eigenvalues > floor * eigenvalues[-1].clamp_min(0)]
    full = len(kept) == len(matrix)
    return (float(kept.log().sum()) if full else -math.inf), len(kept)


def _largest_eigenvalue(matrix: Tensor) -> float:
    """From below, by power steps with a block of vectors."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(matrix), _POWER_BLOCK, generator=generator, dtype=torch.float64)
    x = x.to(matrix)
    for _ in range(_POWER_STEPS):
        x = matrix @ torch.nn.functional.normalize(x, dim=0)
    return float(x.norm(dim=0).amax())


def paper_fsinfo(
    jacobian: HeadJacobian, *, variance: float | Tensor = PAPER_VARIANCE
) -> tuple[float, ...]:
    """FSInfo as the authors' code computes it, for comparison with published figures.

    (1/2d)·Σ_i ln(I_ii + 1e-10) − ½·ln(2πe) with I = JᵀJ/variance, the variance that of a noise
    which nobody adds. By Hadamard's inequality it is at least the exact value.

    Args:
        jacobian: J at each image, with at most `DENSE_LIMIT` input elements.
        variance: 0.01 in their code; a number, or one for each smashed-data element, ``[k]``.

    Returns:
        For each image, nats per input element.
    """
    _check_size(jacobian)
    each = torch.as_tensor(variance, dtype=torch.float64, device=jacobian.features.device)
    each = each.expand(jacobian.outputs)
    diagonal = torch.stack([
        squared_columns(jacobian, image, each) for image in range(jacobian.images)
    ])  # fmt: skip
    logs = (diagonal + _PAPER_EPSILON).log().mean(dim=1) / 2 - GAUSSIAN_ENTROPY
    return tuple(logs.tolist())


def _check_size(jacobian: HeadJacobian) -> None:
    if jacobian.inputs > DENSE_LIMIT:
        raise LeakageError(
            f"expected at most {DENSE_LIMIT} input elements for a whole Jacobian, got "
            f"{jacobian.inputs}: take the regularised kind"
        )
