"""The capacity model against a load test: predicted and measured p95 and saturation.

Usage:
  python benchmarks/capacity.py --bundle BUNDLE --out capacity.json

Each server runs on one core, this program on another. Before each load the server answers batches
one after the other: what it says that they took gives t(b) = a + c·b, and what a lone request took
beside that gives the overhead. From these alone the model predicts, twice: with the overhead apart,
as the model has it, and as work of the tail's core, which has to handle messages here too; the
truth should lie between. Then requests of one picture come at random (Poisson, open loop) at a
share of the predicted saturation; a response is timed from the moment that the request was due, so
that a late sender hides nothing, and the model is given the same moments, so that only the model is
judged and not the luck of a short run. At last as many requests as the server likes are kept under
way. All is bounded in time, on 127.0.0.1.

The default tail is a chain of products with one small matrix, which stays in the cache: neighbours
on the machine's memory then disturb it less, and a batch pays for part of the work but once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from serving import served
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from splitdeploy.cloud_runtime.capacity import BatchTime, Server, fit_batch_time, predict, responses
from splitdeploy.edge_runtime.bundle import Bundle, read_bundle
from splitdeploy.edge_runtime.wire import write_request
from splitdeploy.profiles.digest import file_sha256

SERVER_CORE, CLIENT_CORE = 0, 1
SIZES = (1, 2, 4, 8, 16)
REPEATS = 20
LAYERS = 3000
UNDER_WAY = 64
LARGEST_MESSAGE = 256 << 20


@dataclass(frozen=True)
class Row:
    """One load.

    Attributes:
        load: The share of the predicted saturation.
        rate_per_s: Requests that came.
        answered: How many were answered.
        refused: How many were not.
        predicted_p50_s: By the model, for these very arrivals.
        measured_p50_s: Here.
        predicted_p95_s: By the model, for these very arrivals.
        measured_p95_s: Here.
        shared_core_p95_s: By the model, were the overhead the tail's core's work.
        long_run_p95_s: By the model, for as many arrivals as it likes.
    """

    load: float
    rate_per_s: float
    answered: int
    refused: int
    predicted_p50_s: float
    measured_p50_s: float
    predicted_p95_s: float
    measured_p95_s: float
    shared_core_p95_s: float
    long_run_p95_s: float


class Asker:
    """Sends requests of one tail."""

    def __init__(self, address: str, bundle: Bundle) -> None:
        options = [
            ("grpc.max_send_message_length", LARGEST_MESSAGE),
            ("grpc.max_receive_message_length", LARGEST_MESSAGE),
        ]
        self._channel = grpc.insecure_channel(address, options=options)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._bundle = bundle

    def request(self, size: int) -> Any:
        """A batch of pictures, as the head would send them."""
        rng = np.random.default_rng(size)
        tensors = {
            spec.name: rng.standard_normal((size, *spec.shape[1:])).astype(spec.dtype)
            for spec in self._bundle.tail_inputs
        }
        return write_request(self._bundle.served_name, tensors)

    def close(self) -> None:
        """Leave."""
        self._channel.close()


def calibrate(asker: Asker, name: str, most: int) -> tuple[list[int], list[float]]:
    """Batches one after the other: their sizes, and what the server says that they took."""
    sizes = [size for size in SIZES if size <= most]
    times = []
    for size in sizes:
        request = asker.request(size)
        asker.stub.ModelInfer(request, timeout=60)
        before, told = statistic(asker, name, size), []
        for _ in range(REPEATS):
            answer = asker.stub.ModelInfer(request, timeout=60)
            if "compute_us" in answer.parameters:
                told.append(answer.parameters["compute_us"].int64_param / 1e6)
        if told:
            times.append(statistics.median(told))
        else:
            after = statistic(asker, name, size)
            times.append((after[1] - before[1]) / (after[0] - before[0]))
    return sizes, times


def alone(asker: Asker) -> float:
    """What one request takes when there is no other."""
    request, took = asker.request(1), []
    for _ in range(2 * REPEATS):
        started = time.perf_counter()
        asker.stub.ModelInfer(request, timeout=60)
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def calibrated(asker: Asker, name: str, batch: int) -> Server:
    """The server as a queue, from requests one after the other."""
    time_of = fit_batch_time(*calibrate(asker, name, max(batch, 2)))
    return Server(time_of, max_batch=batch, overhead_s=max(0.0, alone(asker) - time_of(1)))


def on_one_core(queue: Server) -> Server:
    """The same server, were messages handled by the core that the tail runs on."""
    time_of = BatchTime(queue.time.fixed_s, queue.time.each_s + queue.overhead_s)
    return replace(queue, time=time_of, overhead_s=0.0)


def statistic(asker: Asker, name: str, size: int) -> tuple[int, float]:
    """Triton's own count and time of batches of a size; zeros for a server without statistics."""
    try:
        answer = asker.stub.ModelStatistics(pb.ModelStatisticsRequest(name=name), timeout=10)
    except grpc.RpcError:
        return 0, 0.0
    for entry in answer.model_stats[0].batch_stats:
        if entry.batch_size == size:
            parts = (entry.compute_input, entry.compute_infer, entry.compute_output)
            return entry.compute_infer.count, sum(part.ns for part in parts) / 1e9
    return 0, 0.0


