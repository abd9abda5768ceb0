"""Which figure ranks cuts as an attacker does: FSInfo in its kinds, and its rivals, on CIFAR-10.

    python benchmarks/cifar_study.py --data DIR [--out DIR] [--part attack|metrics|summary]

DIR is as `cifar.py` says. At every block cut of ResNet-20, -32 and -56 (trained) the smashed data
carries Gaussian noise at a signal-to-noise ratio of 30 dB. An inverse network is trained on pairs
of what is sent and JPEG training images, and judged on 393 lossless test images; every figure is
computed at the same cuts. Pearson's and Spearman's correlation with the attack's MSE and SSIM,
pooled over models, with 95 % intervals by bootstrap over the cuts. Results are written as they
come; an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cifar
import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import digamma
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from splitdeploy.attacks.inverse_network import InverseNetwork, invert
from splitdeploy.attacks.inverse_training import (
    Pictures,
    Recipe,
    standardise_by,
    train_inverses,
)
from splitdeploy.attacks.leakage.class_radius import class_radius
from splitdeploy.attacks.leakage.distance_correlation import distance_correlation
from splitdeploy.attacks.leakage.exact import GAUSSIAN_ENTROPY
from splitdeploy.attacks.leakage.gain import measure_gain
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.lanczos import bidiagonalise, rademacher
from splitdeploy.attacks.leakage.mean_information import MeanWhitened
from splitdeploy.attacks.leakage.measure import mse_lower_bound
from splitdeploy.attacks.leakage.mutual_information import covariance_bound
from splitdeploy.attacks.leakage.noise import FixedNoise
from splitdeploy.attacks.leakage.posterior_error import posterior_error
from splitdeploy.attacks.leakage.prior import ImagePrior, default_prior
from splitdeploy.attacks.leakage.sides import Whitened
from splitdeploy.attacks.pictures import save_comparison
from splitdeploy.attacks.quality import judge
from splitdeploy.attacks.steps import Run
from splitdeploy.profiles.store import write_atomically

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

DEPTHS = (20, 32, 56)
SNR_DB = 30.0
TRAINING, EPOCHS, WIDTH, SEED = 8000, 3, 32, 0
TOGETHER = 8
"""Inverse networks that train side by side: an interrupted run loses no more than these."""

PAPER_SIGMA, PAPER_EPSILON, PAPER_PROBES = 0.1, 1e-10, 8
STEPS, RELATIVE_ERROR = 60, 0.04
SAMPLES, MEAN_IMAGES, GAIN_IMAGES, FEW_IMAGES = 200, 100, 16, 4
"""Images behind distance correlation; behind diagonals and the mean information; behind the
determinants with a prior; and behind those without one and the traces of inverses, which take more
steps each."""

LONG_STEPS = 120
"""Of the two that no prior conditions: with 3,072 dimensions and these spectra good to a few
hundredths of a nat."""


class Results:
    """A JSON file of rows by cut, written after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def put(self, key: str, row: dict[str, Any]) -> None:
        """Keep a row and write the file."""
        self.rows[key] = row
        write_atomically(self.path, json.dumps(self.rows, indent=1) + "\n")
        print(f"{time.strftime('%H:%M:%S')} {self.path.name} {key}", flush=True)


def noise_sigmas(net: cifar.Resnet, pixels: Tensor) -> list[float]:
    """The σ of every cut: 30 dB below the root mean square of what it sends."""
    scale = 10 ** (-SNR_DB / 20)
    with torch.no_grad():
        return [float(z.square().mean().sqrt()) * scale for z in cifar.all_cuts(net, pixels)]


