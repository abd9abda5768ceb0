"""Whether a cut model answers as the whole one does: two processes on loopback, many photographs.

    python benchmarks/agreement.py --data DIR --out agreement.json

DIR holds ``imagenet_sample/`` (photographs; 200 of them) and ``weights/squeezenet1_0_imagenet.pth``
(a state dict of torchvision's SqueezeNet 1.0). The head runs in this process, the tail in
``splitdeploy serve``; the whole exported model in ONNX Runtime is what both are compared with.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from serving import served

from splitdeploy.attacks.images import load_photographs
from splitdeploy.attacks.intervals import wilson95
from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.edge_runtime.client import SplitClient
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.partitioner.api import split
from splitdeploy.partitioner.models import LoadedModel, load_model

CUTS = ("features.3", "features.7", "features.12")
PRECISIONS = ("fp32", "fp16", "int8")


def main() -> None:
    """Print a row a cut and precision, and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("agreement.json"))
    parser.add_argument("--images", type=int, default=200)
    arguments = parser.parse_args()
    weights = arguments.data / "weights/squeezenet1_0_imagenet.pth"
    model = load_model("squeezenet1_0", weights=str(weights))
    photographs = arguments.data / "imagenet_sample"
    found = load_photographs(photographs, shape=(3, 224, 224), count=arguments.images)
    inputs = [model.input.normalise(one[None]) for one in found.pixels]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        wanted = whole(model, inputs, Path(folder), photographs)
        for cut in CUTS:
            for precision in PRECISIONS:
                rows.append(row(model, cut, precision, photographs, inputs, wanted, Path(folder)))
                print({k: v for k, v in rows[-1].items() if k != "stages_s"}, flush=True)
                arguments.out.write_text(json.dumps(rows, indent=1))


def whole(
    model: LoadedModel, inputs: list[np.ndarray], folder: Path, photographs: Path
) -> np.ndarray:
    """The whole model's answers: an edge-only head is all of it."""
    split(model, "edge-only", folder / "whole", images=photographs)
    with OnnxRuntimeSession(folder / "whole/head.onnx") as session:
        name = session.inputs[0].name
        answers = [next(iter(session.run({name: one}).values())) for one in inputs]
    return np.concatenate(answers)


def row(
    model: LoadedModel,
    cut: str,
    precision: str,
    photographs: Path,
    inputs: list[np.ndarray],
    wanted: np.ndarray,
    folder: Path,
) -> dict[str, Any]:
    """One cut at one precision."""
    place = folder / f"{cut}-{precision}"
    split(model, cut, place, precision=precision, images=photographs)
    bundle = read_bundle(place)
    with served([place]) as server, SplitClient(bundle, server.address, deadline_s=30.0) as client:
        answers = list(client.stream(inputs))
    missing = [answer.index for answer in answers if answer.answered_by != "cloud"]
    if missing:
        raise RuntimeError(f"{len(missing)} of {len(answers)} requests were not answered")
    got = np.concatenate([next(iter((answer.outputs or {}).values())) for answer in answers])
    same = int((got.argmax(1) == wanted.argmax(1)).sum())
    return {
        "model": "squeezenet1_0",
        "cut": cut,
        "precision": precision,
        "images": len(inputs),
        "top1_same": same,
        "top1_same_ci95": wilson95(same, len(inputs)),
        "max_abs_error": float(np.abs(got - wanted).max()),
        "max_rel_error": float(np.abs(got - wanted).max() / np.abs(wanted).max()),
        "payload_bytes": answers[0].payload_bytes,
        "source": "measured",
    }


if __name__ == "__main__":
    main()
