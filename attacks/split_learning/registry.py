"""The attacks on split learning by name, as rows like those of `splitdeploy.attacks.registry`.

They meddle with or listen to a training, so they are called with its parties instead of on an
`AttackTarget`. Adding one: its file, its row here.
"""

from __future__ import annotations

from splitdeploy.attacks.named import described
from splitdeploy.attacks.split_learning import label_inference
from splitdeploy.attacks.split_learning.fsha import Fsha


def split_attacks_table() -> list[dict[str, str]]:
    """What there is: for each attack its name, presets, threat model, cost and paper."""
    return [
        *described([Fsha]),
        {
            "name": "label-inference",
            "presets": ", ".join(label_inference.LABEL_INFERENCES),
            "threat_model": str(label_inference.THREAT),
            "cost": label_inference.COST,
            "paper": label_inference.PAPER,
        },
    ]
