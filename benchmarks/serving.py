"""A served bundle in a process of its own, for benchmarks; and two hosts on one machine."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STARTED_S = 60.0
_FRAME_BYTES, _SEGMENT_BYTES = 1514, 1448
"""A full frame on the cable, and what TCP carries in it."""


@dataclass(frozen=True)
class Server:
    """A running ``splitdeploy serve``.

    Attributes:
        address: ``host:port``.
        pid: Of its process.
    """

    address: str
    pid: int


@contextmanager
def served(
    bundles: Sequence[Path],
    *flags: str,
    host: str = "127.0.0.1",
    within: Sequence[str] = (),
    environment: dict[str, str] | None = None,
) -> Iterator[Server]:
    """Run ``splitdeploy serve`` for as long as this lasts.

    Args:
        bundles: What it serves.
        *flags: Further ones.
        host: Where it listens.
        within: What the command is run by, such as ``ip netns exec NAME``.
        environment: Further variables.

    Yields:
        Where it is.
    """
    command = [
        *within, sys.executable, "-m", "splitdeploy", "serve", *map(str, bundles),
        "--host", host, "--port", "0", *flags,
    ]  # fmt: skip
    process = subprocess.Popen(
        [*command, "--quiet"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    # Standard output is one line a listener: "grpc 127.0.0.1:41003".
    told: list[str] = []
    reader = threading.Thread(target=lambda: told.append(_first_line(process)), daemon=True)
    reader.start()
    try:
        reader.join(_STARTED_S)
        if not told or not told[0].startswith("grpc "):
            raise RuntimeError(f"the server did not start: it said {told}")
        yield Server(told[0].split()[1], process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def round_trip_s(address: str) -> float:
    """The cable's own round trip, as ``ping`` tells it: what TCP takes to connect.

    Args:
        address: ``host:port`` of a server.

    Returns:
        Seconds, the median of thirty.
    """
    host, port = address.rsplit(":", 1)
    trips_s = []
    for _ in range(30):
        begun_s = time.perf_counter()
        with socket.create_connection((host, int(port)), 5.0):
            trips_s.append(time.perf_counter() - begun_s)
    return statistics.median(trips_s)


def _first_line(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline() if process.stdout else ""


@dataclass(frozen=True)
class TwoHosts:
    """Two network namespaces with a cable between them.

    Attributes:
        edge: The name of one of them.
        cloud: The name of the other.
        edge_address: Of its end of the cable.
        cloud_address: Of its end of the cable.
    """

    edge: str
    cloud: str
    edge_address: str = "10.213.0.1"
    cloud_address: str = "10.213.0.2"

    def limit(self, uplink_bps: float, downlink_bps: float) -> None:
        """Let no more through each way than so much, by a token bucket."""
        for name, rate in ((self.edge, uplink_bps), (self.cloud, downlink_bps)):
            # A bucket of two frames: a larger one would let a small payload through at once.
            _ip("netns", "exec", name, "tc", "qdisc", "replace", "dev", "cable", "root", "tbf",
                "rate", f"{int(rate)}bit", "burst", f"{max(3200, int(rate / 8 / 2000))}",
                "latency", "400ms")  # fmt: skip

    @staticmethod
    def payload_bps(rate_bps: float) -> float:
        """What a limit leaves for payload: it counts frames, a speed test what they carry."""
        return rate_bps * _SEGMENT_BYTES / _FRAME_BYTES

    @staticmethod
    def within(name: str) -> tuple[str, ...]:
        """What a command is run by in one of them."""
        return ("ip", "netns", "exec", name)


@contextmanager
def two_hosts() -> Iterator[TwoHosts]:
    """Make the namespaces, and take them away; needs root, ``ip`` and ``tc`` (iproute2).

    Yields:
        Both, connected without a limit.
    """
    mark = os.getpid()
    hosts = TwoHosts(f"edge{mark}", f"cloud{mark}")
    try:
        for name in (hosts.edge, hosts.cloud):
            _ip("netns", "add", name)
        _ip("link", "add", "cable", "netns", hosts.edge, "type", "veth",
            "peer", "name", "cable", "netns", hosts.cloud)  # fmt: skip
        for name, address in (
            (hosts.edge, hosts.edge_address),
            (hosts.cloud, hosts.cloud_address),
        ):
            _ip("-n", name, "addr", "add", f"{address}/30", "dev", "cable")
            _ip("-n", name, "link", "set", "cable", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield hosts
    finally:
        for name in (hosts.edge, hosts.cloud):
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
