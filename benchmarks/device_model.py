"""Simulated against published latencies: repeats the fit of the device model from end to end.

Exports every model that has a published row (only shapes matter, so weights are never filled in),
groups its operators, fits the constants to all rows and once without each model family, and checks
that ``profiles/data/devices.json`` holds what came out. Then ratios of Orin boards, which published
no classifier in TensorRT, are compared: ``benchmarks/orin_ratios.py`` says how.

    python benchmarks/device_model.py            # print, and exit 1 where a target is missed
    python benchmarks/device_model.py --write    # store constants, errors and validated rows
    python benchmarks/device_model.py --orin     # the ratios of Orin boards alone
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import orin_ratios
import torch
import torchvision

from splitdeploy.partitioner.fit import (
    EXPECTED,
    Fit,
    PublishedLatency,
    fit,
    published_latencies,
    relative_error,
)
from splitdeploy.partitioner.kernels import kernel_groups
from splitdeploy.profiles.device import DEVICES
from splitdeploy.profiles.kernel import KernelGroup
from splitdeploy.profiles.validation import ValidatedRow

DEVICES_FILE = Path(__file__).parents[1] / "profiles" / "data" / "devices.json"
VALIDATED_FILE = DEVICES_FILE.with_name("validated.csv")
TARGETS = {
    "fitted_median": 0.04,
    "fitted_worst": 0.20,
    "left_out_median": 0.07,
    "left_out_worst": 0.30,
}
AGREEMENT = 2e-3


def export_shapes(name: str, size: int = 224) -> onnx.ModelProto:
    """A torchvision model in ONNX whose large weights are names without data.

    Args:
        name: torchvision's.
        size: Height and width of the input.

    Returns:
        The graph, with all shapes.
    """
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None).eval()
    model = model.to_empty(device="cpu")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            model, (torch.zeros(1, 3, size, size),), dynamo=True, verbose=False
        )
    assert exported is not None
    for value in exported.model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.size > 64:
            value.const_value = onnx_ir.ExternalTensor(
                "none",
                0,
                tensor.nbytes,
                tensor.dtype,
                shape=onnx_ir.Shape(tensor.shape.numpy()),
                name=str(value.name),
            )
    return onnx_ir.to_proto(exported.model)


def fused(names: list[str]) -> dict[str, tuple[KernelGroup, ...]]:
    """Fused kernels of each model."""
    graphs = {}
    for place, name in enumerate(names, 1):
        graphs[name] = kernel_groups(export_shapes(name))
        print(f"exported {place}/{len(names)} {name}", file=sys.stderr)
    return graphs


def orin() -> list[ValidatedRow]:
    """The ratios of Orin boards, printed."""
    graphs = {}
    for name, size in orin_ratios.graphs_needed():
        graphs[name, size] = kernel_groups(export_shapes(name, size))
        print(f"exported {name} at {size}", file=sys.stderr)
    rows = orin_ratios.compare(graphs)
    orin_ratios.print_ratios(rows)
    return rows


def validated(result: Fit) -> list[ValidatedRow]:
    """Every row that was fitted to, as `splitdeploy devices` shows it."""
    note = "FP16 TensorRT, batch 1, 224 pixels; untrained weights, power mode not stated"
    return [
        ValidatedRow(
            row.device, f"{row.model}, {row.date[:7]}", "s", row.latency_s,
            row.latency_s * (1 + error), row.latency_s * (1 + left_out), note, row.source,
        )
        for row, error, left_out in zip(result.rows, result.fitted, result.left_out, strict=True)
    ]  # fmt: skip


def write_validated(rows: Sequence[ValidatedRow]) -> None:
    """Store the rows that `splitdeploy devices` shows beside a profile."""
    text = io.StringIO()
    names = [field.name for field in fields(ValidatedRow)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = {name: getattr(row, name) for name in names}
        for name in ("published", "simulated", "left_out"):
            values[name] = "" if values[name] is None else f"{values[name]:.5g}"
        writer.writerow(values)
    VALIDATED_FILE.write_text(text.getvalue(), "utf-8")


def print_rows(
    result: Fit, graphs: dict[str, tuple[KernelGroup, ...]], extra: list[PublishedLatency]
) -> None:
    """Every row: published, simulated, and the error by either fit."""
    print(f"{'device':18} {'model':20} {'run':8} {'published':>10} {'simulated':>10}", end="")
    print(f" {'error':>7} {'family left out':>16}")
    for row, error, left_out in zip(result.rows, result.fitted, result.left_out, strict=True):
        simulated_s = row.latency_s * (1 + error)
        print(f"{_row(row)} {simulated_s * 1e3:7.2f} ms {error:+7.1%} {left_out:+16.1%}")
    for row in extra:
        error = relative_error(row, graphs, DEVICES, result.constants)
        simulated_s = row.latency_s * (1 + error)
        print(f"{_row(row)} {simulated_s * 1e3:7.2f} ms {error:+7.1%} {'not fitted to':>16}")


def _row(row: PublishedLatency) -> str:
    return f"{row.device:18} {row.model:20} {row.date[:7]:8} {row.latency_s * 1e3:7.2f} ms"


def print_summary(result: Fit) -> bool:
    """The errors of each board against the targets; whether all are met."""
    met = True
    print(f"\n{'device':18} {'figure':16} {'error':>7} {'target':>7}")
    for board in EXPECTED:
        error = asdict(result.error(board))
        for figure, target in TARGETS.items():
            good = error[figure] <= target
            met &= good
            verdict = "met" if good else "MISSED"
            print(f"{board:18} {figure:16} {error[figure]:7.1%} {target:7.0%} {verdict}")
    return met


def document_of(result: Fit) -> dict[str, Any]:
    """``devices.json`` with the constants and errors of this fit."""
    document: dict[str, Any] = json.loads(DEVICES_FILE.read_text("utf-8"))
    for entry in document["devices"]:
        constants = result.constants.get(entry["name"])
        if constants is None:
            continue
        found = asdict(constants)
        entry["fitted"] = {key: _rounded(found[key]) for key in entry["fitted"]}
        entry["error"] = {k: round(v, 4) for k, v in asdict(result.error(entry["name"])).items()}
        shared = document["shared"]["constants"]
        document["shared"]["constants"] = {key: _rounded(found[key]) for key in shared}
    return document


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def stored_agrees(result: Fit) -> bool:
    """Whether ``devices.json`` holds this fit, up to rounding; prints what differs."""
    agrees = True
    for board, constants in result.constants.items():
        for kind, new, old in (
            ("constant", asdict(constants), asdict(DEVICES[board].constants)),
            ("error", asdict(result.error(board)), asdict(DEVICES[board].error)),
        ):
            for key, value in new.items():
                tolerance = AGREEMENT * abs(value) if kind == "constant" else AGREEMENT
                if abs(value - old[key]) > tolerance:
                    agrees = False
                    print(f"{board} {kind} {key}: fitted {value:.4g}, stored {old[key]:.4g}")
    return agrees


def main() -> int:
    """Run the benchmark; 1 where a target is missed or the stored constants are others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="store the fit in devices.json")
    parser.add_argument("--orin", action="store_true", help="compare Orin's ratios, fit nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    began = time.perf_counter()
    if given.orin:
        orin()
        return 0
    rows = published_latencies()
    graphs = fused(sorted({row.model for row in rows}))
    used = [row for row in rows if not row.disputed]
    disputed = [row for row in rows if row.disputed]
    result = fit(used, graphs, DEVICES)
    print_rows(result, graphs, disputed)
    met = print_summary(result)
    print_disputed(result, graphs, disputed)
    print("\nconstants: " + "; ".join(f"{k} {_short(asdict(c))}" for k, c in _named(result)))
    ratios = orin()
    if given.write:
        DEVICES_FILE.write_text(json.dumps(document_of(result), indent=1) + "\n", "utf-8")
        write_validated([*validated(result), *ratios])
        print(f"stored in {DEVICES_FILE.name} and {VALIDATED_FILE.name}")
        agrees = True
    else:
        agrees = stored_agrees(result)
        print(f"devices.json holds this fit: {'yes' if agrees else 'NO (store it with --write)'}")
    print(f"targets met: {'yes' if met else 'NO'}; {time.perf_counter() - began:.0f} s")
    return 0 if met and agrees else 1


def print_disputed(
    result: Fit, graphs: dict[str, tuple[KernelGroup, ...]], disputed: list[PublishedLatency]
) -> None:
    """What the rows that are not fitted to would do to the figures."""
    print(
        f"\nnot fitted to: {len(disputed)} rows, Xavier's DenseNets of October 2019, which took "
        "1.8 to 2.9 times as long as the same board's in June; no model can meet both"
    )
    by_run = sorted(
        [*map(abs, result.fitted_of("jetson-agx-xavier"))]
        + [abs(relative_error(row, graphs, DEVICES, result.constants)) for row in disputed]
    )
    print(f"with them Xavier's median is {by_run[len(by_run) // 2]:.1%}, worst {by_run[-1]:.1%}")


def _named(result: Fit) -> list[tuple[str, Any]]:
    return list(result.constants.items())


def _short(constants: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.3g}" for key, value in constants.items())


if __name__ == "__main__":
    sys.exit(main())
