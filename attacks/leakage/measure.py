"""All leakage figures of one head, as a row of the report holds them."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitdeploy.attacks.leakage.dense_gain import dense_gain
from splitdeploy.attacks.leakage.exact import DENSE_LIMIT, GAUSSIAN_ENTROPY, exact_fsinfo
from splitdeploy.attacks.leakage.gain import Gain, measure_gain
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.mean_information import mean_gain
from splitdeploy.attacks.leakage.noise import Noise
from splitdeploy.attacks.leakage.prior import ImagePrior
from splitdeploy.attacks.leakage.sides import Whitened
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import LeakageError
from splitdeploy.profiles.report import Estimate, LeakageRecord

_POWER_STEPS = 2


def measure_leakage(
    head: PixelHead,
    pixels: Tensor,
    *,
    noise: Noise,
    prior: ImagePrior,
    steps: int = 8,
    probes: int = 1,
    deadline_s: float | None = None,
    seed: int = 0,
    bayesian: bool = False,
    relative_error: float | None = None,
) -> LeakageRecord:
    """What the smashed data of a head says about its pictures, by Fisher information.

    The standard error of ``fsinfo`` and ``gain`` combines, in squares, that over the images (at
    least the bound on the probes' error, which is all there is for one image) and the quadrature's,
    taken as uniform over its bracket: half-width/√3.

    Args:
        head: From pixels, in eval mode.
        pixels: ``[n, c, h, w]`` on [0, 1].
        noise: What the smashed data carries.
        prior: What is taken as known of pictures, of the same shape.
        steps: At most so many quadrature steps, each a product with J and one with Jᵀ.
        probes: Random probes, averaged. One is enough but for tiny pictures.
        deadline_s: Seconds after which no further step begins; fewer steps widen the error.
        seed: Of the probes.
        bayesian: Also the determinant of the mean information, which takes quadrature of its own
            where the head is not small; it may take as long again.
        relative_error: Standard error over ``gain`` at which steps and probes may end before their
            number is reached; small pictures have none, by whole matrices. None makes them all.

    Returns:
        The record.

    Raises:
        LeakageError: The head has no Jacobian (see `HeadJacobian`), the prior is of another shape,
            or there are no steps or probes to make.
    """
    if steps < 1 or probes < 1:
        raise LeakageError(f"expected at least 1 step and 1 probe, got {steps} and {probes}")
    if tuple(pixels.shape[1:]) != prior.shape:
        raise LeakageError(
            f"expected pictures of the prior's shape {prior.shape}, got {tuple(pixels.shape[1:])}"
        )
    started = time.perf_counter()
    ends = None if deadline_s is None else started + deadline_s
    jacobian = HeadJacobian(head, pixels)
    level = noise.level(jacobian.tensors)
    whitened = Whitened(jacobian, prior, level.sigma, seed=seed)
    ranks = _ranks(jacobian, seed)
    # Whoever asks for an error gets none where matrices are small; who asks for steps gets those.
    whole = dense_gain(whitened, ends=ends) if relative_error is not None else None
    gain = whole or measure_gain(
        whitened,
        ranks,
        steps=steps,
        probes=probes,
        seed=seed + 10,
        ends=ends,
        relative_error=relative_error,
    )
    d = jacobian.inputs
    # ln det(C⁻¹ + I) = ln det(1 + C^½ I C^½) − ln det C.
    shift = -prior.log_det() / (2 * d) - GAUSSIAN_ENTROPY
    estimate = _estimate(gain)
    traces = whitened.probes.double().square().sum(dim=2) / d
    exact, notes = _exact(jacobian, level.sigma, ranks, ends)
    if gain.late and bool((gain.half_width > gain.probe_error).any()):
        notes = (*notes, f"{gain.steps} of {steps} quadrature steps for lack of time")
    together = None
    if bayesian:
        together = mean_gain(
            jacobian,
            prior,
            level.sigma,
            relative_error=relative_error or 0.01,
            deadline_s=deadline_s,
            seed=seed,
        ).estimate
    return LeakageRecord(
        fsinfo=Estimate(estimate.value + shift, estimate.standard_error),
        gain=estimate,
        exact_fsinfo=exact,
        rank_at_most=int(ranks.max()),
        dimensions=d,
        dfil=_dfil(traces.cpu().numpy()),
        fil_max=_largest(whitened, ends),
        noise_sigma=level.relative,
        noise=level.text,
        prior=prior.describe(),
        images=jacobian.images,
        mse_lower_bound=mse_lower_bound(whitened),
        steps=gain.steps,
        notes=notes,
        bayesian_fsinfo=together and Estimate(together.value + shift, together.standard_error),
    )


def mse_lower_bound(whitened: Whitened) -> float:
    """No attacker has a smaller mean squared error a pixel, on pictures that follow the prior.

    Van Trees: the error matrix is at least (C⁻¹ + Ī)⁻¹ with Ī the mean of I(x); the i-th diagonal
    entry of an inverse is at least the inverse of the i-th diagonal entry; and over a ring of
    coefficients the mean of inverses is at least the inverse of the mean. Ī is estimated from the
    given images, so this estimates the bound.

    Args:
        whitened: The head's Jacobian in the prior's basis.

    Returns:
        The bound on the mean squared error of a pixel on [0, 1].
    """
    size = whitened.ring_size.double()
    inverse = (1.0 / whitened.prior.variance).flatten()
    prior = torch.zeros_like(size).index_add_(0, whitened.ring, inverse)
    information = whitened.ring_information.mean(dim=0).cpu() * size
    used = size > 0
    bound = size[used] ** 2 / (prior[used] + information[used])
    return float(bound.sum() / size.sum())


def _ranks(jacobian: HeadJacobian, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    cotangent = torch.randn(jacobian.features.shape, generator=generator)
    return jacobian.rank_bound(cotangent.to(jacobian.features))


def _estimate(gain: Gain) -> Estimate:
    n = len(gain.value)
    quadrature = float(gain.half_width.mean()) / math.sqrt(3.0)
    over_images = float(gain.value.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    # Few images may agree by chance; the probes' own error is there all the same.
    sampling = max(over_images, float(gain.probe_error.mean()) / math.sqrt(n))
    return Estimate(float(gain.value.mean()), math.hypot(sampling, quadrature))


def _dfil(traces: NDArray[np.float64]) -> Estimate:
    """Mean over images; its error over images, or over the two probes where there is one image."""
    images = traces.mean(axis=0)
    over = images if len(images) > 1 else traces[:, 0]
    error = float(over.std(ddof=1)) / math.sqrt(len(over))
    return Estimate(float(images.mean()), error)


def _largest(whitened: Whitened, ends: float | None) -> float:
    """The largest eigenvalue of I over the images, from below: ‖A u‖²/‖u‖² after power steps."""
    # The probes were pulled through Aᵀ once already, which is a step; more while there is time.
    direction = whitened.probes[0]
    for step in range(1, _POWER_STEPS + 1):
        norm = direction.norm(dim=1, keepdim=True)
        pushed = whitened.push(direction / norm.clamp_min(torch.finfo(norm.dtype).tiny))
        if step == _POWER_STEPS or (ends is not None and time.perf_counter() > ends):
            break
        direction = whitened.pull(pushed)
    return float(pushed.double().square().sum(dim=1).amax())


def _exact(
    jacobian: HeadJacobian, sigma: Tensor, ranks: Tensor, ends: float | None
) -> tuple[Estimate | None, tuple[str, ...]]:
    """FSInfo without a prior where it is finite and can be had; else why not."""
    d = jacobian.inputs
    least = int(ranks.min())
    if least < d:
        return None, (
            f"FSInfo without a prior is minus infinity: rank at most {least} of {d} in an image",
        )
    if d > DENSE_LIMIT:
        return None, (f"FSInfo without a prior not computed: {d} input elements",)
    if ends is not None and time.perf_counter() > ends:
        return None, ("FSInfo without a prior not computed for lack of time",)
    left = None if ends is None else ends - time.perf_counter()
    found = exact_fsinfo(jacobian, sigma, deadline_s=left)
    if min(found.ranks) < d:
        return None, (
            f"FSInfo without a prior is minus infinity: rank {min(found.ranks)} of {d} in an image",
        )
    values = np.array(found.values)
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    late = f"FSInfo without a prior of {len(values)} of {jacobian.images} images for lack of time"
    return Estimate(float(values.mean()), error), ((late,) if found.left_out else ())
