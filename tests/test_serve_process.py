"""``splitdeploy serve`` as a process: its signals, exit codes, metrics and logs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from certificates import Authority
from command_line import splitdeploy
from prometheus_client.parser import text_string_to_metric_families
from serve_cases import MOODY, ask, check_serves, connect, expected, make_bundle, picture
from tritonclient.utils import InferenceServerException

SLOW = 5000.0
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@dataclass
class Process:
    """A server of its own process, and NVIDIA's client of it."""

    process: subprocess.Popen[str]
    addresses: dict[str, str]
    client: triton.InferenceServerClient

    def end(self) -> tuple[int, list[str]]:
        """Its exit code and the lines of standard error, once it has ended."""
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, err.splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("process") / "b")


@contextlib.contextmanager
def serving(folder: Path, *flags: str, metrics: bool = False) -> Iterator[Process]:
    extra = ["--metrics-port", "0"] if metrics else []
    command = [
        *(sys.executable, "-m", "splitdeploy", "serve", str(folder), "--port", "0"),
        *("--threads", "1", *extra, *flags),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline().split() for _ in range(2 if metrics else 1)]
        addresses = dict(lines)
        port = int(addresses["grpc"].rpartition(":")[2])
        with connect(port) as client:
            yield Process(process, addresses, client)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=30)


def scrape(running: Process) -> dict[tuple[str, ...], float]:
    with urllib.request.urlopen(running.addresses["metrics"], timeout=10) as reply:
        text = reply.read().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def wait_until_in_progress(running: Process) -> None:
    end_s = time.monotonic() + 20
    while scrape(running)["splitdeploy_requests_in_progress",] < 1:
        assert time.monotonic() < end_s
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(folder: Path, number: signal.Signals) -> None:
    with serving(folder, metrics=True) as running, ThreadPoolExecutor(1) as pool:
        check_serves(running.client)
        slow = pool.submit(ask, running.client, picture(mood=SLOW))
        wait_until_in_progress(running)
        running.process.send_signal(number)
        refusals = 0
        while not slow.done():
            with contextlib.suppress(InferenceServerException):
                if not running.client.is_server_ready():
                    with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
                        ask(running.client, picture())
                    refusals += 1
            time.sleep(0.02)
        answer = slow.result().as_numpy("y")
        np.testing.assert_allclose(answer, expected(picture()), rtol=1e-5, atol=1e-5)
        code, lines = running.end()
    assert code == 0 and refusals > 0
    assert lines[0].startswith(f"serving {MOODY} on 127.0.0.1:")
    assert "plaintext; batches up to 32, 2 requests at once, 32 waiting, messages up" in lines[0]
    events = [json.loads(line) for line in lines[1:]]
    assert events[0]["event"] == "draining" and events[0]["in_progress"] == 1
    assert events[-1]["event"] == "drained" and events[-1]["finished"] is True
    assert {event["outcome"] for event in events[1:-1]} == {"draining"}


def test_a_second_signal_ends_at_once(folder: Path) -> None:
    with serving(folder, "--grace", "60s", metrics=True) as running, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, running.client, picture(mood=20 * SLOW))
        wait_until_in_progress(running)
        running.process.send_signal(signal.SIGTERM)
        while running.client.is_server_ready():
            time.sleep(0.01)
        running.process.send_signal(signal.SIGTERM)
        code, _ = running.end()
        with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
            slow.result()
    assert code == -signal.SIGTERM


def test_what_outlasts_the_grace_is_cut_off_and_told(folder: Path) -> None:
    with serving(folder, "--grace", "50ms", metrics=True) as running, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, running.client, picture(mood=20 * SLOW))
        wait_until_in_progress(running)
        running.process.send_signal(signal.SIGTERM)
        code, lines = running.end()
        with pytest.raises(InferenceServerException, match="CANCELLED|UNAVAILABLE"):
            slow.result()
    assert code == 1
    assert lines[-1].startswith("error: requests were still in progress after 0.05 s and were cut")


