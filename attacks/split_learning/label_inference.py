"""Label inference: what a server learns of labels that never leave the client.

Erdoğan, Küpçü and Çiçek ("UnSplit", WPES 2022, section 4.3): the gradient that each candidate label
would give is computed through a random clone of the client's last layers, and the closest to the
observed one wins. With their observable, ∂L/∂W of the last weight W (one sample a batch),

    ∂L/∂W = (p − y) hᵀ,    p = softmax(W h)

no clone is needed: the entries of p are positive and only the true class has 1 subtracted, so the
label is the one row against h. Where h is hidden, behind further layers of the client, the rows
still tell: all are multiples of one direction, and one of them points against the others.

A protocol shows the *boundary* gradient b = Jᵀ Wᵀ (p − y) instead, J the Jacobian of the client's
earlier layers (at depth one J = 1). A single b tells nothing: for any label there is a W that
explains it. Many tell which samples share a label, for b is a mix of w_k − w_y with positive
weights, of which each class has its own cone. They never tell which class a group *is*, since
renaming the classes changes neither features nor gradients; for that a server needs a label of each
group (`splitdeploy.attacks.split_learning.label_accuracy.named`), as it has where the pictures are
its own. Judge such groups beside `feature_groups`, which uses no gradient.

Label inference on a torch model::

    from splitdeploy.attacks.split_learning.label_accuracy import label_accuracy
    from splitdeploy.attacks.split_learning.label_inference import label_inference
    from splitdeploy.attacks.split_learning.observables import observe_gradients

    first, last = model[:-1], model[-1]
    seen = observe_gradients(last, first(images).detach(), labels, "weight")
    found = label_inference("sign")(last, seen)
    print(label_accuracy(found.labels, labels, classes=10))
    print(found.notes)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from splitdeploy.attacks.split_learning.directions import grouped, unit
from splitdeploy.attacks.split_learning.inferred import LabelInference
from splitdeploy.attacks.split_learning.label_clone import MatchedClone, RandomClone
from splitdeploy.attacks.split_learning.label_sign import SignRule
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.profiles.errors import UnknownNameError

THREAT = ThreatModel(weights=False)
"""The architecture of the client's last layers; the sign rule does without."""
COST = "seconds; one pass back for each class, or some hundred where a clone is trained"
PAPER = (
    "Erdoğan, Küpçü, Çiçek: UnSplit, WPES 2022; the sign rule after Zhao, Mopuri, Bilen: iDLG, 2020"
)

LABEL_INFERENCES: Mapping[str, LabelInference] = {
    "sign": SignRule(),
    "published": RandomClone(),
    "clone": RandomClone(update_every=0),
    "matched": MatchedClone(),
}
"""The presets; the first is the strongest where the weight gradient is seen."""


def label_inference(preset: str) -> LabelInference:
    """A label inference by name.

    Args:
        preset: One of `LABEL_INFERENCES`.

    Returns:
        The attack.

    Raises:
        UnknownNameError: There is no such preset.
    """
    if preset not in LABEL_INFERENCES:
        raise UnknownNameError("preset of label-inference", preset, LABEL_INFERENCES)
    return LABEL_INFERENCES[preset]


def feature_groups(features: Tensor, classes: int, seed: int = 0) -> Tensor:
    """What the server's own features tell without any gradient: the baseline of groups.

    Args:
        features: ``[n, …]``.
        classes: How many there are.
        seed: Of the grouping.

    Returns:
        ``[n]`` int64 on [0, classes).
    """
    return grouped(unit(features), classes, torch.Generator().manual_seed(seed))
