"""Bundles whose heads the fakes of TensorRT can build and run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from splitdeploy.edge_runtime.bundle import Bundle, read_bundle
from splitdeploy.profiles.digest import file_sha256

RNG = np.random.default_rng(7)
KERNEL = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32) / 5
BIAS = RNG.normal(size=4).astype(np.float32)
SCORES = RNG.normal(size=(4, 5)).astype(np.float32)


def head_graph(batch: str | int = "n", sent: str = "float32", noise: bool = False) -> Any:
    """A convolution and a ReLU on pictures of 8 × 8; what is sent in a dtype, with noise."""
    element = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16,
               "int8": TensorProto.INT8}[sent]  # fmt: skip
    raw = "z" if sent == "float32" else "z__raw"
    clean = "z__clean" if noise else raw
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], [clean], name="relu"),
    ]
    held = [numpy_helper.from_array(KERNEL, "w"), numpy_helper.from_array(BIAS, "b")]
    inputs = [_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])]
    if noise:
        inputs.append(_info("noise.z", TensorProto.FLOAT, [batch, 4, 8, 8]))
        held.append(numpy_helper.from_array(np.float32(0.1), "sigma"))
        nodes.append(helper.make_node("Mul", ["noise.z", "sigma"], ["n"], name="scaled"))
        nodes.append(helper.make_node("Add", [clean, "n"], [raw], name="guard"))
    if sent == "float16":
        nodes.append(helper.make_node("Cast", [raw], ["z"], name="encode", to=element))
    if sent == "int8":
        held.append(numpy_helper.from_array(np.float32(0.05), "s"))
        held.append(numpy_helper.from_array(np.int8(0), "zero"))
        nodes.append(helper.make_node("QuantizeLinear", [raw, "s", "zero"], ["z"], name="encode"))
    outputs = [_info("z", element, [batch, 4, 8, 8])]
    return _model(nodes, inputs, outputs, held)


def tail_graph(batch: str | int = "n", sent: str = "float32") -> Any:
    """Pooling and five classes."""
    element = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16,
               "int8": TensorProto.INT8}[sent]  # fmt: skip
    nodes, held = [], [numpy_helper.from_array(SCORES, "v")]
    raw = "z" if sent == "float32" else "z__raw"
    if sent == "float16":
        nodes.append(helper.make_node("Cast", ["z"], [raw], to=TensorProto.FLOAT))
    if sent == "int8":
        held.append(numpy_helper.from_array(np.float32(0.05), "s"))
        held.append(numpy_helper.from_array(np.int8(0), "zero"))
        nodes.append(helper.make_node("DequantizeLinear", ["z", "s", "zero"], [raw]))
    nodes += [
        helper.make_node("GlobalAveragePool", [raw], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["y"]),
    ]
    inputs = [_info("z", element, [batch, 4, 8, 8])]
    return _model(nodes, inputs, [_info("y", TensorProto.FLOAT, [batch, 5])], held)


def make_bundle(
    folder: Path,
    *,
    batch: str | int = "n",
    sent: str = "float32",
    noise: bool = False,
    variants: dict[str, Any] | None = None,
) -> Bundle:
    """A bundle of these graphs, with the graphs of further precisions as they are given."""
    folder.mkdir(parents=True)
    onnx.save(head_graph(batch, sent, noise), str(folder / "head.onnx"))
    onnx.save(tail_graph(batch, sent), str(folder / "tail.onnx"))
    for precision, graph in (variants or {}).items():
        onnx.save(graph, str(folder / f"head.{precision}.onnx"))
    size = -1 if isinstance(batch, str) else batch
    sends = {"name": "z", "shape": [size, 4, 8, 8], "dtype": sent}
    takes = [{"name": "x", "shape": [size, 3, 8, 8], "dtype": "float32"}]
    drawn = {"name": "noise.z", "shape": [size, 4, 8, 8], "dtype": "float32"}
    manifest = {
        "schema_version": 1, "model": "small", "cut": "relu", "served_name": "small_relu_tail",
        "tensors": [{**sends, "shape": [1, 4, 8, 8], "bytes": 1024}], "payload_bytes": 1024,
        "precision": {"float32": "fp32", "float16": "fp16", "int8": "int8"}[sent],
        "guard_noise": {"inputs": [{"name": "noise.z", "tensor": "z", "shape": [4, 8, 8],
                                    "dtype": "float32", "distribution": "gaussian"}]}
                       if noise else None,
        "head": {"inputs": [*takes, *([drawn] if noise else [])], "outputs": [sends]},
        "tail": {"inputs": [sends],
                 "outputs": [{"name": "y", "shape": [size, 5], "dtype": "float32"}]},
        "preprocessing": {"channels": 3, "height": 8, "width": 8, "mean": [0.5] * 3,
                          "std": [0.25] * 3},
        "head_variants": {p: {"file": f"head.{p}.onnx"} for p in variants or {}},
        "files": {p.name: {"sha256": file_sha256(p)} for p in sorted(folder.iterdir())},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return read_bundle(folder)


def _info(name: str, element: int, shape: list[str | int]) -> Any:
    return helper.make_tensor_value_info(name, element, shape)


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], held: list[Any]) -> Any:
    graph = helper.make_graph(nodes, "part", inputs, outputs, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
