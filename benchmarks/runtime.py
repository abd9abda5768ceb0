"""What the two runtimes cost beside their sessions, with pinned cores: the edge's and the cloud's.

    python benchmarks/runtime.py --out runtime.json [--parts stream,single,triton,memory]

- ``stream``: pictures a second of `SplitClient.stream`, over what the slowest stage alone allows.
- ``single``: one request's time over head + wire + tail, each taken alone. The wire alone is a
  request of the same bytes to a tail that does next to nothing.
- ``triton``: the embedded server against a real Triton on the same tail, where there is one.
- ``memory``: resident memory of client and server over 100,000 small requests.

The client runs on core 0, the server on core 1, an operator on one thread. Times are medians of
interleaved rounds, so that a busy machine slows all that is compared alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from serving import Server, served
from torch import Tensor, nn

from splitdeploy.edge_runtime.bundle import Bundle, read_bundle
from splitdeploy.edge_runtime.client import SplitClient
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.session import FREE, Session, StageTimes
from splitdeploy.partitioner.api import split
from splitdeploy.partitioner.models import load_model
from splitdeploy.profiles.cut import TensorSpec

EDGE_CORE, CLOUD_CORE = 0, 1
CUTS = {"layer1.1": "fp32", "layer2.1": "int8", "layer3.1": "fp32"}
ROUNDS, STREAMED, SINGLE = 5, 60, 30
SMALL_REQUESTS, LOOKS = 100_000, 10
PINNED = ("taskset", "-c", str(CLOUD_CORE))


class Small(nn.Module):
    """Next to no work on either side."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 32)
        self.act = nn.ReLU()
        self.second = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 64]`` to ``[n, 10]``."""
        result: Tensor = self.second(self.act(self.first(x)))
        return result


def small() -> tuple[nn.Module, Tensor]:
    """A factory for ``load_model``."""
    torch.manual_seed(0)
    return Small(), torch.zeros(1, 64)


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runtime.json"))
    parser.add_argument("--parts", default="stream,single,triton,memory")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {EDGE_CORE})
    parts: dict[str, Callable[[Path], Any]] = {
        "stream": lambda folder: list(each_cut(folder, streamed)),
        "single": lambda folder: list(each_cut(folder, singly)),
        "triton": against_triton,
        "memory": memory,
    }
    found = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.parts.split(","):
            found[name] = parts[name](Path(folder))
            print(name, json.dumps(found[name], indent=1), flush=True)
            arguments.out.write_text(json.dumps(found, indent=1))


def exported(folder: Path, cut: str, precision: str) -> Bundle:
    """A bundle of ResNet-18, made once."""
    place = folder / f"{cut}-{precision}"
    if not place.is_dir():
        split(load_model("resnet18", weights="none"), cut, place, precision=precision)
    return read_bundle(place)


def each_cut(
    folder: Path, measure: Callable[[Bundle, Server, Bundle, Server], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """A row a cut; beside its tail, a tail that does nothing with the same bytes is served."""
    for cut, precision in CUTS.items():
        bundle = exported(folder, cut, precision)
        idle = idle_bundle(bundle, folder / f"{cut}-{precision}-idle")
        with pinned(bundle.folder) as server, pinned(idle) as wire:
            row = measure(bundle, server, read_bundle(idle), wire)
        yield {"cut": cut, "precision": precision,
               "payload_bytes": bundle.cut.payload_bytes, **row}  # fmt: skip


def pinned(folder: Path) -> Any:
    """A server of one bundle on the cloud's core."""
    return served([folder], "--threads", "1", within=PINNED)


@contextmanager
def opened(
    bundle: Bundle, server: Server, idle_tail: Bundle, wire: Server
) -> Iterator[tuple[SplitClient, SplitClient, OnnxRuntimeSession]]:
    """The client, one whose halves do nothing, and the head alone."""
    with (
        SplitClient(bundle, server.address, threads=1, deadline_s=60.0) as client,
        SplitClient(
            idle_tail, wire.address, threads=1, deadline_s=60.0, head=Ready(bundle)
        ) as idle,
        OnnxRuntimeSession(bundle.head, threads=1) as head,
    ):
        yield client, idle, head


