"""Small tails whose requests choose what happens: an answer, a long wait, NaN, a failing graph."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tritonclient.grpc as triton
from certificates import Pair
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from splitdeploy.cloud_runtime.server import TailServer
from splitdeploy.edge_runtime.bundle import Bundle, read_bundle
from splitdeploy.profiles.digest import file_sha256

RNG = np.random.default_rng(7)
WEIGHT = RNG.standard_normal((16, 10)).astype(np.float32)
WORK = 128
FAILS = 3e9
"""A mood on which the graph fails; below 0 it gives NaN, else it works for so many steps."""

MOODY = "tiny_moody_tail"


def tail(batch: int | str = "N") -> onnx.ModelProto:
    """``y = flatten(relu) @ WEIGHT``, after ``mood`` steps of work."""
    step = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "turn"], ["next"]),
            helper.make_node("Identity", ["going"], ["still"]),
        ],
        "step",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [WORK, WORK]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [WORK, WORK]),
        ],
    )
    nodes = [
        helper.make_node("Flatten", ["relu"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["linear"]),
        helper.make_node("ReduceMax", ["mood"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["steps"], to=TensorProto.INT64),
        helper.make_node("Div", ["steps", "billion"], ["place"]),
        helper.make_node("Gather", ["nothing", "place"], ["more"]),
        helper.make_node("Add", ["steps", "more"], ["all"]),
        helper.make_node("Loop", ["all", "", "turn"], ["worked"], body=step),
        helper.make_node("ReduceMin", ["worked"], ["zero"], keepdims=0),
        helper.make_node("Sqrt", ["mood"], ["root"]),
        helper.make_node("Mul", ["root", "zero"], ["zeros"]),
        helper.make_node("Add", ["linear", "zeros"], ["y"]),
    ]
    constants = {
        "weight": WEIGHT,
        "turn": np.eye(WORK, dtype=np.float32),
        "billion": np.array(1_000_000_000, np.int64),
        "nothing": np.zeros(1, np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "tail",
        [
            helper.make_tensor_value_info("relu", TensorProto.FLOAT, [batch, 4, 2, 2]),
            helper.make_tensor_value_info("mood", TensorProto.FLOAT, [batch, 1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 10])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


def make_bundle(
    folder: Path,
    *,
    name: str = MOODY,
    batch: int | str = "N",
    change: Callable[[dict[str, Any]], None] = lambda manifest: None,
) -> Path:
    """A bundle with such a tail; its head is a few bytes, which no server opens."""
    folder.mkdir(parents=True)
    (folder / "head.onnx").write_text("head")
    onnx.save(tail(batch), folder / "tail.onnx")
    size = -1 if batch == "N" else batch
    sent = [
        {"name": "relu", "shape": [size, 4, 2, 2], "dtype": "float32"},
        {"name": "mood", "shape": [size, 1], "dtype": "float32"},
    ]
    result = [{"name": "y", "shape": [size, 10], "dtype": "float32"}]
    picture = [{"name": "x", "shape": [size, 3, 8, 8], "dtype": "float32"}]
    manifest = {
        "schema_version": 1, "model": "tiny", "cut": "moody", "payload_bytes": 68,
        "tensors": [entry | {"shape": [1, *entry["shape"][1:]]} for entry in sent],  # type: ignore[misc]
        "precision": "fp32", "guard_noise": None, "served_name": name,
        "head": {"inputs": picture, "outputs": sent}, "tail": {"inputs": sent, "outputs": result},
        "preprocessing": None,
        "files": {
            graph: {"sha256": file_sha256(folder / graph)} for graph in ("head.onnx", "tail.onnx")
        },
    }  # fmt: skip
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def bundle(folder: Path, **settings: Any) -> Bundle:
    """As a server reads it."""
    return read_bundle(make_bundle(folder, **settings), "cloud")


def picture(count: int = 1, *, mood: float = 0.0, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """What a head would send for so many pictures."""
    values = np.random.default_rng(seed).standard_normal((count, 4, 2, 2)).astype(np.float32)
    return {"relu": values, "mood": np.full((count, 1), mood, np.float32)}


def expected(sent: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """What the tail should answer, without ONNX Runtime."""
    return (sent["relu"].reshape(len(sent["relu"]), 16).astype(np.float64) @ WEIGHT).astype("f4")


def inputs(sent: Mapping[str, NDArray[Any]]) -> list[triton.InferInput]:
    """For NVIDIA's client."""
    found = []
    for name, value in sent.items():
        entry = triton.InferInput(name, list(value.shape), triton_type(value.dtype))
        entry.set_data_from_numpy(value)
        found.append(entry)
    return found


def triton_type(dtype: np.dtype[Any]) -> str:
    """What the protocol calls a dtype."""
    return {"f": "FP", "i": "INT", "u": "UINT"}[dtype.kind] + str(8 * dtype.itemsize)


def ask(
    client: triton.InferenceServerClient,
    sent: Mapping[str, NDArray[Any]],
    *,
    model: str = MOODY,
    **settings: Any,
) -> triton.InferResult:
    """One request; a deadline keeps a broken server from hanging the tests."""
    return client.infer(model, inputs(sent), **{"client_timeout": 20.0, **settings})


def check_serves(client: triton.InferenceServerClient, *, model: str = MOODY) -> None:
    """A good request gets its answer."""
    sent = picture(3, seed=11)
    answer = ask(client, sent, model=model).as_numpy("y")
    np.testing.assert_allclose(answer, expected(sent), rtol=1e-5, atol=1e-5)


@dataclass(frozen=True)
class Running:
    """A server and NVIDIA's client of it."""

    server: TailServer
    client: triton.InferenceServerClient


def connect(
    port: int, *, trust: Path | None = None, mine: Pair | None = None
) -> triton.InferenceServerClient:
    """NVIDIA's client; with TLS where it is told whom to trust."""
    return triton.InferenceServerClient(
        f"127.0.0.1:{port}",
        ssl=trust is not None,
        root_certificates=None if trust is None else str(trust),
        private_key=None if mine is None else str(mine.key),
        certificate_chain=None if mine is None else str(mine.cert),
    )


@contextlib.contextmanager
def running(
    *bundles: Bundle, trust: Path | None = None, mine: Pair | None = None, **settings: Any
) -> Iterator[Running]:
    """A server over a real socket, at any free port, and a client of it."""
    settings = {"port": 0, "threads": 1, "with_metrics": True, **settings}
    with (
        TailServer(bundles, **settings) as server,
        connect(server.port, trust=trust, mine=mine) as client,
    ):
        yield Running(server, client)


def counted(server: TailServer) -> dict[str, float]:
    """How many requests ended in each way, over all models."""
    assert server.metrics is not None
    found: dict[str, float] = {}
    for family in server.metrics.registry.collect():
        for sample in family.samples:
            if sample.name == "splitdeploy_requests_total" and sample.value:
                outcome = sample.labels["outcome"]
                found[outcome] = found.get(outcome, 0) + sample.value
    return found
