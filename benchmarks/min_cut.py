"""The best of all downsets against the best cut along the order, on torchvision's classifiers.

    python benchmarks/min_cut.py [--models resnet18,googlenet] [--budget-s 600] [--out FILE.json]

Every network is priced on a simulated Jetson Nano, as it is and ten times as slow, with a T4 behind
Wi-Fi, LTE and 5G. Both cuts are between the ends and priced by the same sums over kernels and
tensors. Weights are random, which no figure depends on. What is finished is kept in the output
file, so that an interrupted run goes on; the smallest networks come first.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from splitdeploy.partitioner.min_cut import CutProblem, min_cut
from splitdeploy.partitioner.models import load_model, model_names
from splitdeploy.partitioner.optimal import Priced, Setting, optima_of, price, whole_kernels
from splitdeploy.profiles.device import DeviceProfile, find_device
from splitdeploy.profiles.errors import SplitdeployError
from splitdeploy.profiles.network import find_network
from splitdeploy.profiles.store import write_atomically

NETWORKS = ("wifi", "lte", "5g")
SLOWER = (1, 10)
"""Times that the edge takes of what it is simulated to take; ten is a supposition."""


def examine(name: str) -> dict[str, Any]:
    """Both cuts of one network in every setting."""
    side = 299 if name.startswith("inception") else 224
    start = time.perf_counter()
    model = load_model(name, weights="none", input_shape=(3, side, side))
    with tempfile.TemporaryDirectory() as folder:
        kernels = whole_kernels(model, Path(folder))
    exported_s = time.perf_counter() - start
    graph = model.trace.graph
    rows = []
    for slower in SLOWER:
        for network in NETWORKS:
            edge = _slower(find_device("jetson-nano"), slower)
            setting = Setting(edge, find_device("t4"), find_network(network), "fp16", "fp16")
            priced = price(graph, kernels, setting)
            began = time.perf_counter()
            optima = optima_of(graph, priced, setting)
            solved_s = time.perf_counter() - began
            rows += [
                {
                    "network": network,
                    "edge_slower": slower,
                    "solved_s": solved_s,
                    "tensors": max((len(found.cut.tensors) for found in optima), default=0),
                    **found,
                }
                for found in _compared(priced)
            ]
    return {
        "model": name,
        "parameters": graph.parameters,
        "nodes": len(graph.nodes),
        "kernels": len(kernels.kernels),
        "unsendable": len(_unsendable(priced.latency)),
        "traced_and_exported_s": exported_s,
        "rows": rows,
    }


def _slower(device: DeviceProfile, times: int) -> DeviceProfile:
    constants = device.constants
    return replace(
        device,
        constants=replace(
            constants,
            compute_efficiency=constants.compute_efficiency / times,
            depthwise_efficiency=constants.depthwise_efficiency / times,
            memory_efficiency=constants.memory_efficiency / times,
            launch_s=constants.launch_s * times,
            sync_s=constants.sync_s * times,
        ),
    )


def _unsendable(problem: CutProblem) -> set[str]:
    read = {name for step in problem.steps for name in step.reads}
    return read - problem.crossing.keys()


def _compared(priced: Priced) -> Iterator[dict[str, Any]]:
    for kind, problem, fixed in (
        ("latency", priced.latency, priced.fixed_s),
        ("energy", priced.energy, priced.fixed_j),
    ):
        if problem is None:
            continue
        head = min_cut(problem, between=True)
        best = math.inf if head is None else fixed + problem.cost(head)
        ordered = min(
            (problem.cost(frozenset(range(count))) for count in range(1, len(problem.steps))),
            default=math.inf,
        )
        yield {
            "kind": kind,
            "optimal": best,
            "ordered": fixed + ordered,
            "gain": 1 - best / (fixed + ordered) if math.isfinite(ordered) else None,
        }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", help="names, a comma between them; default: all")
    parser.add_argument("--budget-s", type=float, default=600.0, help="no network begins after it")
    parser.add_argument("--out", type=Path, default=Path("runs/min_cut.json"))
    arguments = parser.parse_args()
    names = arguments.models.split(",") if arguments.models else _by_size(model_names())
    rows: dict[str, dict[str, Any]] = {}
    if arguments.out.is_file():
        rows = {row["model"]: row for row in json.loads(arguments.out.read_text())}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + arguments.budget_s
    for name in names:
        if name not in rows:
            if time.monotonic() > ends:
                continue
            try:
                rows[name] = examine(name)
            except SplitdeployError as error:
                rows[name] = {"model": name, "error": str(error)}
            write_atomically(arguments.out, json.dumps(list(rows.values()), indent=1))
        _tell(rows[name])
    done = [row for name in names if name in rows and "rows" in (row := rows[name])]
    cases = [case for row in done for case in row["rows"] if case["gain"] is not None]
    print(
        f"{len(done)} of {len(names)} networks, {len(cases)} cases; "
        f"worse than the best cut along the order: {sum(c['gain'] < -1e-6 for c in cases)}; "
        f"better by more than 0.1 %: {sum(c['gain'] > 1e-3 for c in cases)}, "
        f"at most {max((c['gain'] for c in cases), default=0):.1%}; "
        f"longest solution {max((c['solved_s'] for c in cases), default=0):.2f} s"
    )


def _by_size(names: list[str] | tuple[str, ...]) -> list[str]:
    import torchvision

    def parameters(name: str) -> int:
        weights = torchvision.models.get_model_weights(name)
        return max(int(member.meta["num_params"]) for member in weights)

    return sorted(names, key=parameters)


def _tell(row: dict[str, Any]) -> None:
    if "error" in row:
        print(f"{row['model']:22s} {row['error']}", flush=True)
        return
    gains = [case["gain"] for case in row["rows"] if case["gain"] is not None]
    print(
        f"{row['model']:22s} {row['kernels']:4d} kernels  gain {min(gains):8.2%} to "
        f"{max(gains):6.2%}  solved in {max(c['solved_s'] for c in row['rows']):5.2f} s  "
        f"up to {max(c['tensors'] for c in row['rows'])} tensors  "
        f"{row['unsendable']} values unsendable",
        flush=True,
    )


if __name__ == "__main__":
    main()
