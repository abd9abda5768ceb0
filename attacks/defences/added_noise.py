"""Plain noise on the smashed data, the same for every element: what any finer defence must beat.

Its size is relative to the root mean square of each boundary tensor, so that rescaling the features
changes neither the protection nor the price.
"""

from __future__ import annotations

from typing import ClassVar

from splitdeploy.attacks.defences.base import Defence, Defended, Distribution, Victim, additive
from splitdeploy.attacks.defences.halves import check_number, root_mean_squares


class RelativeNoise(Defence):
    """sent = z + s·rms(z)·ε, with ε independent for each element and picture.

    Args:
        relative: s, above 0.

    Raises:
        DefenceError: It is not above 0.
    """

    distribution: ClassVar[Distribution]
    symbol: ClassVar[str]
    """What s is called, for people."""

    def __init__(self, relative: float) -> None:
        self.relative = check_number(
            f"a {self.symbol} relative to the smashed data's root mean square",
            relative,
            0.0,
            above=True,
        )

    def fit(self, victim: Victim, *, seed: int = 0) -> Defended:
        """Measure the boundary tensors; nothing is random about it.

        Args:
            victim: The cut model, and pictures to measure by.
            seed: Not needed.

        Returns:
            The same halves behind noise.
        """
        del seed
        scales = [self.relative * rms for rms in root_mean_squares(victim)]
        noise = tuple(additive(self.distribution, scale) for scale in scales)
        text = (
            f"{self.distribution.capitalize()} noise, {self.symbol} {self.relative:g} of the root "
            "mean square"
        )
        return Defended(victim.head, victim.tail, noise, text)


class GaussianNoise(RelativeNoise):
    """ε ~ N(0, 1)."""

    name = "gaussian"
    paper = "none of its own: the plain noise that finer defences are judged against"
    strength = "standard deviation over the root mean square of each boundary tensor, above 0"
    distribution = "gaussian"
    symbol = "standard deviation"


class LaplaceNoise(RelativeNoise):
    """ε ~ Laplace(0, 1), whose variance is 2: the standard deviation is √2 of the scale.

    Titcombe et al. 2021, "Practical defences against model inversion attacks for split neural
    networks", add it after the client's part.
    """

    name = "laplace"
    paper = "Titcombe et al. 2021, Practical defences against model inversion attacks"
    strength = "scale b over the root mean square of each boundary tensor, above 0 (deviation √2·b)"
    distribution = "laplace"
    symbol = "scale"