def moments(rate: float, seconds: float, seed: int) -> list[float]:
    """When requests are due, at random."""
    rng, due = random.Random(seed), [0.0]
    while due[-1] < seconds:
        due.append(due[-1] + rng.expovariate(rate))
    return due


def offer(asker: Asker, due: Sequence[float]) -> tuple[list[float], int]:
    """Requests at their moments, whatever becomes of them: response times, and refusals."""
    request, took, refused = asker.request(1), list[float](), list[str]()
    left = threading.Semaphore(0)

    def done(future: Any, moment: float) -> None:
        if future.exception() is None:
            took.append(time.perf_counter() - moment)
        else:
            refused.append(str(future.exception()))
        left.release()

    start = time.perf_counter() + 0.05
    for each in due:
        moment = start + each
        pause = moment - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
        future = asker.stub.ModelInfer.future(request, timeout=60)
        future.add_done_callback(lambda ended, moment=moment: done(ended, moment))
    for _ in due:
        left.acquire(timeout=60)
    return took, len(refused)


def saturate(asker: Asker, seconds: float) -> float:
    """Answers a second with many requests always under way."""
    request, lock = asker.request(1), threading.Lock()
    answered = [0]
    end = time.perf_counter() + seconds
    left = threading.Semaphore(0)

    def again(future: Any = None) -> None:
        if future is not None and future.exception() is None:
            with lock:
                answered[0] += 1
        if time.perf_counter() < end:
            asker.stub.ModelInfer.future(request, timeout=60).add_done_callback(again)
        else:
            left.release()

    started = time.perf_counter()
    for _ in range(UNDER_WAY):
        again()
    for _ in range(UNDER_WAY):
        left.acquire(timeout=60)
    return answered[0] / (time.perf_counter() - started)


