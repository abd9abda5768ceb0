"""How long the published rMLE takes to its quality, and ours to the same: CIFAR-10 CNN, ReLU22.

    python benchmarks/time_to_quality.py --data DIR --out DIR [--cut ReLU22] [--images 32]

Theirs: He et al.'s published code in our own rendering (``rmle-he2019``, variant ``code``: 5,000
steps of AMSGrad, their λ), one image at a time. Ours: `noise-aware` and `rmle` on all images at
once, with more and more passes, until the mean PSNR is what theirs reached, and on until it is what
their paper prints, which their λ does not reach on a net whose features are smaller. The time to a
quality is that of the shortest run that has it, from its start. An attacker cannot see the PSNR: it
is what we judge by, and each attack runs to a fixed number of passes. All in one process, on as
many threads as there are cores; do not run anything beside it. Images already done are kept.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import victims
from reproduce_he2019 import CODE_TV
from reproduction import read_rows
from torch import Tensor

from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.noise_aware import NoiseAware
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.quality import judge, psnr_db
from splitdeploy.attacks.rmle import Rmle, RmlePublished
from splitdeploy.attacks.target import AttackTarget
from splitdeploy.profiles.store import write_atomically

PRINTED_DB = {"conv11": 37.59, "ReLU22": 19.47, "ReLU32": 13.38}
"""Mean PSNR in their Table 3."""

PASSES = (5, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640)


def observed(head: PixelHead, pixels: Tensor) -> AttackTarget:
    """What is sent for pictures."""
    with torch.no_grad():
        return AttackTarget(head(pixels), head, (3, 32, 32))


def theirs(head: PixelHead, pixels: Tensor, cut: str, results: Path) -> tuple[float, float]:
    """Seconds and mean PSNR of their settings, one image at a time."""
    rows = read_rows(results)
    for place in range(len(pixels)):
        if str(place) in rows:
            continue
        attack = RmlePublished(
            variant="code", steps=5000, learning_rate=1e-2, tv_weight=CODE_TV[cut]
        )
        one = pixels[place : place + 1]
        started = time.perf_counter()
        found = attack(observed(head, one))
        seconds = time.perf_counter() - started
        rows[str(place)] = {"seconds": seconds, "psnr_db": float(psnr_db(found.pixels, one)[0])}
        write_atomically(results, json.dumps(rows, indent=1) + "\n")
        print(f"theirs, image {place}: {rows[str(place)]}", flush=True)
    done = [rows[str(place)] for place in range(len(pixels))]
    return sum(r["seconds"] for r in done), sum(r["psnr_db"] for r in done) / len(done)


def ours(
    make: type[Attack], head: PixelHead, pixels: Tensor, goal_db: float
) -> list[dict[str, float]]:
    """Runs with more and more passes, until one reaches the goal."""
    runs = []
    for passes in PASSES:
        started = time.perf_counter()
        found = make(passes=passes)(observed(head, pixels))  # type: ignore[call-arg]
        seconds = time.perf_counter() - started
        reached = judge(found.pixels, pixels).psnr_db
        runs.append({"passes": passes, "seconds": seconds, "psnr_db": reached})
        print(f"{make.name}: {runs[-1]}", flush=True)
        if reached >= goal_db:
            break
    return runs


def main() -> None:
    """Run both, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--cut", default="ReLU22", choices=list(PRINTED_DB))
    parser.add_argument("--images", type=int, default=32)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    net = victims.victim(given.data, victims.CIFAR, given.out)
    head, _ = victims.split(net, victims.CIFAR, given.cut)
    pixels = victims.load(given.data, victims.CIFAR).test.pixels()[: given.images]
    seconds, goal_db = theirs(
        head, pixels, given.cut, given.out / f"time-to-quality-{given.cut}.json"
    )
    print(f"theirs: {goal_db:.2f} dB in {seconds:.0f} s on {torch.get_num_threads()} threads")
    summary = {"theirs": {"seconds": seconds, "psnr_db": goal_db}, "ours": {}}
    goals_db = sorted((goal_db, PRINTED_DB[given.cut]))
    for attack in (NoiseAware, Rmle):
        runs = ours(attack, head, pixels, goals_db[-1])
        summary["ours"][attack.name] = runs
        for goal in goals_db:
            took = next((run["seconds"] for run in runs if run["psnr_db"] >= goal), None)
            told = (
                "not reached"
                if took is None
                else f"{took:.1f} s, theirs {seconds / took:.0f} times"
            )
            print(f"{attack.name} to {goal:.2f} dB: {told}")
    path = given.out / f"time-to-quality-{given.cut}-summary.json"
    write_atomically(path, json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
