"""He et al. 2019, Tables 3, 4, 6 and 8: each setting of theirs, attacked by the best of ours.

Published: PSNR and SSIM of ten images. Ours: the first test images, PSNR with peak 1, SSIM with a
Gaussian window of 11 pixels. What an attacker trains on is told in each row's threat model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import reproduction
import torch
import victims
from reproduction import Bench, Setting

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.registry import find_attack
from splitdeploy.attacks.target import AttackTarget

CUTS = (
    (victims.MNIST, "conv1"),
    (victims.MNIST, "ReLU2"),
    (victims.CIFAR, "conv11"),
    (victims.CIFAR, "ReLU22"),
    (victims.CIFAR, "ReLU32"),
)
COLUMNS = ("data", "cut", "attacker")
FIGURES = ("psnr_db", "ssim")

WHITE_BOX = "rMLE (Table 3)"
BLACK_BOX = "inverse network (Table 4)"
QUERY_FREE = "query-free shadow (Table 6)"
SHADOWED = "query, shadow, rMLE (Table 8)"

PUBLISHED: dict[str, dict[str, Sequence[tuple[float, float]]]] = {
    WHITE_BOX: {
        "weights known": (
            (39.69, 0.9969), (15.10, 0.5998), (37.59, 0.9960), (19.47, 0.6940), (13.38, 0.1625),
        ),
    },
    BLACK_BOX: {
        "same set": (
            (39.64, 0.9887), (20.35, 0.7334), (49.88, 0.9993), (19.81, 0.6939), (15.42, 0.3124),
        ),
        "same distribution": (
            (40.72, 0.9950), (20.81, 0.8046), (49.02, 0.9992), (19.36, 0.6802), (13.95, 0.2196),
        ),
        "random": (
            (14.76, 0.7188), (7.72, 0.4310), (48.59, 0.9996), (12.79, 0.2930), (12.37, 0.0440),
        ),
    },
    QUERY_FREE: {
        "same set, same net": (
            (17.60, 0.7423), (9.61, 0.4981), (21.16, 0.9104), (12.74, 0.1752), (11.09, 0.0419),
        ),
        "other set, same net": (
            (21.53, 0.9121), (9.27, 0.4652), (21.45, 0.9145), (11.51, 0.1723), (11.98, 0.0102),
        ),
        "same set, other net": (
            (12.59, 0.6430), (8.05, 0.3790), (17.55, 0.6344), (12.46, 0.2714), (10.68, 0.0247),
        ),
        "other set, other net": (
            (17.86, 0.6952), (8.03, 0.3226), (13.06, 0.1553), (11.30, 0.0467), (11.47, 0.0793),
        ),
    },
    SHADOWED: {
        "same set": (
            (39.67, 0.9968), (15.41, 0.6103), (28.67, 0.9766), (18.02, 0.6893), (12.61, 0.1145),
        ),
    },
}  # fmt: skip
"""PSNR in dB and SSIM by table, attacker and cut, as He et al. print them."""

SHOWN = tuple(
    f"{heading} / {data} / {cut} / {attacker}"
    for heading, data, cut, attacker in (
        (WHITE_BOX, victims.MNIST, "ReLU2", "weights known"),
        (WHITE_BOX, victims.CIFAR, "ReLU22", "weights known"),
        (WHITE_BOX, victims.CIFAR, "ReLU32", "weights known"),
        (BLACK_BOX, victims.CIFAR, "ReLU32", "same distribution"),
        (QUERY_FREE, victims.CIFAR, "ReLU22", "other set, same net"),
        (SHADOWED, victims.CIFAR, "ReLU22", "same set"),
    )
)
"""Rows whose pictures the page shows."""

OWN_CODE = "their code's settings"
"""A row of its own: rMLE as published, for what our attacks gain over it."""

CODE_TV = {"conv1": 0.0, "ReLU2": 1.0, "conv11": 0.0, "ReLU22": 10.0, "ReLU32": 1e3}
"""λ of the total variation in their scripts."""

TRAINING = {victims.MNIST: 10_000, victims.CIFAR: 12_000}
"""Pictures that an attacker trains on, of those that he has."""


def settings() -> list[Setting]:
    """All of them, cut by cut within each table."""
    found = []
    for heading, attackers in PUBLISHED.items():
        for attacker, figures in attackers.items():
            for (name, cut), (psnr, ssim) in zip(CUTS, figures, strict=True):
                measure = partial(_measure, heading, attacker, name, cut)
                published = {"psnr_db": psnr, "ssim": ssim}
                found.append(Setting(heading, (name, cut, attacker), published, measure))
    for (name, cut), (psnr, ssim) in zip(CUTS, PUBLISHED[WHITE_BOX]["weights known"], strict=True):
        measure = partial(_measure, WHITE_BOX, OWN_CODE, name, cut)
        published = {"psnr_db": psnr, "ssim": ssim}
        found.append(Setting(WHITE_BOX, (name, cut, OWN_CODE), published, measure))
    return found


def _measure(heading: str, attacker: str, name: str, cut: str, bench: Bench) -> dict[str, Any]:
    data = victims.load(bench.data, name)
    net = victims.victim(bench.data, name, bench.out, quick=bench.quick)
    head, tail = victims.split(net, name, cut)
    originals = data.test.pixels()[: bench.images]
    own = data.victim if "same set" in attacker else data.other
    with torch.no_grad():
        target = AttackTarget(
            head(originals),
            head,
            (originals.shape[1], originals.shape[2], originals.shape[3]),
            tail=tail,
            auxiliary=Auxiliary(
                own.images[: TRAINING[name]],
                own.kinship,
                None if own.labels is None else own.labels[: TRAINING[name]],
            ),
        )
    attack = _ATTACKERS[heading](attacker, cut, target)
    sheet = "-".join(("he2019", heading.split(" (")[0], attacker, name, cut)).replace(" ", "_")
    return reproduction.attacked(
        attack, target, originals, bench, sheet.replace(",", ""), published=attacker == OWN_CODE
    )[0]


def _white_box(attacker: str, cut: str, target: AttackTarget) -> Attack:
    if attacker == OWN_CODE:
        published = find_attack("rmle-he2019")
        return published(  # type: ignore[call-arg]
            variant="code", steps=5000, learning_rate=1e-2, tv_weight=CODE_TV[cut]
        )
    linear = find_attack("least-squares").preset()
    return linear if linear.applies(target) else find_attack("noise-aware").preset("thorough")


def _black_box(attacker: str, cut: str, target: AttackTarget) -> Attack:
    linear = find_attack("linear-by-queries").preset()
    if linear.applies(target):
        return linear
    blind = attacker == "random"
    return find_attack("inverse-network-blind" if blind else "inverse-network").preset("thorough")


def _query_free(attacker: str, cut: str, target: AttackTarget) -> Attack:
    return find_attack("shadow-other-net" if "other net" in attacker else "shadow").preset()


def _shadowed(attacker: str, cut: str, target: AttackTarget) -> Attack:
    return find_attack("query-shadow").preset()


_ATTACKERS: dict[str, Callable[[str, str, AttackTarget], Attack]] = {
    WHITE_BOX: _white_box,
    BLACK_BOX: _black_box,
    QUERY_FREE: _query_free,
    SHADOWED: _shadowed,
}
