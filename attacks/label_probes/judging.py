"""How many labels came back, beside what comes for nothing and what the result would tell."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from splitdeploy.attacks.label_probes.base import Guess, LabelAttack
from splitdeploy.attacks.label_probes.few_shot import FewShot
from splitdeploy.attacks.split_learning.label_accuracy import (
    LabelAccuracy,
    grouping_accuracy,
    label_accuracy,
)

_ALL, _MOST = 0.95, 0.5
"""Of what the result itself would tell."""


@dataclass(frozen=True)
class Truth:
    """What an attack is judged by; it never has it.

    Attributes:
        answers: ``[n]`` int64: what the model answers, as it is deployed.
        classes: How many it tells apart.
        labels: ``[n]`` int64: the true classes; None where nobody knows them.
    """

    answers: Tensor
    classes: int
    labels: Tensor | None = None

    @property
    def model(self) -> LabelAccuracy | None:
        """How often the model itself is right; None without labels."""
        if self.labels is None:
            return None
        return label_accuracy(self.answers, self.labels, self.classes)


@dataclass(frozen=True)
class LabelRecord:
    """What came of one attack on the labels.

    Attributes:
        name: The attack's.
        preset: Its settings, by name.
        threat_model: What the attacker knows, in words.
        labels: The share of true labels that it told; None where nobody knows them.
        answers: The share of pictures where it says what the model answers.
        share_of_result: How far it came from the most frequent class to what the result itself
            would tell: 0 to 1, of the labels where they are known, else of the answers.
        oracle: Whether the truth named its groups.
        own_pictures: How many pictures of his own the attacker learnt from.
        view: Which view of the features it took; None where that is no question.
        penalty: The regularisation that the attacker's own pictures chose; None for none.
        seconds: Wall-clock time.
        few_shot: The same with fewer pictures of his own.
        notes: What a reader has to know besides.
        verdict: In words.
    """

    name: str
    preset: str
    threat_model: str
    labels: LabelAccuracy | None
    answers: LabelAccuracy
    share_of_result: float
    oracle: bool
    own_pictures: int
    view: str | None
    penalty: float | None
    seconds: float
    few_shot: tuple[FewShot, ...]
    notes: tuple[str, ...]
    verdict: str

    @property
    def told(self) -> LabelAccuracy:
        """The share of labels, or of answers where nobody knows the labels."""
        return self.labels if self.labels is not None else self.answers


def judge_labels(
    attack: LabelAttack, guess: Guess, truth: Truth, few_shot: tuple[FewShot, ...] = ()
) -> LabelRecord:
    """Judge what an attack said.

    Args:
        attack: Which.
        guess: What it said.
        truth: The answers, and the labels where they are known.
        few_shot: The same with fewer pictures of the attacker's own.

    Returns:
        The record.
    """
    judge = grouping_accuracy if guess.up_to_names else label_accuracy
    answers = judge(guess.classes, truth.answers, truth.classes)
    labels = None if truth.labels is None else judge(guess.classes, truth.labels, truth.classes)
    told, most = answers, 1.0
    if labels is not None and truth.model is not None:
        told, most = labels, truth.model.accuracy
    share = share_of_result(told, most)
    return LabelRecord(
        name=attack.name, preset=attack.preset_name, threat_model=str(attack.threat),
        labels=labels, answers=answers, share_of_result=share, oracle=guess.up_to_names,
        own_pictures=guess.own_pictures, view=guess.view, penalty=guess.penalty,
        seconds=guess.seconds, few_shot=few_shot, notes=guess.notes, verdict=_words(told, share),
    )  # fmt: skip


def share_of_result(told: LabelAccuracy, most: float) -> float:
    """How far an attack came from what comes for nothing to what the result itself would tell.

    Args:
        told: The attack's.
        most: The share that the result itself would tell.

    Returns:
        On [0, 1]; 0 where the attack does not beat chance, 1 where there is nothing between.
    """
    if not told.beats_chance:
        return 0.0
    room = most - told.chance
    return min(1.0, (told.accuracy - told.chance) / room) if room > 0 else 1.0


def _words(told: LabelAccuracy, share: float) -> str:
    if not told.beats_chance:
        return f"tells nothing, no better than the {told.chance:.0%} that come for nothing"
    if share >= _ALL:
        return "tells what the result itself would tell"
    how = "most" if share >= _MOST else "a part"
    return (
        f"tells {how} of it, {share:.0%} of the way from what comes for nothing to what the result "
        "itself would tell"
    )