def attack(data: Path, out: Path) -> None:
    """Train inverse networks at every cut, and judge what they make of the test images."""
    training, test = cifar.jpeg_training(data, TRAINING), cifar.lossless(data)
    originals = test.pixels()
    mean = training.pixels().mean(dim=0, keepdim=True).expand_as(originals)
    trivial = judge(mean, originals)
    results = Results(out / "attack.json")
    results.put("mean image", {"mse": trivial.mse, "ssim": trivial.ssim})
    for depth in DEPTHS:
        net = cifar.fused(cifar.load_resnet(data, depth))
        sigmas = noise_sigmas(net, training.pixels()[:512])
        names = [name for name, _ in net.blocks()]
        pending = [i for i in range(len(names)) if f"{depth} {names[i]}" not in results.rows]
        for start in range(0, len(pending), TOGETHER):
            group = pending[start : start + TOGETHER]
            began = time.perf_counter()
            networks, observe = _networks(net, sigmas, group)
            standardise_by(observe, networks, training.pixels()[:512])
            steps = Recipe().steps(len(training.images), EPOCHS)
            draw = Pictures(training.images, seed=SEED)
            train_inverses(observe, networks, draw, steps, Run(SEED, None, None))
            seconds = (time.perf_counter() - began) / len(group)
            with torch.no_grad():
                sent = observe(originals, torch.Generator().manual_seed(SEED + 1))
            for place, network, tensors in zip(group, networks, sent, strict=True):
                found = invert(network, tensors)
                quality = judge(found, originals)
                key = f"{depth} {names[place]}"
                save_comparison(out / f"resnet{depth}_{names[place]}.png", originals[:8], found[:8])
                row = {
                    "depth": depth, "cut": names[place], "place": place, "sigma": sigmas[place],
                    "mse": quality.mse, "ssim": quality.ssim, "psnr_db": quality.psnr_db,
                    "ssim_ci95": quality.ssim_ci95, "images": quality.images, "seconds": seconds,
                }  # fmt: skip
                results.put(key, row)


def _networks(
    net: cifar.Resnet, sigmas: list[float], group: list[int]
) -> tuple[list[InverseNetwork], Callable[[Tensor, torch.Generator], list[tuple[Tensor, ...]]]]:
    def observe(pixels: Tensor, generator: torch.Generator) -> list[tuple[Tensor, ...]]:
        found = cifar.all_cuts(net, pixels)
        return [
            (found[i] + sigmas[i] * torch.randn(found[i].shape, generator=generator),)
            for i in group
        ]

    torch.manual_seed(SEED)
    with torch.no_grad():
        shapes = [tuple(cifar.all_cuts(net, torch.zeros(1, 3, 32, 32))[i].shape[1:]) for i in group]
    return [InverseNetwork([s], (3, 32, 32), width=WIDTH) for s in shapes], observe


def paper_kind(jacobian: HeadJacobian, variance: float, probes: int) -> tuple[float, float]:
    """The paper's diagonal FSInfo and dFIL from a few products: (value, trace of JᵀJ over d).

    With Gaussian r the entries of Jᵀr are normal with variance (JᵀJ)_ii exactly, so that the sum of
    squares over m probes is chi-square and the bias of its logarithm known: ψ(m/2) + ln(2/m).
    """
    generator = torch.Generator().manual_seed(SEED)
    squares = torch.zeros(jacobian.images, jacobian.inputs, dtype=torch.float64)
    for _ in range(probes):
        r = torch.randn(jacobian.features.shape, generator=generator)
        squares += jacobian.vjp(r).double().square() / probes
    bias = float(digamma(probes / 2)) + math.log(2 / probes)
    # The epsilon of their code matters where nothing passes: there the squares are zero exactly.
    passes = squares > 0
    logs = torch.where(passes, (squares / variance).clamp_min(1e-300).log() - bias, 0.0)
    logs = torch.where(passes, torch.logaddexp(logs, torch.tensor(PAPER_EPSILON).log()), logs)
    logs = torch.where(passes, logs, math.log(PAPER_EPSILON))
    return float(logs.mean()) / 2 - GAUSSIAN_ENTROPY, float(squares.mean())


def metrics(data: Path, out: Path) -> None:
    """Every figure at every cut."""
    test = cifar.lossless(data)
    training = cifar.jpeg_training(data, 512)
    pixels = test.pixels()
    prior = fitted_prior(cifar.lossless(data, "train").pixels())
    results = Results(out / "metrics.json")
    for depth in DEPTHS:
        net = cifar.fused(cifar.load_resnet(data, depth))
        sigmas = noise_sigmas(net, training.pixels()[:512])
        with torch.no_grad():
            sent = cifar.all_cuts(net, pixels)
        for place, (name, _) in enumerate(net.blocks()):
            key = f"{depth} {name}"
            if key in results.rows:
                continue
            began = time.perf_counter()
            head, _ = cifar.split_at(net, name)
            row: dict[str, Any] = {"depth": depth, "cut": name, "place": place}
            row |= _forward(pixels, sent[place], test.labels, sigmas[place])
            row |= _fisher(head, pixels, sigmas[place], prior)
            row["seconds"] = time.perf_counter() - began
            results.put(key, row)


