"""``splitdeploy attack``: what a cloud operator could reconstruct at one cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.cli.tables import print_csv, print_table
from splitdeploy.profiles.cut import PRECISIONS
from splitdeploy.profiles.units import format_time, parse_time_s

if TYPE_CHECKING:
    from splitdeploy.partitioner.cut_attack import AttackOptions
    from splitdeploy.partitioner.cut_attack_report import CutAttack
    from splitdeploy.profiles.report import AttackRecord

_PICTURES = 8

_COLUMNS = ("attack", "SSIM", "95 %", "PSNR dB", "MSE", "told", "class", "time")
_CSV = (
    "name", "preset", "threat_model", "ssim", "ssim_ci95", "psnr_db", "psnr_ci95_db", "mse",
    "mse_ci95", "lpips", "identified", "identified_ci95", "identified_chance", "class_kept",
    "images", "seconds", "steps", "converged", "picture", "verdict", "notes",
)  # fmt: skip


@click.command("attack")
@click.argument("model")
@click.option("--cut", required=True, metavar="NAME", help="Where (see: splitdeploy cuts MODEL).")
@click.option(
    "--attack",
    "attacks",
    metavar="NAME[:PRESET],…|all",
    help="Which (see: splitdeploy attacks); default: the strongest that the budget allows.",
)
@click.option("--preset", metavar="NAME", help="Of the attacks that name none.")
@click.option(
    "--images",
    metavar="DIR|photos",
    default="photos",
    show_default=True,
    help="Pictures to attack; others of them make the gallery.",
)
@shared.labels_option
@click.option(
    "--image-count",
    type=click.IntRange(1),
    help=f"How many of them; default: {_PICTURES}, and 256 with --return-at.",
)
@shared.return_option
@shared.arsenal_options
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    default="fp32",
    show_default=True,
    help="What the edge sends in.",
)
@click.option(
    "--budget",
    default="60s",
    show_default=True,
    metavar="TIME|none",
    help="For all attacks together: 30s, 10m, 2h.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Figures and pictures; default runs/attack-<model>-<cut>-<time>.",
)
@click.option("--resume", is_flag=True, help="Go on where an interrupted run stopped.")
@shared.model_options
@shared.format_option
@shared.verbosity_options
def command(model: str, cut: str, **given: Any) -> None:
    """Attack MODEL at a cut, as it is deployed, and say what comes back.

    Beside every attack stands the best guess that needs no smashed data. "told" is the share of
    pictures that can be picked out of a gallery by what came back, "class" that in which the model
    itself still sees the same.

    With --return-at the labels are attacked in place of the pictures: how many of them the cloud
    can tell from the features at the second cut, without the result.

    \b
    Example:
      splitdeploy attack resnet18 --cut layer2.1 --attack rmle,noise-aware --budget 5m
      splitdeploy attack resnet18 --cut layer3.1 --return-at avgpool --aux-images mine/
    """
    shared.check_labels(given)
    if given["return_at"] is not None:
        from splitdeploy.cli.attack_labels import attack

        attack(model, cut, given)
        return
    budget_s = None if given["budget"] == "none" else parse_time_s(given["budget"])
    out = given["out"] or shared.run_place(f"attack-{Path(model).stem}-{cut}")
    options = _options(given, budget_s)
    from splitdeploy.partitioner.cut_attack import attack_cut
    from splitdeploy.partitioner.models import load_model, parse_shape
    from splitdeploy.partitioner.progress import bars

    shape = parse_shape(given["input_shape"]) if given["input_shape"] else None
    try:
        with bars(quiet=given["quiet"]) as reporter:
            reporter.stage("loading", 1)
            loaded = load_model(
                model, weights=given["weights"], input_shape=shape, seed=given["seed"]
            )
            reporter.advance()
            found = attack_cut(loaded, cut, options, out, reporter)
    except KeyboardInterrupt:
        click.echo(f"what is finished lies in {out}: add --resume to go on", err=True)
        raise
    _show(found, given["form"])
    click.echo(f"weights: {loaded.weights.source}", err=True)
    click.echo(f"pictures: {out / 'overview.png'}", err=True)


def _options(given: dict[str, Any], budget_s: float | None) -> AttackOptions:
    """The settings, checked as far as that goes without loading a model."""
    from splitdeploy.partitioner.attack_set import ALL, parse_attacks
    from splitdeploy.partitioner.cut_attack import AttackOptions

    lent = shared.given_arsenal(given)
    lent.check()
    return AttackOptions(
        attacks=parse_attacks(given["attacks"], given["preset"]),
        every_one=given["attacks"] == ALL,
        precision=given["precision"],
        images=shared.given_images(given["images"]),
        labels=given["labels"],
        image_count=_PICTURES if given["image_count"] is None else given["image_count"],
        lent=lent,
        budget_s=budget_s,
        seed=given["seed"],
        resume=given["resume"],
    )


def _show(found: CutAttack, form: str) -> None:
    if form == "json":
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    elif form == "csv":
        rows = [[_exactly(getattr(r, name)) for name in _CSV] for r in found.attacks]
        baseline = {"name": "guess", "preset": found.guess, **vars(found.baseline)}
        print_csv(_CSV, [[_exactly(baseline.get(name)) for name in _CSV], *rows])
    else:
        best = found.baseline
        guess = [
            "no attack", f"{best.ssim:.2f}", "", f"{best.psnr_db:.1f}", f"{best.mse:.4f}",
            f"{1 / found.gallery:.0%}", "", "",
        ]  # fmt: skip
        title = f"{found.model} at {found.cut.name}, {found.precision}, {found.images} pictures"
        markdown = form == "md"
        rows = [guess, *(_cells(record) for record in found.attacks)]
        if markdown:
            words = [f"the best guess ({found.guess})", *(r.verdict or "" for r in found.attacks)]
            rows = [[*row, text] for row, text in zip(rows, words, strict=True)]
        print_table(title, (*_COLUMNS, "in words") if markdown else _COLUMNS, rows,
                    markdown=markdown)  # fmt: skip
        click.echo(f"{found.strongest.name}: {found.strongest.verdict}")
    for note in _notes(found):
        click.echo(note, err=True)


def _notes(found: CutAttack) -> list[str]:
    """What a reader has to know besides; what several attacks share is said once."""
    told: dict[str, list[str]] = {}
    for record in found.attacks:
        for note in record.notes:
            told.setdefault(note, []).append(record.name)
    shared_by_all = len(found.attacks)
    notes = [
        note if len(names) == shared_by_all > 1 else f"{', '.join(dict.fromkeys(names))}: {note}"
        for note, names in told.items()
    ]
    if not all(record.converged for record in found.attacks):
        notes.append("* had not converged: its SSIM is a lower bound")
    skipped = [f"not run: {skipped.label} {skipped.reason}" for skipped in found.skipped]
    return [*notes, *skipped, *found.notes]


def _cells(record: AttackRecord) -> list[str]:
    low, high = record.ssim_ci95
    return [
        f"{record.name}:{record.preset}",
        f"{record.ssim:.2f}" + ("" if record.converged else "*"),
        f"{low:.2f} to {high:.2f}",
        f"{record.psnr_db:.1f}",
        f"{record.mse:.4f}",
        "" if record.identified is None else f"{record.identified:.0%}",
        "" if record.class_kept is None else f"{record.class_kept:.0%}",
        format_time(record.seconds),
    ]


def _exactly(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return "; ".join(_exactly(part) for part in value)
    return repr(value) if isinstance(value, float) else str(value)
