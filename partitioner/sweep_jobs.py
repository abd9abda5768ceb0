"""The jobs of a sweep: runs, and shards of runs, each in a process of its own.

What is here runs wherever joblib sends it: in this process, in a worker beside it, or on another
machine of a cluster.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from splitdeploy.partitioner.handover import PICTURES, STATE_TOLD, inherit, pack, unpack
from splitdeploy.partitioner.shard import Shard
from splitdeploy.partitioner.state import STATE_FOLDER, clear_state, stored_key
from splitdeploy.partitioner.sweep_process import Starter, judged, run_process
from splitdeploy.partitioner.under_way import UNDER_WAY
from splitdeploy.profiles.store import write_atomically

TOKEN = "sweep-token"
"""A file in the state of a sweep, by which a job sees whether it shares a file system with it."""

SHARDS = ".shards"
"""In the folder of a sweep: a folder for every run, with one for every shard of it."""

WHOLE = frozenset({"done", "infeasible"})
"""How a run ends that has a report."""

_RESTARTS = 3
_OF_A_RUN = ("report.json", "report.html", "cuts.csv", PICTURES, "bundle")
_OF_A_SHARD = (*STATE_TOLD, PICTURES)


@dataclass(frozen=True)
class RunJob:
    """One run, or a shard of one.

    Attributes:
        name: Of the run.
        arguments: What follows ``splitdeploy profile``, without the folder.
        key: Of its settings; what is finished under the same key is not repeated.
        heads: Of those that leakage and attacks depend on.
        shard: What is done of it; None for all.
        parts: What shards on other machines have finished, as an archive of their folders.
        waited_s: What the longest of its shards took.
    """

    name: str
    arguments: tuple[str, ...]
    key: str
    heads: str = ""
    shard: Shard | None = None
    parts: bytes | None = field(default=None, repr=False)
    waited_s: float = 0.0

    @property
    def is_shard(self) -> bool:
        """Whether it does some of the cuts and makes no report."""
        return self.shard is not None and not self.shard.closes

    @property
    def place(self) -> str:
        """Its folder, in that of the sweep."""
        if self.shard is None or self.shard.closes:
            return self.name
        return f"{SHARDS}/{self.name}/{self.shard.nth}"

    def shards(self, out: Path) -> list[Path]:
        """The folders of its shards: those that it closes, or else whatever shards there were."""
        folder = out / SHARDS / self.name
        if self.shard is not None and self.shard.closes:
            return [folder / str(nth) for nth in range(1, self.shard.of + 1)]
        return sorted(folder.glob("[0-9]*"))


@dataclass(frozen=True)
class Home:
    """The sweep that jobs belong to.

    Attributes:
        out: Its folder.
        resume: Whether what is finished there is kept.
        token: What the file of that name holds.
        starter: Its process.
    """

    out: str
    resume: bool
    token: str
    starter: Starter

    @classmethod
    def here(cls, out: Path, *, threads: int, resume: bool) -> Home:
        """A sweep of this process, whose folder tells so.

        Args:
            out: Its folder.
            threads: That every run may use.
            resume: Whether what is finished there is kept.

        Returns:
            The home of its jobs.
        """
        token, path = secrets.token_hex(16), out / STATE_FOLDER / TOKEN
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, token)
        return cls(str(out.resolve()), resume, token, Starter.here(threads))

    def is_here(self) -> bool:
        """Whether this process sees its folder."""
        try:
            path = Path(self.out) / STATE_FOLDER / TOKEN
            return path.read_text(encoding="utf-8") == self.token
        except (OSError, UnicodeDecodeError):
            return False


@dataclass(frozen=True)
class GroupJob:
    """Runs that share what leaks: each takes up what the one before it has measured.

    Attributes:
        home: The sweep.
        runs: In order.
    """

    home: Home
    runs: tuple[RunJob, ...]


@dataclass(frozen=True)
class Outcome:
    """How a run ended, or a shard of one.

    Attributes:
        name: Of its folder.
        key: Of its settings.
        status: ``done``, ``infeasible`` (no cut satisfies the constraints; there is a report all
            the same), ``failed`` or ``crashed``.
        error: In a line; None where it is done.
        seconds: That it took, with the longest of its shards.
        host: That it ran on.
        files: What it wrote, as a zip archive, where it is sent.
        sent: Whether that has to be sent, for want of a common file system.
    """

    name: str
    key: str
    status: str
    error: str | None
    seconds: float
    host: str
    files: bytes | None = field(default=None, repr=False)
    sent: bool = False

    def to_json(self) -> dict[str, Any]:
        """As a document, without the files."""
        return asdict(replace(self, files=None))


def outcome_path(out: Path, place: str) -> Path:
    """Where the outcome of a run, or of a shard of one, is kept."""
    return out / STATE_FOLDER / f"{place}.json"


def read_outcome(out: Path, run: RunJob) -> Outcome | None:
    """How a run of the same settings ended before.

    Args:
        out: The folder of the sweep.
        run: The run.

    Returns:
        Its outcome; None where it has to be run: it never ended, failed, or what it wrote is gone.
    """
    path = outcome_path(out, run.place)
    try:
        found = Outcome(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    folder = out / run.place
    is_there = (
        stored_key(folder / STATE_FOLDER) is not None
        if run.is_shard
        else (folder / "report.json").is_file()
    )
    return found if is_there and found.status in WHOLE and found.key == run.key else None


def write_outcome(out: Path, outcome: Outcome) -> None:
    """Keep how a run ended.

    Args:
        out: The folder of the sweep.
        outcome: Of the run.
    """
    path = outcome_path(out, outcome.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(outcome.to_json()))


def bring(out: Path, outcomes: Sequence[Outcome]) -> None:
    """Put what other machines sent where it would lie had it been written here.

    Args:
        out: The folder of the sweep.
        outcomes: Of jobs of it.

    Raises:
        OutputError: It cannot be written.
    """  # noqa: DOC502
    for outcome in outcomes:
        if outcome.files is not None:
            unpack(outcome.files, out / outcome.name, (*_OF_A_RUN, STATE_FOLDER))
            write_outcome(out, outcome)


def run_group(job: GroupJob) -> list[Outcome]:
    """Run them one after the other.

    Args:
        job: The runs.

    Returns:
        How each ended, in order. Each outcome is written beside the runs at once.
    """
    home, out = job.home, Path(job.home.out)
    is_here = home.is_here()
    outcomes = []
    before: Path | None = None
    for run in job.runs:
        found = read_outcome(out, run) if home.resume else None
        if found is None:
            if run.parts is not None and not is_here:
                unpack(run.parts, out / SHARDS / run.name, [path.name for path in run.shards(out)])
            found = replace(_run(home, run, before), sent=not is_here)
            write_outcome(out, found)
        if not is_here:
            wanted = _OF_A_SHARD if run.is_shard else _OF_A_RUN
            found = replace(found, files=pack(out / run.place, wanted))
        outcomes.append(found)
        if found.status in WHOLE:
            before = out / run.place
    return outcomes


def _run(home: Home, run: RunJob, before: Path | None) -> Outcome:
    """One run, started again with what it had where it crashed in the work on a cut."""
    began = time.perf_counter()
    out = Path(home.out)
    folder = out / run.place
    state = folder / STATE_FOLDER
    if not home.resume:
        clear_state(state)
    if before is not None:
        inherit([before], folder)
    elif run.shard is not None and run.shard.closes:
        inherit(run.shards(out), folder)
    elif home.resume:  # the cuts may have been dealt out otherwise
        inherit([folder, out / run.name, *run.shards(out)], folder)
    log = outcome_path(out, run.place).with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    resume, code = home.resume or stored_key(state) is not None, 1
    for _ in range(1 + _RESTARTS):
        code = run_process(_words(run, folder, resume=resume), log, home.starter)
        if code >= 0 or not (state / UNDER_WAY).exists():
            break
        resume = True
    status, error = judged(code, log)
    seconds = round(run.waited_s + time.perf_counter() - began, 3)
    return Outcome(run.place, run.key, status, error, seconds, socket.gethostname())


def _words(run: RunJob, folder: Path, *, resume: bool) -> list[str]:
    """What its process is told."""
    return [
        *(["--shard", str(run.shard)] if run.shard is not None else []),
        "profile", "--quiet", "--out", str(folder), *(["--resume"] if resume else []),
        *run.arguments,
    ]  # fmt: skip
