"""FSInfoGuard with one σ: as much Gaussian noise as a bound on any attacker asks for.

The published guard (arXiv 2504.10016) takes another σ for every picture, which itself tells about
the picture, and none at all where the Jacobian has not full rank. One σ for all pictures,
calibrated by the information with a prior, does neither.
"""

from __future__ import annotations

from typing import ClassVar

from splitdeploy.attacks.defences.base import Defence, Victim, additive
from splitdeploy.attacks.defences.calibration import Budget, Calibrator, Guarded
from splitdeploy.attacks.defences.target import Target
from splitdeploy.attacks.leakage.noise import Noise, PrecisionNoise
from splitdeploy.attacks.leakage.prior import ImagePrior


class GuardBayesian(Defence):
    """One σ for a payload, at which FSInfo with the prior is as wanted.

    Where several tensors cross the cut, each has a σ in proportion to its root mean square.

    Args:
        target: How little may leak.
        prior: What is taken as known of pictures; None takes `default_prior`.
        rounding: What the payload carries without a guard: a target above its leakage needs none.
        budget: How the calibration may compute.
    """

    name: ClassVar[str] = "bayesian"
    paper: ClassVar[str] = "FSInfoGuard with one sigma, after arXiv 2504.10016"
    strength: ClassVar[str] = "target: fsinfo:NATS, gain:NATS per input element, or mse:VALUE"

    def __init__(
        self,
        target: Target,
        *,
        prior: ImagePrior | None = None,
        rounding: Noise | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._target, self._prior = target, prior
        self._rounding = PrecisionNoise("fp32") if rounding is None else rounding
        self._budget = Budget() if budget is None else budget

    def fit(self, victim: Victim, *, seed: int = 0) -> Guarded:
        """Calibrate σ.

        Args:
            victim: The cut model, and pictures like those that will be sent.
            seed: Of which pictures are taken, and of probes.

        Returns:
            The guarded model, with what it leaks.
        """
        calibrator = Calibrator(victim, self._target, self._prior, self._budget, seed)
        sigmas, calibration = calibrator.calibrate(calibrator.plain_shape, self._rounding)
        listed = ", ".join(f"{float(s):.4g}" for s in sigmas)
        return Guarded(
            victim.head,
            victim.tail,
            tuple(additive("gaussian", s) for s in sigmas),
            f"FSInfoGuard for {self._target}: Gaussian noise of sigma {listed} "
            f"({calibration.relative_sigma:.3g} of the root mean square)",
            calibration,
        )
