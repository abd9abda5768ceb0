"""Bundles around small hand-made tails, whose answers ONNX Runtime tells directly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.profiles.digest import file_sha256

Array = np.ndarray[Any, Any]

_SIZES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int64": TensorProto.INT64}


def linear_tail(batch: int | str = "n") -> onnx.ModelProto:
    """``y = relu(x) · W``: one input ``[n, 6]``, one output ``[n, 4]``."""
    weights = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Relu", ["x"], ["kept"]),
        helper.make_node("MatMul", ["kept", "w"], ["y"]),
    ]
    return _model(nodes, {"w": weights}, [("x", "float32", [batch, 6])], [
        ("y", "float32", [batch, 4])
    ])  # fmt: skip


def two_input_tail() -> onnx.ModelProto:
    """Two inputs of two dtypes, as a skip connection leaves them; two outputs."""
    nodes = [
        helper.make_node("Cast", ["half"], ["whole"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["whole", "axes"], ["pooled"], keepdims=0),
        helper.make_node("Add", ["pooled", "skip"], ["sum"]),
        helper.make_node("Softmax", ["sum"], ["share"], axis=-1),
    ]
    sizes = [("half", "float16", ["n", 3, 5]), ("skip", "float32", ["n", 3])]
    results = [("sum", "float32", ["n", 3]), ("share", "float32", ["n", 3])]
    return _model(nodes, {"axes": np.array([2], np.int64)}, sizes, results)


def lookup_tail() -> onnx.ModelProto:
    """Rows of a table of 3: any other index makes the graph itself fail."""
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    nodes = [helper.make_node("Gather", ["table", "index"], ["row"], axis=0)]
    return _model(nodes, {"table": table}, [("index", "int64", ["n", 1])], [
        ("row", "float32", ["n", 1, 2])
    ])  # fmt: skip


def slow_tail(width: int = 512, layers: int = 8) -> onnx.ModelProto:
    """A chain of products that takes about a millisecond."""
    rng = np.random.default_rng(1)
    scale = 1 / np.sqrt(width)
    weights = {
        f"w{place}": (rng.normal(size=(width, width)) * scale).astype(np.float32)
        for place in range(layers)
    }
    nodes = [
        helper.make_node("MatMul", [f"h{place}" if place else "x", f"w{place}"], [f"h{place + 1}"])
        for place in range(layers)
    ]
    nodes.append(helper.make_node("ReduceMean", [f"h{layers}", "axes"], ["y"]))
    weights["axes"] = np.array([1], np.int64)
    return _model(nodes, weights, [("x", "float32", ["n", width])], [("y", "float32", ["n", 1])])


def make_bundle(folder: Path, tail: onnx.ModelProto, served: str) -> Path:
    """A bundle that reads as an exported one; its head passes a picture's pixels through."""
    folder.mkdir(parents=True)
    inputs, outputs = _specs(tail.graph.input), _specs(tail.graph.output)
    head = _model(
        [
            helper.make_node("Identity", [f"in_{entry['name']}"], [entry["name"]])
            for entry in inputs
        ],
        {},
        [(f"in_{e['name']}", e["dtype"], _named(e["shape"])) for e in inputs],
        [(e["name"], e["dtype"], _named(e["shape"])) for e in inputs],
    )
    onnx.save(head, str(folder / "head.onnx"))
    onnx.save(tail, str(folder / "tail.onnx"))
    sent = [{**e, "shape": [1, *e["shape"][1:]]} for e in inputs]
    manifest = {
        "schema_version": 1, "model": served, "cut": "c", "tensors": sent, "payload_bytes": 1,
        "precision": "fp32", "guard_noise": None, "served_name": served, "preprocessing": None,
        "head": {"inputs": _specs(head.graph.input), "outputs": inputs},
        "tail": {"inputs": inputs, "outputs": outputs},
        "files": {
            name: {"sha256": file_sha256(folder / name)} for name in ("head.onnx", "tail.onnx")
        },
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def answer(folder: Path, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """What ONNX Runtime says of a bundle's tail, in this process."""
    with OnnxRuntimeSession(folder / "tail.onnx", threads=1) as session:
        return session.run(feeds)


def _named(shape: Sequence[int]) -> list[int | str]:
    return ["n" if size == -1 else size for size in shape]


def _model(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Array],
    inputs: Sequence[tuple[str, str, Sequence[int | str]]],
    outputs: Sequence[tuple[str, str, Sequence[int | str]]],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "tail",
        [
            helper.make_tensor_value_info(name, _SIZES[dtype], shape)
            for name, dtype, shape in inputs
        ],
        [
            helper.make_tensor_value_info(name, _SIZES[dtype], shape)
            for name, dtype, shape in outputs
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def _specs(values: Any) -> list[dict[str, Any]]:
    dtypes = {number: dtype for dtype, number in _SIZES.items()}
    return [
        {
            "name": value.name,
            "dtype": dtypes[value.type.tensor_type.elem_type],
            "shape": [
                size.dim_value if size.HasField("dim_value") else -1
                for size in value.type.tensor_type.shape.dim
            ],
        }
        for value in values
    ]
