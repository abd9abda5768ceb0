"""What a user lends the attacker: pictures of his own, a generator of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from splitdeploy.profiles.errors import ImagesError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from splitdeploy.attacks.auxiliary import Kinship

KINSHIPS: dict[str, Kinship] = {
    "same-set": "same set",
    "same-distribution": "same distribution",
    "other": "other distribution",
    "unknown": "unknown",
}
"""How the attacker's pictures relate to the victim's, as users name it."""


@dataclass(frozen=True)
class Lent:
    """Where the attacker's own things come from.

    Attributes:
        images: A folder of pictures; None for none.
        labels: A CSV file of their classes, or None.
        kinship: A key of `KINSHIPS`.
        prior: A generator's file or ``package.module:factory``; None for none.
    """

    images: Path | None = None
    labels: Path | None = None
    kinship: str = "unknown"
    prior: str | None = None

    def check(self) -> None:
        """Refuse what can be refused before anything is loaded.

        Raises:
            UnknownNameError: There is no such kinship.
            UsageError: There are labels and no pictures.
            ImagesError: There is no such folder.
        """
        if self.kinship not in KINSHIPS:
            raise UnknownNameError("kinship of pictures", self.kinship, KINSHIPS)
        if self.labels is not None and self.images is None:
            raise UsageError(
                f"expected --aux-images DIR with the pictures that {self.labels} labels, got none"
            )
        if self.images is not None and not self.images.is_dir():
            raise ImagesError(
                f"expected a folder of the attacker's pictures, got {self.images}, which is none: "
                "give one with --aux-images"
            )
