"""A profile in a process of its own: one that crashes is an outcome of whoever started it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CHILD = "splitdeploy.cli.sweep_child"

_POLL_S = 0.5
_INFEASIBLE = 3


@dataclass(frozen=True)
class Starter:
    """Whoever has profiles run.

    Attributes:
        host: Its machine.
        process: Itself there; when it ends, so do its profiles.
        directory: Where it was started: relative names start there.
        threads: That every profile may use.
    """

    host: str
    process: int
    directory: str
    threads: int

    @classmethod
    def here(cls, threads: int) -> Starter:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), str(Path.cwd()), threads)

    def is_gone(self) -> bool:
        """Whether it has ended; of one on another machine the cluster takes care."""
        if socket.gethostname() != self.host:
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


def run_process(words: Sequence[str], log: Path, starter: Starter) -> int:
    """Run a profile.

    Args:
        words: What follows the name of the child's module.
        log: Gets what it says on standard error.
        starter: Whoever wants it.

    Returns:
        Its exit code; negative for the signal that ended it.
    """
    directory = Path(starter.directory)
    with (
        log.open("ab") as said,
        subprocess.Popen(
            [sys.executable, "-m", CHILD, *words],
            cwd=directory if directory.is_dir() else None,
            env=_environment(starter.threads),
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
                if starter.is_gone():
                    child.kill()
        except BaseException:
            child.kill()
            raise


def _environment(threads: int) -> Mapping[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads))}


def judged(code: int, log: Path) -> tuple[str, str | None]:
    """What an exit code means.

    Args:
        code: As `run_process` returns it.
        log: What the process said.

    Returns:
        ``done``, ``infeasible``, ``failed`` or ``crashed``; and, where there is no report, why.
    """
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
