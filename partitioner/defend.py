"""``defend``: a bundle's model under a defence, judged beside the undefended, and written."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from splitdeploy.attacks.baselines import best_baseline
from splitdeploy.attacks.defences.adaptive import Send
from splitdeploy.attacks.defences.base import Defended
from splitdeploy.attacks.defences.guard_published import PublishedDefended
from splitdeploy.attacks.defences.target import Target, parse_target
from splitdeploy.attacks.images import load_photographs
from splitdeploy.attacks.leakage.prior import default_prior
from splitdeploy.attacks.registry import find_attack
from splitdeploy.edge_runtime.bundle import Bundle, read_bundle
from splitdeploy.partitioner.bundle import BundleFacts, check_replaceable, write_bundle
from splitdeploy.partitioner.defence_choice import check_form, make_defence, rivals
from splitdeploy.partitioner.defence_judge import Bench, Verdict, judge_defence, undefended
from splitdeploy.partitioner.defence_setup import Setup, load_pictures, prepare
from splitdeploy.partitioner.defend_report import DefendOptions, DefendReport, to_json
from splitdeploy.partitioner.defended_bundle import (
    Deployable,
    check_deployed,
    put_in,
    sending,
)
from splitdeploy.partitioner.progress import Reporter, Silent
from splitdeploy.partitioner.run_folder import check_writable
from splitdeploy.partitioner.source import load_source
from splitdeploy.profiles.errors import DefenceError, LeakageError, UsageError
from splitdeploy.profiles.report import Verification

_FITTING_SHARE = 0.3
"""The part of the time that a calibration's curves may take."""

_MOST_AUXILIARY = 20_000

_RIVALS = 7
"""How many rows a comparison adds at most; the time is shared among all rows."""


def defend(
    folder: Path,
    options: DefendOptions,
    *,
    out: Path | None = None,
    reporter: Reporter | None = None,
) -> DefendReport:
    """Put a defence into a bundle, and tell what it brings and costs.

    Args:
        folder: The bundle.
        options: What is asked for.
        out: Where the defended bundle goes; None replaces the bundle, once the new one is whole.
        reporter: Told as it goes.

    Returns:
        The rows of the table, and where the bundle is.

    Raises:
        UsageError: The options cannot be meant.
        DefenceError: The defence cannot be set up on this head, or not so strongly; or the bundle
            has a second cut.
    """  # noqa: DOC502
    told, place = reporter or Silent(), out or folder
    target = None if options.target is None else parse_target(options.target)
    _check(options, target)
    told.stage("checking and loading", 2)
    bundle = read_bundle(folder)
    if bundle.return_at is not None:
        raise DefenceError(
            f"expected a bundle with one cut, got {folder}, whose last layers, behind "
            f"{bundle.return_at}, run at the edge: export it without --return-at and defend that"
        )
    check_writable(place.parent)
    check_replaceable(place)
    told.advance()
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="splitdeploy-")))
        setup = _set_up(bundle, options, work)
        told.stage(f"setting up {options.form}", 1)
        bench = _bench(setup, bundle, options)
        fit_s = _FITTING_SHARE * options.attack_budget_s
        defended = make_defence(
            options.form, target, options.strength, bundle.precision, fit_s
        ).fit(setup.victim, seed=options.seed)
        job = _Job(bundle, setup, bench, defended, options, target, work)
        exported, verified, send = _deploy(job, stack)
        rows, notes = _judge(job, send, told)
        written = None
        if exported is not None and verified is not None:
            told.stage("writing the bundle", 1)
            written = _write(job, exported, verified, rows, place)
        return DefendReport(
            rows=rows,
            baseline=best_baseline(bench.images[: bench.attacked]),
            bundle=written,
            verified=verified,
            model=str(bundle.manifest["model"]),
            cut=bundle.cut.name,
            images=setup.pictures.source,
            queries=options.queries,
            notes=notes,
        )


@dataclass(frozen=True)
class _Job:
    """What the steps of one ``defend`` share."""

    bundle: Bundle
    setup: Setup
    bench: Bench
    defended: Defended
    options: DefendOptions
    target: Target | None
    work: Path


def _check(options: DefendOptions, target: Target | None) -> None:
    check_form(options.form, target, options.strength)
    if options.queries < 1 or options.image_count < 2 or options.attack_count < 1:
        raise UsageError(
            "expected at least 1 query, 2 pictures to judge by and 1 to attack, got "
            f"{options.queries}, {options.image_count} and {options.attack_count}"
        )
    if options.attack_budget_s <= 0:
        raise UsageError(f"expected a budget above 0 s, got {options.attack_budget_s:g} s")
    if options.labels is not None and options.images is None:
        raise UsageError("expected --images with --labels, got labels alone: name the folder too")
    for name in options.attacks:
        find_attack(name)


def _set_up(bundle: Bundle, options: DefendOptions, work: Path) -> Setup:
    model = load_source(
        bundle.manifest.get("source"), bundle.folder, model=options.model, weights=options.weights
    )
    if not model.input.is_image:
        raise DefenceError(f"expected a model of pictures, got inputs of {model.input.shape}")
    pictures = load_pictures(
        options.images, options.labels, model.input.shape, options.image_count, options.seed
    )
    return prepare(bundle, model, pictures, work)


