"""A real Triton as a child process: started with the tails of some bundles, and ended with us."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from splitdeploy.cloud_runtime.tls import ServerTls
from splitdeploy.cloud_runtime.triton_flags import closed_flags, tls_flags
from splitdeploy.cloud_runtime.triton_install import IMAGE, TritonInstall, find_triton
from splitdeploy.cloud_runtime.triton_repository import write_repository
from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.profiles.errors import ServeError

__all__ = ["TritonInstall", "find_triton", "run_triton"]

_STDERR = 2
_POLL_S = 0.1
_LAST_GRACE_S = 5.0
_PARENT_DEATH_SIGNAL = 1


@dataclass(frozen=True)
class _Said:
    """What is told once Triton is ready: addresses for programs, a line for people."""

    addresses: Sequence[str]
    line: str


def run_triton(
    bundles: Sequence[Path],
    *,
    host: str,
    port: int,
    metrics_port: int | None,
    max_batch: int,
    tls: ServerTls | None,
    grace_s: float,
) -> int:
    """Serve the tails of bundles with a Triton until a signal ends it.

    Once it is ready, standard output has its addresses and standard error a line for people.
    SIGTERM and SIGINT are passed on: Triton then takes no new requests and answers those that it
    has. Nobody can load, unload or change models over the network.

    Args:
        bundles: Their folders; every file's digest is checked.
        host: The address to listen on.
        port: Of gRPC; 0 takes a free one.
        metrics_port: Of Prometheus' metrics; None offers none.
        max_batch: The largest batch that requests are put together to.
        tls: Certificates; None for none.
        grace_s: How long it may take to answer what it has when it is told to end.

    Returns:
        0 where it ended because it was told to, Triton's own exit code or 1 otherwise.

    Raises:
        ServeError: There is no Triton, the port is taken, the certificates will not do, or Triton
            ended before it was ready.
        ReportError: A bundle is damaged.
    """  # noqa: DOC502
    install = find_triton()
    if install is None:
        raise ServeError(_how_to_get_one(bundles))
    if tls is not None:
        tls.check()
    read = [read_bundle(folder, "cloud") for folder in bundles]
    wanted = [(host, port), ("127.0.0.1", 0)]
    wanted += [] if metrics_port is None else [(host, metrics_port)]
    ports = _free_ports(wanted)
    folder = Path(tempfile.mkdtemp(prefix="splitdeploy-triton-"))
    try:
        repository = folder / "models"
        write_repository(repository, read, backend=install.backend, max_batch=max_batch)
        command = [
            str(install.server),
            f"--model-repository={repository}",
            f"--backend-directory={install.backends}",
            *_addresses(host, ports),
            *closed_flags(secrets.token_hex(16), grace_s),
            "--log-info=false",
            *_certificates(tls),
        ]
        said = [f"metrics http://{host}:{found}/metrics" for found in ports[2:]]
        said.append(f"grpc {host}:{ports[0]}")
        line = (
            f"serving {', '.join(bundle.served_name for bundle in read)} on {host}:{ports[0]} "
            f"(Triton's {install.backend} backend; {_kind(tls)}; batches up to {max_batch})"
        )
        return _serve(command, install, folder, ports[1], grace_s, _Said(said, line))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _addresses(host: str, ports: Sequence[int]) -> list[str]:
    """HTTP is for this process alone: it asks there whether Triton is ready, whatever TLS says."""
    port, health_port, *metrics_port = ports
    flags = [
        f"--grpc-address={host}",
        f"--grpc-port={port}",
        "--http-address=127.0.0.1",
        f"--http-port={health_port}",
        "--http-thread-count=1",
    ]
    if not metrics_port:
        return [*flags, "--allow-metrics=false"]
    return [*flags, f"--metrics-address={host}", f"--metrics-port={metrics_port[0]}"]


def _kind(tls: ServerTls | None) -> str:
    return "plaintext" if tls is None else "TLS" if tls.client_ca is None else "mutual TLS"


def _certificates(tls: ServerTls | None) -> list[str]:
    if tls is None:
        return []
    return tls_flags(str(tls.cert), str(tls.key), str(tls.client_ca) if tls.client_ca else None)


def _serve(
    command: list[str],
    install: TritonInstall,
    folder: Path,
    health_port: int,
    grace_s: float,
    said: _Said,
) -> int:
    with _signals() as asked:
        # A session of its own: a Ctrl-C at the terminal reaches it through us, once. Its libraries
        # leave files in the temporary folder, so it gets the one that is removed.
        process = subprocess.Popen(
            command,
            env={**os.environ, **install.environment, "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=_STDERR,
            start_new_session=True,
            preexec_fn=_dies_with_us(),
        )
        try:
            _wait_until_ready(process, health_port, asked)
            if not asked:
                print("\n".join(said.addresses), flush=True)
                print(said.line, file=sys.stderr, flush=True)
            while process.poll() is None and not asked:
                time.sleep(_POLL_S)
            if process.poll() is not None:
                print(f"Triton ended by itself with {process.returncode}", file=sys.stderr)
                return process.returncode if process.returncode > 0 else 1
            return _end(process, grace_s, asked)
        finally:
            _kill(process)


def _wait_until_ready(
    process: subprocess.Popen[bytes], health_port: int, asked: Sequence[int]
) -> None:
    """As long as it takes: a large model loads for minutes, and Triton ends where one will not."""
    url = f"http://127.0.0.1:{health_port}/v2/health/ready"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while not asked:
        if process.poll() is not None:
            raise ServeError(
                f"Triton ended with {process.returncode} before it was ready: "
                "its own messages above say why"
            )
        try:
            with opener.open(url, timeout=5.0):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL_S)


def _end(process: subprocess.Popen[bytes], grace_s: float, asked: Sequence[int]) -> int:
    """Tell it to end, and wait; a second signal to us ends it at once."""
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + grace_s + _LAST_GRACE_S
    while process.poll() is None and time.monotonic() < deadline and len(asked) == 1:
        time.sleep(_POLL_S)
    if process.poll() is None:
        print("Triton did not end within its grace: killed", file=sys.stderr)
        return 1
    return 0


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Whatever is left of it, with the processes of its Python backend."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The SIGTERMs and SIGINTs that came, in a list that grows."""
    asked: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _dies_with_us() -> Callable[[], None] | None:
    """Have Linux end Triton should this process be killed: it would keep the port for ever."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def set_signal() -> None:
        prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)

    return set_signal


def _free_ports(wanted: Sequence[tuple[str, int]]) -> list[int]:
    """The ports, free ones for 0; Triton itself says only in its log that a port is taken."""
    with ExitStack() as held:  # all at once, so that no free one is found twice
        return [_bound(held, host, port) for host, port in wanted]


def _bound(held: ExitStack, host: str, port: int) -> int:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServeError(
            f"cannot listen on {host}:{port}: {reason}: choose another port or address, "
            "or end what has it"
        ) from error
    found: int = listener.getsockname()[1]
    return found


def _how_to_get_one(bundles: Sequence[Path]) -> str:
    mounts = " ".join(
        f"-v {bundle.resolve() / 'triton'}:/models{place or ''}:ro"
        for place, bundle in enumerate(bundles)
    )
    stores = " ".join(f"--model-repository=/models{place or ''}" for place in range(len(bundles)))
    return (
        "expected a tritonserver on the PATH, in /opt/tritonserver or where SPLITDEPLOY_TRITON "
        "says, there is none: type  make triton  in the project, or run NVIDIA's container:  "
        f"docker run --rm -p 8001:8001 {mounts} {IMAGE} tritonserver {stores}"
    )
