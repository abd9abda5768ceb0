"""All figures of one head in one list, each with its error, whom it binds and what it assumes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splitdeploy.attacks.leakage import distance_correlation as dependence
from splitdeploy.attacks.leakage.error_bounds import (
    ErrorBound,
    from_bayesian,
    from_dfil,
    from_exact,
    from_information,
    from_van_trees,
)
from splitdeploy.attacks.leakage.exact import DENSE_LIMIT
from splitdeploy.attacks.leakage.fsinfo import fsinfo
from splitdeploy.attacks.leakage.measure import measure_leakage
from splitdeploy.attacks.leakage.mutual_information import covariance_bound
from splitdeploy.attacks.leakage.noise import Noise, ScaledNoise
from splitdeploy.attacks.leakage.prior import ImagePrior
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.report import Estimate, LeakageRecord

STEPS, PROBES, RELATIVE_ERROR = 600, 8, 0.01
"""How far the quadrature goes where time allows."""

_ENTROPY_NOTE = (
    "the prior's entropy is not known: I(X; Z) takes that of Gaussian pictures of the same "
    "variances, which is larger; error bounds take what its Fisher information leaves at least"
)

_PRIOR = "prior"
_NATS, _MSE = "nats/d", "MSE"


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        name: What it is called, in snake case; lower bounds on the error begin with ``mse``.
        text: What it is, in words.
        value: In ``unit``; may be infinite.
        standard_error: Not a number where it was not estimated.
        unit: ``nats/d`` is nats per input element; ``MSE`` is of a pixel on [0, 1].
        binds: ``any`` or ``unbiased`` attackers; empty for a figure that bounds none.
        assumes: ``prior``: pictures follow it; ``local``: neighbours of each picture;
            ``variances``, ``samples``: of the given pictures, which stand behind every figure.
    """

    name: str
    text: str
    value: float
    standard_error: float
    unit: str
    binds: str
    assumes: str


@dataclass(frozen=True)
class Family:
    """The figures of one head.

    Attributes:
        figures: In the order of the table.
        record: What the report of a sweep would hold.
        notes: What could not be had, and why.
    """

    figures: tuple[Figure, ...]
    record: LeakageRecord
    notes: tuple[str, ...]


@dataclass(frozen=True)
class CurvePoint:
    """Leakage at one strength of the noise.

    Attributes:
        noise_sigma: σ relative to the smashed data's root mean square.
        gain: Nats per input element.
        fsinfo: Likewise.
    """

    noise_sigma: float
    gain: Estimate
    fsinfo: Estimate


def measure_family(
    head: PixelHead,
    pixels: Tensor,
    *,
    noise: Noise,
    prior: ImagePrior,
    deadline_s: float | None = None,
    seed: int = 0,
) -> Family:
    """FSInfo in its kinds, its kin, and the bounds that follow.

    Args:
        head: From pixels, in eval mode.
        pixels: ``[n, c, h, w]`` on [0, 1].
        noise: What the smashed data carries.
        prior: What is taken as known of pictures, of the same shape.
        deadline_s: Seconds for the two quadratures together; what else there is comes on top.
        seed: Of the probes.

    Returns:
        The figures.
    """
    record = measure_leakage(
        head,
        pixels,
        noise=noise,
        prior=prior,
        steps=STEPS,
        probes=PROBES,
        relative_error=RELATIVE_ERROR,
        deadline_s=None if deadline_s is None else deadline_s / 2,
        bayesian=True,
        seed=seed,
    )
    with torch.no_grad():
        tensors = head(pixels)
    notes: list[str] = [*record.notes]
    if prior.entropy is None:
        notes.append(_ENTROPY_NOTE)
    figures = [*_of_record(record, prior)]
    if record.dimensions <= DENSE_LIMIT:
        figures.append(_paper(head, pixels))
    else:
        notes.append(f"FSInfo as the paper's code has it not computed: {record.dimensions} pixels")
    bounds = [*_bounds_of_record(record)]
    if len(pixels) >= 2:
        information = covariance_bound(tensors, noise.level(tensors).sigma)
        figures.append(_information(information, record.dimensions))
        bounds.append(from_information(information, prior))
    else:
        notes.append("covariance of the smashed data: takes at least 2 pictures")
    if len(pixels) >= dependence.FEWEST:
        joined = torch.cat([t.flatten(1) for t in tensors], dim=1)
        figures.append(_dependence(dependence.distance_correlation(pixels, joined)))
    else:
        notes.append(f"distance correlation: takes at least {dependence.FEWEST} pictures")
    figures += [_of_bound(bound) for bound in bounds]
    return Family(tuple(figures), record, tuple(notes))


