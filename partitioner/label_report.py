"""What came of the attacks on the labels behind a second cut: as figures, as JSON, in words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitdeploy.attacks.label_probes.few_shot import FewShot
from splitdeploy.attacks.label_probes.judging import LabelRecord, Truth
from splitdeploy.attacks.label_probes.last_layers import LastLayers
from splitdeploy.attacks.split_learning.label_accuracy import LabelAccuracy, label_accuracy
from splitdeploy.partitioner.attack_set import Skipped
from splitdeploy.profiles.cut import CutPoint, TensorSpec
from splitdeploy.profiles.errors import OutputError
from splitdeploy.profiles.store import write_atomically

FIGURES_FILE = "labels.json"


@dataclass(frozen=True)
class CutLabels:
    """The attacks on the labels at one pair of cuts.

    Attributes:
        model: Its name.
        weights: Where they come from, in words.
        cut: The first cut.
        return_at: The second.
        precision: Of what goes up and what comes back.
        images: How many pictures were attacked.
        image_source: Where they come from, in words.
        classes: How many the model tells apart.
        features: What the cloud has of the tensors that cross the second cut.
        withheld: Names of those that it has not.
        auxiliary: The attacker's own pictures, in words; None where he had none.
        seed: Of everything random.
        truth: What the attacks were judged by.
        result_seen: Whether the result itself is among the features.
        notes: What a reader has to know besides.
        attacks: Those that were run, in order.
        skipped: Those that were not, and why.
    """

    model: str
    weights: str
    cut: CutPoint
    return_at: str
    precision: str
    images: int
    image_source: str
    classes: int
    features: tuple[TensorSpec, ...]
    withheld: tuple[str, ...]
    auxiliary: str | None
    seed: int
    truth: Truth
    result_seen: bool
    notes: tuple[str, ...]
    attacks: tuple[LabelRecord, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @property
    def for_nothing(self) -> tuple[LabelAccuracy | None, LabelAccuracy]:
        """How often the most frequent class is the label, and the answer."""
        truth = self.truth
        labels = None if truth.labels is None else _most_frequent(truth.labels, truth.classes)
        return labels, _most_frequent(truth.answers, truth.classes)

    @property
    def strongest(self) -> LabelRecord | None:
        """Of the attacks without the last layers and without an oracle, the one that tells most."""
        rows = [r for r in self.attacks if r.name != LastLayers.name and not r.oracle]
        return max(rows, key=lambda record: record.told.accuracy, default=None)

    @property
    def verdict(self) -> tuple[str, ...]:
        """In words: of who has the whole model, then of who has not."""
        if self.result_seen:
            return (f"The result itself crosses {self.return_at}: the cloud has it.",)
        return (self._of_the_whole_model(), self._of_the_others())

    def _of_the_whole_model(self) -> str:
        for row in self.attacks:
            if row.name == LastLayers.name:
                return (
                    "From someone who has the whole model, as all have of a published one, the "
                    "return hides nothing: he runs the last layers himself and has every answer by "
                    f"construction, but for rounding ({row.answers.accuracy:.1%} the same here)."
                )
        if self.withheld:
            return (
                f"Who has the whole model cannot simply run the last layers: {self.withheld[0]} "
                "stays at the edge, and what he makes of the rest was not tried."
            )
        return "Whoever has the whole model has the result by running the last layers himself."

    def _of_the_others(self) -> str:
        best = self.strongest
        if best is None:
            return (
                "Nobody who learns from pictures of his own was tried: give some with --aux-images."
            )
        what = "answers" if best.labels is None else "labels"
        low, high = best.told.ci95
        return (
            f"Without the last layers, {best.name} with {best.own_pictures} pictures of the "
            f"attacker's own tells {best.told.accuracy:.1%} of the {what} ({low:.1%} to "
            f"{high:.1%}; {best.told.chance:.1%} come for nothing): it {best.verdict}."
        )

    def to_json(self) -> dict[str, Any]:
        """Its document, ready for ``json.dumps``."""
        labels, answers = self.for_nothing
        best = self.strongest
        return {
            "model": self.model,
            "weights": self.weights,
            "cut": self.cut.name,
            "return_at": self.return_at,
            "precision": self.precision,
            "images": self.images,
            "image_source": self.image_source,
            "labelled": self.truth.labels is not None,
            "classes": self.classes,
            "features": [{"name": t.name, "shape": list(t.shape)} for t in self.features],
            "withheld": list(self.withheld),
            "result_seen": self.result_seen,
            "auxiliary": self.auxiliary,
            "seed": self.seed,
            "most_frequent_class": {"labels": _accuracy(labels), "answers": _accuracy(answers)},
            "model_accuracy": _accuracy(self.truth.model),
            "attacks": [_record(record) for record in self.attacks],
            "strongest_attack": None if best is None else best.name,
            "verdict": list(self.verdict),
            "not_run": [{"attack": s.label, "reason": s.reason} for s in self.skipped],
            "notes": list(self.notes),
        }


def write_labels(found: CutLabels, out: Path) -> None:
    """Write the figures.

    Args:
        found: The attacks.
        out: The folder; made where it is missing.

    Raises:
        OutputError: The place cannot be written.
    """
    document = json.dumps(found.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {out}: {error}; choose another --out") from error
    write_atomically(out / FIGURES_FILE, document + "\n")


def _most_frequent(truth: Any, classes: int) -> LabelAccuracy:
    return label_accuracy(truth.mode().values.expand(len(truth)), truth, classes)


def _record(record: LabelRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "preset": record.preset,
        "threat_model": record.threat_model,
        "labels": _accuracy(record.labels),
        "answers": _accuracy(record.answers),
        "share_of_result": record.share_of_result,
        "oracle": record.oracle,
        "own_pictures": record.own_pictures,
        "view": record.view,
        "penalty": record.penalty,
        "seconds": record.seconds,
        "few_shot": [_few(one) for one in record.few_shot],
        "notes": list(record.notes),
        "verdict": record.verdict,
    }


def _few(one: FewShot) -> dict[str, Any]:
    return {
        "pictures_a_class": one.per_class,
        "pictures": one.pictures,
        "mean": one.mean,
        "draws": list(one.accuracies),
    }


def _accuracy(found: LabelAccuracy | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "share": found.accuracy,
        "ci95": list(found.ci95),
        "chance": found.chance,
        "named_by": found.named_by,
    }
