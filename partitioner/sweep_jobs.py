"""The runs of a sweep, each in a process of its own, so that one that crashes is a row.

What is here runs wherever joblib sends it: in this process, in a worker beside it, or on another
machine of a cluster.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from splitdeploy.partitioner.state import STATE_FOLDER, TRAINING_FOLDER
from splitdeploy.partitioner.under_way import CRASHES, UNDER_WAY
from splitdeploy.profiles.store import write_atomically

CHILD = "splitdeploy.cli.sweep_child"
TOKEN = "sweep-token"
"""A file in the state of a sweep, by which a job sees whether it shares a file system with it."""

_RESTARTS = 3
_POLL_S = 0.5
_INFEASIBLE = 3
_PICTURES = "reconstructions"
_BROUGHT_BACK = ("report.json", "report.html", "cuts.csv", _PICTURES, "bundle")
_INHERITED = ("cut-*.json", "part-*.json", "key.json", CRASHES, f"{TRAINING_FOLDER}/**/*")


@dataclass(frozen=True)
class RunJob:
    """One run.

    Attributes:
        name: Of its folder.
        arguments: What follows ``splitdeploy profile``, without the folder.
        key: Of its settings; a finished run of the same key is not repeated.
    """

    name: str
    arguments: tuple[str, ...]
    key: str


@dataclass(frozen=True)
class GroupJob:
    """Runs that share what leaks: each takes up what the one before it has measured.

    Attributes:
        runs: In order.
        out: The folder of the sweep.
        directory: Where the sweep was started: relative names start there.
        threads: That every run may use.
        resume: Whether an interrupted run goes on where it stopped.
        host: The machine of the sweep.
        process: Its process there; when it ends, so do its runs.
        token: What the file of that name holds.
    """

    runs: tuple[RunJob, ...]
    out: str
    directory: str
    threads: int
    resume: bool
    host: str
    process: int
    token: str


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        name: Of its folder.
        key: Of its settings.
        status: ``done``, ``infeasible`` (no cut satisfies the constraints; there is a report all
            the same), ``failed`` or ``crashed``.
        error: In a line; None where it is done.
        seconds: That it took.
        host: That it ran on.
        files: What it wrote, as a zip archive, where that is not on the sweep's file system.
    """

    name: str
    key: str
    status: str
    error: str | None
    seconds: float
    host: str
    files: bytes | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """As a document, without the files."""
        return asdict(replace(self, files=None)) | {"files": None}


def outcome_path(out: Path, name: str) -> Path:
    """Where the outcome of a run is kept."""
    return out / STATE_FOLDER / f"{name}.json"


