"""How fast leakage is computed: exactly at 3,072 pixels, by quadrature at real sizes.

    python benchmarks/leakage.py [--data DIR] [--out DIR] [--threads 2]

exact    one image, the first block of a CIFAR ResNet (3,072 pixels, 16,384 smashed-data elements):
         `exact_fsinfo` against the authors' way, one `torch.autograd.functional.jacobian` (as it
         comes: vectorize=False) and the same log-determinant, JᵀJ and Cholesky in float64. DIR may
         hold ``weights/cifar10_resnet20.npz`` and ``cifar10/``; random weights without.
layers   one image of 224 by 224, ResNet-18's layer1 and layer3 with seeded random weights: seconds
         and memory until the relative standard error of `gain` is below 1 %. That is the
         log-determinant ln det(1 + C^½ I C^½) of what the smashed data adds to the prior, over 2d.
growth   the same from 32 by 32 to 448 by 448 pixels, as JSON and a plot.

Every measurement runs in a process of its own, whose largest resident memory is told, and is kept:
an interrupted run goes on where it was. Wall time and the processor time of all threads are told
both: on a machine that does other work besides, they differ.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from splitdeploy.attacks.images import load_photographs
from splitdeploy.attacks.leakage.exact import GAUSSIAN_ENTROPY, exact_fsinfo
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.measure import measure_leakage
from splitdeploy.attacks.leakage.noise import SnrNoise
from splitdeploy.attacks.leakage.prior import default_prior
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.store import write_atomically

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

LAYERS = ("layer1", "layer3")
SIDES = (32, 48, 64, 96, 128, 160, 224, 320, 448)
NOISE = SnrNoise(30)
RELATIVE_ERROR, STEPS, PROBES = 0.01, 600, 200
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What the work gives, and its seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def photograph(side: int) -> Tensor:
    """The first photograph that the package ships, ``[1, 3, side, side]``."""
    return torch.from_numpy(load_photographs("photos", shape=(3, side, side), count=1).pixels)


def cifar_head(data: Path | None) -> tuple[PixelHead, Tensor, str]:
    """Up to the first block of ResNet-20, an image, and which weights those are."""
    import cifar

    if data is not None and (data / "weights" / "cifar10_resnet20.npz").is_file():
        net, weights = cifar.load_resnet(data, 20), "trained on CIFAR-10"
        pixels = cifar.lossless(data).pixels()[:1]
    else:
        torch.manual_seed(0)
        net, weights = cifar.Resnet(20).eval(), "random"
        pixels = photograph(32)
    return cifar.split_at(net, "layer1.0")[0], pixels, weights


def by_functional_jacobian(head: PixelHead, pixels: Tensor, sigma: Tensor) -> dict[str, Any]:
    """The authors' way: the Jacobian a row at a time, then ln det JᵀJ/σ² in float64."""
    jacobian, rows = timed(lambda: torch.autograd.functional.jacobian(head.features, pixels))

    def log_det() -> float:
        matrix = jacobian.view(len(sigma), -1).double() / sigma.double().unsqueeze(1)
        factor = torch.linalg.cholesky(matrix.T @ matrix)
        return float(factor.diagonal().log().sum()) / matrix.shape[1] - GAUSSIAN_ENTROPY

    value, rest = timed(log_det)
    return {
        "value": value,
        "jacobian_wall_s": rows["wall_s"],
        "wall_s": rows["wall_s"] + rest["wall_s"],
        "cpu_s": rows["cpu_s"] + rest["cpu_s"],
    }


def measure_exact(data: Path | None) -> dict[str, Any]:
    """Both ways at one image, ours twice around theirs; the Jacobian's preparation is counted."""
    head, pixels, weights = cifar_head(data)
    with torch.no_grad():
        sigma = NOISE.level(head(pixels)).sigma

    def ours() -> float:
        return exact_fsinfo(HeadJacobian(head, pixels), sigma).values[0]

    ours()  # the libraries start
    value, before = timed(ours)
    theirs = by_functional_jacobian(head, pixels, sigma)
    _, after = timed(ours)
    each = {key: (before[key] + after[key]) / 2 for key in before}
    return {
        "weights": weights,
        "inputs": pixels[0].numel(),
        "outputs": len(sigma),
        "ours": {"value": value, **each},
        "theirs": theirs,
        "ratio_wall": theirs["wall_s"] / each["wall_s"],
        "ratio_cpu": theirs["cpu_s"] / each["cpu_s"],
    }


