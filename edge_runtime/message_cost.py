"""What a request costs both of its ends beside computing, measured over this machine's loopback.

    client: write ─ send ──> server: take ─ read ─ write ─ send ──> client: take ─ read

The wire takes next to nothing there, so that what a request takes is work of the two processes, one
after the other: each end's share of the time is its share of the processor time. A device that is
slow at computing is slow at this too, and a payload of a megabyte can cost it more than a layer.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np

from splitdeploy.edge_runtime.link import Link
from splitdeploy.edge_runtime.message_server import ANSWERED, PROCESSOR, SENT
from splitdeploy.edge_runtime.wire import write_request
from splitdeploy.profiles.errors import CloudError, SessionError
from splitdeploy.profiles.message_cost import MessageCost

_SIZES = (1 << 12, 1 << 18, 1 << 20)
"""In bytes: around what cuts send."""

_ROUNDS, _WARMUP = 15, 3
_PATIENCE_S = 30.0
"""For a server to start; slow boards take seconds to import gRPC."""


@dataclass(frozen=True)
class MessageCosts:
    """What a request costs the end that asks and the end that answers."""

    client: MessageCost
    server: MessageCost


@dataclass(frozen=True)
class Exchange:
    """A request and its answer.

    Attributes:
        size_bytes: Of both.
        seconds: That they took.
        client_s: Processor time of the end that asked.
        server_s: Of the end that answered.
    """

    size_bytes: int
    seconds: float
    client_s: float
    server_s: float


def measure_messages() -> MessageCosts:
    """Send requests to a server of our own that computes nothing.

    Returns:
        What they cost both ends, as if each ran on this machine.

    Raises:
        SessionError: No server could be started here, or it does not answer.
    """
    try:
        with _server() as port, closing(Link(f"127.0.0.1:{port}")) as link:
            link.ready(_PATIENCE_S)
            return costs_of(list(_exchanges(link)))
    except (OSError, ValueError, CloudError) as error:
        raise SessionError(f"what messages cost here cannot be measured: {error}") from error


def costs_of(exchanges: Sequence[Exchange]) -> MessageCosts:
    """Lines through what was measured.

    Args:
        exchanges: Of two sizes at least.

    Returns:
        For each end the line of least squares through the medians by size, of which neither part is
        below zero.
    """
    sizes = sorted({one.size_bytes for one in exchanges})
    parts: dict[str, list[float]] = {"client": [], "server": []}
    for size in sizes:
        these = [one for one in exchanges if one.size_bytes == size]
        whole_s = statistics.median(one.seconds for one in these)
        client_s, server_s = (
            sum(getattr(one, f"{end}_s") for one in these) for end in ("client", "server")
        )
        share = client_s / (client_s + server_s) if client_s + server_s else 0.5
        parts["client"].append(share * whole_s)
        parts["server"].append((1.0 - share) * whole_s)
    return MessageCosts(*(_line(sizes, parts[end]) for end in ("client", "server")))


def _line(sizes: Sequence[int], seconds: Sequence[float]) -> MessageCost:
    slope, start = np.polyfit(sizes, seconds, 1)
    if slope < 0:
        return MessageCost(statistics.mean(seconds), 0.0)
    return MessageCost(max(0.0, float(start)), float(slope))


def _exchanges(link: Link) -> Iterator[Exchange]:
    arrays = [np.zeros((1, size // 4), np.float32) for size in _SIZES]
    before_s = 0.0
    for turn in range(_WARMUP + _ROUNDS):
        for array in arrays:
            began_s, used_s = time.perf_counter(), time.process_time()
            message = write_request("messages", {SENT.name: array}, request_id=str(turn))
            reply = link.infer(message, (ANSWERED, PROCESSOR), _PATIENCE_S)
            seconds, client_s = time.perf_counter() - began_s, time.process_time() - used_s
            now_s = float(reply.outputs[PROCESSOR.name][0, 0])
            if turn >= _WARMUP:
                yield Exchange(array.nbytes + ANSWERED.bytes, seconds, client_s, now_s - before_s)
            before_s = now_s


@contextmanager
def _server() -> Iterator[int]:
    """The port of a server in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "splitdeploy.edge_runtime.message_server"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        line = b"" if process.stdout is None else process.stdout.readline()
        if not line.strip().isdigit():
            raise ValueError("a server cannot be started")
        yield int(line)
    finally:
        process.kill()
        process.communicate()
