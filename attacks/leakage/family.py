"""All figures of one head in one list, each with its error, whom it binds and what it assumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from splitdeploy.attacks.leakage.curve import gain_curve
from splitdeploy.attacks.leakage.exact import DENSE_LIMIT
from splitdeploy.attacks.leakage.figures import (
    NATS,
    figure,
    posterior_figures,
    record_figures,
    sample_figures,
)
from splitdeploy.attacks.leakage.fsinfo import fsinfo
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.measure import measure_leakage
from splitdeploy.attacks.leakage.noise import Noise
from splitdeploy.attacks.leakage.prior import ImagePrior
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.figure import Figure, ordered
from splitdeploy.profiles.report import Estimate, LeakageRecord

STEPS, PROBES, RELATIVE_ERROR = 600, 8, 0.01
"""How far the quadrature goes where time allows."""

_ENTROPY_NOTE = (
    "the prior's entropy is not known: I(X; Z) takes that of Gaussian pictures of the same "
    "variances, which is larger; error bounds take what its Fisher information leaves at least"
)


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
    samples: Tensor | None = None,
    labels: Tensor | None = None,
    deadline_s: float | None = None,
    seed: int = 0,
) -> Family:
    """FSInfo in its kinds, its kin, and the bounds that follow.

    Args:
        head: From pixels, in eval mode.
        pixels: ``[n, c, h, w]`` on [0, 1].
        noise: What the smashed data carries.
        prior: What is taken as known of pictures, of the same shape.
        samples: More pictures, for the figures that need one pass forward; None for the same.
        labels: ``[n]`` int64: the class of each of those, or None.
        deadline_s: Seconds for the two quadratures and the solves together; what else there is
            comes on top.
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
        deadline_s=None if deadline_s is None else deadline_s / 3,
        bayesian=True,
        seed=seed,
    )
    figures, notes = [*record_figures(record, prior)], [*record.notes]
    figures += posterior_figures(
        head, pixels, noise=noise, prior=prior, seed=seed,
        deadline_s=None if deadline_s is None else deadline_s / 3,
    )  # fmt: skip
    if prior.entropy is None:
        notes.append(_ENTROPY_NOTE)
    if record.dimensions <= DENSE_LIMIT:
        figures.append(_paper(head, pixels))
    else:
        notes.append(f"FSInfo as the paper's code has it not computed: {record.dimensions} pixels")
    shown = pixels if samples is None else samples
    with torch.no_grad():
        tensors = head(shown)
    # One σ for all figures: that of the pictures that the derivatives are of.
    sigma = noise.level(head(pixels)).sigma
    more, lacking = sample_figures(shown, tensors, sigma, prior, labels=labels)
    whole = ordered([*figures, *more])
    return Family(whole, replace(record, figures=whole), (*notes, *lacking))


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
    """Gain and FSInfo against the strength of the noise, from one decomposition.

    Args:
        head: From pixels, in eval mode.
        pixels: ``[n, c, h, w]`` on [0, 1].
        noise: The rule at factor 1.
        prior: What is taken as known of pictures.
        factors: On σ, positive.
        deadline_s: Seconds for all of it.
        seed: Of the probes.

    Returns:
        A point for each factor.
    """
    jacobian = HeadJacobian(head, pixels)
    level = noise.level(jacobian.tensors)
    curve = gain_curve(
        jacobian,
        prior,
        level.sigma,
        mean=False,
        steps=STEPS,
        weakest=min(factors),
        deadline_s=deadline_s,
        seed=seed,
    )
    return tuple(
        CurvePoint(factor * level.relative, curve.gain(factor), curve.fsinfo(factor))
        for factor in factors
    )


def _paper(head: PixelHead, pixels: Tensor) -> Figure:
    found = fsinfo(head, pixels, kind="paper")
    return figure(
        "paper_fsinfo", "diagonal, epsilon, as the paper's code has it", found, NATS, "",
        "sigma 0.1", len(pixels),
    )  # fmt: skip
