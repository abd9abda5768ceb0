"""The strength of noise at which the smashed data leaks as much as a target says, and no more.

The leakage is that of the mean information over pictures, as the guard has it: it falls strictly as
the noise grows, and bounds any attacker on pictures of the prior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splitdeploy.attacks.defences.target import Target
from splitdeploy.attacks.leakage.curve import GainCurve, gain_curve
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.noise import Noise
from splitdeploy.attacks.leakage.prior import ImagePrior
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import LeakageError

_FAINT = 1e-3
"""A gain that is as good as none, nats per input element: for saying what can be reached."""


@dataclass(frozen=True)
class Reached:
    """What noise reaches a target.

    Attributes:
        target: What was asked for.
        sigma: Of each boundary tensor, in its unit, for one query; root-mean-squared over elements.
        relative: σ over its tensor's root mean square, root-mean-squared over the elements.
        factor: On the noise that was given.
        queries: How often each picture is sent, with fresh noise each time.
        standard_error: Of the leakage there, nats per input element, from the curve.
    """

    target: Target
    sigma: tuple[float, ...]
    relative: float
    factor: float
    queries: int
    standard_error: float

    def text(self) -> str:
        """In a sentence."""
        each = ", ".join(f"{sigma:.4g}" for sigma in self.sigma)
        sent = "" if self.queries == 1 else f" at each of {self.queries} queries"
        return (
            f"{self.target} takes noise of sigma {each}{sent}: {self.relative:.4g} of the smashed "
            f"data's root mean square, {self.factor:.4g} times the noise above"
        )

    def to_json(self) -> dict[str, Any]:
        """As ``--format json`` prints it."""
        return {
            "target": str(self.target),
            "sigma": list(self.sigma),
            "noise_sigma": self.relative,
            "factor": self.factor,
            "queries": self.queries,
            "standard_error": self.standard_error,
        }


def noise_for(
    head: PixelHead,
    pixels: Tensor,
    target: Target,
    *,
    noise: Noise,
    queries: int = 1,
    prior: ImagePrior,
    deadline_s: float | None = None,
    seed: int = 0,
) -> Reached:
    """What noise reaches a target, as a multiple of a given one.

    Args:
        head: From pixels, in eval mode.
        pixels: ``[n, c, h, w]`` on [0, 1], over which the information is averaged.
        target: The leakage.
        noise: Its shape: the σ of the boundary tensors, relative to each other.
        queries: How often each picture is sent: n queries have n-fold information, and so take √n
            times the noise.
        prior: What is taken as known of pictures.
        deadline_s: Seconds for the curve.
        seed: Of its probes.

    Returns:
        The noise of one query.

    Raises:
        LeakageError: No noise reaches the target; the nearest that can be reached is told.
    """
    jacobian = HeadJacobian(head, pixels)
    level = noise.level(jacobian.tensors)
    curve = gain_curve(
        jacobian, prior, level.sigma, mean=True, seed=seed, deadline_s=deadline_s
    )  # fmt: skip
    own = curve.shift
    wanted = target.fsinfo(own) - own
    _check_reach(curve, target, wanted, level.relative * math.sqrt(queries))
    factor = curve.factor_for(gain=wanted)
    each = factor * math.sqrt(queries)
    parts = torch.split(level.sigma.double(), [t[0].numel() for t in jacobian.tensors])
    return Reached(
        target=target,
        sigma=tuple(each * float(part.square().mean().sqrt()) for part in parts),
        relative=level.relative * each,
        factor=each,
        queries=queries,
        standard_error=curve.gain(factor).standard_error,
    )


def _check_reach(curve: GainCurve, target: Target, wanted: float, relative: float) -> None:
    """Refuse what no noise reaches, and tell the nearest that can be reached."""
    own, (low, high) = curve.shift, curve.factors
    most, least = curve.gain(low).value, curve.gain(high).value
    if least < wanted <= most:
        return
    if wanted > most:
        nearest, at = most, low
        why = "less noise than that is the rounding of the head itself"
    else:
        nearest = min(_FAINT, most / 2)
        at = curve.factor_for(gain=nearest) if most > 0 else low
        why = f"pictures of the prior have {target.of_fsinfo(own, own)} before anything is sent"
    raise LeakageError(
        f"expected a target that noise can reach, got {target}: {why}; the nearest is "
        f"{target.of_fsinfo(nearest + own, own)}, at a relative sigma of {at * relative:.3g}"
    )
