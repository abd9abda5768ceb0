"""FSInfo from the whole Jacobian, where it is small enough: exact, and as the paper's code has it.

FSInfo (arXiv 2504.10016) is (1/2d)·ln det I(x) − ½·ln(2πe) in nats per input element, averaged over
images. It is minus infinity where the Jacobian has not full rank; the authors' code takes only the
diagonal, adds 1e-10 to it and assumes a noise variance of 0.01, which hides that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.profiles.errors import LeakageError

DENSE_LIMIT = 4096
"""The most input elements for which the information matrix is formed."""

GAUSSIAN_ENTROPY = 0.5 * math.log(2 * math.pi * math.e)
"""½·ln(2πe): the entropy of a standard normal variable, in nats."""

PAPER_VARIANCE = 0.01
"""The noise that the authors' code assumes, which nobody adds: σ = 0.1."""

_PAPER_EPSILON = 1e-10


@dataclass(frozen=True)
class ExactFsinfo:
    """FSInfo without a prior.

    Attributes:
        values: For each image, nats per input element; ``-inf`` where the rank is not full.
        ranks: For each image, the rank of the Jacobian at the accuracy of its float type.
    """

    values: tuple[float, ...]
    ranks: tuple[int, ...]


def exact_fsinfo(jacobian: HeadJacobian, sigma: Tensor) -> ExactFsinfo:
    """FSInfo by the eigenvalues of I(x) = Jᵀ Σ⁻¹ J in float64; no epsilon anywhere.

    Args:
        jacobian: J at each image, with at most `DENSE_LIMIT` input elements.
        sigma: ``[k]``: the noise of each smashed-data element.

    Returns:
        Value and rank of each image. Singular values of Σ^-½ J that are below max(k, d) roundings
        of the largest count as zero.
    """
    _check_size(jacobian)
    d = jacobian.inputs
    resolution = max(d, jacobian.outputs) * torch.finfo(jacobian.features.dtype).eps
    values, ranks = [], []
    for j in jacobian.dense():
        whitened = j.double() / sigma.double().unsqueeze(1)
        eigenvalues = torch.linalg.eigvalsh(whitened.T @ whitened)
        # A Gram matrix in float64 has its own rounding, relative to its largest eigenvalue.
        floor = max(resolution**2, d * torch.finfo(torch.float64).eps)
        kept = eigenvalues[eigenvalues > floor * eigenvalues[-1].clamp_min(0)]
        ranks.append(len(kept))
        full = len(kept) == d
        values.append(float(kept.log().sum()) / (2 * d) - GAUSSIAN_ENTROPY if full else -math.inf)
    return ExactFsinfo(tuple(values), tuple(ranks))


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
    inverse = (1.0 / each).expand(jacobian.outputs)
    diagonal = torch.einsum("k,nkd->nd", inverse, jacobian.dense().double().square())
    logs = (diagonal + _PAPER_EPSILON).log().mean(dim=1) / 2 - GAUSSIAN_ENTROPY
    return tuple(logs.tolist())


def _check_size(jacobian: HeadJacobian) -> None:
    if jacobian.inputs > DENSE_LIMIT:
        raise LeakageError(
            f"expected at most {DENSE_LIMIT} input elements for a whole Jacobian, got "
            f"{jacobian.inputs}: take the regularised kind"
        )
