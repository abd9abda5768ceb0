"""The orthonormal discrete cosine transform as a matrix, for any length."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dct_matrix(n: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """The orthonormal DCT-II of length ``n``: ``M @ x`` transforms, ``M.T @ y`` inverts.

    On the CPU; a caller moves it. A matrix product is faster than a fast transform at the sizes of
    images (n of a few hundred), and differentiable as it stands.

    Args:
        n: How many samples, at least 1.
        dtype: The dtype of the matrix; its entries are computed in float64 before.

    Returns:
        ``[n, n]`` with ``M @ M.T = 1``; row ``u`` is the cosine of frequency ``u/(2n)`` per sample.

    Raises:
        ValueError: ``n`` is below 1.
    """
    if n < 1:
        raise ValueError(f"expected a length of at least 1, got {n}")
    u = torch.arange(n, dtype=torch.float64, device="cpu").unsqueeze(1)
    x = torch.arange(n, dtype=torch.float64, device="cpu").unsqueeze(0)
    matrix = torch.cos(math.pi / n * (x + 0.5) * u) * math.sqrt(2.0 / n)
    matrix[0] /= math.sqrt(2.0)
    return matrix.to(dtype)