def test_metrics_and_logs_tell_of_requests_and_not_what_is_in_them(folder: Path) -> None:
    secret = picture(2)
    secret["relu"][:] = 1234.5678
    with serving(folder, "-v", metrics=True) as running:
        before = scrape(running)
        assert before["splitdeploy_requests_total", MOODY, "ok"] == 0
        ask(running.client, secret, request_id="good\nid\x1b" + "x" * 500)
        for mood in (-1.0, 3e9):
            with pytest.raises(InferenceServerException, match="INTERNAL"):
                ask(running.client, picture(mood=mood))
        bad = {**secret, "relu": np.full((2, 4, 2, 2), np.nan, np.float32)}
        with pytest.raises(InferenceServerException, match="finite"):
            ask(running.client, bad)
        with pytest.raises(InferenceServerException, match="NOT_FOUND"):
            ask(running.client, secret, model="no-such-model")
        after = scrape(running)
        running.process.send_signal(signal.SIGTERM)
        code, lines = running.end()
    assert code == 0
    found = {key[1:]: value for key, value in after.items() if key[0].endswith("requests_total")}
    assert {key: value for key, value in found.items() if value} == {
        (MOODY, "ok"): 1, (MOODY, "failed"): 2, (MOODY, "invalid"): 1, ("", "not_found"): 1,
    }  # fmt: skip
    assert after["splitdeploy_stage_seconds_count", MOODY, "compute"] == 1
    assert 0 < after["splitdeploy_stage_seconds_sum", MOODY, "compute"] < 20
    assert after["splitdeploy_stage_seconds_count", MOODY, "queue"] == 1
    assert after["splitdeploy_pictures_total", MOODY] == 2
    assert after["splitdeploy_message_bytes_total", "in", MOODY] > 3 * 136
    assert after["splitdeploy_message_bytes_total", "out", MOODY] > 80
    assert after["splitdeploy_requests_in_progress",] == 0
    assert not any("no-such-model" in part for key in after for part in key)
    events = [json.loads(line) for line in lines[1:] if "request" in line and '"id"' in line]
    assert [event["outcome"] for event in events] == [
        "ok", "failed", "failed", "invalid", "not_found",
    ]  # fmt: skip
    good = events[0]
    assert good["id"] == "good?id?" + "x" * 56 + "..." and good["batch"] == 2
    assert good["model"] == MOODY and good["peer"].startswith("ipv4:127.0.0.1:")
    assert good["compute_us"] > 0 and good["queue_us"] >= 0 and good["bytes_in"] > 136
    text = "\n".join(lines)
    assert "1234.56" not in text and "idx=" not in text and "\x1b" not in text


def test_how_much_is_logged_can_be_chosen(folder: Path) -> None:
    outcomes = {}
    for flags in ((), ("-q",)):
        with serving(folder, *flags) as running:
            check_serves(running.client)
            with pytest.raises(InferenceServerException):
                ask(running.client, picture(), model="x")
            with pytest.raises(InferenceServerException):
                ask(running.client, picture(mood=-1))
            running.process.send_signal(signal.SIGTERM)
            code, lines = running.end()
        assert code == 0
        found = [json.loads(line) for line in lines if line.startswith("{")]
        outcomes[flags] = [event["outcome"] for event in found if "outcome" in event]
        assert len(lines) == (5 if not flags else 1), lines
    assert outcomes == {(): ["not_found", "failed"], ("-q",): ["failed"]}


def test_bad_starts_are_one_line(folder: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    server, client = authority.server(), authority.client()
    late = authority.server("late", expired=True)
    for flags, code, message in (
        (("--tls-cert", server.cert), 2, "--tls-cert and --tls-key together"),
        (("--tls-client-ca", server.cert), 2, "--tls-cert and --tls-key together"),
        (("--tls-cert", server.cert, "--tls-key", client.key), 1, "belongs to another certificate"),
        (("--tls-cert", tmp_path / "no", "--tls-key", client.key), 1, "cannot read the certificat"),
        (("--tls-cert", late.cert, "--tls-key", late.key), 1, "has expired: renew it"),
        (("--max-message", "100B"), 1, "one picture needs a message of"),
        (("--max-message", "100"), 2, "expected a size with a unit"),
        (("--max-batch", "0"), 2, "0 is not in the range"),
        (("--grace", "10"), 2, "expected a time with a unit"),
        (("--provider", "None"), 1, "execution provider None is not in this onnxruntime"),
        (("--host", "192.0.2.1"), 1, "cannot listen on 192.0.2.1:0: Cannot assign requested"),
        (("--engine", "triton", "--threads", "2"), 2, "--threads is for --engine embedded"),
        (("--engine", "triton", "--provider", "x"), 2, "--provider is for --engine embedded"),
        ((tmp_path / "none",), 1, "expected a bundle at"),
        ((folder,), 1, f"two bundles would be served as '{MOODY}'"),
    ):
        outcome = splitdeploy("serve", folder, "--port", 0, *flags)
        assert outcome.code == code, (flags, outcome)
        assert message in outcome.err and outcome.err.count("\n") == 1 and outcome.out == ""
    assert splitdeploy("serve").code == 2


def test_a_taken_port_is_one_line(folder: Path) -> None:
    with serving(folder) as running:
        port = running.addresses["grpc"].rpartition(":")[2]
        for flags in (("--port", port), ("--port", "0", "--metrics-port", port)):
            done = subprocess.run(
                [sys.executable, "-m", "splitdeploy", "serve", str(folder), "-q", *flags],
                capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 1, done.stderr
            assert "Address already in use: choose another --" in done.stderr
            assert done.stderr.count("\n") == 1
        check_serves(running.client)


OTHER_THREAD = """
import signal, threading, time
from splitdeploy.cloud_runtime.stop_signals import StopSignals
ready, done = threading.Event(), threading.Event()
def other():
    ready.wait()
    time.sleep(0.2)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    done.wait()
thread = threading.Thread(target=other, daemon=True)
thread.start()
with StopSignals() as signals:
    ready.set()
    print(signals.wait().name)
done.set()
"""


def test_a_signal_counts_whichever_thread_the_system_gives_it_to() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OTHER_THREAD], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout == "SIGTERM\n"
