"""One run by several processes of this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from splitdeploy.partitioner.checks import check_options
from splitdeploy.partitioner.handover import inherit
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.profile import profile
from splitdeploy.partitioner.profile_shard import IN_SHARDS
from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.run_folder import check_writable, whole_or_nothing
from splitdeploy.partitioner.state import STATE_FOLDER, alone_in, clear_state
from splitdeploy.partitioner.sweep_backends import Spread, connected
from splitdeploy.partitioner.sweep_batch import Planned
from splitdeploy.partitioner.sweep_jobs import GroupJob, Home
from splitdeploy.partitioner.sweep_shards import forget_shards, shard_out
from splitdeploy.profiles.errors import UsageError
from splitdeploy.profiles.report import SweepReport


def profile_in_shards(
    options: ProfileOptions,
    arguments: Sequence[str],
    out: Path,
    jobs: int,
    *,
    command: Sequence[str],
    reporter: Reporter,
) -> SweepReport:
    """Profile as one process would, with what is a cut's own done by several.

    Args:
        options: What is asked for.
        arguments: The same, as they follow ``splitdeploy profile``.
        out: The run folder.
        jobs: How many processes.
        command: What the user typed, for the record.
        reporter: Told as it goes.

    Returns:
        The report, as written into the run folder.

    Raises:
        UsageError: The options cannot be meant, or ask for timings, which other processes disturb.
    """
    planned = Planned("run", tuple(arguments), options)
    check_options(options)
    if planned.measures_here():
        raise UsageError(
            f"expected simulated devices on both sides with --jobs {jobs}, got {options.device} "
            f"and {options.cloud}: several processes would disturb what is timed; drop --jobs"
        )
    check_writable(out)
    with whole_or_nothing(out):
        _work_in_shards(planned, out, jobs, reporter)
        return profile(
            replace(options, resume=True),
            out,
            command=command,
            reporter=reporter,
            part=1 - IN_SHARDS,
        )


def _work_in_shards(planned: Planned, out: Path, jobs: int, reporter: Reporter) -> None:
    """Have every shard done, and put what they finished into the run folder."""
    resume, threads = planned.options.resume, max(1, (os.cpu_count() or 1) // jobs)
    with alone_in(out / STATE_FOLDER):
        if not resume:
            clear_state(out / STATE_FOLDER)
            forget_shards(out)
        home = Home.here(out, threads=threads, resume=resume)
        with connected(Spread("processes", jobs, None, threads, jobs)) as workers:
            (group,) = shard_out([GroupJob(home, (planned.job(),))], workers, reporter)
        inherit(group.runs[0].shards(out), out)