def streamed(bundle: Bundle, server: Server, idle_tail: Bundle, wire: Server) -> dict[str, Any]:
    """Throughput, and that of each stage alone, in interleaved rounds."""
    picture = example(bundle)
    rates: dict[str, list[float]] = {"stream": [], "head": [], "wire": [], "tail": []}
    with opened(bundle, server, idle_tail, wire) as (client, idle, head):
        for _ in range(ROUNDS):
            rates["stream"].append(rate(lambda: client.stream([picture] * STREAMED)))
            rates["wire"].append(rate(lambda: idle.stream([picture] * STREAMED)))
            rates["head"].append(rate(lambda: (head.run(feeds_of(head)) for _ in range(STREAMED))))
            rates["tail"].append(tail_rate(bundle))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    slowest = min(("head", "wire", "tail"), key=lambda stage: middle[stage])
    ratios = [s / v for s, v in zip(rates["stream"], rates[slowest], strict=True)]
    return {"per_s": middle, "slowest": slowest, "share": statistics.median(ratios),
            "shares": ratios}  # fmt: skip


def singly(bundle: Bundle, server: Server, idle_tail: Bundle, wire: Server) -> dict[str, Any]:
    """One request after the other, and its stages alone."""
    picture = example(bundle)
    times: dict[str, list[float]] = {"request": [], "head": [], "wire": [], "tail": []}
    with opened(bundle, server, idle_tail, wire) as (client, idle, head):
        for _ in range(ROUNDS):
            times["request"].append(seconds(lambda: client.infer(picture).raise_if_refused()))
            times["wire"].append(seconds(lambda: idle.infer(picture).raise_if_refused()))
            times["head"].append(seconds(lambda: head.run(feeds_of(head))))
            times["tail"].append(1.0 / tail_rate(bundle))
    middle = {name: statistics.median(values) for name, values in times.items()}
    alone = middle["head"] + middle["wire"] + middle["tail"]
    return {"median_s": middle, "alone_s": alone, "over_s": middle["request"] - alone,
            "over_share": middle["request"] / alone - 1.0}  # fmt: skip


def against_triton(folder: Path) -> Any:
    """Requests a second and a request's time, of both servers, in interleaved rounds."""
    from splitdeploy.cloud_runtime.triton_install import find_triton

    if find_triton() is None:
        return {"not_measured": "there is no Triton here: make triton"}
    bundle = exported(folder, "layer3.1", "fp32")
    picture = example(bundle)
    found: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        clients = {}
        for name, flags in (("embedded", ("--threads", "1")), ("triton", ("--engine", "triton"))):
            server = stack.enter_context(served([bundle.folder], *flags, within=PINNED))
            clients[name] = stack.enter_context(
                SplitClient(bundle, server.address, deadline_s=60.0, head=Ready(bundle))
            )
            found[name] = {"per_s": [], "request_s": []}
        for _ in range(ROUNDS):
            for name, client in clients.items():
                found[name]["per_s"].append(rate(lambda: client.stream([picture] * STREAMED)))  # noqa: B023
                found[name]["request_s"].append(seconds(lambda: client.infer(picture)))  # noqa: B023
    return {name: {key: statistics.median(values) for key, values in figures.items()}
            for name, figures in found.items()}  # fmt: skip


def memory(folder: Path) -> dict[str, Any]:
    """Resident memory of both processes as small requests go by."""
    sys.path.insert(0, str(Path(__file__).parent))
    split(load_model("runtime:small"), "act", folder / "small")
    bundle = read_bundle(folder / "small")
    picture = np.zeros((1, 64), np.float32)
    rows = []
    with pinned(bundle.folder) as server, SplitClient(bundle, server.address) as client:
        each = SMALL_REQUESTS // LOOKS
        for look in range(1, LOOKS + 1):
            answered = sum(a.answered_by == "cloud" for a in client.stream([picture] * each))
            rows.append({"requests": look * each, "answered": answered,
                         "client_bytes": resident(os.getpid()),
                         "server_bytes": resident(server.pid)})  # fmt: skip
    grown = {side: rows[-1][f"{side}_bytes"] / rows[0][f"{side}_bytes"] - 1.0
             for side in ("client", "server")}  # fmt: skip
    return {"rows": rows, "grown_from_first_tenth": grown}


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has no memory: it has ended")


