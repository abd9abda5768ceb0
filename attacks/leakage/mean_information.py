"""The mean information Ī over images: ONE operator, whose log-determinant bounds any attacker.

Efroimovich's bound needs ln det of the mean, not the mean of ln dets: as ln det is concave, the
mean of the images' own values lies below it and bounds nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from splitdeploy.attacks.leakage.exact import DENSE_LIMIT
from splitdeploy.attacks.leakage.gain import measure_gain
from splitdeploy.attacks.leakage.information import information
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.lanczos import rademacher
from splitdeploy.attacks.leakage.prior import ImagePrior
from splitdeploy.attacks.leakage.sides import Side, Whitened, input_side
from splitdeploy.attacks.leakage.white import white_information, white_jacobian
from splitdeploy.profiles.errors import LeakageError
from splitdeploy.profiles.report import Estimate

Method = Literal["auto", "cholesky", "slq"]

MOST_STEPS = 1000
"""Quadrature steps a probe, where the error decides; a deadline is for those who cannot wait."""

DENSE_ELEMENTS = 1 << 28
"""The most elements of the rows of all images together that are formed: 2 GiB in float64."""

_SOLVE_STEPS = 25
_SPREAD_PROBES = 4
_MOST_PROBES = 32


class MeanWhitened(Whitened):
    """The images' whitened Jacobians above each other, over √n: MᵀM = C^½ B Ī Bᵀ C^½ but for C^½.

    It has one block, ``[1, d]`` to ``[1, n·k]``; a product runs all images at once.
    """

    @property
    def blocks(self) -> int:
        """One operator for all images."""
        return 1

    def push(self, coefficients: Tensor) -> Tensor:
        """``[1, d]`` to ``[1, n·k]``."""
        n = self.jacobian.images
        return super().push(coefficients.expand(n, -1)).reshape(1, -1) / math.sqrt(n)

    def pull(self, u: Tensor) -> Tensor:
        """``[1, n·k]`` to ``[1, d]``."""
        n = self.jacobian.images
        return super().pull(u.view(n, -1)).sum(dim=0, keepdim=True) / math.sqrt(n)

    @cached_property
    def probes(self) -> Tensor:
        """Pulled random signs, image by image, ``[2n, 1, d]``: their squares estimate diag(Ī)."""
        like = self.jacobian.features
        n, k = like.shape
        pulled = [
            Whitened.pull(self, rademacher(n, k, seed=self._seed + i, like=like)) for i in range(2)
        ]
        return torch.cat(pulled).unsqueeze(1)


@dataclass(frozen=True)
class MeanGain:
    """(1/2d)·ln det(1 + C^½ Ī C^½).

    Attributes:
        estimate: Nats per input element.
        method: ``cholesky`` or ``slq``.
        steps: Quadrature steps with the last probe; 0 where there were none to make.
        probes: Random probes; 0 likewise.
    """

    estimate: Estimate
    method: str
    steps: int = 0
    probes: int = 0


def mean_gain(
    jacobian: HeadJacobian,
    prior: ImagePrior,
    sigma: Tensor,
    *,
    method: Method = "auto",
    relative_error: float = 0.01,
    steps: int = MOST_STEPS,
    deadline_s: float | None = None,
    seed: int = 0,
) -> MeanGain:
    """(1/2d)·ln det(1 + C^½ Ī C^½): the bayesian kind above the prior's own term; at least 0.

    For a linear head and Gaussian pictures, d times it is the mutual information. It is an upper
    bound on (h(X) + d·fsinfo)/d for pictures that follow the prior.

    Args:
        jacobian: J at each image.
        prior: Of the same shape.
        sigma: ``[k]``: the noise of each smashed-data element.
        method: As `fsinfo` takes it.
        relative_error: Likewise.
        steps: Of slq: at most so many quadrature steps a probe.
        deadline_s: Likewise.
        seed: Of the probes.

    Returns:
        The gain.

    Raises:
        LeakageError: The prior is of another shape, or the matrix does not fit.
    """
    if jacobian.shape != prior.shape:
        raise LeakageError(
            f"expected pictures of the prior's shape {prior.shape}, got {jacobian.shape}"
        )
    whitened = MeanWhitened(jacobian, prior, sigma, seed=seed)
    started = time.perf_counter()
    dense = _fits(jacobian)
    if method == "cholesky" and not dense:
        raise LeakageError(
            f"expected at most {DENSE_LIMIT} input or smashed-data elements for a whole matrix, "
            f"got {jacobian.inputs} and {jacobian.images} times {jacobian.outputs}: take "
            "method='slq'"
        )
    if dense and method != "slq":
        waits = method == "cholesky"
        found = _by_cholesky(whitened, None if waits else deadline_s)
        if found is not None:
            return found
    left = None if deadline_s is None else deadline_s - (time.perf_counter() - started)
    return _by_quadrature(
        whitened, relative_error=relative_error, steps=steps, seed=seed, deadline_s=left
    )


def _fits(jacobian: HeadJacobian) -> bool:
    """Whether a matrix can be formed: the smaller side's, and on that of outputs all its rows."""
    rows = jacobian.images * jacobian.outputs
    few = rows <= DENSE_LIMIT and rows * jacobian.inputs <= DENSE_ELEMENTS
    return few or jacobian.inputs <= DENSE_LIMIT


