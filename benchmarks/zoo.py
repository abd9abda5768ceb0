"""Every torchvision classifier, cut at every block, each cut verified against the whole model.

    python benchmarks/zoo.py [--models resnet18,vgg11] [--out zoo.json]

Weights are random with a fixed seed and pictures have 224 pixels a side (299 for Inception):
whether a tail on its head's output equals the whole model depends on neither. The images are
photographs. Results are written as they come, and a run that was interrupted goes on where it
stopped. The largest models need 12 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from splitdeploy.attacks.images import load_photographs
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.partitioner.cuts import find_cuts
from splitdeploy.partitioner.export import boundary_values, export_onnx
from splitdeploy.partitioner.models import load_model, model_names
from splitdeploy.partitioner.slicing import Slicer, write_slice
from splitdeploy.partitioner.verify import compare, run_halves
from splitdeploy.profiles.errors import SplitdeployError
from splitdeploy.profiles.store import write_atomically

IMAGES = 2


def verify_model(name: str) -> dict[str, Any]:
    """Cut one model at every block and verify each cut."""
    start = time.perf_counter()
    side = 299 if name.startswith("inception") else 224
    model = load_model(name, weights="none", input_shape=(3, side, side))
    graph = model.trace.graph
    cuts = [cut for cut in find_cuts(graph, "block") if not cut.is_end]
    shape = (model.input.shape[1], model.input.shape[2], model.input.shape[3])
    images = model.input.normalise(load_photographs("photos", shape=shape, count=IMAGES).pixels)
    with tempfile.TemporaryDirectory() as folder:
        exported = export_onnx(model.trace, boundary_values(cuts), Path(folder))
        slicer = Slicer(exported)
        feeds = {exported.inputs[0]: images}
        with OnnxRuntimeSession(exported.path) as whole:
            everything = whole.run(feeds)
        expected = [everything[result] for result in exported.results]
        with torch.no_grad():
            reference = model.module(torch.from_numpy(images)) if model.module else None
        torch_error = compare([reference.numpy()], expected, IMAGES).max_rel_error
        verdicts = []
        for cut in cuts:
            halves = slicer.cut(cut)
            head_path = write_slice(halves.head, exported.path, "head.onnx")
            tail_path = write_slice(halves.tail, exported.path, "tail.onnx")
            with OnnxRuntimeSession(head_path) as head, OnnxRuntimeSession(tail_path) as tail:
                verdicts.append(compare(expected, run_halves(head, tail, feeds), IMAGES))
    return {
        "model": name,
        "cuts": len(cuts),
        "verified": sum(verdict.ok for verdict in verdicts),
        "max_rel_error": max(verdict.max_rel_error for verdict in verdicts),
        "onnx_against_torch": torch_error,
        "dynamic_batch": exported.dynamic_batch,
        "gmacs": graph.macs / 1e9,
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", help="names, a comma between them; default: all")
    parser.add_argument("--out", type=Path, default=Path("runs/zoo.json"))
    arguments = parser.parse_args()
    names = arguments.models.split(",") if arguments.models else model_names()
    rows: dict[str, dict[str, Any]] = {}
    if arguments.out.is_file():
        rows = {row["model"]: row for row in json.loads(arguments.out.read_text())}
    for name in names:
        if name not in rows or "error" in rows[name]:
            try:
                rows[name] = verify_model(name)
            except SplitdeployError as error:
                rows[name] = {"model": name, "error": str(error)}
            write_atomically(arguments.out, json.dumps(list(rows.values()), indent=1))
        row = rows[name]
        print(
            f"{name:22s} {row['error']}"
            if "error" in row
            else f"{name:22s} {row['cuts']:3d} cuts {row['verified']:3d} verified  "
            f"largest relative error {row['max_rel_error']:.1e}  {row['seconds']:6.1f} s",
            flush=True,
        )
    done = [rows[name] for name in names if "error" not in rows[name]]
    print(
        f"{len(names)} models, {sum(r['cuts'] for r in done)} cuts, "
        f"{sum(r['verified'] for r in done)} verified, largest relative error "
        f"{max(r['max_rel_error'] for r in done):.1e}, {sum(r['seconds'] for r in done):.0f} s; "
        f"failed: {', '.join(n for n in names if 'error' in rows[n]) or 'none'}"
    )


if __name__ == "__main__":
    main()
