"""Multinomial logistic regression, penalised, by SciPy's L-BFGS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp
from torch import Tensor

Array = NDArray[np.float64]

_TOLERANCE = 1e-6
"""On each entry of the gradient of a mean over pictures of norm one."""
_STEPS = 500


@dataclass(frozen=True)
class Softmax:
    """A linear map to scores of some classes.

    Attributes:
        weights: ``[k, c]``, for points that were centred and scaled.
        bias: ``[c]``.
        centre: ``[k]``, of the points that it was fitted on.
        scale: Their root mean square distance from the centre.
        classes: ``[c]`` int64: the numbers of the classes that there were.
        penalty: What it was fitted with.
    """

    weights: Array
    bias: Array
    centre: Array
    scale: float
    classes: NDArray[np.int64]
    penalty: float

    def scores(self, points: Tensor) -> Array:
        """Logits.

        Args:
            points: ``[n, k]``.

        Returns:
            ``[n, c]``.
        """
        return (_array(points) - self.centre) / self.scale @ self.weights + self.bias

    def predict(self, points: Tensor) -> Tensor:
        """The likeliest class of each point.

        Args:
            points: ``[n, k]``.

        Returns:
            ``[n]`` int64.
        """
        return torch.from_numpy(self.classes[self.scores(points).argmax(1)])

    def loss(self, points: Tensor, labels: Tensor) -> float:
        """The mean cross entropy.

        Args:
            points: ``[n, k]``.
            labels: ``[n]`` int64, among ``classes``.

        Returns:
            In nats.
        """
        scores = self.scores(points)
        places = np.searchsorted(self.classes, labels.numpy())
        chosen = scores[np.arange(len(scores)), places]
        return float(np.mean(logsumexp(scores, axis=1) - chosen))


def fit_softmax(points: Tensor, labels: Tensor, penalties: Sequence[float]) -> list[Softmax]:
    r"""Fit one map for each penalty.

    With x̂ the points centred and scaled to a mean squared norm of one, what is minimised is
    :math:`\frac{1}{n}\sum_i -\log p_{y_i}(\hat x_i) + \frac{\lambda}{2} \lVert W \rVert^2`, which
    is convex; the bias is free. Classes without a point are left out.

    Args:
        points: ``[n, k]``.
        labels: ``[n]`` int64.
        penalties: λ, each above zero, from the strongest on: each fit goes on from the one before.

    Returns:
        The maps, in that order.
    """
    raw = _array(points)
    centre = raw.mean(0)
    spread = raw - centre
    scale = float(np.sqrt(np.square(spread).sum(1).mean())) or 1.0
    classes, places = np.unique(labels.numpy(), return_inverse=True)
    problem = _Problem(spread / scale, places, len(classes))
    found, at = [], problem.start()
    for penalty in penalties:
        at = problem.solved(penalty, at)
        weights, bias = problem.parts(at)
        found.append(Softmax(weights, bias, centre, scale, classes, penalty))
    return found


class _Problem:
    def __init__(self, points: Array, places: NDArray[np.intp], classes: int) -> None:
        self._points, self._classes = points, classes
        self._truth = np.zeros((len(points), classes))
        self._truth[np.arange(len(points)), places] = 1.0

    def start(self) -> Array:
        """No weights, and the classes' shares; the sum of the bias stays at zero."""
        shares = np.log(self._truth.mean(0))
        weights = np.zeros(self._points.shape[1] * self._classes)
        return np.concatenate([weights, shares - shares.mean()])

    def parts(self, at: Array) -> tuple[Array, Array]:
        weights = at[: -self._classes].reshape(-1, self._classes)
        return weights, at[-self._classes :]

    def solved(self, penalty: float, at: Array) -> Array:
        found: Any = minimize(
            self._value, at, (penalty,), "L-BFGS-B", jac=True,
            options={"maxiter": _STEPS, "gtol": _TOLERANCE, "ftol": 0.0},
        )  # fmt: skip
        return np.asarray(found.x)

    def _value(self, at: Array, penalty: float) -> tuple[float, Array]:
        weights, bias = self.parts(at)
        scores = self._points @ weights + bias
        logs = scores - logsumexp(scores, axis=1, keepdims=True)
        n = len(scores)
        errors = (np.exp(logs) - self._truth) / n
        value = -float((logs * self._truth).sum()) / n
        value += penalty / 2 * float(np.square(weights).sum())
        slopes = self._points.T @ errors + penalty * weights
        return value, np.concatenate([slopes.ravel(), errors.sum(0)])


def _array(points: Tensor) -> Array:
    return points.double().numpy()
