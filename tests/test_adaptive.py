"""Several cuts at once: the right one as a real link slows down and recovers, no picture lost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tcp_proxy import tcp_proxy

from splitdeploy.cloud_runtime.server import TailServer
from splitdeploy.edge_runtime.adaptive import AdaptiveClient
from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.profiles.digest import file_sha256
from splitdeploy.profiles.errors import UsageError

SIDE, CLASSES, WORK, WIDTH = 64, 10, 400, 256
WEIGHT = np.random.default_rng(0).normal(size=(3 * SIDE * SIDE, CLASSES)).astype(np.float32)
X = ("x", [-1, 3, SIDE, SIDE])
Z = ("z", [-1, 3, SIDE, SIDE])
S = ("s", [-1, CLASSES])
Y = ("y", [-1, CLASSES])
SLOW_BPS = 4e5
"""At this the early cut's 49 kB take a second, and on a quiet machine the late head a tenth."""


def graph(nodes: list[Any], inputs: tuple[str, list[int]], output: tuple[str, list[int]]) -> Any:
    def info(name: str, sizes: list[int]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *sizes[1:]])

    constants = {"w": WEIGHT, "turn": np.eye(WIDTH, dtype=np.float32),
                 "zero": np.zeros(1, np.float32)}  # fmt: skip
    used = {name for node in nodes for name in node.input}
    held = [numpy_helper.from_array(v, k) for k, v in constants.items() if k in used]
    made = helper.make_graph(nodes, "half", [info(*inputs)], [info(*output)], held)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def product(source: str, target: str) -> list[Any]:
    return [
        helper.make_node("Flatten", [source], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], [target]),
    ]


def labour() -> list[Any]:
    """Products that add nothing but time."""
    nodes = [
        helper.make_node("ReduceMax", ["flat"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "turn"], ["t0"]),
    ]
    nodes += [
        helper.make_node("MatMul", [f"t{step}", "turn"], [f"t{step + 1}"]) for step in range(WORK)
    ]
    return [
        *nodes,
        helper.make_node("ReduceMax", [f"t{WORK}"], ["last"], keepdims=0),
        helper.make_node("Mul", ["last", "zero"], ["nothing"]),
        helper.make_node("Add", ["right", "nothing"], ["s"]),
    ]


def bundle(
    folder: Path, cut: str, head: Any, tail: Any, sent: tuple[str, list[int]], weights: str = "w0"
) -> Path:
    folder.mkdir(parents=True)
    onnx.save(head, str(folder / "head.onnx"))
    onnx.save(tail, str(folder / "tail.onnx"))

    def spec(entry: tuple[str, list[int]]) -> dict[str, Any]:
        return {"name": entry[0], "shape": entry[1], "dtype": "float32"}

    one = spec(sent) | {"shape": [1, *sent[1][1:]]}
    manifest = {
        "schema_version": 1, "model": "m", "cut": cut, "served_name": f"m_{cut}_tail",
        "tensors": [one], "payload_bytes": 4 * int(np.prod(one["shape"])), "precision": "fp32",
        "guard_noise": None, "preprocessing": None, "source": {"weights_sha256": weights},
        "head": {"inputs": [spec(X)], "outputs": [spec(sent)]},
        "tail": {"inputs": [spec(sent)], "outputs": [spec(Y)]},
        "files": {n: {"sha256": file_sha256(folder / n)} for n in ("head.onnx", "tail.onnx")},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def early(tmp_path_factory: pytest.TempPathFactory) -> Path:
    head = graph([helper.make_node("Relu", ["x"], ["z"])], X, Z)
    return bundle(tmp_path_factory.mktemp("b") / "early", "early", head,
                  graph(product("z", "y"), Z, Y), Z)  # fmt: skip


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    nodes = [helper.make_node("Relu", ["x"], ["z"]), *product("z", "right"), *labour()]
    tail = graph([helper.make_node("Identity", ["s"], ["y"])], S, Y)
    return bundle(tmp_path_factory.mktemp("b") / "late", "late", graph(nodes, X, S), tail, S)


@pytest.fixture(scope="module")
def cloud(early: Path, late: Path) -> Iterator[TailServer]:
    bundles = [read_bundle(early, "cloud"), read_bundle(late, "cloud")]
    with TailServer(bundles, port=0, threads=1) as server:
        yield server


def picture(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)


def test_the_cut_follows_the_link_and_no_picture_is_lost(
    early: Path, late: Path, cloud: TailServer
) -> None:
    seen: list[str] = []
    with (
        tcp_proxy(cloud.port) as link,
        AdaptiveClient(
            [early, late], link.address, probe_s=0.5, threads=1, window=2, deadline_s=30.0
        ) as client,
    ):
        ends_s = time.monotonic() + 180.0

        def pictures() -> Iterator[np.ndarray[Any, Any]]:
            for wanted, bps in (("early", None), ("late", SLOW_BPS), ("early", None)):
                link.throttle(bps)
                settled = 0
                while settled < 6 and time.monotonic() < ends_s:
                    settled = settled + 1 if client.cut == wanted else 0
                    yield picture(len(seen))
                    seen.append(client.cut)

        answers = list(client.stream(pictures()))
        stats, switches = client.stats, client.switches
    assert time.monotonic() < ends_s, f"the cut did not settle: {seen}"
    assert [answer.index for answer in answers] == list(range(len(seen)))
    assert {answer.answered_by for answer in answers} == {"cloud"}
    for answer in answers:
        right = np.maximum(picture(answer.index), 0).reshape(1, -1) @ WEIGHT
        assert answer.outputs is not None
        np.testing.assert_allclose(answer.outputs["y"], right, rtol=1e-3, atol=1e-2)
    assert stats.sent == stats.answered_by_cloud == len(answers)
    assert 2 <= switches <= 6
    assert {answer.payload_bytes for answer in answers} == {4 * 3 * SIDE * SIDE, 4 * CLASSES}


def test_one_picture_goes_through_the_first_cut(early: Path, late: Path, cloud: TailServer) -> None:
    address = f"127.0.0.1:{cloud.port}"
    with AdaptiveClient([early, late], address, threads=1) as client:
        answer = client.infer(picture(0)).raise_if_refused()
        assert client.cut == "early" and answer.payload_bytes == 4 * 3 * SIDE * SIDE
        with pytest.raises(RuntimeError, match="no more film"):
            list(client.stream(failing()))


def failing() -> Iterator[np.ndarray[Any, Any]]:
    yield picture(0)
    raise RuntimeError("no more film")


def test_other_weights_are_refused(early: Path, cloud: TailServer, tmp_path: Path) -> None:
    head = graph([helper.make_node("Relu", ["x"], ["z"])], X, Z)
    tail = graph(product("z", "y"), Z, Y)
    other = bundle(tmp_path / "other", "other", head, tail, Z, weights="w1")
    with pytest.raises(UsageError, match="expected bundles of one model with the same weights"):
        AdaptiveClient([early, other], f"127.0.0.1:{cloud.port}")
    with pytest.raises(UsageError, match="different names, got early, early"):
        AdaptiveClient([early, early], f"127.0.0.1:{cloud.port}")
