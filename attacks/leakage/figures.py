"""The lines of the leakage table: what is known of a head, each with whom it binds.

Those of a record need derivatives, and come from few pictures; those of samples need one pass
forward, and so may rest on more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from splitdeploy.attacks.leakage import class_radius as radius
from splitdeploy.attacks.leakage import distance_correlation as dependence
from splitdeploy.attacks.leakage.error_bounds import (
    ErrorBound,
    from_bayesian,
    from_dfil,
    from_exact,
    from_information,
    from_van_trees,
)
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.mean_information import MeanWhitened
from splitdeploy.attacks.leakage.mutual_information import covariance_bound
from splitdeploy.attacks.leakage.noise import Noise
from splitdeploy.attacks.leakage.posterior_error import posterior_error
from splitdeploy.attacks.leakage.prior import ImagePrior
from splitdeploy.attacks.leakage.sides import Whitened
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import LeakageError
from splitdeploy.profiles.figure import Figure
from splitdeploy.profiles.report import UNCOMPUTED, Estimate, LeakageRecord

NATS, MSE = "nats/d", "MSE"
_PRIOR = "prior"

_SOLVE_STEPS = 200
"""Of conjugate gradients, where there is time."""


def record_figures(record: LeakageRecord, prior: ImagePrior) -> tuple[Figure, ...]:
    """What Fisher information says, and the bounds that follow.

    Args:
        record: From `measure_leakage`.
        prior: That it was measured with.

    Returns:
        Its figures. FSInfo without a prior is minus infinity where the rank says so, and absent
        where it was not computed; the bayesian ones are absent where they were not asked for.
    """
    bounds = tuple(figure_of_bound(bound, record.images) for bound in _record_bounds(record))
    return (*_own(record, prior), *bounds)


def _own(record: LeakageRecord, prior: ImagePrior) -> Iterator[Figure]:
    n = record.images
    yield figure("gain", "what is added to the prior", record.gain, NATS, "", _PRIOR, n)
    yield figure("fsinfo", "with the prior, image by image", record.fsinfo, NATS, "", _PRIOR, n)
    if record.bayesian_fsinfo is not None:
        yield figure(
            "bayesian_fsinfo", "of the mean information; at least -h(X|Z)/d",
            record.bayesian_fsinfo, NATS, "any", _PRIOR, n,
        )  # fmt: skip
        # I(X; Z) ≤ h(X) + d·FSInfo_B; for Gaussian pictures that is d times the gain of the mean.
        above = record.bayesian_fsinfo.value + prior.entropy_at_most / record.dimensions
        yield figure(
            "information_prior", "I(X; Z) at most",
            Estimate(above, record.bayesian_fsinfo.standard_error), NATS, "any", _PRIOR, n,
        )  # fmt: skip
    exact = record.exact_fsinfo
    if exact is None and not any(n.startswith(UNCOMPUTED) for n in record.notes):
        exact = Estimate(-math.inf, 0.0)
    if exact is not None:
        yield figure(
            "exact_fsinfo", "as published, without a prior", exact, NATS, "unbiased", "local", n
        )
    yield figure(
        "rank_share", "directions that pass over d, at most",
        Estimate(record.rank_at_most / record.dimensions, 0.0), "share", "", "local", n,
    )  # fmt: skip
    yield figure("dfil", "trace of the information over d", record.dfil, "1/MSE", "", "local", n)
    yield figure(
        "fil_max", "largest eigenvalue over the pictures, from below",
        Estimate(record.fil_max, math.nan), "1/MSE", "", "local", n,
    )  # fmt: skip


def _record_bounds(record: LeakageRecord) -> Iterator[ErrorBound]:
    if record.exact_fsinfo is not None:
        yield from_exact(record.exact_fsinfo)
    yield from_dfil(record.dfil)
    if record.bayesian_fsinfo is not None:
        yield from_bayesian(record.bayesian_fsinfo)
    if record.mse_lower_bound is not None:
        yield from_van_trees(record.mse_lower_bound)


def posterior_figures(
    head: PixelHead,
    pixels: Tensor,
    *,
    noise: Noise,
    prior: ImagePrior,
    deadline_s: float | None = None,
    seed: int = 0,
) -> tuple[Figure, ...]:
    """How well a picture is pinned down, and van Trees' bound by the whole matrix.

    Args:
        head: From pixels, in eval mode.
        pixels: ``[n, c, h, w]`` on [0, 1].
        noise: What the smashed data carries.
        prior: What is taken as known of pictures, of the same shape.
        deadline_s: Seconds for both.
        seed: Of the probes.

    Returns:
        The linearised posterior's error, and a bound for any attacker: the lower end of its
        bracket, so that little time makes it small and never too large but for the probes' error.
    """
    jacobian = HeadJacobian(head, pixels)
    sigma, n = noise.level(jacobian.tensors).sigma, len(pixels)
    each_s = None if deadline_s is None else deadline_s / 2
    own = posterior_error(
        Whitened(jacobian, prior, sigma, seed=seed), steps=_SOLVE_STEPS, seed=seed,
        deadline_s=each_s,
    )  # fmt: skip
    over_images = float(own.value.std()) / math.sqrt(n) if n > 1 else 0.0
    bracket = float((own.upper - own.lower).mean()) / math.sqrt(12.0)
    probes = float(own.probe_error.mean()) / math.sqrt(n)
    error = math.hypot(bracket, max(over_images, probes))
    mean = posterior_error(
        MeanWhitened(jacobian, prior, sigma, seed=seed), steps=_SOLVE_STEPS, seed=seed,
        deadline_s=each_s,
    )  # fmt: skip
    bound = Estimate(float(mean.lower[0]), float(mean.probe_error[0]))
    return (
        figure(
            "posterior_error", "error left, the head taken as linear at each picture",
            Estimate(float(own.value.mean()), error), MSE, "", "local, prior", n,
        ),
        figure(
            "mse_van_trees_whole", "error at least, by van Trees, the whole matrix", bound, MSE,
            "any", _PRIOR, n,
        ),
    )  # fmt: skip


def sample_figures(
    pixels: Tensor,
    tensors: Sequence[Tensor],
    sigma: Tensor,
    prior: ImagePrior,
    *,
    labels: Tensor | None = None,
    distances: Tensor | None = None,
) -> tuple[tuple[Figure, ...], tuple[str, ...]]:
    """What pictures and their smashed data say without a derivative.

    Args:
        pixels: ``[n, c, h, w]`` on [0, 1].
        tensors: The boundary tensors, each ``[n, …]``.
        sigma: ``[k]``: the noise of each smashed-data element.
        prior: What is taken as known of pictures.
        labels: ``[n]`` int64: the class of each picture, or None.
        distances: ``[n, n]``: between the pictures, where they are known already.

    Returns:
        The figures, and what could not be had, and why.
    """
    n, notes = len(pixels), []
    figures: list[Figure] = []
    if n >= 2:
        information = covariance_bound(tensors, sigma)
        d = pixels[0].numel()
        each = Estimate(information.value / d, information.standard_error / d)
        figures.append(figure(
            "information_covariance", "I(X; Z) at most", each, NATS, "any", "variances", n
        ))  # fmt: skip
        figures.append(figure_of_bound(from_information(information, prior), n))
    else:
        notes.append("covariance of the smashed data: takes at least 2 pictures")
    joined = torch.cat([t.detach().flatten(1) for t in tensors], dim=1)
    if n >= dependence.FEWEST:
        known = dependence.distances(pixels) if distances is None else distances
        found = dependence.of_distances(known, dependence.distances(joined))
        figures.append(figure(
            "distance_correlation", "squared, unbiased, without noise", found, "1", "", "samples", n
        ))  # fmt: skip
    else:
        notes.append(f"distance correlation: takes at least {dependence.FEWEST} pictures")
    if labels is not None:
        try:
            figures.append(_radius(joined, labels))
        except LeakageError as error:
            notes.append(f"class radius: {error}")
    return tuple(figures), tuple(notes)


def _radius(joined: Tensor, labels: Tensor) -> Figure:
    found = radius.class_radius(joined, labels)
    scale = found.variance if found.variance > 0 else 1.0
    share = Estimate(found.share, found.squared.standard_error / scale)
    text = f"R_c^2: spread about the means of {found.classes} classes, over the whole"
    return figure("class_radius", text, share, "share", "", "labels", len(joined))


def figure_of_bound(bound: ErrorBound, images: int) -> Figure:
    """The line of a bound on the error.

    Args:
        bound: The bound.
        images: How many pictures stand behind it.

    Returns:
        The line.
    """
    return figure(
        f"mse_{bound.name}", f"error at least, by {bound.text}", bound.mse, MSE, bound.binds,
        bound.assumes, images,
    )  # fmt: skip


def figure(
    name: str, text: str, estimate: Estimate, unit: str, binds: str, assumes: str, images: int
) -> Figure:
    """A line of the table; an error that is not a number was not estimated.

    Args:
        name: As `Figure` has it, likewise the others.
        text: What it is, in words.
        estimate: Value and standard error.
        unit: Of both.
        binds: Which attackers.
        assumes: What it rests on.
        images: How many pictures stand behind it.

    Returns:
        The line.
    """
    error = estimate.standard_error
    told = error if math.isfinite(error) else None
    return Figure(name, text, estimate.value, told, unit, binds, assumes, images)
