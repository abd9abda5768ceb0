"""One sweep by one process, by two, and on a Ray cluster of two nodes: same results, how fast?

    python benchmarks/scale_out.py --backends processes,ray,dask --out scale_out.json
    python benchmarks/scale_out.py --models resnet50 --shards 2 --backends ray

The nodes are two ``ray start`` on 127.0.0.1 with one CPU each (for Dask a scheduler and two
workers); every run has one thread. With ``--shards`` the cuts of every model are dealt to so many
jobs, beside one process that does each model as a whole. Backends that are not installed are left
out, and told.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from splitdeploy.partitioner.comparable import comparable

TESTS = Path(__file__).parent.parent / "tests"
FILE = """
models: [{models}]
cuts: {cuts}
weights: none
image-count: 2
{options}
"""
PORT = 46379
DASK = "tcp://127.0.0.1:46780"


def main() -> None:
    """Print a row a way of running, and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="resnet18,resnet34,mobilenet_v3_small,googlenet")
    parser.add_argument("--cuts", default="layer")
    parser.add_argument("--option", action="append", default=["no-privacy: true"])
    parser.add_argument("--backends", default="processes,ray,dask")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("scale_out.json"))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # the clusters end with it
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fleet.yaml"
        file.write_text(
            FILE.format(
                models=arguments.models, cuts=arguments.cuts, options="\n".join(arguments.option)
            )
        )
        first = _timed(file, "processes", 1, ())
        rows = [_against(first, first)]
        for backend in arguments.backends.split(","):
            if backend != "processes" and importlib.util.find_spec(backend) is None:
                print(f"{backend} is not installed: left out")
                continue
            with _CLUSTERS[backend]() as cluster:
                timed = _timed(file, backend, 2, cluster, arguments.shards)
                rows.append(_against(first, timed))
    arguments.out.write_text(json.dumps(rows, indent=2) + "\n")


def _against(first: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """The row beside that of one process, printed at once."""
    compared = {key: value for key, value in row.items() if key != "reports"}
    compared["speed_up"] = round(first["seconds"] / row["seconds"], 2)
    compared["same_results"] = row["reports"] == first["reports"]
    print(json.dumps(compared), flush=True)
    return compared


def _timed(
    file: Path, backend: str, jobs: int, cluster: tuple[str, ...], shards: int = 1
) -> dict[str, Any]:
    out = file.parent / f"{backend}-{jobs}"
    command = [
        sys.executable, "-m", "splitdeploy", "sweep", str(file), "--out", str(out),
        "--jobs", str(jobs), "--shards", str(shards), "--threads", "1",
        "--backend", backend, *cluster, "-q", "--format", "json",
    ]  # fmt: skip
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TESTS)
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(done.stderr)
    runs = json.loads(done.stdout)["runs"]
    reports = {
        run["name"]: comparable(json.loads((out / run["folder"] / "report.json").read_text()))
        for run in runs
    }
    hosts = sorted({run["host"] for run in runs})
    return {
        "backend": backend, "jobs": jobs, "shards": shards, "seconds": round(seconds, 1),
        "runs": len(runs),
        "sum_of_runs_s": round(sum(run["seconds"] for run in runs), 1), "hosts": len(hosts),
        "reports": reports,
    }  # fmt: skip


@contextlib.contextmanager
def _none() -> Iterator[tuple[str, ...]]:
    yield ()


@contextlib.contextmanager
def _ray() -> Iterator[tuple[str, ...]]:
    """Two nodes, each with one CPU; both end with this process."""
    node = [str(Path(sys.executable).with_name("ray")), "start", "--num-cpus", "1", "--block",
            "--node-ip-address", "127.0.0.1", "--disable-usage-stats"]  # fmt: skip
    address = f"127.0.0.1:{PORT}"
    head = [*node, "--head", "--port", str(PORT), "--include-dashboard", "false"]
    with _started(head, 15), _started([*node, "--address", address], 10):
        yield ("--cluster", address)


@contextlib.contextmanager
def _dask() -> Iterator[tuple[str, ...]]:
    program = [str(Path(sys.executable).with_name("dask"))]
    scheduler = [*program, "scheduler", "--host", "127.0.0.1", "--port", DASK.rpartition(":")[2],
                 "--no-dashboard"]  # fmt: skip
    worker = [*program, "worker", DASK, "--nthreads", "1", "--no-dashboard"]
    with _started(scheduler, 5), _started(worker, 1), _started(worker, 5):
        yield ("--cluster", DASK)


@contextlib.contextmanager
def _started(command: list[str], wait_s: float) -> Iterator[None]:
    environment = {**os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, cwd=TESTS
    )
    try:
        time.sleep(wait_s)
        if process.poll() is not None:
            sys.exit(f"{' '.join(command)} ended with {process.returncode}")
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


_CLUSTERS = {"processes": _none, "ray": _ray, "dask": _dask}


if __name__ == "__main__":
    main()
