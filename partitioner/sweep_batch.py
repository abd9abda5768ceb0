"""A sweep over models, devices and networks: planned, spread, summed up."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from splitdeploy.partitioner.checks import check_options
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.places import LOCAL, is_remote
from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.run_folder import check_writable
from splitdeploy.partitioner.state import STATE_FOLDER, alone_in
from splitdeploy.partitioner.sweep_backends import run_groups
from splitdeploy.partitioner.sweep_jobs import (
    TOKEN,
    GroupJob,
    Outcome,
    RunJob,
    outcome_path,
    run_group,
    unpack,
    write_outcome,
)
from splitdeploy.profiles.errors import SplitdeployError
from splitdeploy.profiles.store import write_atomically


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


@dataclass(frozen=True)
class Spread:
    """How a sweep is spread.

    Attributes:
        backend: ``processes``, ``ray`` or ``dask``.
        jobs: How many groups side by side; -1 for all that a cluster has.
        cluster: Its address; None for this machine.
        threads: That every run may use.
    """

    backend: str = "processes"
    jobs: int = 1
    cluster: str | None = None
    threads: int = 1


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
        SplitdeployError: The backend lost a run.
    """
    for run in planned:
        check_options(run.options)
    check_writable(out)
    out.mkdir(parents=True, exist_ok=True)
    state = out / STATE_FOLDER
    reporter.stage("runs", len(planned))
    with alone_in(state):
        token = secrets.token_hex(16)
        write_atomically(state / TOKEN, token)
        if not resume:
            for run in planned:
                outcome_path(out, run.name).unlink(missing_ok=True)
        apart, here = _groups(planned, out, spread, token, resume=resume)
        outcomes = run_groups(
            apart, backend=spread.backend, jobs=spread.jobs, cluster=spread.cluster,
            reporter=reporter,
        )  # fmt: skip
        for group in here:
            outcomes += run_group(group)
            reporter.advance(len(group.runs))
        for outcome in outcomes:
            if outcome.files is not None:
                unpack(outcome.files, out / outcome.name)
                write_outcome(out, outcome)
    by_name = {outcome.name: outcome for outcome in outcomes}
    missing = [run.name for run in planned if run.name not in by_name]
    if missing:
        raise SplitdeployError(f"nothing came back of {missing[0]}: add --resume to run it again")
    return [by_name[run.name] for run in planned]


def _groups(
    planned: Sequence[Planned], out: Path, spread: Spread, token: str, *, resume: bool
) -> tuple[list[GroupJob], list[GroupJob]]:
    """Runs of the same heads together: those to be spread, and those for this machine alone.

    Two timings side by side would disturb each other, and ``local`` means this machine.

    Returns:
        Both.
    """
    together: dict[tuple[bool, str], list[RunJob]] = {}
    for run in planned:
        options = run.options
        exclusive = LOCAL in {options.device, options.cloud} or is_remote(options.device)
        shared = repr(_heads(options)) if options.privacy else run.name
        job = RunJob(run.name, run.arguments, _key(options))
        together.setdefault((exclusive, shared), []).append(job)
    groups = {
        kind: GroupJob(
            runs=tuple(runs),
            out=str(out.resolve()),
            directory=str(Path.cwd()),
            threads=spread.threads,
            resume=resume,
            host=socket.gethostname(),
            process=os.getpid(),
            token=token,
        )
        for kind, runs in together.items()
    }
    apart = [group for (exclusive, _), group in groups.items() if not exclusive]
    return apart, [group for (exclusive, _), group in groups.items() if exclusive]


def _heads(options: ProfileOptions) -> ProfileOptions:
    """The options without those that leave leakage and attacks as they are."""
    bare = ProfileOptions(options.model)
    names = (
        "device", "cloud", "power_mode", "network", "budget_s", "fps", "constraints", "objective",
        "remote", "resume",
    )  # fmt: skip
    return replace(options, **{name: getattr(bare, name) for name in names})


def _key(options: ProfileOptions) -> str:
    text = f"{replace(options, resume=False)!r} {metadata.version('splitdeploy')}"
    return hashlib.sha256(text.encode()).hexdigest()
