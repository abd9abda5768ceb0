"""The prior that a user declares: the default, one from a file, or one learned from a folder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from splitdeploy.attacks.images import load_photographs
from splitdeploy.attacks.leakage.prior import ImagePrior, default_prior
from splitdeploy.attacks.leakage.score_file import load_prior, save_prior
from splitdeploy.attacks.leakage.score_prior import EPOCHS, fit_score_prior
from splitdeploy.partitioner.progress import Reporter
from splitdeploy.profiles.errors import LeakageError, UsageError

_MOST_ELEMENTS = 1 << 28
"""Of all pictures together, 1 GiB: more than that are not learned from."""


@dataclass(frozen=True)
class PriorChoice:
    """Which prior is asked for.

    Attributes:
        name: ``gaussian``, ``fit``, or the path of a file that was learned before.
        images: What ``fit`` learns from; other pictures than those that are measured.
        save_to: The file that ``fit`` is kept in; None for no file.
    """

    name: str = "gaussian"
    images: Path | None = None
    save_to: Path | None = None

    def __post_init__(self) -> None:
        if self.name == "fit" and self.images is None:
            raise UsageError("expected --prior-images DIR with --prior fit: what to learn it from")
        if self.name != "fit" and self.images is not None:
            raise UsageError(
                f"expected --prior fit with --prior-images, got --prior {self.name}: only fit "
                "learns from pictures"
            )


def declared_prior(
    choice: PriorChoice,
    shape: tuple[int, int, int],
    *,
    measured: Path | None,
    deadline_s: float | None,
    seed: int,
    reporter: Reporter,
) -> ImagePrior:
    """Make the prior that was asked for.

    Args:
        choice: Which.
        shape: ``(c, h, w)`` of the pictures that are measured.
        measured: Their folder, which none may be learned from.
        deadline_s: Seconds for learning; None for as many epochs as there are.
        seed: Of the learning.
        reporter: Told after each epoch.

    Returns:
        The prior.

    Raises:
        LeakageError: The file is no prior of that shape.
        UsageError: It is to be learned from the pictures that are measured.
    """
    if choice.name == "gaussian":
        return default_prior(shape)
    if choice.images is None:
        loaded = load_prior(choice.name)
        if loaded.shape != shape:
            raise LeakageError(
                f"expected a prior of pictures of {shape}, got {choice.name} of {loaded.shape}: "
                "learn one with --prior fit --prior-images DIR"
            )
        return loaded
    if measured is not None and measured.resolve() == choice.images.resolve():
        raise UsageError(
            f"expected --prior-images other than --images, got {choice.images} for both: a prior "
            "that knows the pictures says nothing of what leaks"
        )
    count = max(1, _MOST_ELEMENTS // math.prod(shape))
    pictures = load_photographs(choice.images, shape=shape, count=count, seed=seed)
    reporter.stage("learning the prior", EPOCHS)
    found = fit_score_prior(
        torch.from_numpy(pictures.pixels),
        seed=seed,
        deadline_s=deadline_s,
        progress=lambda _epoch, _error: reporter.advance(),
    )
    if choice.save_to is not None:
        choice.save_to.parent.mkdir(parents=True, exist_ok=True)
        save_prior(found, choice.save_to)
    return found
