"""A sweep over models, devices and networks: planned, spread, summed up."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from splitdeploy.partitioner.checks import check_options
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.places import LOCAL, is_remote
from splitdeploy.partitioner.plan import asks_for_optimal
from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.run_folder import check_writable
from splitdeploy.partitioner.state import STATE_FOLDER, alone_in
from splitdeploy.partitioner.sweep_backends import Spread, connected
from splitdeploy.partitioner.sweep_jobs import (
    GroupJob,
    Home,
    Outcome,
    RunJob,
    bring,
    outcome_path,
    run_group,
)
from splitdeploy.partitioner.sweep_shards import forget_shards, shard_out
from splitdeploy.profiles.errors import SplitdeployError


@dataclass(frozen=True)
class Planned:
    """A run, and what it is asked to do.

    Attributes:
        name: Of its folder.
        arguments: What follows ``splitdeploy profile``.
        options: The same, read.
    """

    name: str
    arguments: tuple[str, ...]
    options: ProfileOptions

    def job(self) -> RunJob:
        """What is done of it where joblib sends it."""
        key, heads = _digest(self.options), _digest(_heads(self.options))
        return RunJob(self.name, self.arguments, key, heads)

    def measures_here(self) -> bool:
        """Whether it takes timings, which another run beside it would disturb."""
        options = self.options
        return LOCAL in {options.device, options.cloud} or is_remote(options.device)


def run_sweep(
    planned: Sequence[Planned], out: Path, spread: Spread, *, resume: bool, reporter: Reporter
) -> list[Outcome]:
    """Run everything; one that fails or crashes is an outcome, not the end.

    Args:
        planned: The runs.
        out: The folder of the sweep.
        spread: How it is spread.
        resume: Whether to keep what is finished.
        reporter: Told after every run.

    Returns:
        An outcome for each, in the same order.

    Raises:
        MissingExtraError: What the backend needs is not installed.
        SplitdeployError: The cluster cannot be reached, or lost a run.
        UsageError: The options of a run cannot be meant.
    """  # noqa: DOC502
    for run in planned:
        check_options(run.options)
    check_writable(out)
    out.mkdir(parents=True, exist_ok=True)
    with alone_in(out / STATE_FOLDER):
        home = Home.here(out, threads=spread.threads, resume=resume)
        if not resume:
            forget_shards(out)
            for run in planned:
                outcome_path(out, run.name).unlink(missing_ok=True)
        apart, here = _groups(planned, home)
        outcomes = _spread_out(apart, spread, reporter)
        outcomes += _one_by_one(here, spread, reporter)
        bring(out, outcomes)
    by_name = {outcome.name: outcome for outcome in outcomes}
    missing = [run.name for run in planned if run.name not in by_name]
    if missing:
        raise SplitdeployError(f"nothing came back of {missing[0]}: add --resume to run it again")
    return [by_name[run.name] for run in planned]


def _spread_out(groups: Sequence[GroupJob], spread: Spread, reporter: Reporter) -> list[Outcome]:
    """Run groups side by side."""
    if not groups:
        return []
    with connected(spread) as workers:
        groups = shard_out(groups, workers, reporter)
        reporter.stage("runs", sum(len(group.runs) for group in groups))
        return workers.run(groups, reporter)


def _one_by_one(groups: Sequence[GroupJob], spread: Spread, reporter: Reporter) -> list[Outcome]:
    """Run what measures on one machine, undisturbed."""
    names = [run.name for group in groups for run in group.runs]
    if spread.shards > 1 and names:
        reporter.note(f"measured one at a time, and not in shards: {', '.join(names)}")
    if names:
        reporter.stage("runs that measure", len(names))
    outcomes = []
    for group in groups:
        outcomes += run_group(group)
        reporter.advance(len(group.runs))
    return outcomes


def _groups(planned: Sequence[Planned], home: Home) -> tuple[list[GroupJob], list[GroupJob]]:
    """Runs of the same heads together: those to be spread, and those for this machine alone.

    Two timings side by side would disturb each other, and ``local`` means this machine.

    Returns:
        Both.
    """
    together: dict[tuple[bool, str], list[RunJob]] = {}
    for run in planned:
        job = run.job()
        shared = job.heads if run.options.privacy else run.name
        together.setdefault((run.measures_here(), shared), []).append(job)
    groups = {kind: GroupJob(home, tuple(runs)) for kind, runs in together.items()}
    apart = [group for (exclusive, _), group in groups.items() if not exclusive]
    return apart, [group for (exclusive, _), group in groups.items() if exclusive]


def _heads(options: ProfileOptions) -> ProfileOptions:
    """The options without those that leave cuts, leakage and attacks as they are."""
    bare = ProfileOptions(options.model)
    names = ["budget_s", "remote", "resume"]
    if not asks_for_optimal(options.cuts):
        names += [
            "device", "cloud", "power_mode", "network", "fps", "constraints", "objective", "trace",
            "switch_cost_s", "batch",
        ]  # fmt: skip
    return replace(options, **{name: getattr(bare, name) for name in names})


def _digest(options: ProfileOptions) -> str:
    """What tells options apart, whether resumed or not."""
    text = f"{replace(options, resume=False)!r} {metadata.version('splitdeploy')}"
    return hashlib.sha256(text.encode()).hexdigest()
