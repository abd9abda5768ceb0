"""Whether a second cut hides the labels: CIFAR-10 and a trained ResNet-20, return after return.

    python benchmarks/labels_behind.py --data DIR [--out FILE]

DIR is as `cifar.py` says. The second cut lies at several depths; the cloud has the features there.
Attacked are the 393 lossless test images. The attacker's own pictures are JPEG test images, 500 of
each class, which neither the victim was trained on nor are among those attacked: of the same
distribution, but for the compression. Some minutes on a core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cifar
import torch
from torch import Tensor

from splitdeploy.attacks.label_probes.few_shot import few_shot
from splitdeploy.attacks.label_probes.held_out import some_of_each
from splitdeploy.attacks.label_probes.judging import LabelRecord, Truth, judge_labels
from splitdeploy.attacks.label_probes.registry import ORDER
from splitdeploy.attacks.label_probes.target import LabelTarget
from splitdeploy.attacks.label_probes.views import views_of

DEPTH, CLASSES, OWN, SEED, BATCH = 20, 10, 500, 0, 128
"""OWN: the attacker's pictures of each class."""

RETURNS = ("layer1.2", "layer2.2", "layer3.0", "layer3.1", "avgpool")
"""What crosses the second cut: a block's output, or the means that the last layer reads."""

COUNTS = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Seen:
    """What the net makes of some pictures."""

    views: dict[str, dict[str, Tensor]]
    answers: Tensor


def main() -> None:
    """Print a row a return and attack, and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("labels_behind.json"))
    parser.add_argument("--returns", default=",".join(RETURNS))
    arguments = parser.parse_args()
    net = cifar.load_resnet(arguments.data, DEPTH)
    test, everyone = cifar.lossless(arguments.data), cifar.jpeg_test(arguments.data, 10_000)
    rows = some_of_each(everyone.labels, OWN, torch.Generator().manual_seed(SEED))
    own = cifar.Pictures(everyone.images[rows], everyone.labels[rows])
    seen, his = look(net, test), look(net, own)
    truth = Truth(seen.answers, CLASSES, test.labels)
    print(f"the model itself: {truth.model}")
    found = []
    for name in arguments.returns.split(","):
        target = LabelTarget(
            seen.views[name], CLASSES, own=his.views[name], own_labels=own.labels,
            own_answers=his.answers, finished=seen.answers,
        )  # fmt: skip
        for record in attacked(target, truth):
            found.append(row(name, record))
            print(json.dumps(found[-1]), flush=True)
            arguments.out.write_text(json.dumps(found, indent=1))


@torch.no_grad()
def look(net: cifar.Resnet, pictures: cifar.Pictures) -> Seen:
    """Features at every return, and answers."""
    parts: dict[str, list[dict[str, Tensor]]] = {name: [] for name in RETURNS}
    answers = []
    names = [name for name, _ in net.blocks()]
    for batch in torch.split(pictures.images, BATCH):
        maps = dict(zip(names, cifar.all_cuts(net, batch.float() / 255.0), strict=True))
        maps["avgpool"] = maps[names[-1]].mean((2, 3))
        for name, held in parts.items():
            held.append(views_of([maps[name]]))
        answers.append(net.linear(maps["avgpool"]).argmax(1))
    views = {
        name: {view: torch.cat([one[view] for one in held]) for view in held[0]}
        for name, held in parts.items()
    }
    return Seen(views, torch.cat(answers))


def attacked(target: LabelTarget, truth: Truth) -> Sequence[LabelRecord]:
    """Every attack on one return."""
    assert truth.labels is not None
    found = []
    for kind in ORDER:
        attack = kind.preset(seed=SEED)
        fewer = few_shot(attack, target, truth.labels, counts=COUNTS) if attack.learns else ()
        found.append(judge_labels(attack, attack(target), truth, fewer))
    return found


def row(name: str, record: LabelRecord) -> dict[str, Any]:
    """What is kept of an attack."""
    assert record.labels is not None
    return {
        "return_at": name,
        "attack": record.name,
        "labels": round(record.labels.accuracy, 4),
        "labels_ci95": [round(bound, 4) for bound in record.labels.ci95],
        "chance": round(record.labels.chance, 4),
        "answers": round(record.answers.accuracy, 4),
        "answers_ci95": [round(bound, 4) for bound in record.answers.ci95],
        "share_of_result": round(record.share_of_result, 3),
        "oracle": record.oracle,
        "own_pictures": record.own_pictures,
        "view": record.view,
        "penalty": record.penalty,
        "seconds": round(record.seconds, 2),
        "pictures_a_class": {one.per_class: round(one.mean, 4) for one in record.few_shot},
        "worst_and_best_draw": {
            one.per_class: [round(min(one.accuracies), 4), round(max(one.accuracies), 4)]
            for one in record.few_shot
        },
        "verdict": record.verdict,
    }


if __name__ == "__main__":
    main()
