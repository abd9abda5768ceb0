"""Everything that a run needs before it looks at its first cut, held for as long as it works."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from splitdeploy.partitioner.arsenal import arsenal_digest
from splitdeploy.partitioner.bundle import check_replaceable
from splitdeploy.partitioner.checks import check_figures, check_options
from splitdeploy.partitioner.evidence import Subjects
from splitdeploy.partitioner.exposure import load_subjects
from splitdeploy.partitioner.garbage import seldom_collected
from splitdeploy.partitioner.models import load_model
from splitdeploy.partitioner.optimal import Optimum, Setting, find_optima, setting_of
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.places import is_remote
from splitdeploy.partitioner.plan import Plan, asks_for_optimal, make_plan, model_graph
from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.remote.reach import reach
from splitdeploy.partitioner.run_folder import check_writable, whole_or_nothing
from splitdeploy.partitioner.schedule import network_of_trace
from splitdeploy.partitioner.state import STATE_FOLDER, State, alone_in
from splitdeploy.profiles.digest import bytes_sha256, file_sha256


@dataclass(frozen=True)
class Begun:
    """A run that is ready for its first cut.

    Attributes:
        options: What is asked for; the network is the middle of a trace where there is one.
        plan: The model, its cuts and its export.
        optima: The best cuts of all downsets; None where they were not asked for.
        subjects: What leakage is measured on; None without leakage.
        state: Where finished rows are kept.
    """

    options: ProfileOptions
    plan: Plan
    optima: Sequence[Optimum] | None
    subjects: Subjects | None
    state: State


@contextmanager
def begun(options: ProfileOptions, out: Path, reporter: Reporter) -> Iterator[Begun]:
    """Make everything that a run needs before its first cut, and hold its folder.

    Args:
        options: What is asked for.
        out: The run folder; made once the model, the cuts and the pictures are known to be good.
        reporter: Told as it goes.

    Yields:
        It, for as long as the work lasts.

    Raises:
        OutputError: The run folder cannot be made.
        UsageError: The options cannot be meant.
    """  # noqa: DOC502
    check_options(options)
    if options.trace is not None:
        options = replace(options, network=network_of_trace(options.trace, options.network))
    setting = setting_of(options) if asks_for_optimal(options.cuts) else None
    check_writable(out)
    check_replaceable(out / "bundle")
    if is_remote(options.device):
        reporter.stage("reaching the device", 1)
        with reach(options.device, options.remote):
            reporter.advance()
    with _workspace() as folder, whole_or_nothing(out), ExitStack() as held:
        plan, optima = _planned(options, setting, folder, reporter)
        plan.check_batch(options.batch)
        privacy = options.privacy and plan.pixel_head(plan.cuts[0]) is not None
        check_figures(options, leakage=privacy)
        subjects = load_subjects(plan, options) if privacy else None
        held.enter_context(alone_in(out / STATE_FOLDER))
        state = _open_run(out, plan, options, subjects)
        yield Begun(options, plan, optima, subjects, state)


def _planned(
    options: ProfileOptions, setting: Setting | None, folder: Path, reporter: Reporter
) -> tuple[Plan, Sequence[Optimum] | None]:
    """The model, traced and exported, and the best cuts of all where they are asked for."""
    reporter.stage("loading, tracing, exporting", 2)
    with seldom_collected():
        model = load_model(
            options.model,
            weights=options.weights,
            input_shape=options.input_shape,
            seed=options.seed,
        )
        reporter.advance()
        optima = None if setting is None else find_optima(model, model_graph(model), setting)
        plan = make_plan(
            model,
            cuts=options.cuts,
            precision=options.precision,
            images=options.images,
            image_count=options.image_count,
            seed=options.seed,
            folder=folder,
            labels=options.labels,
            optimal=None if optima is None else [optimum.cut for optimum in optima],
            return_at=options.return_at,
        )
    return plan, optima


@contextmanager
def _workspace() -> Iterator[Path]:
    """A folder for the export, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="splitdeploy-") as folder:
        yield Path(folder)


def _open_run(out: Path, plan: Plan, options: ProfileOptions, subjects: Subjects | None) -> State:
    out.mkdir(parents=True, exist_ok=True)
    settings = {
        "weights": plan.model.weights.sha256,
        "cuts": [(cut.name, cut.payload_bytes) for cut in plan.sent],
        "pixels": None if plan.pixels is None else bytes_sha256(plan.pixels.tobytes()),
        "return_at": options.return_at,
        "precision": options.precision,
        "calibrated_on": None if plan.ranges is None else plan.ranges.images,
        "noise": options.noise,
        "queries": options.queries,
        "labels": None if options.labels is None else file_sha256(options.labels),
        **({} if subjects is None else arsenal_digest(subjects.arsenal)),
        "seed": options.seed,
        "version": metadata.version("splitdeploy"),
    }
    return State(out / STATE_FOLDER, settings, resume=options.resume)
