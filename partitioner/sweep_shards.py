"""Runs whose cuts are worked at side by side: first the shards, then what closes each run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from splitdeploy.partitioner.handover import PICTURES, STATE_TOLD, pack
from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.shard import CLOSING, Shard
from splitdeploy.partitioner.state import STATE_FOLDER
from splitdeploy.partitioner.sweep_backends import Workers
from splitdeploy.partitioner.sweep_jobs import (
    SHARDS,
    GroupJob,
    RunJob,
    bring,
    read_outcome,
)


def shard_out(groups: Sequence[GroupJob], workers: Workers, reporter: Reporter) -> list[GroupJob]:
    """Have shards of the first run of every group done; the others take up what that one has.

    A shard that fails or crashes is left to the run itself, which then says why.

    Args:
        groups: Of one sweep.
        workers: Do the shards.
        reporter: Told after every shard.

    Returns:
        The groups that are left to do, in the same order.
    """
    of = workers.spread.shards
    if of == 1:
        return list(groups)
    jobs = [job for group in groups for job in _shards(group, of)]
    if jobs:
        reporter.stage("shards of runs", len(jobs))
        bring(Path(jobs[0].home.out), workers.run(jobs, reporter))
    return [_closing(group, of) for group in groups]


def _shards(group: GroupJob, of: int) -> list[GroupJob]:
    """What is not finished of the shards of a group's first run."""
    home, first = group.home, group.runs[0]
    if home.resume and read_outcome(Path(home.out), first) is not None:
        return []
    runs = [_shard(first, Shard(nth, of)) for nth in range(1, of + 1)]
    if home.resume:
        runs = [run for run in runs if read_outcome(Path(home.out), run) is None]
    return [GroupJob(home, (run,)) for run in runs]


def _shard(run: RunJob, shard: Shard) -> RunJob:
    return replace(run, key=f"{run.heads} {shard}", shard=shard)


def _closing(group: GroupJob, of: int) -> GroupJob:
    """The group, its first run with what the shards have done."""
    out, first = Path(group.home.out), group.runs[0]
    shards = [read_outcome(out, _shard(first, Shard(nth, of))) for nth in range(1, of + 1)]
    found = [outcome for outcome in shards if outcome is not None]
    parts = None
    if any(outcome.sent for outcome in found):
        parts = pack(out / SHARDS / first.name, [f"*/{name}" for name in (*STATE_TOLD, PICTURES)])
    waited_s = max((outcome.seconds for outcome in found), default=0.0)
    closing = replace(first, shard=Shard(CLOSING, of), parts=parts, waited_s=waited_s)
    return replace(group, runs=(closing, *group.runs[1:]))


def forget_shards(out: Path) -> None:
    """Take away what shards of an earlier sweep have left.

    Args:
        out: The folder of the sweep.
    """
    for folder in (out / SHARDS, out / STATE_FOLDER / SHARDS):
        shutil.rmtree(folder, ignore_errors=True)
