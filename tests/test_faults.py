"""The cloud or the link goes away in mid-stream: no picture is lost, none is answered twice.

A real server in a process of its own, real signals, a real link through a proxy. Each test streams
pictures at a steady pace, breaks something in the middle, mends it, and counts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from odd_server import late, odd_server
from split_bundles import arrays, check_right, make_bundle
from tcp_proxy import tcp_proxy

from splitdeploy.edge_runtime.answers import Answer
from splitdeploy.edge_runtime.breaker import BreakerSettings
from splitdeploy.edge_runtime.client import SplitClient
from splitdeploy.edge_runtime.link import LinkSettings

FALLBACKS = ("local", "refuse")
DEADLINE_S = 2.0
SLACK_S = 3.0
"""On a machine with more to do than cores, a thread may have to wait."""

GIVE_UP_S = 30.0
PACE_S = 0.02


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "plain")


class Server:
    """``splitdeploy serve`` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.start(0)

    def start(self, port: int) -> None:
        arguments = ["serve", str(self._folder), "--port", str(port), "--threads", "1", "-q"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "splitdeploy", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("grpc "), line
        self.port = int(line.rpartition(":")[2])
        self.address = f"127.0.0.1:{self.port}"

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(GIVE_UP_S)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    try:
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.signal(signal.SIGCONT)
        server.kill()


@pytest.fixture(scope="module")
def steady(folder: Path) -> Iterator[Server]:
    """For the tests that leave it as they found it."""
    with serving(folder) as server:
        yield server


def client(folder: Path, address: str, fallback: str, **settings: Any) -> SplitClient:
    chosen: dict[str, Any] = {
        "deadline_s": DEADLINE_S, "threads": 1, "fallback": fallback,
        "breaker": BreakerSettings(failures=3, pause_s=0.1, longest_pause_s=0.4),
        "link": LinkSettings(reconnect_s=0.2), **settings,
    }  # fmt: skip
    return SplitClient(folder, address, **chosen)


class Stream:
    """A stream that a test steps through; it keeps every answer, and checks each."""

    def __init__(self, split: SplitClient, fallback: str, deadline_s: float = DEADLINE_S) -> None:
        self.answers: list[Answer] = []
        self._split, self._fallback, self._deadline_s = split, fallback, deadline_s
        self._pictures = arrays(7)
        self._ended = False
        self._stream = split.stream(self._source(), deadline_s=deadline_s)

    def _source(self) -> Iterator[Any]:
        number = 0
        while not self._ended:
            yield self._pictures[number % 7]
            number += 1
            time.sleep(PACE_S)

    def take(self, count: int) -> list[Answer]:
        """The next few answers."""
        taken = []
        for answer in self._stream:
            self._check(answer)
            taken.append(answer)
            if len(taken) == count:
                break
        return taken

    def until(self, answered_by: str) -> None:
        """Go on until somebody in particular answers."""
        ends_s = time.monotonic() + GIVE_UP_S
        while self.take(1)[0].answered_by != answered_by:
            assert time.monotonic() < ends_s, self.answers[-1]

    def finish(self) -> None:
        """End the source, take the rest, and count."""
        self._ended = True
        self.take(10_000)
        stats = self._split.stats
        by = [answer.answered_by for answer in self.answers]
        # One answer for each picture that was asked, in order: none is lost, none comes twice.
        assert [answer.index for answer in self.answers] == list(range(stats.sent))
        assert by.count("cloud") == stats.answered_by_cloud
        assert by.count("local") == stats.answered_locally
        assert by.count("refused") == stats.refused
        assert stats.abandoned == 0
        assert ("refused" if self._fallback == "local" else "local") not in by

    def _check(self, answer: Answer) -> None:
        self.answers.append(answer)
        assert answer.times.total_s < self._deadline_s + SLACK_S
        if answer.answered_by == "refused":
            assert answer.outputs is None and answer.error and "\n" not in answer.error
            assert answer.kind in {"unavailable", "deadline", "open"}
        else:
            check_right(answer.outputs, self._pictures[answer.index % 7])
        if answer.answered_by == "local":
            assert answer.error is not None


def instead(fallback: str) -> Literal["local", "refused"]:
    """Who answers where the cloud does not."""
    return "local" if fallback == "local" else "refused"


@pytest.mark.parametrize("fallback", FALLBACKS)
def test_the_server_is_killed_and_started_again(folder: Path, fallback: str) -> None:
    with serving(folder) as server, client(folder, server.address, fallback) as split:
        stream = Stream(split, fallback)
        stream.take(20)
        assert split.stats.answered_by_cloud == 20
        server.kill()
        stream.until(instead(fallback))
        stream.take(10)
        server.start(server.port)
        stream.until("cloud")
        stream.take(5)  # the next few may have been decided before that answer came
        assert {answer.answered_by for answer in stream.take(10)} == {"cloud"}
        stream.finish()


@pytest.mark.parametrize("fallback", FALLBACKS)
def test_the_server_is_stopped_and_goes_on(folder: Path, steady: Server, fallback: str) -> None:
    with (
        client(folder, steady.address, fallback) as split,
    ):
        stream = Stream(split, fallback, 1.0)
        stream.take(20)
        steady.signal(signal.SIGSTOP)
        stream.until(instead(fallback))
        kinds = {answer.kind for answer in stream.take(20) if answer.answered_by != "cloud"}
        assert kinds <= {"deadline", "open", "unavailable"}
        steady.signal(signal.SIGCONT)
        stream.until("cloud")
        stream.take(5)  # the next few may have been decided before that answer came
        assert {answer.answered_by for answer in stream.take(10)} == {"cloud"}
        stream.finish()


@pytest.mark.parametrize(
    ("broken", "fallback"), [("cut", "local"), ("cut", "refuse"), ("silence", "local")]
)
def test_the_link_breaks_and_is_mended(
    folder: Path, steady: Server, fallback: str, broken: str
) -> None:
    with (
        tcp_proxy(steady.port) as proxy,
        client(folder, proxy.address, fallback) as split,
    ):
        stream = Stream(split, fallback, 1.0)
        stream.take(20)
        for _ in range(2):
            getattr(proxy, broken)()
            stream.until(instead(fallback))
            stream.take(10)
            proxy.restore()
            stream.until("cloud")
            stream.take(10)
        stream.finish()


def test_the_link_becomes_too_slow_for_the_deadline(folder: Path, steady: Server) -> None:
    fallback = "local"
    with (
        tcp_proxy(steady.port) as proxy,
        client(folder, proxy.address, fallback) as split,
    ):
        stream = Stream(split, fallback, 1.0)
        stream.take(20)
        proxy.throttle(8 * 300.0)  # a payload of 768 bytes takes longer than two seconds
        stream.until(instead(fallback))
        stream.take(10)
        uplink = split.uplink
        assert uplink is not None and uplink.bps is not None and uplink.bps < 400_000
        proxy.throttle(None)
        stream.until("cloud")
        stream.finish()


@pytest.mark.parametrize("fallback", FALLBACKS)
def test_a_server_slower_than_the_deadline(folder: Path, fallback: str) -> None:
    with (
        odd_server(always=late(5.0)) as odd,
        client(folder, odd.address, fallback) as split,
    ):
        stream = Stream(split, fallback, 1.0)
        assert {answer.answered_by for answer in stream.take(12)} == {instead(fallback)}
        stream.finish()
        # Left alone in between: not every picture was sent.
        assert len(odd.received) < split.stats.sent


def test_a_server_slower_than_the_pictures_come(folder: Path) -> None:
    with odd_server(always=late(0.1)) as odd, client(folder, odd.address, "local") as split:
        stream = Stream(split, "local")
        assert {answer.answered_by for answer in stream.take(20)} == {"cloud"}
        stream.finish()


def test_a_server_that_drains_refuses_nothing_that_is_under_way(folder: Path) -> None:
    with serving(folder) as server, client(folder, server.address, "local") as split:
        stream = Stream(split, "local")
        stream.take(20)
        server.signal(signal.SIGTERM)
        stream.until("local")
        assert server.process.wait(GIVE_UP_S) == 0
        stream.take(5)
        stream.finish()


def test_single_requests_through_an_outage(folder: Path) -> None:
    x = arrays(1)[0]
    with serving(folder) as server, client(folder, server.address, "local") as split:
        found = [split.infer(x) for _ in range(5)]
        server.kill()
        found += [split.infer(x) for _ in range(30)]
        for answer in found:
            check_right(answer.outputs, x)
            assert answer.times.total_s < DEADLINE_S + SLACK_S
        stats = split.stats
        assert (stats.sent, stats.answered_by_cloud, stats.answered_locally) == (35, 5, 30)


def test_a_pause_at_the_worst_moment(folder: Path, steady: Server) -> None:
    """The server stops again and again, each time for less than a deadline: nobody notices."""
    with client(folder, steady.address, "refuse", retries=0) as split:
        stream = Stream(split, "refuse")
        for _ in range(4):
            stream.take(5)
            steady.signal(signal.SIGSTOP)
            time.sleep(0.2)
            steady.signal(signal.SIGCONT)
        assert {answer.answered_by for answer in stream.answers} == {"cloud"}
        stream.finish()
