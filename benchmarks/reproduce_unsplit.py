"""UnSplit (Erdoğan, Küpçü and Çiçek 2022), Tables 2 and 3: pictures, clones and labels.

Published: mean squared error of ten test images, one of each class, and the accuracy of the clone
on the test set. Ours: the first test images, fitted together with one clone, as a server sees many
from one client; the clone's accuracy is that of clone head and server tail on 2,000 test images
(all 393 lossless ones for CIFAR-10). A mean squared error alone certifies nothing here, as the best
trivial answer is close to most published figures: SSIM stands beside it.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import reproduction
import torch
import victims
from reproduction import Bench, Setting
from torch import Tensor

from splitdeploy.attacks.baselines import best_baseline
from splitdeploy.attacks.intervals import wilson95
from splitdeploy.attacks.pictures import save_comparison
from splitdeploy.attacks.quality import judge
from splitdeploy.attacks.split_learning.label_accuracy import grouping_accuracy, label_accuracy
from splitdeploy.attacks.split_learning.label_inference import label_inference
from splitdeploy.attacks.split_learning.observables import observe_gradients
from splitdeploy.attacks.target import AttackTarget
from splitdeploy.attacks.unsplit import UnSplit, clone_accuracy, unsplit

INVERSION, LABELS = "inversion and stealing (Table 2)", "label inference (Table 3)"
COLUMNS = ("data", "cut or depth", "client")
FIGURES = ("mse", "ssim", "accuracy")

TRAINED, UNTRAINED = "trained", "untrained"

LENET_CUTS = ("ReLU1", "pool1", "conv2", "ReLU2", "pool2", "fc1")
CIFAR_CUTS = ("ReLU11", "conv12", "ReLU12", "pool1", "conv21", "ReLU21", "conv22", "ReLU22")

PUBLISHED = {
    (victims.MNIST, TRAINED): (
        (0.054, 97.45), (0.056, 95.69), (0.060, 93.75), (0.119, 76.27), (0.096, 65.27),
        (0.137, 63.3),
    ),
    (victims.FASHION, TRAINED): (
        (0.127, 86.11), (0.144, 84.34), (0.147, 81.24), (0.084, 66.17), (0.147, 11.54),
        (0.131, 16.12),
    ),
    (victims.CIFAR, TRAINED): (
        (0.062, 58.03), (0.071, 54.02), (0.052, 55.15), (0.068, 43.69), (0.092, 46.75),
        (0.083, 18.54), (0.088, 16.30), (0.070, 22.12),
    ),
    (victims.MNIST, UNTRAINED): ((0.077,), (0.084,), (0.084,), (0.099,), (0.109,), (0.108,)),
    (victims.FASHION, UNTRAINED): ((0.146,), (0.153,), (0.157,), (0.168,), (0.180,), (0.177,)),
    (victims.CIFAR, UNTRAINED): (
        (0.039,), (0.065,), (0.098,), (0.099,), (0.109,), (0.089,), (0.087,), (0.092,),
    ),
}  # fmt: skip
"""Mean squared error, and the clone's accuracy in per cent where they print it, by depth."""

PUBLISHED_LABELS = {
    "depth 1": {victims.MNIST: 100.0, victims.FASHION: 100.0, victims.CIFAR: 100.0},
    "depth 2": {victims.MNIST: 9.1, victims.FASHION: 10.2, victims.CIFAR: 8.1},
}
"""Per cent of labels, from the gradient of the last weight."""

LAST_LAYERS = {victims.MNIST: ("fc2act", "fc1act"), victims.FASHION: ("fc2act", "fc1act"),
               victims.CIFAR: ("fc1act", "flatten")}  # fmt: skip
"""Behind which layer the client of depth 1 and 2 begins."""

SHOWN = tuple(
    f"{INVERSION} / {data} / {cut} / {TRAINED}"
    for data, cut in (
        (victims.MNIST, "ReLU1"), (victims.MNIST, "ReLU2"), (victims.CIFAR, "ReLU12"),
        (victims.CIFAR, "ReLU22"),
    )
)  # fmt: skip


