"""How little may leak, as a user says it: a target that noise is calibrated to.

A bound on the mean squared error a pixel and FSInfo are the same thing said twice,
MSE ≥ e^(-2·FSInfo)/(2πe); the gain is FSInfo above the prior's own, −h(X)/d.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

from splitdeploy.profiles.errors import UsageError

TargetKind = Literal["fsinfo", "gain", "mse"]

_TWO_PI_E = 2.0 * math.pi * math.e
_FORMS = "fsinfo:NATS (any sign), gain:NATS (above 0) or mse:VALUE (above 0)"


@dataclass(frozen=True)
class Target:
    """A leakage to be reached.

    Attributes:
        kind: ``fsinfo`` or ``gain``, nats per input element; ``mse``: the lower bound on the mean
            squared error of a pixel on [0, 1].
        value: In that unit; finite, and positive but for ``fsinfo``.

    Raises:
        UsageError: The kind is none of those, or the value out of its range.
    """

    kind: TargetKind
    value: float

    def __post_init__(self) -> None:
        if self.kind not in {"fsinfo", "gain", "mse"}:
            raise UsageError(f"expected a target {_FORMS}, got the kind {self.kind!r}")
        if not math.isfinite(self.value) or (self.kind != "fsinfo" and self.value <= 0):
            wanted = "a finite" if self.kind == "fsinfo" else "a positive"
            raise UsageError(
                f"expected {wanted} number in the target {self.kind}:…, got {self.value:g}"
            )

    def fsinfo(self, prior_fsinfo: float) -> float:
        """The target as FSInfo.

        Args:
            prior_fsinfo: The prior's own, −h(X)/d: what no smashed data at all has.

        Returns:
            Nats per input element.
        """
        if self.kind == "gain":
            return self.value + prior_fsinfo
        return self.value if self.kind == "fsinfo" else mse_to_fsinfo(self.value)

    def of_fsinfo(self, fsinfo: float, prior_fsinfo: float) -> Target:
        """The target of this one's kind that a given FSInfo is: to say what could be reached.

        Args:
            fsinfo: Nats per input element.
            prior_fsinfo: As `fsinfo` takes it.

        Returns:
            The target.
        """
        if self.kind == "gain":
            return Target("gain", max(fsinfo - prior_fsinfo, math.ulp(0.0)))
        return Target(self.kind, fsinfo if self.kind == "fsinfo" else fsinfo_to_mse(fsinfo))

    def __str__(self) -> str:
        """As `parse_target` reads it, shortened."""
        return f"{self.kind}:{self.value:.6g}"


def mse_to_fsinfo(mse: float) -> float:
    """The FSInfo at which e^(-2·FSInfo)/(2πe) is a given mean squared error.

    Args:
        mse: A pixel on [0, 1]; positive.

    Returns:
        Nats per input element.
    """
    return -0.5 * (math.log(_TWO_PI_E) + math.log(mse))


def fsinfo_to_mse(fsinfo: float) -> float:
    """e^(-2·FSInfo)/(2πe): a lower bound on the mean squared error.

    Args:
        fsinfo: Nats per input element.

    Returns:
        A pixel on [0, 1].
    """
    return math.exp(-2.0 * fsinfo) / _TWO_PI_E


def parse_target(text: str) -> Target:
    """A target from a command line.

    Args:
        text: ``fsinfo:-1``, ``gain:0.5`` or ``mse:0.02``.

    Returns:
        The target.

    Raises:
        UsageError: The text is none.
    """
    kind, colon, number = text.strip().partition(":")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not colon or kind not in {"fsinfo", "gain", "mse"} or math.isnan(value):
        raise UsageError(f"expected a target {_FORMS}, got {text!r}")
    return Target(cast("TargetKind", kind), value)
