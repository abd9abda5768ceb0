"""``splitdeploy export``: head and tail of one cut, as a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.profiles.errors import UnknownNameError, UsageError, VerificationError
from splitdeploy.profiles.units import format_size

PRECISIONS = ("fp32", "fp16", "int8")


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
@shared.model_options
@shared.image_options
@shared.verbosity_options
def command(model: str, cut: str, out: Path, precision: str, **given: Any) -> None:
    """Cut MODEL and write a verified bundle: head.onnx, tail.onnx, manifest.json, triton/.

    \b
    Example:
      splitdeploy export resnet18 --cut layer2.1 --out bundle --precision fp16
    """
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    if "," in cut or cut in {"all", "block", "layer", "op"}:
        raise UsageError(f"expected the name of one cut, got {cut!r} (see: splitdeploy cuts MODEL)")
    from splitdeploy.partitioner.models import load_model, parse_shape
    from splitdeploy.partitioner.progress import bars

    shape = parse_shape(given["input_shape"]) if given["input_shape"] else None
    with bars(quiet=given["quiet"]) as reporter:
        reporter.stage("loading", 1)
        loaded = load_model(model, weights=given["weights"], input_shape=shape, seed=given["seed"])
        row = _export(loaded, cut, out, precision, given, reporter)
    click.echo(out)
    error = row.verified.max_rel_error if row.verified else 0.0
    click.echo(
        f"{cut}: {format_size(row.cut.payload_bytes)} an inference; the tail on the head's output "
        f"equals the whole model to {error:.1e}",
        err=True,
    )


def _export(
    loaded: Any, cut: str, out: Path, precision: str, given: dict[str, Any], reporter: Any
) -> Any:
    import tempfile

    from splitdeploy.partitioner.plan import make_plan
    from splitdeploy.partitioner.profile import check_writable, write_cut_bundle
    from splitdeploy.partitioner.sweep import verify_cuts

    check_writable(out)
    with tempfile.TemporaryDirectory(prefix="splitdeploy-") as folder:
        plan = make_plan(
            loaded,
            cuts=cut,
            precision=precision,
            images=shared.given_images(given["images"]),
            image_count=given["image_count"],
            seed=given["seed"],
            folder=Path(folder),
        )
        rows = verify_cuts(plan, reporter)
        place = next((i for i, row in enumerate(rows) if row.name == cut), None)
        if place is None:
            raise UsageError(f"expected a cut, got {cut!r} (see: splitdeploy cuts MODEL)")
        if rows[place].error is not None:
            raise VerificationError(f"{cut}: {rows[place].error}")
        reporter.stage("writing the bundle", 1)
        write_cut_bundle(plan, place, precision, rows[place], out)
        return rows[place]
