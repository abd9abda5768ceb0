"""Runs whose cuts are worked at side by side: first the shares, then what closes each run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from splitdeploy.partitioner.handover import PICTURES, STATE_TOLD, pack
from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.share import CLOSING, Share
from splitdeploy.partitioner.state import STATE_FOLDER
from splitdeploy.partitioner.sweep_backends import Workers
from splitdeploy.partitioner.sweep_jobs import (
    SHARES,
    GroupJob,
    RunJob,
    bring,
    read_outcome,
)


def share_out(groups: Sequence[GroupJob], workers: Workers, reporter: Reporter) -> list[GroupJob]:
    """Have shares of the first run of every group done; the others take up what that one has.

    A share that fails or crashes is left to the run itself, which then says why.

    Args:
        groups: Of one sweep.
        workers: Do the shares.
        reporter: Told after every share.

    Returns:
        The groups that are left to do, in the same order.
    """
    of = workers.spread.shares
    if of == 1:
        return list(groups)
    jobs = [job for group in groups for job in _shares(group, of)]
    if jobs:
        reporter.stage("shares of runs", len(jobs))
        bring(Path(jobs[0].home.out), workers.run(jobs, reporter))
    return [_closing(group, of) for group in groups]


def _shares(group: GroupJob, of: int) -> list[GroupJob]:
    """What is not finished of the shares of a group's first run."""
    home, first = group.home, group.runs[0]
    if home.resume and read_outcome(Path(home.out), first) is not None:
        return []
    runs = [_share(first, Share(nth, of)) for nth in range(1, of + 1)]
    if home.resume:
        runs = [run for run in runs if read_outcome(Path(home.out), run) is None]
    return [GroupJob(home, (run,)) for run in runs]


def _share(run: RunJob, share: Share) -> RunJob:
    return replace(run, key=f"{run.heads} {share}", share=share)


def _closing(group: GroupJob, of: int) -> GroupJob:
    """The group, its first run with what the shares have done."""
    out, first = Path(group.home.out), group.runs[0]
    found = [read_outcome(out, _share(first, Share(nth, of))) for nth in range(1, of + 1)]
    parts = None
    if any(outcome is not None and outcome.sent for outcome in found):
        parts = pack(out / SHARES / first.name, [f"*/{name}" for name in (*STATE_TOLD, PICTURES)])
    closing = replace(first, share=Share(CLOSING, of), parts=parts)
    return replace(group, runs=(closing, *group.runs[1:]))


def forget_shares(out: Path) -> None:
    """Take away what shares of an earlier sweep have left.

    Args:
        out: The folder of the sweep.
    """
    for folder in (out / SHARES, out / STATE_FOLDER / SHARES):
        shutil.rmtree(folder, ignore_errors=True)