def settings() -> list[Setting]:
    """Table 2 for trained and untrained clients, then Table 3."""
    found = []
    for (name, client), figures in PUBLISHED.items():
        cuts = CIFAR_CUTS if name == victims.CIFAR else LENET_CUTS
        for cut, values in zip(cuts, figures, strict=True):
            published = dict(zip(("mse", "accuracy"), values, strict=False))
            measure = partial(_invert, name, cut, client)
            found.append(Setting(INVERSION, (name, cut, client), published, measure))
    for depth, accuracies in PUBLISHED_LABELS.items():
        for name, accuracy in accuracies.items():
            for observable in ("weight", "boundary"):
                published = {"accuracy": accuracy} if observable == "weight" else {}
                kind = "labels" if observable == "weight" else "groups"
                labels = (name, depth, f"{observable} gradient: {kind}")
                measure = partial(_infer, name, depth, observable)
                found.append(Setting(LABELS, labels, published, measure))
    return found


def _invert(name: str, cut: str, client: str, bench: Bench) -> dict[str, Any]:
    data = victims.load(bench.data, name)
    trained = client == TRAINED
    net = (
        victims.victim(bench.data, name, bench.out, quick=bench.quick)
        if trained
        else victims.untrained(name).eval().requires_grad_(False)
    )
    head, tail = victims.split(net, name, cut)
    originals = data.test.pixels()[: bench.images]
    with torch.no_grad():
        shape = (originals.shape[1], originals.shape[2], originals.shape[3])
        target = AttackTarget(head(originals), head, shape)
    attack = UnSplit.preset()
    started = time.perf_counter()
    found = unsplit(target, attack, deadline_s=bench.seconds)
    seconds = time.perf_counter() - started
    figures = _figures(found.pixels, originals) | {"seconds": seconds}
    sheet = f"unsplit-{name}-{cut}-{client}.png"
    save_comparison(
        bench.out / sheet, originals[: reproduction.SHOWN], found.pixels[: reproduction.SHOWN]
    )
    row = {"attack": f"{attack.name}:{attack.preset_name}", "sheet": sheet, **figures}
    if trained:
        count = min(2000, len(data.test.images))
        pixels, labels = data.test.pixels()[:count], data.test.labels[:count]
        right = clone_accuracy(found.clone, tail, pixels, labels)
        row |= _share(right, count)
        row["reference_accuracy"] = 100 * clone_accuracy(head, tail, pixels, labels)
    return row


def _figures(pixels: Tensor, originals: Tensor) -> dict[str, Any]:
    quality, trivial = judge(pixels, originals), best_baseline(originals)
    aligned = judge(_aligned(pixels, originals), originals)
    return {
        **vars(quality),
        "aligned_mse": aligned.mse,
        "baseline": {"psnr_db": trivial.psnr_db, "ssim": trivial.ssim, "mse": trivial.mse},
    }


def _aligned(pixels: Tensor, originals: Tensor) -> Tensor:
    """Each picture with the gain and offset that fit best: what a clone's gain cannot tell."""
    x, y = pixels.flatten(1).double(), originals.flatten(1).double()
    centred = x - x.mean(1, keepdim=True)
    gain = (centred * y).sum(1, keepdim=True) / centred.square().sum(1, keepdim=True).clamp_min(
        1e-12
    )
    return (y.mean(1, keepdim=True) + gain * centred).float().view_as(originals)


def _share(right: float, count: int) -> dict[str, Any]:
    low, high = wilson95(round(right * count), count)
    return {"accuracy": 100 * right, "accuracy_ci95": (100 * low, 100 * high)}


def _infer(name: str, depth: str, observable: str, bench: Bench) -> dict[str, Any]:
    data = victims.load(bench.data, name)
    net = victims.victim(bench.data, name, bench.out, quick=bench.quick)
    first, last = victims.split(net, name, LAST_LAYERS[name][depth == "depth 2"])
    pixels = data.test.pixels()[: bench.images]
    labels = data.test.labels[: bench.images]
    with torch.no_grad():
        (smashed,) = first(pixels)
    seen = observe_gradients(last, smashed, labels, observable)
    preset = "sign" if observable == "weight" else "matched"
    started = time.perf_counter()
    found = label_inference(preset)(last, seen)
    seconds = time.perf_counter() - started
    # The boundary gradient tells which samples share a label, never which label that is.
    judged = label_accuracy if observable == "weight" else grouping_accuracy
    score = judged(found.labels, labels, classes=10)
    return {
        "attack": f"label-inference:{preset}",
        "accuracy": 100 * score.accuracy,
        "accuracy_ci95": tuple(100 * bound for bound in score.ci95),
        "chance": 100 * score.chance,
        "images": score.samples,
        "seconds": seconds,
        "notes": [*found.notes],
    }
