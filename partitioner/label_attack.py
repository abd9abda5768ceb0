"""The attacks on the labels behind a second cut: who tells the result that the cloud never has."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from splitdeploy.attacks.images import Images, load_photographs
from splitdeploy.attacks.label_probes.base import LabelAttack
from splitdeploy.attacks.label_probes.few_shot import few_shot
from splitdeploy.attacks.label_probes.judging import LabelRecord, Truth, judge_labels
from splitdeploy.attacks.label_probes.registry import ORDER, find_label_attack
from splitdeploy.attacks.label_probes.target import LabelTarget
from splitdeploy.attacks.labels import labelled_classes
from splitdeploy.partitioner.arsenal import load_arsenal
from splitdeploy.partitioner.attack_set import ALL, Skipped
from splitdeploy.partitioner.cloud_view import cloud_view
from splitdeploy.partitioner.label_report import CutLabels, write_labels
from splitdeploy.partitioner.lent import Lent
from splitdeploy.partitioner.models import LoadedModel
from splitdeploy.partitioner.plan import Plan, choose_cuts, make_plan, model_graph
from splitdeploy.partitioner.progress import Reporter, Silent
from splitdeploy.partitioner.run_folder import check_writable, whole_or_nothing
from splitdeploy.partitioner.two_cuts import told_results
from splitdeploy.profiles.cut import EDGE_ONLY
from splitdeploy.profiles.errors import AttackError, ImagesError, SplitdeployError, UsageError

PICTURES = 256
"""To attack, where no number is given: at half of the labels the interval is 12 points wide."""

_TRIED = 2
"""Pictures on which the export is tried."""


@dataclass(frozen=True)
class LabelOptions:
    """The settings of the attacks on labels at one pair of cuts.

    Attributes:
        return_at: The second cut.
        attacks: Names; None for all that can run.
        precision: Of what goes up and what comes back.
        images: A folder of pictures to attack; None for scikit-image's photographs.
        labels: A CSV file of their classes, or None.
        image_count: How many of them.
        lent: What the attacker has of his own.
        seed: Of everything random.
    """

    return_at: str
    attacks: tuple[str, ...] | None = None
    precision: str = "fp32"
    images: Path | None = None
    labels: Path | None = None
    image_count: int = PICTURES
    lent: Lent = Lent()
    seed: int = 0


def parse_label_attacks(text: str | None) -> tuple[str, ...] | None:
    """Attacks on labels that a user names.

    Args:
        text: ``linear-probe,clusters``, ``all``, or None for all.

    Returns:
        The names, each once; None for all.

    Raises:
        UnknownNameError: There is no such attack.
        UsageError: There is nothing between two commas.
    """  # noqa: DOC502
    if text is None or text == ALL:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UsageError(f"expected names of attacks with commas between them, got {text!r}")
    return tuple(dict.fromkeys(find_label_attack(name).name for name in names))


def attack_labels(
    model: LoadedModel,
    cut: str,
    options: LabelOptions,
    out: Path,
    reporter: Reporter | None = None,
) -> CutLabels:
    """Attack the labels of pictures whose last layers run at the edge.

    Args:
        model: From `load_model`; it takes pictures and scores classes.
        cut: The name of the first cut.
        options: What is asked for.
        out: The folder for the figures; made once everything is known to be good.
        reporter: Told as it goes.

    Returns:
        What came of it.

    Raises:
        AttackError: The model takes no pictures or scores no classes, or every attack failed.
        ImagesError: Labels are not the model's classes.
        UsageError: The two cuts are no pair, or an attack that was named cannot run.
    """  # noqa: DOC502
    told = reporter or Silent()
    options.lent.check()
    check_writable(out)
    if cut == EDGE_ONLY or cut not in {c.name for c in choose_cuts(model_graph(model), cut)}:
        raise UsageError(
            f"expected the name of one cut before {options.return_at}, got {cut!r}: see "
            "`splitdeploy cuts`"
        )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="splitdeploy-")))
        told.stage("tracing, exporting", 1)
        plan = make_plan(
            model, cuts=cut, precision=options.precision, images=options.images,
            image_count=_TRIED, seed=options.seed, folder=folder, labels=options.labels,
            return_at=options.return_at,
        )  # fmt: skip
        told.advance()
        if plan.pixels is None:
            raise AttackError(f"expected a model of pictures, got inputs of {model.input.shape}")
        place = next(i for i, found in enumerate(plan.cuts) if found.name == cut)
        target, truth, found = _looked(plan, place, options, told)
        chosen, skipped = _chosen(options, target)
        stack.enter_context(whole_or_nothing(out))
        records, failed = _run_all(chosen, target, truth, told)
        found = replace(found, attacks=records, skipped=(*skipped, *failed))
        write_labels(found, out)
        return found


def _looked(
    plan: Plan, place: int, options: LabelOptions, told: Reporter
) -> tuple[LabelTarget, Truth, CutLabels]:
    """The features of everybody's pictures, what they are judged by, and a report without rows."""
    found, pixels = _pictures(plan, options)
    classes = int(plan.expected[0].shape[-1])
    arsenal, notes = load_arsenal(options.lent, pixels, seed=options.seed)
    own, his = arsenal.auxiliary, None
    with cloud_view(plan, place) as view:
        check_classes(options, classes)
        told.stage("features of the pictures", 1)
        seen = view.see(pixels, told.advance)
        if own is not None:
            told.stage("features of the attacker's own", 1)
            his = view.see(own.images, told.advance)
        features, withheld = view.features, view.withheld
    target = LabelTarget(
        seen.views, classes,
        own=None if his is None else his.views,
        own_labels=None if own is None else own.labels,
        own_answers=None if his is None else his.answers,
        finished=seen.finished, withheld=withheld,
    )  # fmt: skip
    labels = None if found.labels is None else torch.from_numpy(found.labels)
    warned = None if plan.back is None else told_results(plan.graph, plan.back)
    crops = "crops of a few photographs: give --images for pictures of their own"
    report = CutLabels(
        model=plan.model.name, weights=plan.model.weights.source, cut=plan.cuts[place],
        return_at=options.return_at, precision=options.precision, images=len(pixels),
        image_source=found.source, classes=classes, features=features, withheld=withheld,
        auxiliary=None if own is None else str(own), seed=options.seed,
        truth=Truth(seen.answers, classes, labels),
        result_seen=plan.graph.outputs[0] in {tensor.name for tensor in features},
        notes=(*notes, *([crops] if options.images is None else []), *([warned] if warned else [])),
    )  # fmt: skip
    return target, report.truth, report


