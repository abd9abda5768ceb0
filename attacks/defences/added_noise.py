"""Plain noise on the smashed data, the same for every element: what any finer defence must beat.

Its size is relative to the root mean square of each boundary tensor, so that rescaling the features
changes neither the protection nor the price.
"""

from __future__ import annotations

from splitdeploy.attacks.defences.base import Defence, Defended, Distribution, Victim, additive
from splitdeploy.attacks.defences.halves import check_number, root_mean_squares


class GaussianNoise(Defence):
    """sent = z + σ·rms(z)·ε with ε ~ N(0, 1), independent for each element and picture.

    Args:
        relative_sigma: σ, above 0.

    Raises:
        DefenceError: It is not above 0.
    """

    name = "gaussian"
    paper = "none of its own: the plain noise that finer defences are judged against"
    strength = "standard deviation over the root mean square of each boundary tensor, above 0"

    def __init__(self, relative_sigma: float) -> None:
        self.relative_sigma = check_number(
            "a standard deviation relative to the smashed data's root mean square",
            relative_sigma,
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
        text = f"Gaussian noise, σ = {self.relative_sigma:g} of the root mean square"
        return _behind_noise(victim, "gaussian", self.relative_sigma, text)


class LaplaceNoise(Defence):
    """sent = z + b·rms(z)·ε with ε ~ Laplace(0, 1), whose variance is 2.

    Titcombe et al. 2021, "Practical defences against model inversion attacks for split neural
    networks", add it after the client's part.

    Args:
        relative_scale: b, above 0; the noise's standard deviation is √2 of it.

    Raises:
        DefenceError: It is not above 0.
    """

    name = "laplace"
    paper = "Titcombe et al. 2021, Practical defences against model inversion attacks"
    strength = "scale b over the root mean square of each boundary tensor, above 0 (deviation √2·b)"

    def __init__(self, relative_scale: float) -> None:
        self.relative_scale = check_number(
            "a scale relative to the smashed data's root mean square",
            relative_scale,
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
        text = f"Laplace noise, scale {self.relative_scale:g} of the root mean square"
        return _behind_noise(victim, "laplace", self.relative_scale, text)


def _behind_noise(
    victim: Victim, distribution: Distribution, relative: float, text: str
) -> Defended:
    scales = [relative * rms for rms in root_mean_squares(victim)]
    noise = tuple(additive(distribution, scale) for scale in scales)
    return Defended(victim.head, victim.tail, noise, text)
