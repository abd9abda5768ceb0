"""``splitdeploy export``: head and tail of one cut, as a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.profiles.cut import PRECISIONS, CutPoint
from splitdeploy.profiles.errors import UnknownNameError, UsageError
from splitdeploy.profiles.units import format_size


@click.command("export")
@click.argument("model")
@click.option("--cut", required=True, metavar="NAME", help="Where (see: splitdeploy cuts MODEL).")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="The bundle's folder.",
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    metavar="NAME",
    help=f"Of the payload: {', '.join(PRECISIONS)}.",
)
@shared.return_option
@click.option(
    "--edge-part",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write what a device needs: the head and the manifest.",
)
@click.option("--local-tail", is_flag=True, help="Put the tail into the device's part too.")
@shared.head_options
@shared.model_options
@shared.image_options
@shared.verbosity_options
def command(
    model: str,
    cut: str,
    out: Path,
    precision: str,
    return_at: str | None,
    edge_part: Path | None,
    local_tail: bool,
    **given: Any,
) -> None:
    """Cut MODEL and write a verified bundle: head.onnx, tail.onnx, manifest.json, triton/.

    With --return-at there is a last.onnx too: the device runs it on what the cloud sends back.

    A codec (fp16, int8) is judged on pictures put aside: how often both halves together answer as
    the whole model does.

    \b
    Example:
      splitdeploy export resnet18 --cut layer2.1 --out bundle --precision int8 --images photos/
      splitdeploy export resnet18 --cut layer2.1 --return-at avgpool --out bundle
    """
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    if "," in cut or cut in {"all", "block", "layer", "op"}:
        raise UsageError(f"expected the name of one cut, got {cut!r} (see: splitdeploy cuts MODEL)")
    from splitdeploy.partitioner.head_variants import check_head_precisions

    check_head_precisions(given["head_precision"])
    if local_tail and edge_part is None:
        raise UsageError("--local-tail is for the device's part: give its place with --edge-part")
    from splitdeploy.edge_runtime.bundle import read_bundle
    from splitdeploy.edge_runtime.bundle_part import copy_edge_part
    from splitdeploy.partitioner.api import split
    from splitdeploy.partitioner.models import load_model, parse_shape
    from splitdeploy.partitioner.progress import bars

    shape = parse_shape(given["input_shape"]) if given["input_shape"] else None
    with bars(quiet=given["quiet"]) as reporter:
        reporter.stage("loading", 1)
        loaded = load_model(model, weights=given["weights"], input_shape=shape, seed=given["seed"])
        found = split(
            loaded,
            cut,
            out,
            precision=precision,
            return_at=return_at,
            images=shared.given_images(given["images"]),
            image_count=given["image_count"],
            seed=given["seed"],
            reporter=reporter,
        )
        heads = shared.add_heads(out, given, reporter)
        if edge_part is not None:
            copy_edge_part(read_bundle(out), edge_part, local_tail=local_tail)
    click.echo(out)
    if edge_part is not None:
        click.echo(edge_part)
    error = found.row.verified.max_rel_error if found.row.verified else 0.0
    click.echo(f"{_told(found.row.cut, return_at)} equals the whole model to {error:.1e}", err=True)
    for line in [*found.told(), *heads]:
        click.echo(line, err=True)


def _told(cut: CutPoint, return_at: str | None) -> str:
    """What goes over the network, and what was verified."""
    up = format_size(cut.payload_bytes)
    if cut.last is None:
        return f"{cut.name}: {up} an inference; the tail on the head's output"
    down = format_size(cut.last.downlink_bytes)
    return (
        f"{cut.name} to {return_at}: {up} up and {down} down an inference; head, tail and last "
        "part, one after the other,"
    )
