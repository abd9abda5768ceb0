"""The attacks on one cut alone: all the time for them, with pictures and words."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from splitdeploy.attacks.base import run_attack
from splitdeploy.attacks.baselines import best_baseline, best_guess
from splitdeploy.attacks.identification import Classifier
from splitdeploy.attacks.images import load_photographs
from splitdeploy.attacks.judging import OWN_CLASSIFIER, Judges
from splitdeploy.attacks.pictures import save_comparison
from splitdeploy.attacks.target import AttackTarget
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.partitioner.arsenal import arsenal_digest, load_arsenal
from splitdeploy.partitioner.attack_set import LEAST_S, Choice, Skipped, select
from splitdeploy.partitioner.attack_state import AttackState, Done, file_name
from splitdeploy.partitioner.attack_target import Arsenal, deployed_target
from splitdeploy.partitioner.cut_attack_report import CutAttack, write_report
from splitdeploy.partitioner.lent import Lent
from splitdeploy.partitioner.models import LoadedModel
from splitdeploy.partitioner.plan import Plan, choose_cuts, make_plan, model_graph
from splitdeploy.partitioner.progress import Reporter, Silent
from splitdeploy.partitioner.run_folder import check_writable, whole_or_nothing
from splitdeploy.partitioner.state import STATE_FOLDER
from splitdeploy.profiles.digest import bytes_sha256
from splitdeploy.profiles.errors import AttackError, CutError, SplitdeployError
from splitdeploy.profiles.report import Baseline

GALLERY = 40
"""Pictures that an original is sought among, as far as there are so many."""

_SHORTEST_S = 0.5
_LATE = "left out for lack of time: a longer --budget, or --attack with its name"


@dataclass(frozen=True)
class AttackOptions:
    """The settings of the attacks on one cut.

    Attributes:
        attacks: Those that were named; None for what the budget allows.
        every_one: Whether all that can run are wanted, where none is named.
        precision: What the edge sends in: ``fp32``, ``fp16`` or ``int8``.
        images: A folder of pictures to attack; None for scikit-image's photographs.
        labels: A CSV file of their classes, or None.
        image_count: How many of them.
        lent: What the attacker has of his own.
        budget_s: Seconds for all attacks together; None for as long as they take.
        seed: Of everything random.
        resume: Whether to go on where an interrupted run of the same settings stopped.
    """

    attacks: tuple[Choice, ...] | None = None
    every_one: bool = False
    precision: str = "fp32"
    images: Path | None = None
    labels: Path | None = None
    image_count: int = 8
    lent: Lent = Lent()
    budget_s: float | None = 60.0
    seed: int = 0
    resume: bool = False


@dataclass(frozen=True)
class _Scene:
    """What all attacks on the cut share."""

    options: AttackOptions
    target: AttackTarget
    pixels: Tensor
    judges: Judges
    baseline: Baseline
    guess: Tensor
    state: AttackState
    out: Path
    told: Reporter


def attack_cut(
    model: LoadedModel,
    cut: str,
    options: AttackOptions,
    out: Path,
    reporter: Reporter | None = None,
) -> CutAttack:
    """Attack one cut of a model, as it is deployed.

    Pictures and figures are written as the attacks end, so that what an interruption leaves is
    whole as far as it goes.

    Args:
        model: From `load_model`; it takes pictures.
        cut: The name of a module that ends there, or of an end.
        options: What is asked for.
        out: The folder for figures and pictures; made once everything is known to be good.
        reporter: Told as it goes.

    Returns:
        What came of it.

    Raises:
        AttackError: The model takes no pictures, or every attack failed.
        CutError: Nothing of that name can be cut at.
    """
    told = reporter or Silent()
    options.lent.check()
    check_writable(out)
    if cut not in {found.name for found in choose_cuts(model_graph(model), cut)}:
        raise CutError(f"expected the name of one cut, got {cut!r}: see `splitdeploy cuts`")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="splitdeploy-")))
        told.stage("tracing, exporting", 1)
        plan = make_plan(
            model, cuts=cut, precision=options.precision, images=options.images,
            image_count=options.image_count, seed=options.seed, folder=folder,
            labels=options.labels,
        )  # fmt: skip
        told.advance()
        if plan.pixels is None:
            raise AttackError(f"expected a model of pictures, got inputs of {model.input.shape}")
        pixels = torch.from_numpy(plan.pixels)
        gallery, labels = _others(options, pixels)
        arsenal, notes = load_arsenal(options.lent, pixels, seed=options.seed, labels=labels)
        place = next(i for i, found in enumerate(plan.cuts) if found.name == cut)
        target = stack.enter_context(
            deployed_target(plan, place, options.precision, pixels, arsenal)
        )
        chosen, skipped = select(
            options.attacks, target, every_one=options.every_one, seed=options.seed
        )
        stack.enter_context(whole_or_nothing(out))
        baseline = best_baseline(pixels)
        judges = Judges(gallery, _classifier(plan, stack), OWN_CLASSIFIER, True, baseline)
        state = AttackState(
            out / STATE_FOLDER, _identity(plan, cut, options, arsenal, gallery),
            resume=options.resume,
        )  # fmt: skip
        guess_name, guess = best_guess(pixels)
        scene = _Scene(options, target, pixels, judges, baseline, guess, state, out, told)
        found = CutAttack(
            model=model.name, weights=model.weights.source, cut=plan.cuts[place],
            precision=options.precision, images=len(pixels), image_source=plan.image_source,
            gallery=len(gallery) + len(pixels), auxiliary=_words(arsenal.auxiliary),
            prior=options.lent.prior, budget_s=options.budget_s, seed=options.seed,
            baseline=baseline, guess=guess_name, attacks=(), skipped=tuple(skipped), notes=notes,
        )  # fmt: skip
        return _run_all(scene, chosen, found)


def _run_all(scene: _Scene, chosen: Sequence[Choice], found: CutAttack) -> CutAttack:
    """Run them; those that are left share the time that is left, as far as it is enough."""
    options = scene.options
    wanted = options.attacks is not None or options.every_one
    ends_at = math.inf if options.budget_s is None else time.perf_counter() + options.budget_s
    pictures: list[Tensor] = []
    for nth, choice in enumerate(chosen):
        done = scene.state.load(choice.label, options.budget_s)
        if done is None:
            left_s = ends_at - time.perf_counter()
            if not wanted and left_s < LEAST_S and pictures:
                found = replace(found, skipped=(*found.skipped, Skipped(choice.label, _LATE)))
                continue
            try:
                done = _run_one(scene, choice, _share_s(left_s, len(chosen) - nth, wanted))
            except (SplitdeployError, RuntimeError, ValueError, ArithmeticError) as error:
                failed = Skipped(choice.label, f"failed: {' '.join(str(error).split())[:300]}")
                found = replace(found, skipped=(*found.skipped, failed))
                continue
            scene.state.save(choice.label, done, options.budget_s)
        found = replace(found, attacks=(*found.attacks, done.record))
        pictures.append(done.pixels)
        write_report(found, scene.out, scene.pixels, scene.guess, pictures)
    if not found.attacks:
        raise AttackError("; ".join(f"{s.label} {s.reason}" for s in found.skipped))
    write_report(found, scene.out, scene.pixels, scene.guess, pictures)
    return found


def _share_s(left_s: float, attacks: int, wanted: bool) -> float | None:
    """What the next of some attacks may take; not all need be run where none was wanted."""
    if math.isinf(left_s):
        return None
    count = attacks if wanted else min(attacks, int(left_s / LEAST_S))
    return max(_SHORTEST_S, left_s / max(1, count))


def _run_one(scene: _Scene, choice: Choice, deadline_s: float | None) -> Done:
    told, shown = scene.told, 0.0
    told.stage(choice.label, 1.0)

    def progress(share: float) -> None:
        nonlocal shown
        told.advance(max(0.0, share - shown))
        shown = max(shown, share)

    record, found = run_attack(
        choice.make(scene.options.seed),
        scene.target,
        scene.pixels,
        deadline_s=deadline_s,
        progress=progress,
        folder=scene.state.training(choice.label),
        judges=scene.judges,
    )
    name = f"{file_name(choice.label)}.png"
    save_comparison(scene.out / name, scene.pixels, found.pixels, scene.guess)
    return Done(replace(record, picture=name), found.pixels.cpu())


def _others(options: AttackOptions, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """More pictures of the same source, and the classes of those that are attacked."""
    _, channels, height, width = pixels.shape
    found = load_photographs(
        options.images or "photos", shape=(channels, height, width),
        count=max(GALLERY, len(pixels)), seed=options.seed, labels=options.labels,
    )  # fmt: skip
    own = len(pixels)
    labels = None if found.labels is None else torch.from_numpy(found.labels[:own])
    return torch.from_numpy(found.pixels[own:]), labels


def _classifier(plan: Plan, stack: ExitStack) -> Classifier | None:
    """The victim's own model on pictures; None where its result is no row of scores."""
    if plan.expected[0].ndim != 2:
        return None
    session = stack.enter_context(OnnxRuntimeSession(plan.exported.path))
    name, result = plan.exported.inputs[0], plan.exported.results[0]
    batch = None if plan.exported.dynamic_batch else 1

    def scores(pictures: Tensor) -> Tensor:
        inputs = plan.model.input.normalise(pictures.cpu().numpy())
        step = batch or len(inputs)
        parts = [
            torch.from_numpy(session.run({name: inputs[at : at + step]})[result])
            for at in range(0, len(inputs), step)
        ]
        return torch.cat(parts)

    return scores


def _identity(
    plan: Plan, cut: str, options: AttackOptions, arsenal: Arsenal, gallery: Tensor
) -> dict[str, object]:
    """What a finished attack depends on, beside its own settings."""
    pixels = b"" if plan.pixels is None else plan.pixels.tobytes()
    return {
        "weights": plan.model.weights.sha256,
        "cut": (cut, plan.graph.macs),
        "precision": options.precision,
        "pixels": bytes_sha256(pixels),
        "gallery": bytes_sha256(gallery.numpy().tobytes()),
        "labels": None if arsenal.labels is None else arsenal.labels.tolist(),
        **arsenal_digest(arsenal),
        "seed": options.seed,
        "version": metadata.version("splitdeploy"),
    }


def _words(value: object | None) -> str | None:
    return None if value is None else str(value)
