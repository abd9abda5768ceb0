"""The real command line, run in this process."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

from splitdeploy.__main__ import main

HERE = Path(__file__).parent
MODEL = "small_models:small_resnet"
SMALL = ("--input-shape", "3x16x16", "--image-count", "2", "--weights", "none")
"""A net and pictures so small that a sweep takes a second or two."""


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


def splitdeploy(*arguments: object) -> Outcome:
    """Run a command as a shell would, without a new process."""
    out, err = io.StringIO(), io.StringIO()
    before = list(sys.path)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    sys.path[:] = before
    return Outcome(code, out.getvalue(), err.getvalue())