def _forward(pixels: Tensor, z: Tensor, labels: Tensor, sigma: float) -> dict[str, Any]:
    # Noise enters distance correlation and R_c² as it is sent.
    noisy = z + sigma * torch.randn(z.shape, generator=torch.Generator().manual_seed(SEED))
    dependence = distance_correlation(pixels[:SAMPLES], noisy[:SAMPLES])
    information = covariance_bound((z,), torch.full((z[0].numel(),), sigma))
    radius = class_radius(noisy, labels)
    d = pixels[0].numel()
    return {
        "distance_correlation": dependence.value,
        "mutual_information": information.value / d,
        "class_radius": radius.squared.value,
        "class_radius_share": radius.share,
    }


def fitted_prior(pixels: Tensor) -> ImagePrior:
    """The Gaussian prior with the variance that each DCT coefficient has in these pictures.

    At 32 by 32 pixels a power law fits the lowest frequencies badly, which hold the most variance.
    """
    prior = default_prior((3, 32, 32))
    centred = pixels - pixels.mean(dim=0, keepdim=True)
    coefficients = prior.transform(centred).forward(centred.flatten(1)).double()
    prior.variance = coefficients.square().mean(dim=0) + prior.smoothing**2
    return prior


def _fisher(head: Any, pixels: Tensor, sigma: float, prior: ImagePrior) -> dict[str, Any]:
    jacobian = HeadJacobian(head, pixels[:MEAN_IMAGES])
    d = jacobian.inputs
    each = FixedNoise(sigma).level(jacobian.tensors).sigma
    paper, trace = paper_kind(jacobian, PAPER_SIGMA**2, PAPER_PROBES)
    rows = torch.tensor([min(jacobian.images * jacobian.outputs, d)])
    together = measure_gain(
        MeanWhitened(jacobian, prior, each, seed=SEED), rows, steps=STEPS, probes=1, seed=SEED,
        relative_error=RELATIVE_ERROR,
    )  # fmt: skip
    shift = -prior.log_det() / (2 * d) - GAUSSIAN_ENTROPY
    some = HeadJacobian(head, pixels[:GAIN_IMAGES])
    whitened = Whitened(some, prior, each, seed=SEED)
    rank = some.rank_bound(torch.randn(some.features.shape, generator=_generator()))
    gain = measure_gain(
        whitened, rank, steps=STEPS, probes=1, seed=SEED, relative_error=RELATIVE_ERROR
    )
    few = HeadJacobian(head, pixels[:FEW_IMAGES])
    left = posterior_error(
        Whitened(few, prior, each, seed=SEED), steps=LONG_STEPS, probes=1, seed=SEED
    )
    return {
        "paper_fsinfo": paper,
        "exact_fsinfo": exact_by_quadrature(few, sigma, int(rank.min())),
        "dfil_paper_sigma": trace / PAPER_SIGMA**2,
        "dfil": trace / sigma**2,
        "fsinfo": float(gain.value.mean()) + shift,
        "fsinfo_half_width": float(gain.half_width.mean()),
        "fsinfo_spread": float(gain.value.std(ddof=1)),
        "bayesian_fsinfo": float(together.value[0]) + shift,
        "bayesian_half_width": float(together.half_width[0]),
        "posterior_error": float(left.lower.mean()),
        "posterior_error_upper": float(left.upper.mean()),
        "prior_fsinfo": shift,
        "mse_lower_bound": mse_lower_bound(whitened),
        "rank_at_most": int(rank.max()),
        "images": [MEAN_IMAGES, GAIN_IMAGES, FEW_IMAGES],
    }


def exact_by_quadrature(jacobian: HeadJacobian, sigma: float, rank: int) -> float | None:
    """FSInfo without a prior, by Gauss quadrature; None for minus infinity, told by the rank."""
    if rank < jacobian.inputs:
        return None
    return float(log_dets(jacobian, LONG_STEPS).mean()) / 2 - math.log(sigma) - GAUSSIAN_ENTROPY


def log_dets(jacobian: HeadJacobian, steps: int) -> NDArray[np.float64]:
    """The mean of ln det(JᵀJ)/d for each image, ``[n]``, by Gauss quadrature from one probe."""
    probe = rademacher(jacobian.images, jacobian.inputs, seed=SEED, like=jacobian.features)
    found = list(itertools.islice(bidiagonalise(jacobian.jvp, jacobian.vjp, probe), steps))
    return np.array([b.log_mean(1e-12).upper for b in found[-1]])


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


