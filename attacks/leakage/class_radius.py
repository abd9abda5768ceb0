"""The intra-class mean-squared radius R_c² of the smashed data.

"Partitioning for Intrinsic Model Inversion Resistance in Collaborative Inference" (arXiv
2506.15412) finds that a cut resists inversion where the smashed data's spread about its class mean,
R_c² = E‖z − μ_y‖², takes over from its spread about the mean of all. It needs labels, one pass, and
no derivative; it bounds no attacker, and it moves with the scale of the smashed data, so that cuts
are compared by its share of the whole variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splitdeploy.profiles.errors import LeakageError
from splitdeploy.profiles.report import Estimate


@dataclass(frozen=True)
class ClassRadius:
    """How far smashed data lies from the mean of its class.

    Attributes:
        squared: R_c², in the unit of the smashed data squared, unbiased.
        variance: The same about the mean of all images, E‖z − μ‖².
        classes: How many classes had at least two images; the others say nothing of a radius.
    """

    squared: Estimate
    variance: float
    classes: int

    @property
    def share(self) -> float:
        """R_c² over the whole variance: near 1 where classes are not separated."""
        return self.squared.value / self.variance if self.variance > 0 else 0.0


def class_radius(features: Tensor, labels: Tensor) -> ClassRadius:
    """R_c² over the images of classes that have at least two.

    Args:
        features: Smashed data ``[n, …]``.
        labels: ``[n]``: the class of each image, integers.

    Returns:
        The radius; the standard error is that over images, about their classes as they are.

    Raises:
        LeakageError: No class has two images, or there are not as many labels as images.
    """
    if labels.shape != (len(features),):
        raise LeakageError(
            f"expected a label for each of {len(features)} images, got {tuple(labels.shape)}"
        )
    flat = features.detach().flatten(1).double()
    names, place, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    used = counts[place] >= 2
    if not bool(used.any()):
        raise LeakageError(
            f"expected two images of some class, got {len(flat)} of {len(names)} classes: give "
            "more images a class"
        )
    means = torch.zeros(len(names), flat.shape[1]).to(flat).index_add_(0, place, flat)
    means = means / counts.unsqueeze(1)
    squares = (flat - means[place]).square().sum(dim=1)[used]
    size = counts[place][used].double()
    unbiased = squares * size / (size - 1)
    error = float(unbiased.std()) / math.sqrt(len(unbiased))
    kept = flat[used]
    about_all = float((kept - kept.mean(dim=0)).square().sum()) / (len(kept) - 1)
    return ClassRadius(
        Estimate(float(unbiased.mean()), error), about_all, int((counts >= 2).sum())
    )  # fmt: skip
