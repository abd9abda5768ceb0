"""All that is asked of a reconstruction once the originals may be seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from splitdeploy.attacks.baselines import best_baseline
from splitdeploy.attacks.identification import Classifier, class_kept, identify
from splitdeploy.attacks.perceptual import lpips
from splitdeploy.attacks.quality import judge
from splitdeploy.attacks.verdict import verdict
from splitdeploy.profiles.report import Baseline

OWN_CLASSIFIER = "the victim's own model"

_WEAK = "weak evidence: an attack that matches its features matches its answers"


@dataclass(frozen=True)
class Judges:
    """What reconstructions are judged by, beside their originals.

    Attributes:
        gallery: Other pictures ``[m, c, h, w]`` on [0, 1], among which the originals are sought;
            None for no identification.
        classifier: Whether it still sees the class is asked; None for not.
        classifier_name: In words.
        perceptual: Whether LPIPS is computed, where its network is at hand.
        baseline: The best guess on the originals; None to work it out.
    """

    gallery: Tensor | None = None
    classifier: Classifier | None = None
    classifier_name: str = OWN_CLASSIFIER
    perceptual: bool = False
    baseline: Baseline | None = None


def judged(
    pixels: Tensor, originals: Tensor, judges: Judges, *, converged: bool
) -> Mapping[str, Any]:
    """Judge reconstructions.

    Args:
        pixels: The reconstructions, ``[n, c, h, w]``.
        originals: In the same order.
        judges: What else to judge by.
        converged: Whether the attack had come to its end.

    Returns:
        The fields of an attack's record that rest on the originals, and ``notes`` on them.
    """
    quality = judge(pixels, originals)
    baseline = judges.baseline or best_baseline(originals)
    fields: dict[str, Any] = {**vars(quality), "notes": ()}
    identified = None if judges.gallery is None else identify(pixels, originals, judges.gallery)
    if identified is not None and identified.gallery > 1:
        fields |= {
            "identified": identified.rate,
            "identified_ci95": identified.ci95,
            "identified_chance": identified.chance,
        }
    if judges.classifier is not None:
        kept = class_kept(judges.classifier, pixels, originals)
        weak = f" ({_WEAK})" if judges.classifier_name == OWN_CLASSIFIER else ""
        fields["class_kept"] = kept.rate
        fields["notes"] += (f"class told by {judges.classifier_name}{weak}",)
    if judges.perceptual:
        distance = lpips(pixels, originals)
        fields["lpips"] = distance.value
        fields["notes"] += (distance.text,)
    known = identified if "identified" in fields else None
    fields["verdict"] = verdict(quality, baseline, known, converged=converged).text
    return fields