def rate(stream: Callable[[], Iterable[Any]]) -> float:
    """Items a second, without the first few, which fill the pipeline."""
    items, skipped = iter(stream()), 8
    for _ in range(skipped):
        next(items)
    begun_s = time.perf_counter()
    count = sum(1 for _ in items)
    return count / (time.perf_counter() - begun_s)


def seconds(call: Callable[[], Any]) -> float:
    """The median of some calls."""
    taken = []
    for _ in range(SINGLE):
        begun_s = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun_s)
    return statistics.median(taken[3:])


TAIL_SCRIPT = """
import sys, time, statistics
from pathlib import Path
import numpy as np
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
taken = []
with OnnxRuntimeSession(Path(sys.argv[1]), threads=1) as tail:
    feeds = {s.name: np.zeros([1, *s.shape[1:]], s.dtype) for s in tail.inputs}
    for _ in range(40):
        begun_s = time.perf_counter()
        tail.run(feeds)
        taken.append(time.perf_counter() - begun_s)
print(statistics.median(taken[5:]))
"""


def tail_rate(bundle: Bundle) -> float:
    """Of the tail alone, on the cloud's core."""
    command = [*PINNED, sys.executable, "-c", TAIL_SCRIPT, str(bundle.tail)]
    return 1.0 / float(subprocess.run(command, check=True, capture_output=True).stdout)


class Ready(Session):
    """A head that has its output ready: what is left of a request is the wire and the tail."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__("ready", bundle.head_inputs, bundle.head_outputs)
        rng = np.random.default_rng(0)
        self._sent = {s.name: values(s, rng) for s in bundle.head_outputs}

    def _run(self, feeds: Any) -> dict[str, Any]:
        return dict(self._sent)

    def _run_timed(self, feeds: Any) -> Any:
        return self._run(feeds), StageTimes(0.0, 0.0, 0.0)

    def _close(self) -> None:
        self._sent = {}


def values(spec: TensorSpec, rng: np.random.Generator) -> Any:
    """An array that a tail may be given."""
    shape = [1 if size == FREE else size for size in spec.shape]
    return rng.normal(size=shape).astype(spec.dtype)


def example(bundle: Bundle) -> Any:
    """One picture, as the head takes it."""
    return values(bundle.head_inputs[0], np.random.default_rng(1))


def feeds_of(session: Session) -> dict[str, Any]:
    """The same picture for a session."""
    return {s.name: values(s, np.random.default_rng(1)) for s in session.inputs}


def idle_bundle(bundle: Bundle, place: Path) -> Path:
    """The bundle with a tail that takes the same tensors, and answers zeros of the same shape."""
    import shutil

    from splitdeploy.profiles.digest import file_sha256

    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(bundle.folder, place)
    onnx.save(idle_tail(bundle), str(place / "tail.onnx"))
    for path in (place / "triton").rglob("model.onnx"):
        shutil.copyfile(place / "tail.onnx", path)
    manifest = json.loads((place / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        entry.update(sha256=file_sha256(place / name), bytes=(place / name).stat().st_size)
    (place / "manifest.json").write_text(json.dumps(manifest))
    return place


def idle_tail(bundle: Bundle) -> onnx.ModelProto:
    """Reads one number of each input, and fills the results with it."""

    def info(spec: TensorSpec) -> Any:
        sizes = ["n" if size == FREE else size for size in spec.shape]
        return helper.make_tensor_value_info(
            spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), sizes
        )

    nodes = []
    first = bundle.tail_inputs[0].name
    nodes.append(helper.make_node("Shape", [first], ["batch"], start=0, end=1))
    constants = []
    for spec in bundle.tail_outputs:
        sizes = np.array(spec.shape[1:], np.int64)
        constants.append(onnx.numpy_helper.from_array(sizes, f"{spec.name}.sizes"))
        nodes.append(helper.make_node(
            "Concat", ["batch", f"{spec.name}.sizes"], [f"{spec.name}.shape"], axis=0
        ))  # fmt: skip
        zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
        nodes.append(helper.make_node(
            "ConstantOfShape", [f"{spec.name}.shape"], [spec.name], value=zero
        ))  # fmt: skip
    graph = helper.make_graph(
        nodes, "idle", [info(s) for s in bundle.tail_inputs],
        [info(s) for s in bundle.tail_outputs], constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


if __name__ == "__main__":
    main()