def _by_cholesky(whitened: MeanWhitened, deadline_s: float | None) -> MeanGain | None:
    """By Cholesky in float64, on the smaller of the two sides; the images' spread by probes.

    Args:
        whitened: The mean operator, small.
        deadline_s: Seconds that it may take, judged by one product and by the first image; None for
            no limit.

    Returns:
        The gain; its error is that of the choice of images alone. None where it would be late.
    """
    jacobian, prior, sigma = whitened.jacobian, whitened.prior, whitened.sigma
    n, d = jacobian.images, jacobian.inputs
    started = time.perf_counter()
    if deadline_s is not None and _products_s(jacobian) > deadline_s:
        return None
    # By rows while they are few, else by the sum of the images' informations.
    rows: list[Tensor] | None = [] if n * jacobian.outputs < d else None
    total = sigma.new_zeros(0, dtype=torch.float64)
    for image in range(n):
        if rows is not None:
            rows.append(white_jacobian(jacobian, image, prior, sigma) / math.sqrt(n))
        else:
            found = information(jacobian, image, sigma)
            total = total.add_(found) if image else found
        if (
            deadline_s is not None
            and (time.perf_counter() - started) / (image + 1) * n > deadline_s
        ):
            return None
    stacked = None if rows is None else torch.cat(rows)
    small = white_information(total / n, prior) if stacked is None else stacked @ stacked.T
    factor = torch.linalg.cholesky(torch.eye(len(small)).to(small) + small)
    value = float(factor.diagonal().log().sum()) / d

    def solve(z: Tensor) -> Tensor:
        if stacked is None:
            return torch.cholesky_solve(z.double().T, factor).T.to(z)
        # (1 + MᵀM)⁻¹ = 1 − Mᵀ(1 + MMᵀ)⁻¹M (Woodbury).
        inner = torch.cholesky_solve(stacked @ z.double().T, factor)
        return (z.double() - (stacked.T @ inner).T).to(z)

    return MeanGain(Estimate(value, _image_error(whitened, solve)), "cholesky")


def _products_s(jacobian: HeadJacobian) -> float:
    """Seconds that the products for all rows or columns would take, by one of them."""
    started = time.perf_counter()
    jacobian.vjp(torch.ones_like(jacobian.features))
    return (time.perf_counter() - started) * min(jacobian.outputs, jacobian.inputs)


def _by_quadrature(
    whitened: MeanWhitened,
    *,
    relative_error: float,
    steps: int,
    seed: int,
    deadline_s: float | None = None,
) -> MeanGain:
    """By stochastic Lanczos quadrature, products alone; more probes while the error asks for them.

    Args:
        whitened: The mean operator.
        relative_error: Standard error over value at which quadrature and probes are good enough.
        steps: At most so many quadrature steps a probe.
        seed: Of the probes.
        deadline_s: Seconds after which no further step begins.

    Returns:
        The gain; its error combines that of the probes, half the quadrature's bracket over √3, and
        that of the choice of images, in squares.
    """
    ends = None if deadline_s is None else time.perf_counter() + deadline_s
    jacobian = whitened.jacobian
    rank = torch.tensor([min(jacobian.images * jacobian.outputs, jacobian.inputs)])
    gain = measure_gain(
        whitened,
        rank,
        steps=steps,
        probes=_MOST_PROBES,
        seed=seed + 10,
        ends=ends,
        relative_error=relative_error,
    )
    # The preconditioner of the input side serves the solve, whatever side the gain was found on.
    side = input_side(whitened)
    spread = _image_error(whitened, lambda z: _conjugate_gradients(side, z, ends), ends)
    quadrature = float(gain.half_width[0]) / math.sqrt(3.0)
    error = math.sqrt(float(gain.probe_error[0]) ** 2 + quadrature**2 + spread**2)
    return MeanGain(Estimate(float(gain.value[0]), error), "slq", gain.steps, gain.probes)


def _image_error(
    whitened: MeanWhitened, solve: Callable[[Tensor], Tensor], ends: float | None = None
) -> float:
    """The standard error that comes from which images were taken, to first order.

    The derivative of ln det(1 + Ḡ) by the weight of an image is tr((1 + Ḡ)⁻¹ G_x); its spread over
    the images, over √n, is the delta method's error. The traces are estimated by probes, by one at
    least where time ends.

    Returns:
        Nats per input element; 0 for one image, which has no spread.
    """
    n, d = whitened.jacobian.images, whitened.jacobian.inputs
    if n == 1:
        return 0.0
    traces = torch.zeros(n, dtype=torch.float64)
    for made in range(1, _SPREAD_PROBES + 1):
        z = rademacher(1, d, seed=made - 1, like=whitened.half)
        left = whitened.push(solve(z) * whitened.half).view(n, -1)
        right = whitened.push(z * whitened.half).view(n, -1)
        traces += n * (left.double() * right.double()).sum(dim=1).cpu()
        if _over(ends):
            break
    return float((traces / made).std()) / (2 * d) / math.sqrt(n)


def _over(ends: float | None) -> bool:
    return ends is not None and time.perf_counter() > ends


def _conjugate_gradients(side: Side, z: Tensor, ends: float | None = None) -> Tensor:
    """(1 + G)⁻¹ z to the few digits that an error needs: P^-½ (NᵀN)⁻¹ P^-½ z; fewer in haste."""
    residual = z * side.scale.rsqrt()
    found, direction = torch.zeros_like(z), residual
    square = residual.square().sum()
    first = float(square)
    for _ in range(_SOLVE_STEPS):
        image = side.stacked_adjoint(side.stacked(direction))
        step = square / (direction * image).sum()
        found, residual = found + step * direction, residual - step * image
        square, before = residual.square().sum(), square
        if float(square) <= 1e-6 * first or _over(ends):
            break
        direction = residual + (square / before) * direction
    return found * side.scale.rsqrt()