def measure_curve(
    head: PixelHead,
    pixels: Tensor,
    *,
    noise: Noise,
    prior: ImagePrior,
    factors: Sequence[float],
    deadline_s: float | None = None,
    seed: int = 0,
) -> tuple[CurvePoint, ...]:
    """Gain and FSInfo against the strength of the noise.

    Args:
        head: From pixels, in eval mode.
        pixels: ``[n, c, h, w]`` on [0, 1].
        noise: The rule at factor 1.
        prior: What is taken as known of pictures.
        factors: On σ, positive.
        deadline_s: Seconds for all of it.
        seed: Of the probes, the same at each point.

    Returns:
        A point for each factor.
    """
    points = []
    for factor in factors:
        record = measure_leakage(
            head,
            pixels,
            noise=ScaledNoise(noise, factor, f"times {factor:g}"),
            prior=prior,
            steps=STEPS,
            relative_error=2 * RELATIVE_ERROR,
            deadline_s=None if deadline_s is None else deadline_s / len(factors),
            seed=seed,
        )
        points.append(CurvePoint(record.noise_sigma, record.gain, record.fsinfo))
    return tuple(points)


def _of_record(record: LeakageRecord, prior: ImagePrior) -> Iterator[Figure]:
    yield _figure("gain", "what is added to the prior", record.gain, _NATS, "", _PRIOR)
    yield _figure("fsinfo", "with the prior, image by image", record.fsinfo, _NATS, "", _PRIOR)
    if record.bayesian_fsinfo is not None:
        yield _figure(
            "bayesian_fsinfo", "of the mean information; at least -h(X|Z)/d",
            record.bayesian_fsinfo, _NATS, "any", _PRIOR,
        )  # fmt: skip
        # I(X; Z) ≤ h(X) + d·FSInfo_B; for Gaussian pictures that is d times the gain of the mean.
        above = record.bayesian_fsinfo.value + prior.entropy_at_most / record.dimensions
        yield _figure(
            "information_prior", "I(X; Z) at most",
            Estimate(above, record.bayesian_fsinfo.standard_error), _NATS, "any", _PRIOR,
        )  # fmt: skip
    exact = record.exact_fsinfo
    if exact is None and not any("not computed" in note for note in record.notes):
        exact = Estimate(-math.inf, 0.0)
    if exact is not None:
        yield _figure(
            "exact_fsinfo", "as published, without a prior", exact, _NATS, "unbiased", "local"
        )
    yield _figure(
        "rank_share", "directions that pass over d, at most",
        Estimate(record.rank_at_most / record.dimensions, 0.0), "share", "", "local",
    )  # fmt: skip
    yield _figure("dfil", "trace of the information over d", record.dfil, "1/MSE", "", "local")
    yield _figure(
        "fil_max", "largest eigenvalue over the pictures, from below",
        Estimate(record.fil_max, math.nan), "1/MSE", "", "local",
    )  # fmt: skip


def _bounds_of_record(record: LeakageRecord) -> Iterator[ErrorBound]:
    if record.exact_fsinfo is not None:
        yield from_exact(record.exact_fsinfo)
    yield from_dfil(record.dfil)
    if record.bayesian_fsinfo is not None:
        yield from_bayesian(record.bayesian_fsinfo)
    if record.mse_lower_bound is not None:
        yield from_van_trees(record.mse_lower_bound)


def _paper(head: PixelHead, pixels: Tensor) -> Figure:
    found = fsinfo(head, pixels, kind="paper")
    return _figure(
        "paper_fsinfo", "diagonal, epsilon, as the paper's code has it", found, _NATS, "",
        "sigma 0.1",
    )  # fmt: skip


def _information(nats: Estimate, d: int) -> Figure:
    each = Estimate(nats.value / d, nats.standard_error / d)
    return _figure(
        "information_covariance", "I(X; Z) at most", each, _NATS, "any",
        "variances",
    )  # fmt: skip


def _dependence(found: Estimate) -> Figure:
    return _figure(
        "distance_correlation", "squared, unbiased, without noise", found, "1", "", "samples"
    )


def _of_bound(bound: ErrorBound) -> Figure:
    return _figure(
        f"mse_{bound.name}", f"error at least, by {bound.text}", bound.mse, _MSE, bound.binds,
        bound.assumes,
    )  # fmt: skip


def _figure(
    name: str, text: str, estimate: Estimate, unit: str, binds: str, assumes: str
) -> Figure:
    return Figure(
        name, text, estimate.value, estimate.standard_error, unit, binds, assumes
    )  # fmt: skip
