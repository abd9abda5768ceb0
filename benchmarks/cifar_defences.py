"""What each defence buys: leakage, accuracy and the strongest attack on CIFAR-10.

    python benchmarks/cifar_defences.py --data DIR [--out DIR] [--cuts layer1.2,…] [--summary]

DIR is as `cifar.py` says. ResNet-20, trained, is cut and defended, each defence at several
strengths. Against each stands an inverse network trained on what that defence sends (JPEG training
images, other ones than the defence was set up by), and the noise-aware maximum a posteriori attack,
which knows weights and noise. Accuracy is counted on 393 lossless test images, agreement with the
undefended model on 1,000 JPEG test images besides, since 393 hardly tell a loss of one point from
none. Results are written as they come; an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cifar
import cifar_study
import matplotlib
import numpy as np
import torch
from cifar_study import Results
from torch import Tensor

from splitdeploy.attacks.base import run_attack
from splitdeploy.attacks.defences.adaptive import observe_defended
from splitdeploy.attacks.defences.added_noise import GaussianNoise, LaplaceNoise
from splitdeploy.attacks.defences.base import Defended, Victim
from splitdeploy.attacks.defences.calibration import Budget, Calibrator
from splitdeploy.attacks.defences.guard_bayesian import GuardBayesian
from splitdeploy.attacks.defences.guard_shaped import GuardShaped
from splitdeploy.attacks.defences.masks import ChannelPruning, Dropout
from splitdeploy.attacks.defences.nopeek import NoPeek
from splitdeploy.attacks.defences.shredder import Shredder
from splitdeploy.attacks.defences.target import Target
from splitdeploy.attacks.defences.utility import utility
from splitdeploy.attacks.inverse_network import InverseNetwork, invert
from splitdeploy.attacks.inverse_training import (
    Pictures,
    Recipe,
    standardise_by,
    train_inverses,
)
from splitdeploy.attacks.leakage.curve import gain_curve
from splitdeploy.attacks.leakage.exact import GAUSSIAN_ENTROPY
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.noise import FixedNoise
from splitdeploy.attacks.leakage.prior import ImagePrior
from splitdeploy.attacks.noise_aware import NoiseAware
from splitdeploy.attacks.quality import judge
from splitdeploy.attacks.steps import Run
from splitdeploy.attacks.target import AttackTarget
from splitdeploy.profiles.errors import SplitdeployError

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

DEPTH, SEED, WIDTH = 20, 0, 32
SET_UP, TRAINING, EPOCHS, AGREEMENT, SEARCHED = 4000, 8000, 2, 1000, 16
"""Pictures: that defences set themselves up by; that inverse networks train on, and how often; for
agreement; and that the noise-aware attack reconstructs."""

SIGMAS = (0.1, 0.2, 0.35, 0.6)
"""Of plain Gaussian noise, over the root mean square; the guards' targets are its leakages."""

LAPLACE, DROPOUT, PRUNED = (0.1, 0.25, 0.45), (0.1, 0.25, 0.5), (0.1, 0.25)
NOPEEK, SHREDDER = (0.5, 4.0), (0.1, 0.25, 0.5)
STEPS = 80
BUDGET = Budget(pictures=6, steps=120)


@dataclass(frozen=True)
class Setting:
    """One cut under attack: everything that the defences share."""

    cut: str
    victim: Victim
    prior: ImagePrior
    training: Tensor
    test: cifar.Pictures
    agreement: Tensor
    rms: float