FIGURES = (
    ("bayesian_fsinfo", "FSInfo, bayesian", False),
    ("fsinfo", "FSInfo with the prior, image by image", False),
    ("exact_fsinfo", "FSInfo, exact", False),
    ("paper_fsinfo", "FSInfo, paper", False),
    ("posterior_error", "error of the linearised posterior", True),
    ("mse_lower_bound", "van Trees' bound by rings", True),
    ("dfil", "dFIL at the noise sent", True),
    ("dfil_paper_sigma", "dFIL at sigma 0.1", True),
    ("distance_correlation", "distance correlation", False),
    ("mutual_information", "mutual information, covariance bound", False),
    ("class_radius", "R_c² (arXiv 2506.15412)", True),
    ("class_radius_share", "R_c² over the whole variance", False),
    ("place", "depth alone: the number of the block", False),
)
"""Key, words, and whether Pearson's correlation is with its logarithm: it spans powers of ten."""

BOOTSTRAPS = 2000


def summary(data: Path, out: Path) -> None:
    """Correlations of every figure with the attack, pooled over models, and a picture."""
    del data
    attacks, figures = Results(out / "attack.json").rows, Results(out / "metrics.json").rows
    both = [attacks[key] | row for key, row in figures.items() if key in attacks]
    print(f"{len(both)} cuts of ResNet-{', -'.join(str(d) for d in DEPTHS)}")
    columns = [(statistic, judged) for judged in ("mse", "ssim") for statistic in ("r", "rho")]
    table = []
    for key, words, logarithm in FIGURES:
        cells = [_correlation(both, key, judged, s, logarithm) for s, judged in columns]
        table.append({
            "figure": words,
            **{f"{s} {j}": c for (s, j), c in zip(columns, cells, strict=True)},
        })
        print(f"{words:42s} " + "  ".join(_text(c) for c in cells))
    write_atomically(out / "summary.json", json.dumps(table, indent=1) + "\n")
    _plot(both, out / "study.png")


def _correlation(
    rows: list[dict[str, Any]], key: str, judged: str, statistic: str, logarithm: bool
) -> dict[str, Any]:
    """One correlation over the cuts, its interval by bootstrap over them, and how many there are.

    Minus infinity is the least of ranks, and no number for Pearson's, which leaves it out.
    """
    low = -math.inf
    values = [low if r.get(key) is None else float(r[key]) for r in rows]
    if logarithm:
        values = [math.log(v) if v > 0 else low for v in values]
    pairs = np.array(list(zip(values, (r[judged] for r in rows), strict=True)))
    if statistic == "r":
        pairs = pairs[np.isfinite(pairs[:, 0])]
    else:
        pairs[~np.isfinite(pairs[:, 0]), 0] = np.nanmin(pairs[np.isfinite(pairs[:, 0]), 0]) - 1
    measure = pearsonr if statistic == "r" else spearmanr
    generator = np.random.default_rng(SEED)
    drawn = []
    for _ in range(BOOTSTRAPS):
        sample = pairs[generator.integers(0, len(pairs), len(pairs))]
        if np.ptp(sample[:, 0]) > 0 and np.ptp(sample[:, 1]) > 0:
            drawn.append(float(measure(sample[:, 0], sample[:, 1])[0]))
    value = float(measure(pairs[:, 0], pairs[:, 1])[0])
    low95, high95 = np.percentile(drawn, [2.5, 97.5])
    return {"value": value, "ci95": (float(low95), float(high95)), "cuts": len(pairs)}


def _text(cell: dict[str, Any]) -> str:
    return f"{cell['value']:+.2f} [{cell['ci95'][0]:+.2f}, {cell['ci95'][1]:+.2f}] n={cell['cuts']}"


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(2, 4, figsize=(15, 7), sharey=True)
    shown = [f for f in FIGURES if f[0] not in {"place", "class_radius", "dfil_paper_sigma"}][:8]
    for axis, (key, words, logarithm) in zip(axes.flat, shown, strict=True):
        for depth in DEPTHS:
            ours = [r for r in rows if r["depth"] == depth and r.get(key) is not None]
            axis.scatter([r[key] for r in ours], [r["mse"] for r in ours], s=14, label=str(depth))
        axis.set(xlabel=words, yscale="log", xscale="log" if logarithm else "linear")
    axes[0, 0].set_ylabel("MSE of the inverse network")
    axes[1, 0].set_ylabel("MSE of the inverse network")
    axes[0, 0].legend(title="ResNet-")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


PARTS = {"attack": attack, "metrics": metrics, "summary": summary}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/cifar-study"))
    parser.add_argument("--part", choices=PARTS, help="one of them; without it all, in order")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        if given.part in {None, name}:
            part(given.data, given.out)
