"""Eight networks on a simulated Jetson Nano over 3G, LTE and Wi-Fi: does cutting them pay?

    python benchmarks/neurosurgeon.py [--out FILE.json] [--models resnet18,vgg16]

For each network and link the cut of least latency and the cut of least energy stand beside
cloud-only and edge-only, and their mean and largest gain beside those that Neurosurgeon published
(Kang et al., ASPLOS 2017). Nothing here is measured: the board, the cloud and the links are models.
Each network is swept once; the links are decided anew from the stored figures. The same is decided
for boards that are 3, 10 and 30 times as slow, which tells from where on cutting pays. What is
finished is kept in the output file, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from splitdeploy.partitioner.api import profile
from splitdeploy.partitioner.recommend import recommend
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY
from splitdeploy.profiles.network import NETWORKS, NetworkProfile
from splitdeploy.profiles.report import Constraints, CutReport, Objective, SweepReport
from splitdeploy.profiles.store import write_atomically

PUBLISHED_FILE = Path(__file__).parent / "data" / "neurosurgeon.json"
MODELS = (
    "alexnet", "squeezenet1_1", "vgg11", "vgg16", "resnet18", "resnet50", "densenet121",
    "mobilenet_v2",
)  # fmt: skip
LINKS = ("3g", "lte", "wifi")
SLOWER = (1, 3, 10, 30)
"""Times that the edge takes of what it is simulated to take; all but the first are suppositions."""

PICTURE_BYTES = 3 * 224 * 224
"""What cloud-only would send of a picture of 8 bits a channel, without compression."""


def rows_of(report: SweepReport) -> list[dict[str, Any]]:
    """One network's row for every link, at every speed of the edge."""
    return [
        _row(_slowed(report, factor), NETWORKS[link], factor) for factor in SLOWER for link in LINKS
    ]


def _slowed(report: SweepReport, factor: int) -> SweepReport:
    """The report of an edge that takes so many times as long, at the same power."""
    rows = []
    for row in report.cuts:
        latency, energy = row.latency_s, row.energy_j
        if latency is None or energy is None:
            raise SystemExit(f"{row.name} has no figures: {row.error}")
        more_s = (factor - 1) * latency.edge.median
        edge = replace(latency.edge, median=factor * latency.edge.median)
        total = replace(latency.total, median=latency.total.median + more_s)
        compute = factor * energy.compute
        rows.append(
            replace(
                row,
                latency_s=replace(latency, edge=edge, total=total),
                energy_j=replace(energy, compute=compute, total=compute + energy.radio),
            )
        )
    return replace(report, cuts=tuple(rows))


def _row(report: SweepReport, network: NetworkProfile, factor: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": report.model.name, "network": network.name, "edge_slower": factor,
    }  # fmt: skip
    for objective, unit in (("latency", "s"), ("energy", "j")):
        seen = recommend(
            report, constraints=Constraints(), objective=Objective(objective), network=network
        )
        if seen.recommendation is None:
            raise SystemExit(f"{report.model.name}: nothing was recommended")
        figure = _latency_s if objective == "latency" else _energy_j
        best, cloud = seen.find(seen.recommendation.cut), seen.find(CLOUD_ONLY)
        row[objective] = {
            "cut": best.name,
            f"best_{unit}": figure(best),
            f"cloud_only_{unit}": figure(cloud),
            f"edge_only_{unit}": figure(seen.find(EDGE_ONLY)),
        }
    latency = row["latency"]
    saved_s = (cloud.cut.payload_bytes - PICTURE_BYTES) * 8 / network.uplink_bps
    latency["cloud_only_8bit_s"] = latency["cloud_only_s"] - saved_s
    return row


def _latency_s(row: CutReport) -> float:
    if row.latency_s is None:
        raise SystemExit(f"{row.name} has no latency: {row.error}")
    return row.latency_s.total.median


