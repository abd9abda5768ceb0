"""A bundle small enough for any test: a head of one product, a tail of another, NumPy's answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from splitdeploy.profiles.digest import file_sha256

SERVED = "tiny_split_tail"
SIZE = 8
CLASSES = 10
_RNG = np.random.default_rng(3)
GAIN = _RNG.uniform(0.2, 1.0, (1, 3, SIZE, SIZE)).astype(np.float32)
WEIGHT = _RNG.standard_normal((3 * SIZE * SIZE, CLASSES)).astype(np.float32)
PAYLOAD_BYTES = 4 * 3 * SIZE * SIZE

PREPROCESSING = {
    "channels": 3, "height": SIZE, "width": SIZE, "mean": [0.5] * 3, "std": [0.5] * 3,
}  # fmt: skip

_NOISE = {
    "name": "noise.z", "tensor": "z", "shape": [3, SIZE, SIZE], "dtype": "float32",
    "distribution": "gaussian",
}  # fmt: skip


def make_bundle(
    folder: Path,
    *,
    served: str = SERVED,
    batch: int | str = "n",
    noise: bool = False,
    work: int = 0,
    classes: int = CLASSES,
) -> Path:
    """``z = sqrt(gain·x + 1)``, which is NaN for x far below 0; ``y = flatten(z) · W``.

    Args:
        folder: Where.
        served: The tail's name.
        batch: A number where both halves take just that.
        noise: Whether the head adds noise that is drawn for each picture.
        work: Products of two matrices of 256 that the tail does besides, one about a millisecond.
        classes: How many results.
    """
    folder.mkdir(parents=True)
    onnx.save(_head(batch, noise), str(folder / "head.onnx"))
    onnx.save(_tail(batch, work, classes), str(folder / "tail.onnx"))
    size = -1 if batch == "n" else batch
    picture = {"name": "x", "shape": [size, 3, SIZE, SIZE], "dtype": "float32"}
    sent = picture | {"name": "z"}
    drawn = [picture | {"name": "noise.z"}] if noise else []
    manifest = {
        "schema_version": 1, "model": "tiny", "cut": "z", "payload_bytes": PAYLOAD_BYTES,
        "tensors": [sent | {"shape": [1, 3, SIZE, SIZE]}], "precision": "fp32",
        "guard_noise": {"inputs": [_NOISE]} if noise else None, "served_name": served,
        "head": {"inputs": [picture, *drawn], "outputs": [sent]},
        "tail": {"inputs": [sent],
                 "outputs": [{"name": "y", "shape": [size, classes], "dtype": "float32"}]},
        "preprocessing": PREPROCESSING,
        "files": {
            name: {"sha256": file_sha256(folder / name)} for name in ("head.onnx", "tail.onnx")
        },
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def arrays(count: int, seed: int = 0) -> list[NDArray[np.float32]]:
    """What the head takes, for so many pictures."""
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, (1, 3, SIZE, SIZE)).astype(np.float32) for _ in range(count)]


def expected(x: NDArray[np.float32], classes: int = CLASSES) -> NDArray[np.float64]:
    """The whole model in NumPy."""
    z = np.sqrt(GAIN.astype(np.float64) * x + 1)
    return z.reshape(len(x), -1) @ WEIGHT[:, :classes]


def check_right(outputs: Any, x: NDArray[np.float32]) -> None:
    """The answer is that of the whole model."""
    assert outputs is not None
    np.testing.assert_allclose(outputs["y"], expected(x), rtol=1e-4, atol=1e-4)


def _head(batch: int | str, noise: bool) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Mul", ["x", "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "one"], ["shifted"]),
        helper.make_node("Sqrt", ["shifted"], ["clean" if noise else "z"]),
    ]
    names = ["x"]
    if noise:
        nodes.append(helper.make_node("Add", ["clean", "noise.z"], ["z"]))
        names.append("noise.z")
    constants = {"gain": GAIN, "one": np.ones(1, np.float32)}
    sizes = [batch, 3, SIZE, SIZE]
    return _model(nodes, constants, [(name, sizes) for name in names], ("z", sizes))


def _tail(batch: int | str, work: int, classes: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Flatten", ["z"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["product"]),
        # Of the input, so that it cannot be folded into a constant.
        helper.make_node("ReduceMax", ["flat"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "turn"], ["work0"]),
    ]
    for step in range(work):
        nodes.append(helper.make_node("MatMul", [f"work{step}", "turn"], [f"work{step + 1}"]))
    nodes += [
        helper.make_node("ReduceMax", [f"work{work}"], ["worked"], keepdims=0),
        helper.make_node("Mul", ["worked", "zero"], ["nothing"]),
        helper.make_node("Add", ["product", "nothing"], ["y"]),
    ]
    constants = {
        "weight": WEIGHT[:, :classes],
        "turn": np.eye(256 if work else 1, dtype=np.float32),
        "zero": np.zeros(1, np.float32),
    }
    return _model(nodes, constants, [("z", [batch, 3, SIZE, SIZE])], ("y", [batch, classes]))


def _model(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, Any],
    inputs: Sequence[tuple[str, Sequence[int | str]]],
    output: tuple[str, Sequence[int | str]],
) -> onnx.ModelProto:
    def value(name: str, sizes: Sequence[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(sizes))

    graph = helper.make_graph(
        list(nodes),
        "half",
        [value(*one) for one in inputs],
        [value(*output)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