def percentile(values: Sequence[float], share: float) -> float:
    """Of measured response times."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def measure(engine: str, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One server: calibrated, predicted, loaded."""
    bundle = read_bundle(folder, "cloud")
    batch = given.max_batch if engine == "triton" else 1
    flags = ["--engine", engine, "--max-batch", str(max(SIZES))]
    if engine == "embedded":
        flags += ["--max-concurrent", "1", "--max-waiting", "100000", "--threads", "1"]
    core = ("taskset", "-c", str(SERVER_CORE))
    with served([folder], *flags, within=core) as server:
        asker = Asker(server.address, bundle)
        rows, fits = [], []
        for place, load in enumerate(given.loads):
            queue = calibrated(asker, bundle.served_name, batch)
            fits.append(queue)
            rate = load * queue.saturation_per_s
            due = moments(rate, given.seconds, given.seed + place)
            expected = responses(queue, due)
            took, refused = offer(asker, due)
            rows.append(
                Row(
                    load, rate, len(took), refused,
                    percentile(expected, 0.5), percentile(took, 0.5),
                    percentile(expected, 0.95), percentile(took, 0.95),
                    percentile(responses(on_one_core(queue), due), 0.95),
                    predict(queue, rate).p95_s,
                )
            )  # fmt: skip
            show(engine, rows[-1])
        queue = calibrated(asker, bundle.served_name, batch)
        fits.append(queue)
        saturation = saturate(asker, given.seconds)
        asker.close()
    print(
        f"{engine}: saturation predicted {queue.saturation_per_s:.1f}/s (on one core "
        f"{on_one_core(queue).saturation_per_s:.1f}/s), measured {saturation:.1f}/s"
    )
    return {
        "engine": engine, "calibrations": [asdict(fit) for fit in fits],
        "predicted_saturation_per_s": queue.saturation_per_s,
        "shared_core_saturation_per_s": on_one_core(queue).saturation_per_s,
        "measured_saturation_per_s": saturation, "rows": [asdict(row) for row in rows],
    }  # fmt: skip


def show(engine: str, row: Row) -> None:
    """A line of the table."""
    print(
        f"{engine:9} load {row.load:.2f} {row.rate_per_s:7.1f}/s  p50 predicted "
        f"{row.predicted_p50_s * 1e3:7.2f} ms measured {row.measured_p50_s * 1e3:7.2f} ms  p95 "
        f"{row.predicted_p95_s * 1e3:7.2f} to {row.shared_core_p95_s * 1e3:7.2f} ms "
        f"measured {row.measured_p95_s * 1e3:7.2f} ms  "
        f"({row.answered} answered, {row.refused} refused)",
        flush=True,
    )


def chain(folder: Path) -> Path:
    """The default bundle: ``x · W · W · …``."""
    folder.mkdir()
    width = 256
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))[0]
    nodes = [
        helper.make_node("MatMul", [f"h{step}" if step else "x", "w"], [f"h{step + 1}"])
        for step in range(LAYERS)
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
        for name in ("x", f"h{LAYERS}")
    ]
    weight = numpy_helper.from_array(turn.astype(np.float32), "w")
    graph = helper.make_graph(nodes, "tail", values[:1], values[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    identity = helper.make_graph(
        [helper.make_node("Identity", ["picture"], ["x"])], "head",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", width])], values[:1],
    )  # fmt: skip
    head = helper.make_model(identity, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(folder / "tail.onnx"))
    onnx.save(head, str(folder / "head.onnx"))
    spec = {"name": "x", "dtype": "float32", "shape": [-1, width]}
    manifest = {
        "schema_version": 1, "model": "chain", "cut": "x", "served_name": "chain_x_tail",
        "tensors": [spec | {"shape": [1, width]}], "payload_bytes": 4 * width,
        "precision": "fp32", "guard_noise": None, "preprocessing": None,
        "head": {"inputs": [spec | {"name": "picture"}], "outputs": [spec]},
        "tail": {"inputs": [spec], "outputs": [spec | {"name": f"h{LAYERS}"}]},
        "files": {
            name: {"sha256": file_sha256(folder / name)} for name in ("head.onnx", "tail.onnx")
        },
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def main() -> None:
    """Measure each server and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="Default: a chain of products.")
    parser.add_argument("--engines", default="embedded,triton")
    parser.add_argument("--loads", default="0.3,0.5,0.7,0.85")
    parser.add_argument("--seconds", type=float, default=20.0, help="Of each load.")
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="Where the figures go, as JSON.")
    given = parser.parse_args()
    given.loads = [float(part) for part in given.loads.split(",")]
    os.sched_setaffinity(0, {CLIENT_CORE})
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.bundle or chain(Path(scratch) / "bundle")
        before = os.getloadavg()
        found = [measure(engine, folder, given) for engine in given.engines.split(",")]
    if given.out is not None:
        figures = {"source": "measured", "cores": os.cpu_count(), "load_average_before": before,
                   "seconds": given.seconds, "engines": found}  # fmt: skip
        given.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