def read_outcome(out: Path, run: RunJob) -> Outcome | None:
    """How a run of the same settings ended before.

    Args:
        out: The folder of the sweep.
        run: The run.

    Returns:
        Its outcome; None where it has to be run: it never ended, failed, or its report is gone.
    """
    try:
        found = Outcome(**json.loads(outcome_path(out, run.name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    whole = found.status in {"done", "infeasible"} and (out / run.name / "report.json").is_file()
    return found if whole and found.key == run.key else None


def write_outcome(out: Path, outcome: Outcome) -> None:
    """Keep how a run ended.

    Args:
        out: The folder of the sweep.
        outcome: Of the run.
    """
    write_atomically(outcome_path(out, outcome.name), json.dumps(outcome.to_json()))


def run_group(job: GroupJob) -> list[Outcome]:
    """Run them one after the other.

    Args:
        job: The runs.

    Returns:
        How each ended, in order. Each outcome is written beside the runs at once.
    """
    out = Path(job.out)
    (out / STATE_FOLDER).mkdir(parents=True, exist_ok=True)
    shared = _token(out) == job.token
    outcomes = []
    before: RunJob | None = None
    for run in job.runs:
        found = read_outcome(out, run) if job.resume else None
        if found is None:
            found = _run(job, run, before, shared=shared)
            write_outcome(out, found)
        elif not shared:
            found = replace(found, files=_packed(out / run.name))
        outcomes.append(found)
        if found.status in {"done", "infeasible"}:
            before = run
    return outcomes


def _token(out: Path) -> str | None:
    try:
        return (out / STATE_FOLDER / TOKEN).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _run(job: GroupJob, run: RunJob, before: RunJob | None, *, shared: bool) -> Outcome:
    """One run, started again with what it had where it crashed in the work on a cut."""
    folder, began = Path(job.out) / run.name, time.perf_counter()
    resume = job.resume
    if before is not None and not (resume and (folder / STATE_FOLDER / "key.json").is_file()):
        inherit(Path(job.out) / before.name, folder)
        resume = True
    log = Path(job.out) / STATE_FOLDER / f"{run.name}.log"
    log.unlink(missing_ok=True)
    code = 1
    for _ in range(1 + _RESTARTS):
        code = _process(job, run, log, resume=resume)
        if code >= 0 or not (folder / STATE_FOLDER / UNDER_WAY).exists():
            break
        resume = True
    status, error = _judged(code, log)
    return Outcome(
        run.name,
        run.key,
        status,
        error,
        round(time.perf_counter() - began, 3),
        socket.gethostname(),
        None if shared else _packed(folder),
    )


def _judged(code: int, log: Path) -> tuple[str, str | None]:
    """What an exit code means, and what the run said last."""
    if code == 0:
        return "done", None
    if code < 0:
        return "crashed", f"the process ended by signal {-code}: see {log}"
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    error = said[-1] if said else f"it ended with exit code {code}: see {log}"
    return "infeasible" if code == _INFEASIBLE else "failed", error


def _process(job: GroupJob, run: RunJob, log: Path, *, resume: bool) -> int:
    """The exit code of the run's process; negative for the signal that ended it."""
    command = [
        sys.executable, "-m", CHILD, "profile", "--quiet", "--out", str(Path(job.out) / run.name),
        *(["--resume"] if resume else []), *run.arguments,
    ]  # fmt: skip
    directory = Path(job.directory)
    with (
        log.open("ab") as said,
        subprocess.Popen(
            command,
            cwd=directory if directory.is_dir() else None,
            env=_environment(job.threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        ) as child,
    ):
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return child.wait(_POLL_S)
                if _is_gone(job):
                    child.kill()
        except BaseException:
            child.kill()
            raise


def _environment(threads: int) -> Mapping[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads))}


def _is_gone(job: GroupJob) -> bool:
    """Whether the sweep has ended; of one on another machine the cluster takes care."""
    if socket.gethostname() != job.host:
        return False
    try:
        os.kill(job.process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def inherit(source: Path, target: Path) -> None:
    """Give a run what another one of the same heads has measured.

    Files of the state are linked where that goes, since none is ever changed in place.

    Args:
        source: The run folder of the other.
        target: Its own.
    """
    for pattern in _INHERITED:
        for path in (source / STATE_FOLDER).glob(pattern):
            _link(path, target / path.relative_to(source))
    if (source / _PICTURES).is_dir():
        shutil.copytree(source / _PICTURES, target / _PICTURES, dirs_exist_ok=True)


def _link(path: Path, target: Path) -> None:
    if not path.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def _packed(folder: Path) -> bytes | None:
    """What a run wrote for people and programs, to be brought to the sweep's machine."""
    if not folder.is_dir():
        return None
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _BROUGHT_BACK:
            found = folder / name
            for path in [found] if found.is_file() else sorted(found.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(folder))
    return out.getvalue()


def unpack(files: bytes, folder: Path) -> None:
    """Put what another machine sent into the run folder here.

    Args:
        files: The archive.
        folder: Made where it is missing.

    Raises:
        OutputError: It cannot be written.
    """  # noqa: DOC502
    with zipfile.ZipFile(io.BytesIO(files)) as archive:
        for info in archive.infolist():
            parts = Path(info.filename).parts
            if info.is_dir() or not parts or parts[0] not in _BROUGHT_BACK or ".." in parts:
                continue
            target = folder / info.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, archive.read(info))
