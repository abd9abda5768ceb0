"""``splitdeploy defend``: noise on the smashed data, by a leakage target, with its price."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.cli.tables import print_csv, print_table
from splitdeploy.profiles.units import parse_time_s

if TYPE_CHECKING:
    from splitdeploy.partitioner.defence_judge import Verdict
    from splitdeploy.partitioner.defend_report import DefendReport

_UNKNOWN = "-"


@click.command("defend")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--target",
    metavar="KIND:VALUE",
    help="What may leak: gain:0.5 or fsinfo:2 (nats a pixel value) or mse:0.02.",
)
@click.option(
    "--form",
    "defence",
    default="bayesian",
    show_default=True,
    metavar="NAME",
    help="bayesian, shaped or published, by --target; or gaussian, laplace, dropout, "
    "pruning, nopeek, shredder, by --strength.",
)
@click.option(
    "--strength", type=float, metavar="X", help="Of forms without a target, in their own unit."
)
@click.option("--compare", is_flag=True, help="Judge the other forms too, as strong as this one.")
@click.option(
    "--images",
    metavar="DIR|photos",
    default="photos",
    show_default=True,
    help="Half judge the defence, the others set it up.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Their classes: CSV with file,label. Sub-folders of --images are classes too.",
)
@click.option(
    "--image-count",
    type=click.IntRange(2),
    default=16,
    show_default=True,
    help="Pictures to judge by; as many again set up.",
)
@click.option(
    "--attack-count",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="How many of them are attacked.",
)
@click.option(
    "--aux-images",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The attacker's own pictures: adds an inverse network trained on them.",
)
@click.option(
    "--queries",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="How often each picture is sent, with fresh noise; attackers average.",
)
@click.option(
    "--attacks",
    default="least-squares,rmle,noise-aware",
    show_default=True,
    metavar="NAMES",
    help="Those that apply are run (see: splitdeploy attacks).",
)
@click.option(
    "--attack-budget",
    default="60s",
    show_default=True,
    metavar="TIME",
    help="For leakage figures and attacks, over all rows.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Where the defended bundle goes; by default it takes the place of BUNDLE.",
)
@shared.head_options
@click.option("--model", "model_file", metavar="FILE", help="Where the model's file lies now.")
@click.option("--weights", metavar="FILE", help="Where its weights' file lies now.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of all randomness here.")
@shared.format_option
@shared.verbosity_options
def command(bundle: Path, **given: Any) -> None:
    """Defend BUNDLE: its head gets noise as inputs, calibrated to what may leak.

    Tells what leaks and how often the answers stay right, before and after, and what attackers
    who know the defence make of it. The noise is drawn where the head runs, from the operating
    system's randomness, anew for every picture.

    \b
    Example:
      splitdeploy defend bundle --target gain:0.5 --form shaped --queries 4
    """  # fmt: skip
    budget_s = parse_time_s(given["attack_budget"])
    from splitdeploy.partitioner.defend import defend
    from splitdeploy.partitioner.defend_report import DefendOptions, report_to_json
    from splitdeploy.partitioner.head_variants import check_head_precisions
    from splitdeploy.partitioner.progress import bars

    check_head_precisions(given["head_precision"])
    options = DefendOptions(
        target=given["target"],
        form=given["defence"],
        strength=given["strength"],
        compare=given["compare"],
        images=shared.given_images(given["images"]),
        labels=given["labels"],
        image_count=given["image_count"],
        attack_count=given["attack_count"],
        auxiliary=given["aux_images"],
        queries=given["queries"],
        attacks=tuple(name.strip() for name in given["attacks"].split(",") if name.strip()),
        attack_budget_s=budget_s,
        seed=given["seed"],
        model=given["model_file"],
        weights=given["weights"],
    )
    with bars(quiet=given["quiet"]) as reporter:
        report = defend(bundle, options, out=given["out"], reporter=reporter)
        heads = shared.add_heads(report.bundle, given, reporter) if report.bundle else []
    if given["form"] == "json":
        click.echo(json.dumps(report_to_json(report), indent=2))
    elif given["form"] == "csv":
        print_csv(*_exactly(report))
    else:
        _show(report, markdown=given["form"] == "md")
    for note in (*report.notes, *heads):
        click.echo(note, err=True)
    if report.bundle is not None:
        click.echo(f"defended bundle: {report.bundle}", err=True)


def _show(report: DefendReport, *, markdown: bool) -> None:
    queries = "1 query" if report.queries == 1 else f"{report.queries} queries"
    measure = report.rows[0].utility.measure
    print_table(
        f"{report.model} at {report.cut}, {queries} a picture: leakage and its price",
        ["defence", "noise", "FSInfo", "MSE ≥", measure, "change"],
        [_price(row) for row in report.rows],
        markdown=markdown,
    )
    click.echo(
        "noise over the rms of the smashed data; FSInfo in nats a pixel value; brackets 95 %"
    )
    names = list(dict.fromkeys(a.name for row in report.rows for a in row.attacks))
    baseline = f"{report.baseline.ssim:.3f} {report.baseline.psnr_db:5.1f}"
    print_table(
        "recovered by attackers who know the defence: SSIM, PSNR in dB",
        ["defence", *names],
        [
            *([row.name, *(_recovered(row, name) for name in names)] for row in report.rows),
            ["nothing sent", *[baseline] * len(names)],
        ],
        markdown=markdown,
    )
    click.echo("* not converged: at least that; nothing sent: the best flat colour or mean picture")
    for row in report.rows:
        click.echo(f"{row.name}: {row.text}; leakage: {row.leakage_note}")


def _price(row: Verdict) -> list[str]:
    sigma, used = row.relative_sigma, row.utility
    (low, high), (least, most) = used.after.ci95, used.change_ci95
    return [
        row.name,
        _UNKNOWN if sigma is None else f"{sigma:.3g}",
        _fsinfo(row),
        _bound(row),
        f"{used.after.value:.2f} [{_short(low)},{_short(high)}]",
        f"{used.change:+.2f} [{_short(least)},{_short(most)}]",
    ]


def _short(share: float) -> str:
    """Two digits without the zero before them, so that the table fits a terminal."""
    text = f"{share:.2f}"
    return text.replace("0.", ".", 1) if abs(share) < 0.995 else text


def _fsinfo(row: Verdict) -> str:
    estimate = row.leakage and (row.leakage.bayesian_fsinfo or row.leakage.fsinfo)
    return f"{estimate.value:.2f}±{estimate.standard_error:.2f}" if estimate else _UNKNOWN


def _bound(row: Verdict) -> str:
    bound = row.leakage and row.leakage.mse_lower_bound
    return _UNKNOWN if bound is None else f"{bound:.1g}"


def _recovered(row: Verdict, name: str) -> str:
    record = next((a for a in row.attacks if a.name == name), None)
    if record is None:
        return _UNKNOWN
    return f"{record.ssim:.3f}{' ' if record.converged else '*'}{record.psnr_db:5.1f}"


def _exactly(report: DefendReport) -> tuple[list[str], list[list[str]]]:
    """A line an attack, every figure in full."""
    columns = [
        "defence", "text", "relative_sigma", "fsinfo", "fsinfo_standard_error", "mse_lower_bound",
        "measure", "before", "after", "change", "attack", "ssim", "psnr_db", "mse", "converged",
        "baseline_ssim", "baseline_psnr_db", "baseline_mse",
    ]  # fmt: skip
    lines = []
    for row in report.rows:
        leaked, used, base = row.leakage, row.utility, report.baseline
        fsinfo = None if leaked is None else leaked.bayesian_fsinfo or leaked.fsinfo
        start = [
            row.name, row.text, row.relative_sigma, fsinfo and fsinfo.value,
            fsinfo and fsinfo.standard_error, leaked and leaked.mse_lower_bound, used.measure,
            used.before.value, used.after.value, used.change,
        ]  # fmt: skip
        for a in row.attacks:
            found = [a.name, a.ssim, a.psnr_db, a.mse, a.converged, base.ssim, base.psnr_db]
            values = [*start, *found, base.mse]
            lines.append(["" if value is None else str(value) for value in values])
    return columns, lines