@dataclass(frozen=True)
class PerPicture(Defended):
    """The published guard, σ by quadrature: whole determinants would take days.

    While the attacker trains, σ of his pictures is drawn from those of 64 of them, so that he knows
    its distribution; pictures under attack carry their own.
    """

    sigmas: Tensor
    own: bool = False

    def send(self, pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """What the cloud gets, each picture with a σ of its own."""
        z = self.head(pixels)[0]
        if self.own:
            sigma = self.sigmas[: len(z)]
        else:
            sigma = self.sigmas[torch.randint(len(self.sigmas), (len(z),), generator=generator)]
        return (z + sigma.view(-1, 1, 1, 1) * torch.randn(z.shape, generator=generator),)


def set_up(data: Path, cut: str) -> Setting:
    """The victim and all pictures, none of them in two parts."""
    net = cifar.fused(cifar.load_resnet(data, DEPTH))
    head, tail = cifar.split_at(net, cut)
    jpeg = cifar.jpeg_training(data, SET_UP + TRAINING)
    victim = Victim(head, tail, jpeg.pixels()[:SET_UP], jpeg.labels[:SET_UP])
    with torch.no_grad():
        rms = float(head(victim.images[:512])[0].square().mean().sqrt())
    prior = cifar_study.fitted_prior(cifar.lossless(data, "train").pixels())
    test = cifar.lossless(data)
    agreement = cifar.jpeg_test(data, AGREEMENT).pixels()
    return Setting(cut, victim, prior, jpeg.images[SET_UP:], test, agreement, rms)


def defences(setting: Setting) -> Iterator[tuple[str, str, Any]]:
    """Family, strength in words, and what makes the defended model."""
    victim, prior = setting.victim, setting.prior
    # The tail's sensitivity averages over all pictures that it is given.
    few = replace(victim, images=victim.images[:256])

    def guard(kind: Any, sigma: float) -> Defended:
        return kind(_target(setting, sigma), prior=prior, budget=BUDGET).fit(few, seed=SEED)

    yield (
        "none",
        "0",
        lambda: Defended(
            victim.head, victim.tail, GaussianNoise(1e-6).fit(victim).perturbations, "none"
        ),
    )
    for sigma in SIGMAS:
        yield "gaussian = guard, one sigma", f"{sigma:g}", lambda s=sigma: guard(GuardBayesian, s)
    for sigma in SIGMAS:
        yield "guard, shaped", f"{sigma:g}", lambda s=sigma: guard(GuardShaped, s)
    for sigma in SIGMAS:
        yield "guard, published", f"{sigma:g}", lambda s=sigma: _published(setting, s)
    for rate in DROPOUT:
        yield "dropout", f"{rate:g}", lambda r=rate: Dropout(r).fit(victim)
    for scale in LAPLACE:
        yield "laplace", f"{scale:g}", lambda s=scale: LaplaceNoise(s).fit(victim)
    for scale in SHREDDER:
        yield "shredder", f"{scale:g}", lambda s=scale: Shredder(s).fit(victim, seed=SEED)
    for weight in NOPEEK:
        yield "nopeek", f"{weight:g}", lambda w=weight: NoPeek(w, epochs=2).fit(victim, seed=SEED)
    for share in PRUNED:
        yield "pruning", f"{share:g}", lambda s=share: ChannelPruning(s).fit(victim)


def _target(setting: Setting, relative: float) -> Target:
    """The leakage of plain noise: what a guard is to reach."""
    anything = Target("fsinfo", 0.0)
    few = replace(setting.victim, images=setting.victim.images[:256])
    held = Calibrator(few, anything, setting.prior, BUDGET, SEED)
    sigma = FixedNoise(relative * setting.rms).level(held.jacobian.tensors).sigma
    curve = gain_curve(
        held.jacobian, setting.prior, sigma, mean=True, steps=BUDGET.steps, seed=SEED
    )
    return Target("fsinfo", curve.fsinfo(1.0).value)


def _published(setting: Setting, relative: float) -> Defended:
    """Its target is such that the geometric mean of its σ is that of the plain noise."""
    known, own = _log_sigmas(setting)
    shift = math.log(relative * setting.rms) - float(known.mean())
    target = -shift - GAUSSIAN_ENTROPY
    text = f"published closed form, FSInfo {target:.3f} without a prior, a sigma a picture"
    victim = setting.victim
    noise = GaussianNoise(relative).fit(victim).perturbations
    sigmas = torch.cat([known, own]).add(shift).exp()
    return PerPicture(victim.head, victim.tail, noise, text, sigmas)


@functools.cache
def _log_sigmas(setting: Setting) -> tuple[Tensor, Tensor]:
    """Ln σ up to the target's part: of 64 pictures of the attacker's, and of the test images."""

    def of(pixels: Tensor) -> Tensor:
        parts = [
            cifar_study.log_dets(HeadJacobian(setting.victim.head, part), STEPS)
            for part in pixels.split(32)
        ]
        return torch.from_numpy(np.concatenate(parts)).float() / 2

    return of(setting.training[:64].float() / 255.0), of(setting.test.pixels())


def measure(setting: Setting, defended: Defended, network: InverseNetwork) -> dict[str, Any]:
    """Accuracy and attacks of one defended model; the inverse network goes on from where it was."""
    known, own = defended, defended
    if isinstance(defended, PerPicture):
        known = replace(defended, sigmas=defended.sigmas[:64])
        own = replace(defended, sigmas=defended.sigmas[64:], own=True)
    began = time.perf_counter()

    def observe(pixels: Tensor, generator: torch.Generator) -> list[tuple[Tensor, ...]]:
        return [known.send(pixels, generator)]

    standardise_by(observe, [network], setting.training[:512].float() / 255.0)
    steps = Recipe().steps(len(setting.training), EPOCHS)
    draw = Pictures(setting.training, seed=SEED)
    train_inverses(observe, [network], draw, steps, Run(SEED, None, None))
    originals = setting.test.pixels()
    with torch.no_grad():
        sent = own.send(originals, torch.Generator().manual_seed(SEED + 1))
    found = invert(network, sent)
    quality, few = judge(found, originals), judge(found[:SEARCHED], originals[:SEARCHED])
    right = utility(own, setting.victim, originals, setting.test.labels, draws=3, seed=SEED)
    same = utility(known, setting.victim, setting.agreement, draws=2, seed=SEED)
    row = {
        "text": defended.text,
        "accuracy": right.after.value, "accuracy_before": right.before.value,
        "accuracy_change": right.change, "accuracy_change_ci95": right.change_ci95,
        "agreement": same.after.value, "agreement_change_ci95": same.change_ci95,
        "inverse_ssim": quality.ssim, "inverse_ssim_ci95": quality.ssim_ci95,
        "inverse_mse": quality.mse, "inverse_ssim_few": few.ssim,
        "training_s": time.perf_counter() - began,
    }  # fmt: skip
    calibration = getattr(defended, "calibration", None)
    if calibration is not None:
        row |= {
            "fsinfo": calibration.fsinfo.value, "fil_max": calibration.fil_max,
            "mse_lower_bound": calibration.mse_lower_bound,
        }  # fmt: skip
    target = _observed(own, sent, originals[:SEARCHED])
    record, _ = run_attack(NoiseAware.preset("fast", seed=SEED), target, originals[:SEARCHED])
    row |= {"map_ssim": record.ssim, "map_mse": record.mse, "map_converged": record.converged}
    row["strongest_ssim"] = max(few.ssim, record.ssim)
    return row


def _observed(defended: Defended, sent: tuple[Tensor, ...], pixels: Tensor) -> AttackTarget:
    """What the noise-aware attack gets. It is told each picture's σ where they differ.

    With thousands of elements, many of them zero behind a ReLU, anybody can read it off.
    """
    if not isinstance(defended, PerPicture):
        return observe_defended(defended, pixels, seed=SEED + 1)
    sigma = defended.sigmas[: len(pixels)].view(-1, 1, 1, 1)
    seen = tuple(t[: len(pixels)] for t in sent)
    return AttackTarget(seen, defended.head, (3, 32, 32), noise_sigma=(sigma,))


def attack(data: Path, out: Path, cut: str) -> None:
    """Every defence at every strength; the inverse network of one goes on at the next."""
    results = Results(out / f"defences_{cut}.json")
    setting = set_up(data, cut)
    with torch.no_grad():
        shape = tuple(setting.victim.head(setting.victim.images[:1])[0].shape[1:])
    family, network = "", None
    for name, strength, make in defences(setting):
        key = f"{name} | {strength}"
        if key in results.rows:
            continue
        if name != family or network is None:
            torch.manual_seed(SEED)
            family, network = name, InverseNetwork([shape], (3, 32, 32), width=WIDTH)
        try:
            row = measure(setting, make(), network)
        except SplitdeployError as error:
            row = {"error": str(error)}
        results.put(key, {"family": name, "strength": float(strength), **row})


LOSSES = (0.01, 0.02, 0.03, 0.04, 0.05)
"""Shares of pictures whose answer the defence changes, at which the defences are compared."""


def summary(out: Path, cut: str) -> None:
    """The table, each defence's SSIM at equal loss, and the curves."""
    rows = [r for r in Results(out / f"defences_{cut}.json").rows.values() if "error" not in r]
    families = list(dict.fromkeys(r["family"] for r in rows))
    print(f"ResNet-{DEPTH} at {cut}")
    for r in rows:
        print(
            f"{r['family']:28s} {r['strength']:5g}  accuracy {100 * r['accuracy']:5.1f} %  "
            f"agreement {100 * r['agreement']:5.1f} %  SSIM inverse {r['inverse_ssim']:.3f} "
            f"map {r.get('map_ssim', math.nan):.3f}  FSInfo {r.get('fsinfo', math.nan):+.3f}"
        )
    print("SSIM of the strongest attack at equal loss of agreement, interpolated")
    for family in families:
        ours = [r for r in rows if r["family"] in {family, "none"}]
        cells = "  ".join(f"{_at_loss(ours, loss):.3f}" for loss in LOSSES)
        print(f"{family:28s} {cells}")
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5))
    for family in families:
        ours = sorted(
            (r for r in rows if r["family"] in {family, "none"}), key=lambda r: -r["agreement"]
        )
        loss = [100 * (1 - r["agreement"]) for r in ours]
        axes[0].plot(loss, [r["strongest_ssim"] for r in ours], marker="o", ms=3, label=family)
        told = [r for r in ours if "fsinfo" in r]
        if told:
            axes[1].plot(
                [r["fsinfo"] for r in told], [100 * r["accuracy"] for r in told], marker="o",
                ms=3, label=family,
            )  # fmt: skip
    axes[0].set(xlabel="answers changed, %", ylabel="SSIM of the strongest attack", xlim=(-1, 30))
    axes[1].set(xlabel="FSInfo, bayesian, nats per input element", ylabel="accuracy, %")
    for axis in axes:
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out / f"defences_{cut}.png", dpi=110)


def _at_loss(rows: list[dict[str, Any]], loss: float) -> float:
    """SSIM where so many answers change; not a number where no strength goes so far."""
    ordered = sorted(rows, key=lambda r: 1 - r["agreement"])
    x = [1 - r["agreement"] for r in ordered]
    return float(np.interp(loss, x, [r["strongest_ssim"] for r in ordered], right=math.nan))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/cifar-defences"))
    parser.add_argument("--cuts", default="layer1.2,layer2.2", help="block cuts of ResNet-20")
    parser.add_argument("--summary", action="store_true", help="of what there is, no new runs")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.cuts.split(","):
        if not given.summary:
            attack(given.data, given.out, name)
        summary(given.out, name)
