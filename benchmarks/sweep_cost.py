"""What a sweep costs against its number of cuts: latencies and bytes alone, ResNets of any depth.

    python benchmarks/sweep_cost.py --models resnet18,resnet34,resnet50 --out sweep_cost.json

Every run is a process of its own, ``splitdeploy profile MODEL --no-privacy --cuts layer``: all of
what a user waits for, the start of Python among it. In fp16 and int8 it tells of every cut what its
codec costs the answers, too. A PNG beside the JSON shows seconds a cut.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODELS = "resnet18,resnet34,resnet50,resnet101,resnet152"


def main() -> None:
    """Print a row a network and grain, write them down, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--grains", default="block,layer")
    parser.add_argument("--precisions", default="fp32,fp16")
    parser.add_argument("--out", type=Path, default=Path("sweep_cost.json"))
    arguments = parser.parse_args()
    rows = []
    for precision in arguments.precisions.split(","):
        for grain in arguments.grains.split(","):
            for model in arguments.models.split(","):
                rows.append(_timed(model, grain, precision))
                print(json.dumps(rows[-1]), flush=True)
                arguments.out.write_text(json.dumps(rows, indent=2) + "\n")
    _draw(rows, arguments.out.with_suffix(".png"))


def _timed(model: str, grain: str, precision: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [
            sys.executable, "-m", "splitdeploy", "profile", model, "--no-privacy", "--cuts", grain,
            "--precision", precision, "--weights", "none", "--device", "jetson-nano", "-q",
            "--format", "json", "--out", out,
        ]  # fmt: skip
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - began
        report = json.loads(done.stdout)
        lines = (out / "state" / "done.jsonl").read_text().splitlines()
    verified_s = sum(json.loads(line)["seconds"] for line in lines)
    cuts = len(report["cuts"])
    return {
        "model": model,
        "grain": grain,
        "precision": precision,
        "cuts": cuts,
        "seconds": round(seconds, 2),
        "seconds_a_cut": round(seconds / cuts, 3),
        "verification_s": round(verified_s, 2),
        "failed": sum(row["error"] is not None for row in report["cuts"]),
    }


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    kinds = dict.fromkeys((row["grain"], row["precision"]) for row in rows)
    for kind, mark in zip(kinds, "os^v", strict=False):
        chosen = [row for row in rows if (row["grain"], row["precision"]) == kind]
        chosen.sort(key=lambda row: row["cuts"])
        axes.plot([r["cuts"] for r in chosen], [r["seconds_a_cut"] for r in chosen], f"{mark}-",
                  label="every {}, {}".format(*kind))  # fmt: skip
        for row in chosen:
            axes.annotate(row["model"], (row["cuts"], row["seconds_a_cut"]), fontsize=8,
                          textcoords="offset points", xytext=(4, 4))  # fmt: skip
    axes.set(xlabel="cuts", ylabel="seconds a cut, the whole command", ylim=(0, None))
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