def _pictures(plan: Plan, options: LabelOptions) -> tuple[Images, Tensor]:
    _, channels, height, width = plan.model.input.shape
    found = load_photographs(
        options.images or "photos", shape=(channels, height, width), count=options.image_count,
        seed=options.seed, labels=options.labels,
    )  # fmt: skip
    return found, torch.from_numpy(found.pixels)


def check_classes(options: LabelOptions, classes: int) -> None:
    """Refuse labels whose numbers are not those of the model's outputs.

    Args:
        options: With the places of the pictures and their labels.
        classes: How many the model tells apart.

    Raises:
        ImagesError: A number is too large; or the classes have names, and are not as many as the
            model's, or others for the attacker than for the victim.
    """
    given = ((options.images, options.labels), (options.lent.images, options.lent.labels))
    both = [{} if images is None else labelled_classes(images, table) for images, table in given]
    for names, (images, table) in zip(both, given, strict=True):
        if not names:
            continue
        numbered = all(name.isdecimal() for name in names)
        other = next((held for held in both if held and held.keys() != names.keys()), None)
        if max(names.values()) < classes if numbered else len(names) == classes and other is None:
            continue
        listed = ", ".join(sorted(names)[:5]) + (", …" if len(names) > 5 else "")
        raise ImagesError(
            f"expected as labels the numbers of the model's outputs, 0 to {classes - 1}, or one "
            f"name for each of them, the same for all pictures, got {len(names)} in "
            f"{table or images} ({listed}): write the numbers"
        )


def _chosen(
    options: LabelOptions, target: LabelTarget
) -> tuple[list[LabelAttack], tuple[Skipped, ...]]:
    kinds = ORDER if options.attacks is None else [find_label_attack(n) for n in options.attacks]
    fit, skipped = [], []
    for kind in kinds:
        missing = target.lacks(kind.threat)
        if not missing:
            fit.append(kind.preset(seed=options.seed))
            continue
        reason = f"needs {' and '.join(missing)}"
        if options.attacks is not None:
            raise UsageError(f"{kind.name} cannot run here: it {reason}")
        skipped.append(Skipped(kind.name, reason))
    return fit, tuple(skipped)


def _run_all(
    attacks: list[LabelAttack], target: LabelTarget, truth: Truth, told: Reporter
) -> tuple[tuple[LabelRecord, ...], tuple[Skipped, ...]]:
    records, failed = [], []
    wanted = truth.answers if truth.labels is None else truth.labels
    for attack in attacks:
        told.stage(attack.name, 1)
        try:
            guess = attack(target)
            fewer = few_shot(attack, target, wanted) if attack.learns else ()
        except SplitdeployError as error:
            failed.append(Skipped(attack.name, f"failed: {error}"))
            continue
        records.append(judge_labels(attack, guess, truth, fewer))
        told.advance()
    if not records:
        raise AttackError("; ".join(f"{s.label} {s.reason}" for s in failed))
    return tuple(records), tuple(failed)
