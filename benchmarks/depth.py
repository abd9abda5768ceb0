"""How leakage and the attack run along the depth of a trained net, and whether they agree.

    python benchmarks/depth.py --data DIR [--images 8] [--out DIR]

DIR holds ``weights/squeezenet1_0_imagenet.pth`` (torchvision's state dict of squeezenet1_0, trained
on ImageNet) and ``imagenet_sample/`` (photographs). At every block cut FSInfo of the exported head
stands beside the SSIM that the white-box attack reaches; their rank correlation over the cuts
between the two ends, with a 95 % interval by bootstrap over the cuts, says whether the metric
orders the cuts as the attack does. Results are written as they come; an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import spearmanr

from splitdeploy.attacks.baselines import best_baseline
from splitdeploy.attacks.leakage.noise import noise_named
from splitdeploy.attacks.leakage.prior import default_prior
from splitdeploy.partitioner import privacy
from splitdeploy.partitioner.deployed import observe
from splitdeploy.partitioner.models import load_model
from splitdeploy.partitioner.plan import Plan, make_plan
from splitdeploy.profiles.store import write_atomically

MODEL = "squeezenet1_0"
PRECISION = "fp16"
NOISES = ("snr:30", "fp16")


def measure_cut(plan: Plan, place: int) -> dict[str, Any]:
    """Leakage at each noise, and the attack, at one cut."""
    cut, sent = plan.cuts[place], plan.sent[place]
    head = plan.pixel_head(cut)
    if head is None or plan.pixels is None:
        raise SystemExit("expected a torch model of pictures")
    pixels = torch.from_numpy(plan.pixels)
    prior = default_prior((pixels.shape[1], pixels.shape[2], pixels.shape[3]))
    start = time.perf_counter()
    leaks = {
        noise: privacy.leakage(
            head, pixels, noise=noise_named(noise), prior=prior, deadline_s=None, seed=0
        )
        for noise in NOISES
    }
    leakage_s = time.perf_counter() - start
    seen = observe(plan, cut, sent, PRECISION)
    record, _ = privacy.attack(head, seen, pixels, deadline_s=None, seed=0)
    return {
        "cut": cut.name,
        "payload_bytes": sent.payload_bytes,
        "fsinfo": {noise: leak.fsinfo.value for noise, leak in leaks.items()},
        "fsinfo_error": {noise: leak.fsinfo.standard_error for noise, leak in leaks.items()},
        "leakage_s": leakage_s,
        "attack": record.name,
        "ssim": record.ssim,
        "ssim_ci95": record.ssim_ci95,
        "psnr_db": record.psnr_db,
        "mse": record.mse,
        "converged": record.converged,
        "steps": record.steps,
        "attack_s": record.seconds,
    }


def correlation(x: list[float], y: list[float], seed: int = 0) -> tuple[float, float, float]:
    """Spearman's correlation and its 95 % interval by bootstrap over the cuts."""
    left, right = np.array(x), np.array(y)
    value = float(spearmanr(left, right).statistic)
    draw = np.random.default_rng(seed)
    again = []
    for _ in range(2000):
        chosen = draw.integers(0, len(left), len(left))
        if len(set(left[chosen])) > 1 and len(set(right[chosen])) > 1:
            again.append(float(spearmanr(left[chosen], right[chosen]).statistic))
    low, high = np.quantile(again, [0.025, 0.975])
    return value, float(low), float(high)


def draw(rows: list[dict[str, Any]], baseline: float, path: Path) -> None:
    """FSInfo and SSIM along the depth."""
    figure, axis = plt.subplots(figsize=(9, 4))
    places = range(len(rows))
    axis.errorbar(
        places,
        [row["fsinfo"][NOISES[0]] for row in rows],
        [row["fsinfo_error"][NOISES[0]] for row in rows],
        color="#0072B2", marker="o", capsize=3,
    )  # fmt: skip
    axis.set_ylabel("FSInfo, nats per input element", color="#0072B2")
    axis.set_xticks(places, [row["cut"] for row in rows], rotation=60, ha="right")
    other = axis.twinx()
    values = np.array([row["ssim"] for row in rows])
    interval = np.array([row["ssim_ci95"] for row in rows]).T
    errors = np.abs(interval - values)
    other.errorbar(places, values, errors, color="#D55E00", marker="s", capsize=3)
    other.axhline(baseline, color="#D55E00", linestyle=":", label="trivial reconstruction")
    other.set_ylabel("SSIM of rMLE", color="#D55E00")
    other.legend(loc="upper right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="see above")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("runs/depth"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    store = arguments.out / "depth.json"
    rows = {row["cut"]: row for row in json.loads(store.read_text())} if store.is_file() else {}
    weights = arguments.data / "weights" / "squeezenet1_0_imagenet.pth"
    model = load_model(MODEL, weights=str(weights))
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(
            model,
            cuts="block",
            precision=PRECISION,
            images=arguments.data / "imagenet_sample",
            image_count=arguments.images,
            seed=0,
            folder=Path(folder),
        )
        for place, cut in enumerate(plan.cuts):
            if cut.name not in rows:
                rows[cut.name] = measure_cut(plan, place)
                write_atomically(store, json.dumps(list(rows.values()), indent=1))
            row = rows[cut.name]
            shown = "  ".join(
                f"{noise} {row['fsinfo'][noise]:6.2f} ± {row['fsinfo_error'][noise]:.2f}"
                for noise in NOISES
            )
            print(
                f"{cut.name:14s} FSInfo {shown}  {row['attack']} SSIM {row['ssim']:.3f} "
                f"PSNR {row['psnr_db']:5.1f} dB, {row['steps']} steps, "
                f"{'converged' if row['converged'] else 'not converged'}",
                flush=True,
            )
        baseline = best_baseline(torch.from_numpy(plan.pixels))
    print(f"trivial reconstruction: SSIM {baseline.ssim:.3f}, PSNR {baseline.psnr_db:.1f} dB")
    inner = [rows[cut.name] for cut in plan.cuts if not cut.is_end]
    for noise in NOISES:
        value, low, high = correlation(
            [row["fsinfo"][noise] for row in inner], [row["ssim"] for row in inner]
        )
        print(
            f"Spearman's correlation of FSInfo ({noise}) with SSIM over {len(inner)} cuts: "
            f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
        )
    draw([rows[cut.name] for cut in plan.cuts], baseline.ssim, arguments.out / "depth.png")


if __name__ == "__main__":
    main()