def _bench(setup: Setup, bundle: Bundle, options: DefendOptions) -> Bench:
    judging = setup.pictures.judging
    _, channels, height, width = setup.expects.shape
    shape = (channels, height, width)
    auxiliary = None
    if options.auxiliary is not None:
        found = load_photographs(
            options.auxiliary, shape=shape, count=_MOST_AUXILIARY, seed=options.seed
        )
        auxiliary = torch.from_numpy(found.pixels)
    rows = 2 + (_RIVALS if options.compare else 0)
    return Bench(
        victim=setup.victim,
        images=judging,
        labels=setup.pictures.judging_labels,
        attacked=min(options.attack_count, len(judging)),
        auxiliary=auxiliary,
        prior=default_prior(shape),
        precision=bundle.precision,
        queries=options.queries,
        attacks=options.attacks,
        seconds=(1.0 - _FITTING_SHARE) * options.attack_budget_s / rows,
        seed=options.seed,
    )


def _deploy(
    job: _Job, stack: ExitStack
) -> tuple[Deployable | None, Verification | None, Send | None]:
    """The defence in ONNX, verified and open; nothing where its noise depends on the picture."""
    if isinstance(job.defended, PublishedDefended):
        return None, None, None
    bundle, setup, seed = job.bundle, job.setup, job.options.seed
    exported = put_in(
        job.defended, setup.victim, setup.halves, bundle, setup.expects, job.work, seed=seed
    )
    verified = check_deployed(
        exported, job.defended, bundle, setup.expects, job.bench.images[: job.bench.attacked],
        job.work, seed=seed,
    )  # fmt: skip
    send = stack.enter_context(
        sending(exported, job.defended, bundle.cut.tensors, setup.expects, job.work)
    )
    return exported, verified, send


def _judge(
    job: _Job, send: Send | None, told: Reporter
) -> tuple[tuple[Verdict, ...], tuple[str, ...]]:
    """The rows of the table, and what could not be had."""
    options, notes = job.options, [f"pictures: {job.setup.pictures.source}"]
    told.stage("measuring and attacking", 2 + (_RIVALS if options.compare else 0))
    rows = [judge_defence("undefended", undefended(job.setup.victim), job.bench)]
    told.advance()
    rows.append(judge_defence(options.form, job.defended, job.bench, send=send))
    told.advance()
    if send is None:
        notes.append(
            f"no bundle was written: the noise of {options.form} takes a Jacobian for every "
            "picture, which an exported head does not have; take the form bayesian or shaped"
        )
    wanted = rivals(options.form, job.target, rows[1].relative_sigma) if options.compare else []
    for form, target, strength in wanted:
        try:
            defence = make_defence(form, target, strength, job.bundle.precision, job.bench.seconds)
            rival = defence.fit(job.setup.victim, seed=options.seed)
            rows.append(judge_defence(form, rival, job.bench))
        except (DefenceError, LeakageError) as error:
            notes.append(f"{form} left out: {error}")
        told.advance()
    return tuple(rows), tuple(notes)


def _write(
    job: _Job,
    exported: Deployable,
    verified: Verification,
    rows: Sequence[Verdict],
    place: Path,
) -> Path:
    manifest, before, after = job.bundle.manifest, rows[0], rows[1]
    leakage = None if after.leakage is None else to_json(after.leakage)
    guard = {
        "defence": after.name,
        "text": after.text,
        "target": job.options.target,
        "strength": job.options.strength,
        "retrained": exported.retrained,
        "inputs": [one.to_json() for one in exported.inputs],
        "sigma": _rms_sigma(job),
        "queries": job.options.queries,
        "leakage": leakage,
        "leakage_note": after.leakage_note,
        "leakage_before": None if before.leakage is None else to_json(before.leakage),
        after.utility.measure: to_json(after.utility),
        "attacks": [to_json(record) for record in after.attacks],
        "attacks_before": [to_json(record) for record in before.attacks],
        "baseline": to_json(best_baseline(job.bench.images[: job.bench.attacked])),
        "pictures": len(job.bench.images),
        "verified": to_json(verified),
        "seed": job.options.seed,
    }
    facts = BundleFacts(
        model=str(manifest["model"]),
        cut=job.bundle.cut,
        precision=job.bundle.precision,
        verification=manifest["verification"],
        leakage=leakage,
        source=manifest["source"],
        guard_noise=guard,
        preprocessing=manifest["preprocessing"],
    )
    return write_bundle(place, exported.halves, job.work, facts)


def _rms_sigma(job: _Job) -> dict[str, float]:
    """The root mean square of the noise's σ on each boundary tensor, in its unit."""
    found = {}
    for tensor, p in zip(job.bundle.cut.tensors, job.defended.perturbations, strict=True):
        variance = {"laplace": 2.0, "gaussian": 1.0}.get(p.distribution, 0.0)
        scale = p.scale.double().expand(1, *tensor.shape[1:])
        found[tensor.name] = float((variance * scale.square()).mean().sqrt())
    return found
