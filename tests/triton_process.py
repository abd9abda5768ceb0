"""A real Triton, started as a user would start it and ended by a signal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from splitdeploy.cloud_runtime.triton_install import find_triton

MISSING = "there is no Triton here: type  make triton"
HAVE_TRITON = find_triton() is not None

_READY = re.compile(r"serving (.+) on (127\.0\.0\.1:\d+) \(Triton")
_START_S = 90.0


class TritonProcess:
    """Serves bundles from the moment that it is made; ``address`` is where."""

    def __init__(
        self, bundles: Sequence[Path], work: Path, certificates: Sequence[Path] = ()
    ) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work = work
        self.lines: list[str] = []
        flags = [
            f"--tls-{name}={path}"
            for name, path in zip(("cert", "key", "client-ca"), certificates, strict=False)
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "splitdeploy", "serve", *map(str, bundles),
             "--engine", "triton", "--port", "0", "--metrics-port", "0", "--max-batch", "16",
             *flags],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": str(work), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.said: list[str] = []
        for stream, lines in (
            (self.process.stdout, self.said),
            (self.process.stderr, self.lines),
        ):
            threading.Thread(target=_read, args=(stream, lines), daemon=True).start()
        self.address, self.names = self._wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait for its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def _wait(self) -> tuple[str, list[str]]:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            for line in list(self.lines):
                found = _READY.search(line)
                if found:
                    return found[2], found[1].split(", ")
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        self.process.kill()
        raise AssertionError("\n".join(["Triton did not start:", *self.lines]))


def _read(stream: IO[str] | None, lines: list[str]) -> None:
    for line in stream or ():
        lines.append(line.rstrip())
