"""``splitdeploy attack --return-at``: the labels behind a second cut, in place of the pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.cli.tables import print_csv, print_table
from splitdeploy.profiles.errors import UsageError
from splitdeploy.profiles.units import format_time

if TYPE_CHECKING:
    from splitdeploy.attacks.label_probes.judging import LabelRecord
    from splitdeploy.attacks.split_learning.label_accuracy import LabelAccuracy
    from splitdeploy.partitioner.label_attack import LabelOptions
    from splitdeploy.partitioner.label_report import CutLabels

_OF_PICTURES = ("preset", "budget", "resume", "prior")
"""Options that mean something for reconstructions alone."""

_CSV = (
    "name", "threat_model", "labels", "labels_low", "labels_high", "answers", "answers_low",
    "answers_high", "chance_labels", "chance_answers", "share_of_result", "oracle",
    "own_pictures", "view", "penalty", "seconds", "few_shot", "verdict", "notes",
)  # fmt: skip


def attack(model: str, cut: str, given: dict[str, Any]) -> None:
    """Attack the labels and print what came of it.

    Args:
        model: As the user named it.
        cut: The first cut.
        given: The command's other options.
    """
    _refuse_options_of_pictures()
    name = f"attack-{Path(model).stem}-{cut}-to-{given['return_at']}"
    out = given["out"] or shared.run_place(name)
    options = _options(given)
    from splitdeploy.partitioner.label_attack import attack_labels
    from splitdeploy.partitioner.models import load_model, parse_shape
    from splitdeploy.partitioner.progress import bars

    shape = parse_shape(given["input_shape"]) if given["input_shape"] else None
    with bars(quiet=given["quiet"]) as reporter:
        reporter.stage("loading", 1)
        loaded = load_model(model, weights=given["weights"], input_shape=shape, seed=given["seed"])
        reporter.advance()
        found = attack_labels(loaded, cut, options, out, reporter)
    _show(found, given["form"])
    click.echo(f"weights: {loaded.weights.source}", err=True)
    click.echo(f"figures: {out}", err=True)


def _refuse_options_of_pictures() -> None:
    context = click.get_current_context()
    for name in _OF_PICTURES:
        if shared.typed(context, name):
            raise UsageError(
                f"expected no --{name} with --return-at, which attacks labels, in seconds: it is "
                "for attacks on pictures; leave one of the two out"
            )


def _options(given: dict[str, Any]) -> LabelOptions:
    from splitdeploy.partitioner.label_attack import PICTURES, LabelOptions, parse_label_attacks

    lent = shared.given_arsenal(given)
    lent.check()
    return LabelOptions(
        return_at=given["return_at"],
        attacks=parse_label_attacks(given["attacks"]),
        precision=given["precision"],
        images=shared.given_images(given["images"]),
        labels=given["labels"],
        image_count=PICTURES if given["image_count"] is None else given["image_count"],
        lent=lent,
        seed=given["seed"],
    )


def _show(found: CutLabels, form: str) -> None:
    if form == "json":
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    elif form == "csv":
        print_csv(_CSV, [_csv_row(record) for record in found.attacks])
    else:
        _print_tables(found, markdown=form == "md")
    for note in _notes(found):
        click.echo(note, err=True)


def _print_tables(found: CutLabels, *, markdown: bool) -> None:
    known = found.truth.labels is not None
    labels, answers = found.for_nothing
    title = (
        f"{found.model} at {found.cut.name}, back at {found.return_at}, {found.precision}: labels "
        f"of {found.images} pictures, {found.classes} classes"
    )
    columns = ["attack", *(["label", "95 %"] if known else []), "as the model", "95 %",
               "chance", "own", "time"]  # fmt: skip
    rows = [["most frequent class", *_shares(labels, answers, known), "", "", ""]]
    for record in found.attacks:
        mark = "*" if record.oracle else ""
        rows.append(
            [
                record.name + mark, *_shares(record.labels, record.answers, known),
                f"{record.told.chance:.0%}", str(record.own_pictures or ""),
                format_time(record.seconds),
            ]
        )  # fmt: skip
    whole = [] if found.truth.model is None else _share(found.truth.model)
    rows.append(["the result itself", *whole, "100 %", "", "", "", ""])
    print_table(title, columns, rows, markdown=markdown)
    _print_few(found, markdown=markdown)
    for sentence in found.verdict:
        click.echo(sentence)


def _print_few(found: CutLabels, *, markdown: bool) -> None:
    """How much the number of the attacker's pictures matters, for those who learn."""
    learning = [record for record in found.attacks if record.few_shot]
    if not learning:
        return
    counts = sorted({one.per_class for record in learning for one in record.few_shot})
    rows = []
    for record in learning:
        told = {one.per_class: f"{one.mean:.0%}" for one in record.few_shot}
        rows.append([record.name, *(told.get(count, "") for count in counts)])
    if markdown:
        click.echo()
    title = "own pictures a class"
    print_table(title, ["attack", *map(str, counts)], rows, markdown=markdown)
    if markdown:
        click.echo()


def _shares(labels: LabelAccuracy | None, answers: LabelAccuracy, known: bool) -> list[str]:
    first = _share(labels) if known and labels is not None else []
    return [*first, *_share(answers)]


def _share(found: LabelAccuracy) -> list[str]:
    low, high = found.ci95
    return [f"{found.accuracy:.1%}", f"{low:.0%} to {high:.0%}"]


def _notes(found: CutLabels) -> list[str]:
    notes = [f"{record.name}: {note}" for record in found.attacks for note in record.notes]
    notes += [f"{record.name}: {record.threat_model}" for record in found.attacks]
    if any(record.oracle for record in found.attacks):
        notes.append("* an oracle: the groups got the names that fit the truth best")
    notes += [f"not run: {skipped.label} {skipped.reason}" for skipped in found.skipped]
    return [*notes, *found.notes]


def _csv_row(record: LabelRecord) -> list[str]:
    cells: list[object] = [record.name, record.threat_model]
    for share in (record.labels, record.answers):
        cells += ["", "", ""] if share is None else [share.accuracy, *share.ci95]
    few = "; ".join(f"{one.per_class}: {one.mean!r}" for one in record.few_shot)
    cells += [
        "" if record.labels is None else record.labels.chance, record.answers.chance,
        record.share_of_result, record.oracle, record.own_pictures, record.view or "",
        "" if record.penalty is None else record.penalty, record.seconds, few, record.verdict,
        "; ".join(record.notes),
    ]  # fmt: skip
    return [repr(cell) if isinstance(cell, float) else str(cell) for cell in cells]
