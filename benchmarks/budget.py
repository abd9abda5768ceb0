"""Whether a budget is kept, and whether a minute picks what five minutes pick.

    python benchmarks/budget.py --out budget.json
    python benchmarks/budget.py --models resnet18 --networks wifi --budgets 30s,60s \
        --out budget.json -- --objective leakage

Every run is a process of its own, ``splitdeploy profile MODEL --device jetson --network NETWORK
--budget TIME``: all of what a user waits for, the start of Python among it. What stands behind
``--`` goes to each of them. Runs that the file has already are not made again. Nothing else should
run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from splitdeploy.partitioner.recommend import recommend
from splitdeploy.profiles.cut import EDGE_ONLY
from splitdeploy.profiles.network import find_network
from splitdeploy.profiles.report import Constraints, SweepReport
from splitdeploy.profiles.store import read_report
from splitdeploy.profiles.units import parse_time_s

MODELS = "resnet18,mobilenet_v2,squeezenet1_1,googlenet,shufflenet_v2_x1_0"
DECIDED_OVER = ("wifi", "lte", "3g")
KEPT = 0.15
"""A run keeps its budget if it ends within that share of it, or earlier with nothing left to do."""


def main() -> None:
    """Print a row a run, write each down as it ends, and sum them up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--networks", default="wifi,lte")
    parser.add_argument("--budgets", default="30s,60s,5m")
    parser.add_argument("--out", type=Path, default=Path("budget.json"))
    parser.add_argument("more", nargs="*", help="further options of splitdeploy profile")
    given = parser.parse_args()
    rows = json.loads(given.out.read_text()) if given.out.exists() else []
    for model in given.models.split(","):
        for network in given.networks.split(","):
            for budget in given.budgets.split(","):
                asked = {"model": model, "network": network, "budget": budget, "more": given.more}
                if any(asked.items() <= row.items() for row in rows):
                    continue
                rows.append({**asked, **_run(model, network, budget, given.more)})
                print(json.dumps(rows[-1]), flush=True)
                given.out.write_text(json.dumps(rows, indent=2) + "\n")
    print("\n".join(summed_up(rows)))


def _run(model: str, network: str, budget: str, more: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [
            sys.executable, "-m", "splitdeploy", "profile", model, "--device", "jetson",
            "--network", network, "--budget", budget, "--out", str(out), "-q", *more,
        ]  # fmt: skip
        before, began = _processor_s(), time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds, processor_s = time.perf_counter() - began, _processor_s() - before
        if not (out / "report.json").exists():
            return {"error": done.stderr.strip()[-300:]}
        report = json.loads((out / "report.json").read_text())
        anew = _decided_anew(read_report(out))
    told = [text for text in report["warnings"] if " budget of " in text]
    cuts = report["cuts"]
    picked = report["recommendation"] or {}
    return {
        "seconds": round(seconds, 2),
        "over": round(seconds / parse_time_s(budget) - 1, 4),
        "processor_s": round(processor_s, 1),
        "pick": picked.get("cut"),
        "runner_up": picked.get("runner_up"),
        "probability_best": picked.get("probability_best"),
        "cuts": len(cuts),
        "measured": sum(row["leakage"] is not None for row in cuts),
        "on_all_pictures": _whole(cuts),
        "attacks": sum(len(row["attacks"]) for row in cuts),
        "failed": sum(row["error"] is not None for row in cuts),
        "not_used_up": any("not used up" in text for text in told),
        "told": told,
        "decided_anew": anew,
    }


def _decided_anew(report: SweepReport) -> dict[str, str | None]:
    """The picks over other networks and within half of the whole model's memory."""
    whole = report.find(EDGE_ONLY).edge_memory_bytes or 0
    picks = {}
    for network in DECIDED_OVER:
        for words, limits in (
            ("", Constraints()),
            (", half the memory", Constraints(max_edge_memory_bytes=whole // 2)),
        ):
            found = recommend(
                report, constraints=limits, objective=report.objective,
                network=find_network(network),
            )  # fmt: skip
            pick = found.recommendation
            picks[network + words] = None if pick is None else pick.cut
    return picks


def _whole(cuts: list[dict[str, Any]]) -> int:
    images = [row["leakage"]["images"] for row in cuts if row["leakage"] is not None]
    return sum(count == max(images) for count in images if max(images) > 1)


def _processor_s() -> float:
    """Of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def summed_up(rows: list[dict[str, Any]]) -> list[str]:
    """What the runs show.

    Args:
        rows: One a run.

    Returns:
        Lines: for each budget how many runs kept it, and how often a minute and five agree.
    """
    lines = []
    ended = [row for row in rows if "error" not in row]
    for budget in dict.fromkeys(row["budget"] for row in rows):
        these = [row for row in ended if row["budget"] == budget]
        kept = [
            row for row in these
            if abs(row["over"]) <= KEPT or (row["over"] < 0 and row["not_used_up"])
        ]  # fmt: skip
        span = [row["over"] for row in these]
        told = f", from {min(span):+.1%} to {max(span):+.1%}" if span else ""
        lines.append(f"{budget}: kept by {len(kept)} of {len(these)}{told}")
    picks: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in ended:
        setting = (row["model"], row["network"], *row["more"])
        picks.setdefault(setting, {})[row["budget"]] = row["pick"]
    both = [pick for pick in picks.values() if {"60s", "5m"} <= pick.keys()]
    same = sum(pick["60s"] == pick["5m"] for pick in both)
    lines.append(f"the pick of 60s is that of 5m in {same} of {len(both)} settings")
    anew = {
        (row["model"], row["network"], *row["more"], row["budget"]): row["decided_anew"]
        for row in ended
    }
    pairs = [
        (picks[case], later[case])
        for (*setting, budget), picks in anew.items()
        if budget == "60s" and (later := anew.get((*setting, "5m"))) is not None
        for case in picks
    ]
    lines.append(
        f"decided anew from the same reports: the same pick in {sum(a == b for a, b in pairs)} of "
        f"{len(pairs)} cases"
    )
    errors = [row for row in rows if "error" in row]
    lines += [
        f"{row['model']}, {row['network']}, {row['budget']}: {row['error']}" for row in errors
    ]
    return lines


if __name__ == "__main__":
    main()