def _energy_j(row: CutReport) -> float:
    if row.energy_j is None:
        raise SystemExit(f"{row.name} has no energy: {row.error}")
    return row.energy_j.total


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and largest gain over the rows."""
    gains: dict[str, Callable[[dict[str, Any]], float]] = {
        "speedup_over_cloud_only": lambda r: r["latency"]["cloud_only_s"] / r["latency"]["best_s"],
        "speedup_over_8bit_cloud_only": lambda r: (
            r["latency"]["cloud_only_8bit_s"] / _best_with_8bit(r)
        ),
        "speedup_over_edge_only": lambda r: r["latency"]["edge_only_s"] / r["latency"]["best_s"],
        "energy_saved_over_cloud_only": lambda r: (
            1 - r["energy"]["best_j"] / r["energy"]["cloud_only_j"]
        ),
        "energy_saved_over_edge_only": lambda r: (
            1 - r["energy"]["best_j"] / r["energy"]["edge_only_j"]
        ),
    }
    found = {}
    for name, gain in gains.items():
        values = [gain(row) for row in rows]
        found[name] = {"mean": statistics.fmean(values), "largest": max(values)}
    return found


def _best_with_8bit(row: dict[str, Any]) -> float:
    """The best of what was recommended and of sending the picture in 8 bits."""
    return float(min(row["latency"]["best_s"], row["latency"]["cloud_only_8bit_s"]))


def picks(rows: Sequence[dict[str, Any]], objective: str) -> dict[str, int]:
    """How often an end was best, and how often a cut between them."""
    cuts = [row[objective]["cut"] for row in rows]
    inner = sum(cut not in {CLOUD_ONLY, EDGE_ONLY} for cut in cuts)
    return {
        CLOUD_ONLY: cuts.count(CLOUD_ONLY), "a cut between": inner,
        EDGE_ONLY: cuts.count(EDGE_ONLY),
    }  # fmt: skip


def sweep(model: str) -> SweepReport:
    """One network, with a picture to verify every cut on."""
    with tempfile.TemporaryDirectory(prefix="splitdeploy-") as folder:
        return profile(
            model,
            Path(folder) / "run",
            device="jetson-nano",
            privacy=False,
            weights="none",
            image_count=1,
            budget_s=3600.0,
            objective=Objective("latency"),
        )


def print_markdown(rows: Sequence[dict[str, Any]], published: dict[str, Any]) -> None:
    """The rows of the board as it is, and the summary at every speed, as Markdown."""
    print("| network | link | least latency at | cloud-only / best / edge-only, ms |", end="")
    print(" least energy at | cloud-only / best / edge-only, mJ |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        if row["edge_slower"] > 1:
            continue
        times, energies = row["latency"], row["energy"]
        shown_times = _shown(times["cloud_only_s"], times["best_s"], times["edge_only_s"])
        shown = _shown(energies["cloud_only_j"], energies["best_j"], energies["edge_only_j"])
        print(f"| {row['model']} | {row['network']} | {times['cut']} | {shown_times} |", end="")
        print(f" {energies['cut']} | {shown} |")
    speed, energy = published["latency_speedup"], published["energy_saved"]
    theirs = {
        "speedup_over_cloud_only": f"{speed['mean']:.1f}, {speed['largest']:.1f}",
        "energy_saved_over_cloud_only": f"{energy['mean']:.1%}, {energy['largest']:.1%}",
    }
    print(f"\n| mean, largest | {' | '.join(f'edge x{f}' for f in SLOWER)} | Neurosurgeon |")
    print("|---|" + "---|" * (len(SLOWER) + 1))
    found = {factor: [row for row in rows if row["edge_slower"] == factor] for factor in SLOWER}
    for name in summary(rows):
        form = ".1%" if "saved" in name else ".1f"
        cells = [
            f"{figures['mean']:{form}}, {figures['largest']:{form}}"
            for figures in (summary(found[factor])[name] for factor in SLOWER)
        ]
        print(f"| {name.replace('_', ' ')} | {' | '.join(cells)} | {theirs.get(name, '')} |")
    for objective in ("latency", "energy"):
        shares = [picks(found[factor], objective) for factor in SLOWER]
        cells = [" / ".join(map(str, share.values())) for share in shares]
        names = ", ".join(shares[0])
        print(f"| least {objective} at: {names} | {' | '.join(cells)} |  |")


def _shown(*values: float) -> str:
    milli = [value * 1e3 for value in values]
    return " / ".join(f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in milli)


def main() -> int:
    """Sweep what is not yet in the output file, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("neurosurgeon.json"))
    parser.add_argument("--models", default=",".join(MODELS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    done: list[dict[str, Any]] = []
    if given.out.is_file():
        done = json.loads(given.out.read_text("utf-8"))["rows"]
    for model in given.models.split(","):
        if any(row["model"] == model for row in done):
            continue
        began = time.perf_counter()
        done += rows_of(sweep(model))
        print(f"{model}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        document = {"source": "simulated", "device": "jetson-nano", "cloud": "t4", "rows": done}
        write_atomically(given.out, json.dumps(document, indent=1))
    print_markdown(done, json.loads(PUBLISHED_FILE.read_text("utf-8")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
