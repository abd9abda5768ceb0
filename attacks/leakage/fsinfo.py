"""FSInfo of a head in three kinds: as published, as the paper's code has it, and with a prior.

FSInfo (arXiv 2504.10016), in nats per input element, of I(x) = JᵀJ/σ²:

    exact      mean over images of (1/2d)·ln det I(x) − ½·ln(2πe)
    paper      mean over images of (1/2d)·Σ ln(I_ii(x) + 1e-10) − ½·ln(2πe)
    bayesian   (1/2d)·ln det(J_prior + mean of I(x) over images) − ½·ln(2πe)

The last is at least −h(X|Z)/d for pictures that follow the prior, whoever attacks: Efroimovich's
inequality, N·det(J)^(1/d) ≥ 1 on each posterior, and Jensen's, as ln det is concave. The first two
say something of unbiased attackers at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from splitdeploy.attacks.leakage.exact import (
    GAUSSIAN_ENTROPY,
    PAPER_VARIANCE,
    exact_fsinfo,
    paper_fsinfo,
)
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.mean_information import Method, mean_gain
from splitdeploy.attacks.leakage.noise import FixedNoise, Noise
from splitdeploy.attacks.leakage.prior import ImagePrior, default_prior
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import LeakageError, UnknownNameError
from splitdeploy.profiles.report import Estimate

Kind = Literal["exact", "paper", "bayesian"]


@dataclass(frozen=True)
class Fsinfo(Estimate):
    """An estimate of FSInfo, and how it came about.

    Attributes:
        kind: ``exact``, ``paper`` or ``bayesian``.
        method: ``cholesky`` (a matrix was formed), ``slq`` (products alone), ``diagonal`` (paper)
            or ``rank`` (minus infinity, which the rank alone told).
        rank: The least rank of an image's Jacobian, or an upper bound on it. Below ``dimensions``
            the exact kind is minus infinity.
        dimensions: Input elements, d.
    """

    kind: str
    method: str
    rank: int
    dimensions: int


def fsinfo(
    head: nn.Module,
    images: Tensor,
    *,
    noise_sigma: float | Noise | None = None,
    kind: Kind = "exact",
    method: Method = "auto",
    prior: ImagePrior | None = None,
    relative_error: float = 0.01,
    deadline_s: float | None = None,
    seed: int = 0,
) -> Fsinfo:
    """The Fisher-information leakage of a head, in nats per input element; more is worse.

    The exact kind is minus infinity wherever the Jacobian of an image has not full rank. That is
    the value of the formula and it is returned, with the rank; it does NOT say that nothing leaks:
    the directions that pass may pass in full. Compare such heads by the bayesian kind.

    The standard error is, for ``exact`` and ``paper``, that of the mean over images, and zero for
    one image or minus infinity; for ``bayesian`` that of which images were taken (to first order),
    of the probes and of the quadrature's bracket together. With few images the bayesian value is
    low besides, since ln det is concave.

    Args:
        head: From pixels on [0, 1]: a `PixelHead`, or any module that normalises for itself.
        images: ``[n, c, h, w]`` on [0, 1].
        noise_sigma: σ of the noise on each smashed-data element, in its unit, or a rule
            (`noise_named`). None is for the paper kind alone: its 0.1.
        kind: ``exact``, ``paper`` or ``bayesian``.
        method: ``cholesky`` forms matrices in float64; ``slq`` takes products alone and is there
            for the bayesian kind, whose spectrum has a known lower end; ``auto`` chooses.
        prior: Of the bayesian kind; None takes `default_prior`.
        relative_error: Of slq: standard error over ``gain``, the log-determinant above the prior's,
            at which steps and probes end.
        deadline_s: Seconds after which no further step of slq, or no further image of the exact
            kind, begins; the error says what it cost.
        seed: Of the probes.

    Returns:
        Value, standard error, and how they came about.

    Raises:
        LeakageError: σ is not positive or missing, the head has no Jacobian (see `HeadJacobian`),
            the images are not of the prior's shape, or too large for the kind and method.
    """
    _check(kind, method, noise_sigma, relative_error)
    pixel_head = _as_pixel_head(head, images)
    jacobian = HeadJacobian(pixel_head, images)
    given = math.sqrt(PAPER_VARIANCE) if noise_sigma is None else noise_sigma
    noise = given if isinstance(given, Noise) else FixedNoise(given)
    sigma = noise.level(jacobian.tensors).sigma
    rank = least_rank(jacobian, seed)
    if kind == "paper":
        values = paper_fsinfo(jacobian, variance=sigma.double() ** 2)
        return _mean(values, kind, "diagonal", rank, jacobian.inputs)
    if kind == "exact":
        if rank < jacobian.inputs:
            return Fsinfo(-math.inf, 0.0, kind, "rank", rank, jacobian.inputs)
        found = exact_fsinfo(jacobian, sigma, deadline_s=deadline_s)
        return _mean(found.values, kind, "cholesky", min(found.ranks), jacobian.inputs)
    known = default_prior(jacobian.shape) if prior is None else prior
    gain = mean_gain(
        jacobian, known, sigma, method=method, relative_error=relative_error,
        deadline_s=deadline_s, seed=seed,
    )  # fmt: skip
    shift = -known.log_det() / (2 * jacobian.inputs) - GAUSSIAN_ENTROPY
    value = gain.estimate.value + shift
    error = gain.estimate.standard_error
    return Fsinfo(value, error, kind, gain.method, rank, jacobian.inputs)


def least_rank(jacobian: HeadJacobian, seed: int) -> int:
    """An upper bound on the rank of the image's Jacobian that has the least.

    Args:
        jacobian: J at each image.
        seed: Of the random cotangents.

    Returns:
        The bound (see `HeadJacobian.rank_bound`).
    """
    generator = torch.Generator().manual_seed(seed)
    cotangent = torch.randn(jacobian.features.shape, generator=generator)
    return int(jacobian.rank_bound(cotangent.to(jacobian.features)).min())


def _mean(values: tuple[float, ...], kind: str, method: str, rank: int, d: int) -> Fsinfo:
    if -math.inf in values:
        return Fsinfo(-math.inf, 0.0, kind, method, rank, d)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Fsinfo(float(np.mean(values)), error, kind, method, rank, d)


def _as_pixel_head(head: nn.Module, images: Tensor) -> PixelHead:
    if images.dim() != 4 or len(images) == 0:
        raise LeakageError(
            f"expected at least one image, [n, c, h, w], got a tensor of shape "
            f"{tuple(images.shape)}"
        )
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise LeakageError(
            f"expected images on [0, 1], got values from {float(images.min()):g} to "
            f"{float(images.max()):g}: put the model's normalisation into the head (PixelHead)"
        )
    if isinstance(head, PixelHead):
        return head
    channels = images.shape[1]
    wrapped = PixelHead(head, (0.0,) * channels, (1.0,) * channels)
    # The buffers alone: moving the wrapper would move the caller's module.
    wrapped.mean, wrapped.std = wrapped.mean.to(images), wrapped.std.to(images)
    return wrapped


def _check(
    kind: str, method: str, noise_sigma: float | Noise | None, relative_error: float
) -> None:
    if kind not in {"exact", "paper", "bayesian"}:
        raise UnknownNameError("kind of FSInfo", kind, ("exact", "paper", "bayesian"))
    if method not in {"auto", "cholesky", "slq"}:
        raise UnknownNameError("method", method, ("auto", "cholesky", "slq"))
    if noise_sigma is None and kind != "paper":
        raise LeakageError(
            f"expected a noise_sigma for kind={kind!r}, got none: without noise the information is "
            "infinite; give the guard's sigma, or a rule such as noise_named('int8')"
        )
    if method == "slq" and kind != "bayesian":
        raise LeakageError(
            f"expected kind='bayesian' for method='slq', got {kind!r}: without a prior the "
            "spectrum has no lower end, so that the quadrature has no error bound; take "
            "method='cholesky'"
        )
    if not (math.isfinite(relative_error) and relative_error > 0):
        raise LeakageError(f"expected a positive relative error, got {relative_error}")
