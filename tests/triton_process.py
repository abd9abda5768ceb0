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

from splitdeploy.cloud_runtime.triton_install import find_triton

MISSING = "there is no Triton here: type  make triton"
HAVE_TRITON = find_triton() is not None

_PROGRAM = """
import sys
from pathlib import Path
from splitdeploy.cloud_runtime.tls import ServerTls
from splitdeploy.cloud_runtime.triton_launch import run_triton
from splitdeploy.profiles.errors import SplitdeployError
folders, certificates = sys.argv[1].split(","), [Path(name) for name in sys.argv[2:]]
try:
    code = run_triton([Path(folder) for folder in folders], host="127.0.0.1", port=0,
        metrics_port=0, max_batch=16, tls=ServerTls(*certificates) if certificates else None,
        grace_s=10.0)
except SplitdeployError as error:
    sys.exit(f"error: {error}")
sys.exit(code)
"""
_READY = re.compile(r"serves (.+) at (127\.0\.0\.1:\d+)")
_START_S = 90.0


class TritonProcess:
    """Serves bundles from the moment that it is made; ``address`` is where."""

    def __init__(
        self, bundles: Sequence[Path], work: Path, certificates: Sequence[Path] = ()
    ) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work = work
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, ",".join(map(str, bundles)), *map(str, certificates)],
            stderr=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": str(work), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()
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

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

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
