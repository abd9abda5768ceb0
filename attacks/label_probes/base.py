"""The template of attacks on labels: from features to a class for each picture."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, final

from torch import Tensor

from splitdeploy.attacks.label_probes.target import LabelTarget
from splitdeploy.attacks.presets import WithPresets
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.profiles.errors import AttackError

WITH_LABELS = ThreatModel(
    weights=False, architecture=False, auxiliary_data=True, auxiliary_labels=True, queries=True,
    tail=True,
)  # fmt: skip
"""Of who runs the middle, holds a device, and has labelled pictures of his own."""


@dataclass(frozen=True)
class Guess:
    """What an attack says.

    Attributes:
        classes: ``[n]`` int64, one for each of the victim's pictures.
        up_to_names: Whether these are groups, whose classes the attack does not know.
        own_pictures: How many of his own the attacker learnt from.
        view: Which view of the features was taken; None where that is no question.
        penalty: The regularisation that was chosen; None where there is none.
        notes: What whoever reads the result should know.
        seconds: Wall-clock time.
    """

    classes: Tensor
    up_to_names: bool = False
    own_pictures: int = 0
    view: str | None = None
    penalty: float | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


class LabelAttack(WithPresets, ABC):
    """An attack on the labels behind a second cut; settings in the constructor, data in the call.

    Attributes:
        threat: What it needs to know.
        cost: What it takes, in words.
        paper: Whose idea it is.
        learns: Whether it learns from the attacker's own pictures, so that their number matters.
    """

    threat: ClassVar[ThreatModel]
    cost: ClassVar[str]
    paper: ClassVar[str]
    learns: ClassVar[bool] = False

    @final
    def __call__(self, target: LabelTarget) -> Guess:
        """Name the class of each picture.

        Args:
            target: The features, and what the attacker has.

        Returns:
            The classes.

        Raises:
            AttackError: The target lacks what the threat model takes for granted.
        """
        missing = target.lacks(self.threat)
        if missing:
            raise AttackError(f"{self.name} needs {' and '.join(missing)}, and there is none")
        began_s = time.perf_counter()
        guess = self._run(target.granted(self.threat))
        return replace(guess, seconds=time.perf_counter() - began_s)

    @abstractmethod
    def _run(self, target: LabelTarget) -> Guess:
        """Name the class of each picture.

        Args:
            target: What the threat model grants; all else is None.

        Returns:
            The classes.
        """
