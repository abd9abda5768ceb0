"""Runs of the command line as real processes that can be killed, without a start each.

A helper process loads what a profile needs and forks for every run; a run that was killed is gone
with all that it held, as a process of its own would be.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from command_line import MODEL, SMALL

from splitdeploy.profiles.closing import Closing

HERE = Path(__file__).parent
SLICE_S = 0.005


class ForkedRuns(Closing):
    """The helper process."""

    def __init__(self) -> None:
        self._helper = subprocess.Popen(
            [sys.executable, __file__],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        )
        assert self._helper.stdout is not None
        assert self._helper.stdout.readline() == "ready\n"

    def close(self) -> None:
        """End it."""
        assert self._helper.stdin is not None
        self._helper.stdin.close()
        self._helper.wait(60)

    def run(
        self,
        arguments: Sequence[object],
        *,
        kill_after_s: float | None = None,
        crash_in: str | None = None,
    ) -> Any:
        """Run a command; kill it after a while, or have it read address 0 in the attack on a cut.

        Returns: ``code`` (negative for a signal), ``seconds`` and ``err``.
        """
        words = [str(word) for word in arguments]
        request = {"arguments": words, "kill_after_s": kill_after_s, "crash_in": crash_in}
        assert self._helper.stdin is not None and self._helper.stdout is not None
        self._helper.stdin.write(json.dumps(request) + "\n")
        self._helper.stdin.flush()
        return json.loads(self._helper.stdout.readline())


def _serve() -> None:
    """Load by a run of its own what the others need, then fork for every request.

    That run takes no gradients, after which torch could not be forked.
    """
    from splitdeploy.__main__ import main

    words = ["profile", MODEL, *SMALL, "--cuts", "pool", "--no-privacy", "-q", "--format", "csv"]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        main([*words, "--out", folder])
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(_run(**json.loads(line))), flush=True)


def _run(arguments: list[str], kill_after_s: float | None, crash_in: str | None) -> dict[str, Any]:
    began = time.monotonic()
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        if crash_in is not None:
            _crash_in(crash_in)
        _become(arguments, writing)
    os.close(writing)
    status = None
    while status is None:
        found, told = os.waitpid(process, os.WNOHANG)
        status = told if found else None
        if kill_after_s is not None and time.monotonic() - began > kill_after_s:
            os.kill(process, signal.SIGKILL)
            status = os.waitpid(process, 0)[1] if status is None else status
        time.sleep(SLICE_S)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "seconds": time.monotonic() - began, "err": said}


def _crash_in(name: str) -> None:
    from splitdeploy.partitioner import evidence

    observe = evidence.observe

    def crash(plan: Any, cut: Any, *rest: Any) -> Any:
        return ctypes.string_at(0) if cut.name == name else observe(plan, cut, *rest)

    evidence.observe = crash


def _become(arguments: list[str], writing: int) -> None:
    """The run, in the forked process, which never comes back."""
    os.dup2(writing, 2)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    code = 1
    try:
        from splitdeploy.cli.sweep_child import run

        code = run(arguments)
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve()
