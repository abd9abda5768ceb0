"""The recommended cut against the best one, every cut measured end to end over a limited cable.

    sudo PYTHONPATH=tests python benchmarks/regret.py --out regret.json

Two network namespaces: in one a device, which is a core of this machine that gives it a part of
its time, behind a real sshd; in the other ``splitdeploy serve`` on the other core. First
``splitdeploy profile MODEL --device ssh://… --cloud local`` measures heads and tails apart, as a
user would; then, at each bandwidth, the client sends pictures through every cut, and the pick of
``recommend --objective latency`` is held against what was measured. Needs root, iproute2, openssh
and a quiet machine. Finished models are kept in the output file.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from serving import TwoHosts, round_trip_s, served, two_hosts
from slow_host import slow_core
from sshd import running_sshd

from splitdeploy.edge_runtime.client import SplitClient
from splitdeploy.partitioner.models import load_model
from splitdeploy.partitioner.plan import make_plan
from splitdeploy.partitioner.profile import write_cut_bundle
from splitdeploy.partitioner.progress import Silent
from splitdeploy.partitioner.recommend import recommend
from splitdeploy.partitioner.sweep import verify_cuts
from splitdeploy.profiles.cut import EDGE_ONLY
from splitdeploy.profiles.network import NetworkProfile
from splitdeploy.profiles.report import Constraints, Objective, SweepReport
from splitdeploy.profiles.store import read_report, write_atomically

MODELS = "resnet18,mobilenet_v3_large,googlenet"
RATES_BPS = (10e6, 25e6, 50e6, 100e6, 200e6)
ROUNDS, REQUESTS = 5, 3
"""Every round visits every cut, so that a machine that drifts does so for all of them alike."""

IN_REACH = 1.4
"""A cut that takes so many times as long as the fastest in the first round is not visited again."""

DEADLINE_S = 60.0


@dataclass(frozen=True)
class Place:
    """Where things run.

    Attributes:
        hosts: The namespaces.
        edge: What a command is run by on the device.
        cloud: What a command is run by in the cloud.
        folder: For everything that is made.
    """

    hosts: TwoHosts
    edge: tuple[str, ...]
    cloud: tuple[str, ...]
    folder: Path


def main() -> None:
    """Print a row a model and bandwidth, and the regret over all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--slower", type=float, default=5.0, help="the device, against one core")
    parser.add_argument("--out", type=Path, default=Path("regret.json"))
    parser.add_argument("--client", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        print(json.dumps(measure(*arguments.client)))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # namespaces end with it
    kept = json.loads(arguments.out.read_text()) if arguments.out.is_file() else []
    rows: list[dict[str, Any]] = kept
    for model in arguments.models.split(","):
        if not any(row["model"] == model for row in rows):
            rows += examine(model, arguments.slower)
            write_atomically(arguments.out, json.dumps(rows, indent=1))
    for row in rows:
        print(f"{row['model']:20s} {row['rate_bps'] / 1e6:5.0f} Mbit/s  picked {row['picked']:12s} "
              f"best {row['best']:12s} regret {row['regret']:.3f}  "
              f"prediction off by {row['median_error']:+.1%}")  # fmt: skip
    regrets = [row["regret"] for row in rows]
    print(f"{len(rows)} settings: regret median {statistics.median(regrets):.3f}, "
          f"worst {max(regrets):.3f}")  # fmt: skip


def examine(model: str, slower: float) -> list[dict[str, Any]]:
    """One model: export every cut, profile, then measure at every bandwidth."""
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        hosts = held.enter_context(two_hosts())
        slow = held.enter_context(slow_core(0, slower))
        edge = (*hosts.within(hosts.edge), *slow)
        cloud = (*hosts.within(hosts.cloud), "taskset", "-c", "1")
        place = Place(hosts, edge, cloud, folder)
        bundles = exported(model, folder)
        report = profiled(model, place)
        server = held.enter_context(
            served(
                [folder / name for name in bundles if name != EDGE_ONLY],
                host=hosts.cloud_address, within=cloud,
            )
        )  # fmt: skip
        rows = []
        for rate_bps in RATES_BPS:
            hosts.limit(rate_bps, rate_bps)
            told = in_edge(place, server.address)
            rows.append({"model": model, "slower": slower, **judged(report, rate_bps, told)})
            print({key: rows[-1][key] for key in ("rate_bps", "picked", "best", "regret")},
                  flush=True)  # fmt: skip
    return rows


def exported(model: str, folder: Path) -> list[str]:
    """A bundle a cut, and a picture."""
    loaded = load_model(model, weights="none")
    with tempfile.TemporaryDirectory() as export:
        plan = make_plan(
            loaded, cuts="block", precision="fp32", images=None, image_count=1, seed=0,
            folder=Path(export),
        )  # fmt: skip
        names = [cut.name for cut in plan.cuts]
        for nth, row in enumerate(verify_cuts(plan, Silent())):
            write_cut_bundle(plan, nth, "fp32", row, folder / row.name)
    np.save(folder / "input.npy", next(iter(plan.feeds.values())))
    (folder / "cuts.json").write_text(json.dumps(names))
    return names


def profiled(model: str, place: Place) -> SweepReport:
    """What the product says of the device behind ssh and of this machine as the cloud."""
    run = place.folder / "run"
    with running_sshd(
        place.folder / "sshd", host=place.hosts.edge_address, within=place.edge
    ) as server:
        subprocess.run(
            [*place.cloud, sys.executable, "-m", "splitdeploy", "profile", model, "--weights",
             "none", "--device", server.url, "--cloud", "local", "--precision", "fp32",
             "--cuts", "block", "--no-privacy", "--objective", "latency", "--quiet", "--out", run,
             "--remote-python", sys.executable, "--ssh-config", server.config],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    return read_report(run)


def in_edge(place: Place, address: str) -> dict[str, Any]:
    """Run the client on the device, in a process of its own."""
    command = [*place.edge, sys.executable, __file__, "--client", str(place.folder), address]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def measure(folder: str, address: str) -> dict[str, Any]:
    """On the device: seconds of every request through every cut, and of a small message."""
    place = Path(folder)
    picture = np.load(place / "input.npy")
    names: Sequence[str] = json.loads((place / "cuts.json").read_text())
    trip_s = round_trip_s(address)
    times: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as held:
        clients = {
            name: held.enter_context(
                SplitClient(
                    place / name,
                    None if name == EDGE_ONLY else address,
                    fallback="local" if name == EDGE_ONLY else "refuse",
                    deadline_s=DEADLINE_S,
                )
            )
            for name in names
        }  # fmt: skip
        for _ in range(ROUNDS):
            for name, client in _in_reach(clients, times):
                client.infer(picture).raise_if_refused()  # wakes the connection
                times[name] += [
                    timed(lambda client=client: client.infer(picture).raise_if_refused())
                    for _ in range(REQUESTS)
                ]
    return {"rtt_s": trip_s, "times_s": times}


def _in_reach(
    clients: Mapping[str, SplitClient], times: Mapping[str, Sequence[float]]
) -> list[tuple[str, SplitClient]]:
    """Every client at first, then those of cuts that may be the fastest."""
    medians = {name: statistics.median(seen) for name, seen in times.items() if seen}
    limit_s = IN_REACH * min(medians.values(), default=math.inf)
    return [(name, client) for name, client in clients.items() if medians.get(name, 0) <= limit_s]


def timed(call: Any) -> float:
    """Seconds."""
    begun_s = time.perf_counter()
    call()
    return time.perf_counter() - begun_s


def judged(report: SweepReport, rate_bps: float, told: dict[str, Any]) -> dict[str, Any]:
    """The pick beside what was measured."""
    payload_bps = TwoHosts.payload_bps(rate_bps)
    network = NetworkProfile("custom", payload_bps, payload_bps, told["rtt_s"])
    decided = recommend(
        report, constraints=Constraints(), objective=Objective("latency"), network=network
    )
    pick = decided.recommendation
    if pick is None or pick.certainty is None:
        raise RuntimeError("nothing was recommended")
    measured = {name: statistics.median(times) for name, times in told["times_s"].items()}
    predicted = {
        row.name: row.latency_s.total.median for row in decided.cuts if row.latency_s is not None
    }
    best = min(measured, key=lambda name: measured[name])
    errors = [predicted[name] / measured[name] - 1.0 for name in predicted]
    return {
        "rate_bps": rate_bps, "rtt_s": told["rtt_s"], "picked": pick.cut, "best": best,
        "regret": measured[pick.cut] / measured[best],
        "probability_best": pick.certainty.probability_best,
        "median_error": statistics.median(errors),
        "measured_s": measured, "predicted_s": predicted,
    }  # fmt: skip


if __name__ == "__main__":
    main()
