"""Predicted against measured end-to-end latency: two network namespaces, a rate limit between them.

    sudo python benchmarks/network.py --out network.json

The head runs in one namespace and ``splitdeploy serve`` in the other; ``tc`` limits the cable
between them. Predicted is what ``splitdeploy profile --device local --cloud local`` says for these
bandwidths, from times of the halves on this machine and from bytes over bandwidth; nothing in it
was fitted to what is measured here. Needs root, iproute2 and a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from serving import TwoHosts, round_trip_s, served, two_hosts

from splitdeploy.attacks.images import load_photographs
from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.edge_runtime.client import SplitClient
from splitdeploy.partitioner.api import profile, split
from splitdeploy.partitioner.models import load_model
from splitdeploy.profiles.network import NetworkProfile
from splitdeploy.profiles.report import SweepReport

CUTS = ("maxpool", "layer1.1", "layer2.1", "layer3.1", "layer4.1", "avgpool")
RATES_BPS = (20e6, 60e6, 200e6)
REQUESTS, WARMUP = 15, 4


def main() -> None:
    """Print a row a cut and bandwidth, and the errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("network.json"))
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--client", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        measure(*arguments.client)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(arguments.model, Path(folder), arguments.out)
    errors = [abs(row["error"]) for row in rows]
    print(f"median error {statistics.median(errors):.1%}, worst {max(errors):.1%}, "
          f"{len(rows)} cuts and bandwidths")  # fmt: skip


def compare(model: str, folder: Path, out: Path) -> list[dict[str, Any]]:
    """Export, predict, measure."""
    loaded = load_model(model, weights="none")
    for cut in CUTS:
        split(loaded, cut, folder / cut)
    _, channels, height, width = loaded.input.shape
    found = load_photographs("photos", shape=(channels, height, width), count=1)
    np.save(folder / "input.npy", loaded.input.normalise(found.pixels))
    report = profile(
        model, folder / "run", weights="none", device="local", cloud="local",
        cuts=",".join(CUTS), privacy=False, precision="fp32", budget_s=120.0,
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    with two_hosts() as hosts, served(
        [folder / cut for cut in CUTS],
        host=hosts.cloud_address, within=hosts.within(hosts.cloud),
    ) as server:  # fmt: skip
        for rate_bps in RATES_BPS:
            hosts.limit(rate_bps, rate_bps)
            for cut in CUTS:
                told = in_edge(hosts, folder / cut, server.address, folder / "input.npy")
                rows.append(row(report, cut, rate_bps, told))
                print(rows[-1], flush=True)
                out.write_text(json.dumps(rows, indent=1))
    return rows


def in_edge(hosts: TwoHosts, bundle: Path, address: str, inputs: Path) -> dict[str, Any]:
    """Run the client in the other namespace, in a process of its own."""
    command = [*hosts.within(hosts.edge), sys.executable, __file__,
               "--client", str(bundle), address, str(inputs)]  # fmt: skip
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def measure(bundle: str, address: str, inputs: str) -> None:
    """In the edge's namespace: one request after the other, and a small message's round trip."""
    picture = np.load(inputs)
    trip_s = round_trip_s(address)
    with SplitClient(read_bundle(Path(bundle)), address, deadline_s=30.0) as client:
        answers = [client.infer(picture).raise_if_refused() for _ in range(WARMUP + REQUESTS)]
    times = [answer.times for answer in answers[WARMUP:]]
    print(json.dumps({
        "total_s": statistics.median(t.total_s for t in times),
        "head_s": statistics.median(t.head_s for t in times),
        "wire_s": statistics.median(t.wire_s for t in times),
        "tail_s": statistics.median(t.tail_s or 0.0 for t in times),
        "rtt_s": trip_s,
    }))  # fmt: skip


def row(report: SweepReport, cut: str, rate_bps: float, told: dict[str, Any]) -> dict[str, Any]:
    """What was predicted beside what was measured."""
    known = next(entry for entry in report.cuts if entry.name == cut)
    payload_bps = TwoHosts.payload_bps(rate_bps)
    network = NetworkProfile("custom", payload_bps, payload_bps, told["rtt_s"])
    latency = known.latency_s
    if latency is None:
        raise RuntimeError(f"{cut} has no latency: {known.error}")
    up_s = network.uplink_s(known.cut.payload_bytes)
    down_s = network.downlink_s(report.result_bytes)
    predicted_s = latency.edge.median + up_s + latency.cloud.median + down_s
    return {
        "cut": cut, "rate_bps": rate_bps, "payload_bytes": known.cut.payload_bytes,
        "predicted_s": predicted_s, "measured_s": told["total_s"],
        "error": predicted_s / told["total_s"] - 1.0,
        "predicted": {"head_s": latency.edge.median, "wire_s": up_s + down_s,
                      "tail_s": latency.cloud.median},
        "measured": told,
    }  # fmt: skip


if __name__ == "__main__":
    main()
