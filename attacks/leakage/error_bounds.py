"""Lower bounds on the mean squared error of a reconstruction, a pixel on [0, 1].

With I the information of an image and Ī its mean, per input element (d of them):

    unbiased attackers   MSE ≥ tr(I⁻¹)/d ≥ (det I)^(-1/d) = e^(-2·FSInfo)/(2πe) ≥ d/tr(I) = 1/dFIL
    any attacker         E[MSE] ≥ e^(2h(X|Z)/d)/(2πe), with h(X|Z) = h(X) − I(X; Z) from below by
                         upper bounds on I(X; Z);  ≥ e^(-2·FSInfo_B)/(2πe) ≥ d/tr(C⁻¹ + Ī)

An unbiased attacker knows nothing of pictures. Whoever knows that pixels lie on [0, 1] is biased,
and beats the first line wherever noise is strong: those figures are for comparison alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from splitdeploy.attacks.leakage.exact import GAUSSIAN_ENTROPY
from splitdeploy.attacks.leakage.prior import ImagePrior
from splitdeploy.profiles.report import Estimate

Binds = Literal["unbiased", "any"]


@dataclass(frozen=True)
class ErrorBound:
    """A mean squared error that attackers do not get below.

    Attributes:
        name: In snake case, without the ``mse_`` that the table sets before it.
        text: What it comes from, in words.
        mse: A pixel on [0, 1].
        binds: ``unbiased``: attackers whose reconstruction is right on average, at each picture;
            ``any``: all attackers, on average over pictures.
        assumes: What else it rests on, in words.
    """

    name: str
    text: str
    mse: Estimate
    binds: Binds
    assumes: str


def from_exact(fsinfo: Estimate) -> ErrorBound:
    """(det I)^(-1/d), from FSInfo without a prior.

    Args:
        fsinfo: Nats per input element; finite, as without full rank there is no such bound.

    Returns:
        The bound. Averaged after the logarithm, it is at most the mean over images (Jensen).
    """
    return ErrorBound(
        "determinant",
        "determinant of the information",
        _exponential(fsinfo),
        "unbiased",
        "local, full rank",
    )


def from_dfil(dfil: Estimate) -> ErrorBound:
    """1/dFIL = d/tr(I) (Maeng et al. 2023; Hannun et al. 2021).

    Args:
        dfil: tr(I)/d, averaged over the images; positive.

    Returns:
        The bound, infinite where nothing passes.
    """
    if dfil.value <= 0:
        value = Estimate(math.inf, 0.0)
    else:
        value = Estimate(1.0 / dfil.value, dfil.standard_error / dfil.value**2)
    return ErrorBound("trace", "trace of the information (1/dFIL)", value, "unbiased", "local")


def from_bayesian(fsinfo: Estimate) -> ErrorBound:
    """det(C⁻¹ + Ī)^(-1/d), from the bayesian FSInfo.

    Args:
        fsinfo: Nats per input element.

    Returns:
        The bound.
    """
    return ErrorBound(
        "mean_determinant",
        "determinant of the mean information",
        _exponential(fsinfo),
        "any",
        "prior",
    )


def from_van_trees(mse: float) -> ErrorBound:
    """tr((C⁻¹ + Ī)⁻¹)/d from below, ring by ring of frequency (see `mse_lower_bound`).

    Args:
        mse: A pixel on [0, 1].

    Returns:
        The bound; its error was not estimated and is not a number.
    """
    return ErrorBound(
        "van_trees",
        "van Trees, by rings of frequency",
        Estimate(mse, math.nan),
        "any",
        "prior",
    )


def from_information(information: Estimate, prior: ImagePrior) -> ErrorBound:
    """e^(2(h(X) − I)/d)/(2πe), from any upper bound on I(X; Z).

    Args:
        information: Nats a picture.
        prior: Its entropy; where that is not known, what it is at least, which is det(J)^(-1/d)
            instead of e^(2h(X)/d)/(2πe).

    Returns:
        The bound.
    """
    d = prior.dimensions
    entropy = prior.entropy_at_least / d
    remaining = Estimate(information.value / d - entropy, information.standard_error / d)
    return ErrorBound(
        "covariance",
        "covariance of the smashed data",
        _exponential(remaining),
        "any",
        "prior, variances",
    )


def _exponential(fsinfo: Estimate) -> Estimate:
    """e^(-2·FSInfo)/(2πe), its error to first order."""
    value = math.exp(-2.0 * (fsinfo.value + GAUSSIAN_ENTROPY))
    return Estimate(value, 2.0 * value * fsinfo.standard_error)
