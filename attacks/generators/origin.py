"""Where a generator comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """What a generator was trained on, how, and how near it comes to pictures it never saw.

    Attributes:
        method: ``autoencoding`` or ``adversarial``.
        pictures: How many it was trained on.
        digest: Of them (`splitdeploy.attacks.checkpoint.digest`).
        kinship: How they relate to the victim's, as far as whoever collected them can say.
        steps: Of the training.
        seed: Of the training.
        held_out: How many of the pictures it was not trained on, and is measured by.
        held_out_psnr_db: Of those, the best that a latent gives
            (`splitdeploy.attacks.generators.nearest.nearest_psnr_db`), averaged.
        flat_psnr_db: Of each one's mean colour, to compare with.
    """

    method: str
    pictures: int
    digest: str
    kinship: str
    steps: int
    seed: int
    held_out: int
    held_out_psnr_db: float
    flat_psnr_db: float

    def __str__(self) -> str:
        """In a phrase."""
        return (
            f"{self.method}, {self.steps} steps on {self.pictures} pictures ({self.kinship}, "
            f"digest {self.digest}), seed {self.seed}; {self.held_out} held-out pictures at "
            f"{self.held_out_psnr_db:.2f} dB (flat colour {self.flat_psnr_db:.2f} dB)"
        )
