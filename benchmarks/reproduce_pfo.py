"""Progressive feature optimisation beside rMLE and latent search, on the CIFAR-10 net's deep cuts.

Of the paper (Qiu et al. 2025) only the abstract is at hand: it claims PSNR gains above 3.2 dB over
earlier attacks on high-resolution and out-of-distribution pictures. Its victims, generators and
tables are not reproduced; what is measured is the same comparison on He et al.'s victim, with a
small generator trained on pictures that the victim never saw, and with one of another
distribution (Fashion-MNIST in grey).
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import reproduction
import torch
import victims
from reproduction import Bench, Setting
from torch.nn import functional

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.generator import Generator
from splitdeploy.attacks.generators.autoencoding import train_autoencoding
from splitdeploy.attacks.generators.file import load_generator, save_generator
from splitdeploy.attacks.pfo import Pfo
from splitdeploy.attacks.registry import find_attack
from splitdeploy.attacks.rmle import RmlePublished
from splitdeploy.attacks.steps import Run
from splitdeploy.attacks.target import AttackTarget

TABLE = "progressive feature optimisation"
COLUMNS = ("cut", "attack", "prior")
FIGURES = ("psnr_db", "ssim")
CUTS = ("ReLU32", "ReLU22", "fc1")

SHOWN = tuple(
    f"{TABLE} / ReLU32 / {name}"
    for name in ("noise-aware / none", "glass / CIFAR-10", "pfo / CIFAR-10")
)
NONE, SAME, OTHER = "none", "CIFAR-10", "Fashion-MNIST"
STEPS = {SAME: 3000, OTHER: 1000}
QUICK_STEPS = 100
LATENT, WIDTH = 384, 32

CODE_TV = {"ReLU22": 10.0, "ReLU32": 1e3, "fc1": 1e4}
"""λ of He et al.'s scripts."""


def settings() -> list[Setting]:
    """Attacks by cut and prior; the deepest convolution first."""
    found = []
    for cut in CUTS:
        for name, prior in (
            ("rmle-he2019", NONE), ("rmle", NONE), ("noise-aware", NONE),
            ("inverse-network", NONE), ("glass", SAME), ("pfo", SAME), ("glass", OTHER),
            ("pfo", OTHER),
        ):  # fmt: skip
            found.append(
                Setting(TABLE, (cut, name, prior), {}, partial(_measure, cut, name, prior))
            )
    for radius in (0.0, float("inf")):
        name = f"pfo, radius {radius:g}"
        measure = partial(_measure, CUTS[0], name, SAME)
        found.append(Setting(TABLE, (CUTS[0], name, SAME), {}, measure))
    return found


def _measure(cut: str, name: str, prior: str, bench: Bench) -> dict[str, Any]:
    data = victims.load(bench.data, victims.CIFAR)
    net = victims.victim(bench.data, victims.CIFAR, bench.out, quick=bench.quick)
    head, _ = victims.split(net, victims.CIFAR, cut)
    originals = data.test.pixels()[: bench.images]
    with torch.no_grad():
        target = AttackTarget(
            head(originals),
            head,
            (3, 32, 32),
            auxiliary=data.other,
            generator=None
            if prior == NONE
            else generator(bench.data, bench.out, prior, bench.quick),
        )
    sheet = "-".join(("pfo", cut, name, prior)).replace(",", "").replace(" ", "_")
    published = name == "rmle-he2019"
    return reproduction.attacked(
        _attack(name, cut), target, originals, bench, sheet, published=published
    )[0]


def _attack(name: str, cut: str) -> Attack:
    if name == "rmle-he2019":
        rate = 1e-3 if cut == "fc1" else 1e-2
        return RmlePublished(variant="code", steps=5000, learning_rate=rate, tv_weight=CODE_TV[cut])
    if name.startswith("pfo, radius"):
        settings = dict(Pfo.presets["fast"])
        return Pfo(**settings, radius=float(name.split()[-1]))
    return find_attack(name).preset("thorough" if name in {"rmle", "noise-aware"} else "fast")


@cache
def generator(data: Path, out: Path, prior: str, quick: bool = False) -> Generator:
    """The generator of a prior; trained now where it is not, going on where a run was."""
    steps = QUICK_STEPS if quick else STEPS[prior]
    folder = out / f"generator-{prior}-{steps}"
    path = folder / "generator.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        run = Run(victims.SEED, None, None, folder)
        images = _images(data, prior)
        trained = train_autoencoding(images, steps=steps, run=run, latent_size=LATENT, width=WIDTH)
        save_generator(trained, path)
    return load_generator(path)


def _images(data: Path, prior: str) -> Auxiliary:
    if prior == SAME:
        return victims.load(data, victims.CIFAR).other
    grey = victims.load(data, victims.FASHION).other.images
    padded = functional.pad(grey, (2, 2, 2, 2)).expand(-1, 3, -1, -1).contiguous()
    return Auxiliary(padded, "other distribution")
