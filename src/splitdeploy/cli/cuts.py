"""``splitdeploy cuts``: the cut points of a model."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.cli.tables import print_table
from splitdeploy.profiles.cut import CutPoint
from splitdeploy.profiles.units import format_count, format_size


@click.command("cuts")
@click.argument("model")
@click.option(
    "--cuts",
    "which",
    default="block",
    show_default=True,
    metavar="block|layer|all|NAME,…",
    help="Which cuts to list.",
)
@shared.model_options
@shared.format_option
@shared.verbosity_options
def command(model: str, which: str, form: str, **given: Any) -> None:
    """List the cut points of MODEL with their tensors, bytes (in fp32) and MACs.

    \b
    Example:
      splitdeploy cuts resnet18 --cuts layer
    """
    from splitdeploy.partitioner.models import load_model, parse_shape
    from splitdeploy.partitioner.plan import choose_cuts, model_graph

    shape = parse_shape(given["input_shape"]) if given["input_shape"] else None
    # Only shapes matter here, so nothing is downloaded unless a file was named.
    weights = "none" if given["weights"] == "auto" and _is_torchvision(model) else given["weights"]
    loaded = load_model(model, weights=weights, input_shape=shape, seed=given["seed"])
    found = choose_cuts(model_graph(loaded), which)
    if form == "json":
        click.echo(json.dumps([_record(cut) for cut in found], indent=2))
    elif form == "csv":
        click.echo(_csv(found), nl=False)
    else:
        print_table(
            f"{loaded.name}: {len(found) - 2} cuts between the two ends",
            ["cut", "tensors", "payload", "head MACs", "tail MACs", "head params", "head peak"],
            [_cells(cut) for cut in found],
            markdown=form == "md",
        )


def _is_torchvision(model: str) -> bool:
    return ":" not in model and not model.endswith((".pt2", ".onnx"))


def _record(cut: CutPoint) -> dict[str, Any]:
    return {
        "name": cut.name,
        "index": cut.index,
        "tensors": [
            {"name": t.name, "shape": list(t.shape), "dtype": t.dtype, "bytes": t.bytes}
            for t in cut.tensors
        ],
        "payload_bytes": cut.payload_bytes,
        "head_macs": cut.head_macs,
        "tail_macs": cut.tail_macs,
        "head_parameters": cut.head_parameters,
        "head_peak_activation_bytes": cut.head_peak_activation_bytes,
    }


def _cells(cut: CutPoint) -> list[str]:
    shapes = ", ".join("×".join(str(size) for size in t.shape[1:]) or "1" for t in cut.tensors[:3])
    more = f" +{len(cut.tensors) - 3}" if len(cut.tensors) > 3 else ""
    return [
        cut.name,
        shapes + more,
        format_size(cut.payload_bytes),
        format_count(cut.head_macs),
        format_count(cut.tail_macs),
        format_count(cut.head_parameters),
        format_size(cut.head_peak_activation_bytes),
    ]


def _csv(cuts: tuple[CutPoint, ...]) -> str:
    text = io.StringIO()
    rows = [{**_record(cut), "tensors": " ".join(t.name for t in cut.tensors)} for cut in cuts]
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
