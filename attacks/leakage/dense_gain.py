"""The gain of each image from its whole information matrix, where that is small: no probes."""

from __future__ import annotations

import time

import numpy as np
import torch

from splitdeploy.attacks.leakage.exact import DENSE_LIMIT
from splitdeploy.attacks.leakage.gain import Gain
from splitdeploy.attacks.leakage.information import information
from splitdeploy.attacks.leakage.sides import Whitened
from splitdeploy.attacks.leakage.white import white_information


def dense_gain(whitened: Whitened, *, ends: float | None) -> Gain | None:
    """(1/2d)·ln det(1 + C^½ B I(x) Bᵀ C^½) by Cholesky in float64.

    Args:
        whitened: The head's Jacobian in white coordinates.
        ends: The reading of ``time.perf_counter`` at which it must be done, judged by the first
            image.

    Returns:
        The gain; its bracket and its probes' error are zero. None where the picture is too large,
        or it would be late.
    """
    jacobian = whitened.jacobian
    n, d = jacobian.images, jacobian.inputs
    if d > DENSE_LIMIT:
        return None
    values = np.zeros(n)
    started = time.perf_counter()
    for image in range(n):
        matrix = white_information(information(jacobian, image, whitened.sigma), whitened.prior)
        matrix.diagonal().add_(1.0)
        values[image] = float(torch.linalg.cholesky(matrix).diagonal().log().sum()) / d
        spent = time.perf_counter() - started
        if ends is not None and started + spent / (image + 1) * n > ends:
            return None
    return Gain(values, values, np.zeros(n), "input", steps=0, probes=0)