def resnet_head(layer: str) -> PixelHead:
    """ResNet-18 up to a layer, seeded random weights."""
    torch.manual_seed(0)
    net = resnet18(weights=None).eval()
    names = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"]
    chosen = names[: names.index(layer) + 1]
    return PixelHead(nn.Sequential(*(getattr(net, name) for name in chosen)), MEAN, STD).eval()


def measure_layer(layer: str, side: int) -> dict[str, Any]:
    """Leakage of one image at one layer, until its relative standard error is small enough."""
    head, pixels = resnet_head(layer), photograph(side)
    prior = default_prior((3, side, side))
    record, spent = timed(
        lambda: measure_leakage(
            head,
            pixels,
            noise=NOISE,
            prior=prior,
            steps=STEPS,
            probes=PROBES,
            relative_error=RELATIVE_ERROR,
        )
    )
    return {
        "layer": layer,
        "side": side,
        "inputs": record.dimensions,
        "gain": record.gain.value,
        "standard_error": record.gain.standard_error,
        "relative_error": record.gain.standard_error / record.gain.value,
        "steps": record.steps,
        **spent,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def pieces() -> list[str]:
    """The names of all measurements, the ones that matter first."""
    layers = [f"{layer}-{side}" for side in (224, *SIDES) for layer in LAYERS]
    return ["exact", *dict.fromkeys(layers)]


def run_piece(name: str, data: Path | None) -> dict[str, Any]:
    """One measurement, in this process."""
    if name == "exact":
        return measure_exact(data)
    layer, side = name.split("-")
    return measure_layer(layer, int(side))


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds until the error is small enough, against the pixels."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for layer, style in zip(LAYERS, ("o-", "s--"), strict=True):
        chosen = sorted((row for row in rows if row["layer"] == layer), key=lambda r: r["inputs"])
        sizes = [row["inputs"] for row in chosen]
        axes.plot(sizes, [row["cpu_s"] for row in chosen], style, label=layer)
    axes.set(xscale="log", yscale="log", xlabel="input elements d")
    axes.set_ylabel(f"processor seconds to {RELATIVE_ERROR:.0%} of the log-determinant")
    axes.set_title("Leakage of one image, ResNet-18, seeded random weights")
    axes.legend()
    figure.savefig(path, dpi=120)


def show(found: dict[str, dict[str, Any]]) -> None:
    """The table."""
    exact = found["exact"]
    ours, theirs = exact["ours"], exact["theirs"]
    print(
        f"exact at {exact['inputs']} pixels, {exact['outputs']} outputs ({exact['weights']} "
        f"weights): {ours['value']:.9f} in {ours['wall_s']:.2f} s ({ours['cpu_s']:.2f} s of "
        f"processor); the authors' way {theirs['value']:.9f} in {theirs['wall_s']:.1f} s "
        f"({theirs['cpu_s']:.1f} s; Jacobian alone {theirs['jacobian_wall_s']:.1f} s): "
        f"{exact['ratio_wall']:.1f} times faster by wall, {exact['ratio_cpu']:.1f} by processor"
    )
    print(f"{'cut':8s} {'pixels':>9s} {'gain':>8s} {'error':>7s} {'steps':>6s} "
          f"{'wall s':>8s} {'cpu s':>8s} {'peak GB':>8s}")  # fmt: skip
    for name, row in sorted(found.items(), key=lambda item: item[1].get("side", 0)):
        if name != "exact":
            print(
                f"{row['layer']:8s} {row['side']:4d}x{row['side']:<4d} {row['gain']:8.4f} "
                f"{row['relative_error']:7.2%} {row['steps']:6d} {row['wall_s']:8.1f} "
                f"{row['cpu_s']:8.1f} {row['peak_bytes'] / 1e9:8.2f}"
            )
    print("the goal at 224x224: below 1 % in 20 s and 6 GB on 2 cores")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="see above")
    parser.add_argument("--out", type=Path, default=Path("runs/leakage"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--piece", choices=pieces(), help="measure this alone, print it as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.piece is not None:
        print(json.dumps(run_piece(arguments.piece, arguments.data)))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    store = arguments.out / "leakage.json"
    found = json.loads(store.read_text()) if store.is_file() else {}
    for name in pieces():
        if name not in found:
            print(name, file=sys.stderr, flush=True)
            command = [sys.executable, __file__, "--piece", name]
            command += ["--threads", str(arguments.threads)]
            command += [] if arguments.data is None else ["--data", str(arguments.data)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[name] = {"threads": arguments.threads, **json.loads(done.stdout)}
            write_atomically(store, json.dumps(found, indent=1))
    show(found)
    draw([row for name, row in found.items() if name != "exact"], arguments.out / "leakage.png")


if __name__ == "__main__":
    main()
