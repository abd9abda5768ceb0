"""How much Fisher information pictures have: the Gaussian prior against a learned one, on CIFAR-10.

    python benchmarks/score_prior.py --data DIR [--train lossless|jpeg] [--seconds 60]

DIR is that of ``cifar.py``. For each smoothing s a network is trained for so many seconds to tell
the noise, and J = E[score²] is measured with it on the lossless test images, ring by ring of
frequency. Then pictures are sent as they are, with noise of σ = 0.05 and 0.1: what each prior says
that no attacker gets below (van Trees), beside the error of a denoiser that was trained for that
noise, which any bound must respect.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from cifar import jpeg_training, lossless
from torch import Tensor

from splitdeploy.attacks.leakage.prior import NATURAL_IMAGES, GaussianPrior, default_prior
from splitdeploy.attacks.leakage.score_network import NoisePredictor, train_predictor
from splitdeploy.attacks.leakage.score_prior import (
    RingInformation,
    explained_noise,
    measure_information,
)
from splitdeploy.attacks.leakage.sides import frequency_rings
from splitdeploy.profiles.report import Estimate

SHAPE = (3, 32, 32)
GREY_LEVELS = (1.0, 4.0, 12.75)
NOISES = (0.05, 0.1)
GROUPS = ((0, 8), (8, 14), (14, 18), (18, 21), (21, 24))
"""Rings that are shown together, from low to high frequency."""

RING = frequency_rings(SHAPE)
SIZE = torch.bincount(RING).double()


def learn(training: Tensor, smoothing: float, seconds: float) -> NoisePredictor:
    """A network that tells the noise of that smoothing and beyond."""
    network, steps = train_predictor(
        training, smoothing=smoothing, epochs=10_000, seed=0, deadline_s=seconds
    )
    print(f"s = {smoothing * 255:.4g}/255: {steps} steps of training", flush=True)
    return network


def denoised(network: NoisePredictor, test: Tensor, level: float, sigma: float) -> Estimate:
    """The error of a denoiser, which tells pictures smoothed by s from noise of σ on top.

    With t² = s² + σ² the estimate is z − (σ²/t)·ν(z), and its error σ²(1 − σ²·J), where J is what
    the network makes of the noise.
    """
    each = explained_noise(network, test, level, seed=1) @ SIZE / SIZE.sum()
    error = sigma**4 * float(each.std()) / math.sqrt(len(each))
    return Estimate(sigma**2 * (1.0 - sigma**2 * float(each.mean())), error)


def gaussian_rings(variance: Tensor) -> Tensor:
    """1/C, averaged over rings."""
    sums = torch.zeros(len(SIZE), dtype=torch.float64)
    return sums.index_add_(0, RING, (1.0 / variance).flatten()) / SIZE.clamp_min(1)


def show_rings(found: RingInformation, smoothing: float, training: Tensor) -> None:
    """J in groups of rings, times s²: at most 1."""
    fitted = default_prior(SHAPE, training, smoothing=smoothing)
    rows = {
        "natural images' law": gaussian_rings(
            GaussianPrior(SHAPE, NATURAL_IMAGES, smoothing=smoothing).variance
        ),
        "power law fitted": gaussian_rings(fitted.variance),
        "1/C of the test images": 1.0 / found.variance.clamp_min(smoothing**2),
        "learned": found.information,
    }
    print(f"  J·s² by colour, from low to high frequency (s = {smoothing * 255:.4g}/255)")
    for name, information in rows.items():
        cells = []
        for colour in range(3):
            for low, high in GROUPS:
                part = slice(24 * colour + low, 24 * colour + high)
                mean = (SIZE[part] * information[part]).sum() / SIZE[part].sum()
                cells.append(f"{float(mean) * smoothing**2:7.4f}")
            cells.append("|")
        mean = float((SIZE * information).sum() / SIZE.sum())
        print(f"  {name:24s}{' '.join(cells)}  tr(J)/d {mean:10.1f}")
    error = found.mean.standard_error
    print(f"  {'':24s}± {error:.1f} over {found.images} images, at most {smoothing**-2:.1f}")


def bound(information: Tensor, sigma: float) -> float:
    """Van Trees by rings for z = x + σ·n."""
    used = SIZE > 0
    return float((SIZE[used] / (information[used] + sigma**-2)).sum() / SIZE.sum())


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="see above")
    parser.add_argument("--train", choices=("lossless", "jpeg"), default="lossless")
    parser.add_argument("--images", type=int, default=4000, help="of training")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, each of 5 times")
    arguments = parser.parse_args()
    if arguments.train == "jpeg":
        training = jpeg_training(arguments.data, arguments.images).pixels()
    else:
        training = lossless(arguments.data, "train").pixels()[: arguments.images]
    test = lossless(arguments.data).pixels()
    learned = {}
    for levels in GREY_LEVELS:
        smoothing = levels / 255
        network = learn(training, smoothing, arguments.seconds)
        learned[levels] = measure_information(network, test, seed=1)
        show_rings(learned[levels], smoothing, training)
    print("lower bounds on the error of a pixel, for pictures sent with noise sigma")
    smoothest = GREY_LEVELS[0] / 255
    for sigma in NOISES:
        both = math.hypot(smoothest, sigma)
        reached = denoised(learn(training, both, arguments.seconds), test, both, sigma)
        fitted = default_prior(SHAPE, training, smoothing=smoothest)
        law = GaussianPrior(SHAPE, NATURAL_IMAGES, smoothing=smoothest)
        told = {
            "natural images' law": gaussian_rings(law.variance),
            "power law fitted": gaussian_rings(fitted.variance),
            "1/C of the test images": 1.0 / learned[GREY_LEVELS[0]].variance.clamp_min(1e-9),
            f"learned, s = {GREY_LEVELS[0]:g}/255": learned[GREY_LEVELS[0]].information,
            "any pictures (1/s²)": torch.full_like(SIZE, smoothest**-2),
        }
        error, spread = reached.value, reached.standard_error
        print(f"  sigma {sigma:g}: a denoiser reaches {error:.3e} ± {spread:.1e}")
        for name, information in told.items():
            value = bound(information, sigma)
            broken = "broken by the denoiser" if value > error + 2 * spread else "holds"
            print(f"    {name:24s} MSE >= {value:.3e}  {broken}")


if __name__ == "__main__":
    main()
