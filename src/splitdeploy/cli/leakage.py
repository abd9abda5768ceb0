"""``splitdeploy leakage``: what one cut gives away, by every figure there is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.cli.tables import print_csv, print_table
from splitdeploy.profiles.errors import UsageError
from splitdeploy.profiles.figure import figure_to_json
from splitdeploy.profiles.units import parse_time_s

if TYPE_CHECKING:
    from splitdeploy.attacks.leakage.noise import Noise
    from splitdeploy.partitioner.cut_leakage import CutLeakage
    from splitdeploy.profiles.figure import Figure

_FACTORS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
_COLUMNS = ("figure", "value", "±", "unit", "binds", "assumes")
"""What each figure is, in words, takes a line of its own: JSON, CSV and Markdown have it."""


@click.command("leakage")
@click.argument("model")
@click.option("--cut", required=True, metavar="NAME", help="Where (see: splitdeploy cuts MODEL).")
@click.option(
    "--noise",
    metavar="RULE",
    help="On the smashed data: snr:DB, a precision, or sigma:VALUE; default snr:40.",
)
@click.option("--sigma", type=float, metavar="VALUE", help="Short for --noise sigma:VALUE.")
@click.option(
    "--queries",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="How often each picture is sent, with fresh noise.",
)
@click.option(
    "--target",
    metavar="KIND:VALUE",
    help="fsinfo:-1, gain:0.5 or mse:0.02: also the noise that reaches it.",
)
@click.option(
    "--budget",
    default="60s",
    show_default=True,
    metavar="TIME",
    help="For the determinants, and again to learn a prior, or none; errors tell what it costs.",
)
@click.option(
    "--images",
    metavar="DIR|photos",
    default="photos",
    show_default=True,
    help="Pictures to measure on; one sub-folder a class tells classes apart.",
)
@shared.labels_option
@click.option(
    "--image-count",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="How many of them, for derivatives; other figures take 32.",
)
@click.option(
    "--prior",
    default="gaussian",
    show_default=True,
    metavar="gaussian|fit|FILE",
    help="What is taken as known of pictures; fit learns it, and --out keeps it: prior.npz.",
)
@click.option(
    "--prior-images",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Pictures for --prior fit, other than those measured.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also measure at other strengths of the noise: leakage.png, leakage.json.",
)
@shared.model_options
@shared.format_option
@shared.verbosity_options
def command(model: str, cut: str, **given: Any) -> None:
    """How much the smashed data of MODEL at a cut tells about the picture.

    FSInfo in its kinds, its kin, and lower bounds on the error of a reconstruction, each with the
    attackers that it binds: any, or unbiased ones alone.

    \b
    Example:
      splitdeploy leakage resnet18 --cut layer2.1 --noise int8 --queries 10
    """
    _check(given)
    budget_s = None if given["budget"] == "none" else parse_time_s(given["budget"])
    from splitdeploy.attacks.defences.target import parse_target
    from splitdeploy.partitioner.cut_leakage import leakage_of_cut
    from splitdeploy.partitioner.declared_prior import PriorChoice
    from splitdeploy.partitioner.models import load_model, parse_shape
    from splitdeploy.partitioner.progress import bars
    from splitdeploy.partitioner.run_folder import check_writable

    noise, out = _noise(given), given["out"]
    target = parse_target(given["target"]) if given["target"] else None
    prior = PriorChoice(given["prior"], given["prior_images"], out and out / "prior.npz")
    if out is not None:
        check_writable(out)
    shape = parse_shape(given["input_shape"]) if given["input_shape"] else None
    with bars(quiet=given["quiet"]) as reporter:
        reporter.stage("loading", 1)
        loaded = load_model(model, weights=given["weights"], input_shape=shape, seed=given["seed"])
        reporter.advance()
        found = leakage_of_cut(
            loaded,
            cut,
            noise=noise,
            queries=given["queries"],
            images=shared.given_images(given["images"]),
            labels=given["labels"],
            image_count=given["image_count"],
            budget_s=budget_s,
            curve_factors=_FACTORS if out else (),
            target=target,
            prior=prior,
            seed=given["seed"],
            reporter=reporter,
        )
    document = _document(found, loaded.name, loaded.weights.source, given)
    _show(found, document, f"{loaded.name} at {cut}, {found.noise}", given["form"])
    for note in (*found.family.notes, f"weights: {loaded.weights.source}"):
        click.echo(note, err=True)
    if out is not None:
        _write(out, found, document, f"{loaded.name} at {cut}")


def _check(given: dict[str, Any]) -> None:
    """Refuse what can be refused before anything is loaded."""
    sigma = given["sigma"]
    if sigma is not None and given["noise"] is not None:
        raise UsageError("expected --noise or --sigma, got both: --sigma V is --noise sigma:V")
    if sigma is not None and not (math.isfinite(sigma) and sigma > 0):
        raise UsageError(
            f"expected a positive number for --sigma, got {sigma:g}: without noise the information "
            "is infinite; --noise fp32 is the rounding that there is in any case"
        )
    shared.check_labels(given)


def _noise(given: dict[str, Any]) -> Noise:
    from splitdeploy.attacks.leakage.noise import FixedNoise, noise_named

    if given["sigma"] is not None:
        return FixedNoise(given["sigma"])
    return noise_named(given["noise"] or "snr:40")


def _show(found: CutLeakage, document: dict[str, Any], title: str, form: str) -> None:
    figures = found.family.figures
    if form == "json":
        click.echo(json.dumps(document, indent=2))
    elif form == "csv":
        names = ("name", "value", "standard_error", "unit", "binds", "text", "assumes")
        print_csv(names, [[_exactly(getattr(f, name)) for name in names] for f in figures])
    else:
        markdown = form == "md"
        columns = (*_COLUMNS, "what it is") if markdown else _COLUMNS
        rows = [[*_cells(f), f.text] if markdown else _cells(f) for f in figures]
        print_table(title, columns, rows, markdown=markdown)
        if found.reached is not None:
            click.echo(found.reached.text())


def _cells(figure: Figure) -> list[str]:
    error = "" if figure.standard_error is None else f"{figure.standard_error:.2g}"
    return [
        figure.name, f"{figure.value:.4g}", error, figure.unit, figure.binds or "-", figure.assumes,
    ]  # fmt: skip


def _exactly(value: object) -> str:
    return repr(value) if isinstance(value, float) else "" if value is None else str(value)


def _document(found: CutLeakage, model: str, weights: str, given: dict[str, Any]) -> dict[str, Any]:
    record = found.family.record
    return {
        "model": model,
        "weights": weights,
        "cut": found.cut.name,
        "noise": found.noise,
        "queries": given["queries"],
        "prior": record.prior,
        "images": record.images,
        "image_source": found.images,
        "seed": given["seed"],
        "target": None if found.reached is None else found.reached.to_json(),
        "figures": [figure_to_json(figure) for figure in found.family.figures],
        "notes": list(found.family.notes),
        "curve": [
            {"noise_sigma": p.noise_sigma, "gain": vars(p.gain), "fsinfo": vars(p.fsinfo)}
            for p in found.curve
        ],
    }


def _write(out: Path, found: CutLeakage, document: dict[str, Any], title: str) -> None:
    from splitdeploy.attacks.leakage.plot import save_curve
    from splitdeploy.profiles.store import write_atomically

    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "leakage.json", json.dumps(document, indent=2) + "\n")
    save_curve(out / "leakage.png", found.curve, title)
    click.echo(f"plot: {out / 'leakage.png'}", err=True)
