"""A real OpenSSH server on the loopback device, with keys made for the test."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Sshd:
    """A running server.

    Attributes:
        url: As ``--device`` takes it.
        config: An ssh configuration that knows its key, and ours.
        folder: With the keys and ``known_hosts``.
        process: The server.
    """

    url: str
    config: Path
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def configured(self, name: str, **changes: str) -> Path:
        """Another ssh configuration: ``IdentityFile``, ``UserKnownHostsFile``."""
        return write_config(self.folder, name, changes)

    def cut(self) -> None:
        """End every connection, as a network that goes away would, at once."""
        for child in children(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """All descendants of a process that are sshd too."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            with contextlib.suppress(OSError):  # it may end while we look
                if Path(f"/proc/{child}/comm").read_text().startswith("sshd"):
                    found += [*children(child), child]
    return found


def write_config(folder: Path, name: str, changes: Mapping[str, str]) -> Path:
    settings = {
        "IdentityFile": str(folder / "key"),
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": str(folder / "known_hosts"),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        **changes,
    }
    path = folder / name
    path.write_text("Host *\n" + "".join(f"  {key} {value}\n" for key, value in settings.items()))
    return path


def make_key(path: Path) -> str:
    """A key; its public half."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)
    return path.with_name(f"{path.name}.pub").read_text()


def free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def running_sshd(
    folder: Path, *, host: str = HOST, within: Sequence[str] = (), **environment: str
) -> Iterator[Sshd]:
    """A server as the user that runs the test, whose home on the "device" is an empty folder.

    Args:
        folder: For its keys, its log, and ``home``.
        host: Where it listens.
        within: What it is run by, such as ``ip netns exec NAME``.
        environment: What commands get besides: ``PATH``.
    """
    program = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/sbin")
    if program is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("openssh-server and openssh-client are not installed")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    host_key, key = make_key(folder / "host_key"), make_key(folder / "key")
    (folder / "authorized_keys").write_text(key)
    port = free_port()
    (folder / "known_hosts").write_text(f"[{host}]:{port} {host_key}")
    (folder / "home").mkdir()
    set_to = {"HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", **environment}
    config = folder / "sshd_config"
    config.write_text(
        f"ListenAddress {host}\nPort {port}\nHostKey {folder}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
        + f"SetEnv {' '.join(f'{key}={value}' for key, value in set_to.items())}\n"
    )
    if program == "/usr/sbin/sshd":
        Path("/run/sshd").mkdir(exist_ok=True)
    with (folder / "sshd.log").open("wb") as log:
        command = [*within, program, "-D", "-e", "-f", str(config)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_for(process, folder / "sshd.log")
        url = f"ssh://{getpass.getuser()}@{host}:{port}"
        yield Sshd(url, write_config(folder, "ssh_config", {}), folder, process)
    finally:
        process.terminate()
        process.wait(10)


def wait_for(process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(200):
        if process.poll() is not None:
            pytest.skip(f"sshd does not start here: {log.read_text()[-300:]}")
        if "Server listening on" in log.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"sshd does not listen: {log.read_text()[-300:]}")
