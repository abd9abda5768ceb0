"""A connection to a device through the user's own OpenSSH: their configuration, keys, jump hosts.

One connection carries every command (OpenSSH's multiplexing, its socket in a private folder). It
lasts as long as a ``cat`` on the device whose input we hold open, so that nothing is left behind
where this process is killed. Where it breaks, the next command connects anew.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, NoReturn

from splitdeploy.partitioner.remote.address import Address
from splitdeploy.partitioner.remote.ssh_errors import SSH_FAILED, explain
from splitdeploy.profiles.errors import MissingExtraError, RemoteError

_OPTIONS = (
    "BatchMode=yes",              # never asks: there may be nobody to answer
    "ConnectTimeout=15",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
    "RequestTTY=no",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",    # ports that the user forwards by hand may be taken
    "RemoteCommand=none",
)  # fmt: skip
_GREETING = b"splitdeploy-is-here\n"
_START_S = 60.0
_LONGEST_LINE = 1 << 22


class Connection:
    """An ssh connection; opened and closed by ``with``.

    Args:
        address: Of the device.
        config: An ssh configuration to use in place of ``~/.ssh/config``.

    Raises:
        MissingExtraError: There is no ssh on this machine.
    """

    def __init__(self, address: Address, *, config: Path | None = None) -> None:
        self.address = address
        program = shutil.which("ssh")
        if program is None:
            raise MissingExtraError(
                "reaching a device needs OpenSSH's ssh, which is not on the PATH: install it "
                "(Debian, Ubuntu:  apt install openssh-client)"
            )
        self._base = [program, "-T", *(f"-o{option}" for option in _OPTIONS)]
        if config is not None:
            self._base += ["-F", str(config)]
        if address.user:
            self._base += ["-l", address.user]
        if address.port:
            self._base += ["-p", str(address.port)]
        self._stack = contextlib.ExitStack()
        self._socket: Path | None = None

    def __enter__(self) -> Connection:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sd-ssh-"))
            self._socket = Path(folder, "socket")
            stack.enter_context(
                self._held(["cat"], "connecting", greeting=_GREETING, role="ControlMaster=yes")
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._socket = None

    def run(
        self, words: Sequence[str], *, doing: str, stdin: bytes = b"", timeout_s: float = 120.0
    ) -> bytes:
        """Run a command on the device.

        Args:
            words: The command.
            doing: What it is for, in words; messages say it.
            stdin: What it reads.
            timeout_s: How long it may take.

        Returns:
            Its standard output.

        Raises:
            RemoteError: The device cannot be reached, or the command failed.
        """
        try:
            done = subprocess.run(
                self._command(words), input=stdin, capture_output=True, timeout=timeout_s,
                env=_environment(), check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise RemoteError(
                "cut",
                f"{self.address} did not answer in {timeout_s:.0f} s while {doing}: look what "
                "keeps it busy and run again",
            ) from None
        if done.returncode != 0:
            self._fail(done.returncode, done.stderr.decode("utf-8", "replace"), doing)
        return done.stdout

    def lines(self, words: Sequence[str], *, doing: str, stdin: bytes = b"") -> Iterator[str]:
        """Run a command on the device and hand out its lines as they come.

        Args:
            words: The command.
            doing: What it is for, in words.
            stdin: What it reads; no more than a pipe holds.

        Yields:
            Line by line, without the ends.

        Raises:
            RemoteError: The device cannot be reached, or the command failed.
        """
        with self._process(words) as (process, stderr):
            sink, source = _pipes(process)
            _write(sink, stdin)
            with contextlib.suppress(OSError):
                sink.close()
            while line := source.readline(_LONGEST_LINE):
                yield line.decode("utf-8", "replace").rstrip("\r\n")
            code = process.wait()
            if code != 0:
                self._fail(code, _text(stderr), doing)

    def pour(self, words: Sequence[str], blocks: Iterable[bytes], *, doing: str) -> None:
        """Run a command on the device that reads a lot.

        Args:
            words: The command.
            blocks: What it reads.
            doing: What it is for, in words.

        Raises:
            RemoteError: The device cannot be reached, or the command failed.
        """
        with self._process(words) as (process, stderr):
            sink, _ = _pipes(process)
            for block in blocks:
                if not _write(sink, block):
                    break
            with contextlib.suppress(OSError):
                sink.close()
            code = process.wait()
            if code != 0:
                self._fail(code, _text(stderr), doing)

    def hold(self, words: Sequence[str], *, doing: str) -> contextlib.AbstractContextManager[str]:
        """Keep a command running whose first line says that it is ready; its end ends it.

        Args:
            words: The command; it must end when its standard input ends.
            doing: What it is for, in words.

        Returns:
            A context manager that gives the first line.
        """
        return self._held(words, doing, greeting=b"", role="ControlMaster=no")

    @contextlib.contextmanager
    def _held(
        self, words: Sequence[str], doing: str, *, greeting: bytes, role: str
    ) -> Iterator[str]:
        with self._process(words, role) as (process, stderr):
            sink, source = _pipes(process)
            _write(sink, greeting)
            line = _first_line(source, greeting, time.monotonic() + _START_S)
            if line is None:
                process.kill()
                code = process.wait()
                self._fail(code or SSH_FAILED, _text(stderr), doing)
            yield line
            with contextlib.suppress(OSError):
                sink.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10.0)

    @contextlib.contextmanager
    def _process(
        self, words: Sequence[str], role: str = "ControlMaster=no"
    ) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
        """A running command with its pipes; what it says on stderr goes into a file."""
        with tempfile.TemporaryFile() as stderr:
            process = subprocess.Popen(
                self._command(words, role), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=stderr, env=_environment(),
            )  # fmt: skip
            try:
                yield process, stderr
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        with contextlib.suppress(OSError):
                            pipe.close()

    def _fail(self, code: int, stderr: str, doing: str) -> NoReturn:
        raise explain(self.address, code, stderr, doing)

    def _command(self, words: Sequence[str], role: str = "ControlMaster=no") -> list[str]:
        shared = [] if self._socket is None else [f"-o{role}", f"-oControlPath={self._socket}"]
        return [*self._base, *shared, "--", self.address.host, shlex.join(words)]


def _environment() -> dict[str, str]:
    """Messages in English, so that they can be told apart."""
    return {**os.environ, "LC_ALL": "C"}


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("a process was started without pipes")
    return process.stdin, process.stdout


def _write(sink: IO[bytes], block: bytes) -> bool:
    """Whether somebody still reads; why not is told by the process when it ends."""
    try:
        sink.write(block)
        sink.flush()
    except OSError:
        return False
    return True


def _text(stderr: IO[bytes]) -> str:
    stderr.seek(0)
    return stderr.read(1 << 16).decode("utf-8", "replace")


def _first_line(source: IO[bytes], greeting: bytes, deadline: float) -> str | None:
    """The greeting, or any line where there is none; a login shell may print before it."""
    got = b""
    while (left_s := deadline - time.monotonic()) > 0 and len(got) < _LONGEST_LINE:
        if not select.select([source], [], [], left_s)[0]:
            return None
        block = os.read(source.fileno(), 1 << 16)
        if not block:
            return None
        got += block
        for line in got.split(b"\n")[:-1]:
            if (line + b"\n" == greeting) or (not greeting and line.startswith(b"{")):
                return line.decode("utf-8", "replace")
    return None
