"""The DCT matrix against scipy's transform."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch

from splitdeploy.attacks.dct import dct_matrix


@pytest.mark.parametrize("n", [1, 2, 7, 32])
def test_dct_matrix_is_scipys_orthonormal_transform(n: int) -> None:
    x = np.random.default_rng(0).standard_normal((n, 3))
    expected = scipy.fft.dct(x, type=2, norm="ortho", axis=0)
    matrix = dct_matrix(n, dtype=torch.float64).numpy()
    np.testing.assert_allclose(matrix @ x, expected, atol=1e-12)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(n), atol=1e-12)


def test_dct_matrix_refuses_a_length_below_one() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        dct_matrix(0)
