"""The client against real servers: one answer a picture, in order, right, in time."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from odd_server import abort, answer, late, odd_server
from PIL import Image
from split_bundles import (
    PAYLOAD_BYTES,
    SERVED,
    SIZE,
    arrays,
    check_right,
    expected,
    make_bundle,
)

from splitdeploy.cloud_runtime.server import TailServer
from splitdeploy.edge_runtime.answers import Answer, ClientStats
from splitdeploy.edge_runtime.breaker import BreakerSettings
from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.edge_runtime.client import SplitClient
from splitdeploy.edge_runtime.link import Link, LinkSettings
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.preprocess import Preprocessing
from splitdeploy.edge_runtime.wire import write_response
from splitdeploy.profiles.errors import (
    CloudError,
    ReportError,
    SessionError,
    UnknownNameError,
    UsageError,
)

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
BROKEN = np.full((1, 3, SIZE, SIZE), -100, np.float32)
"""The head makes NaN of it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "plain")


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "noisy", noise=True)


@pytest.fixture(scope="module")
def cloud(folder: Path) -> Iterator[str]:
    """The embedded server."""
    with TailServer([read_bundle(folder, "cloud")], port=0, threads=1) as server:
        yield f"127.0.0.1:{server.port}"


def client(folder: Path, address: str | None, **settings: Any) -> SplitClient:
    return SplitClient(folder, address, **{"threads": 1, "deadline_s": 20.0, **settings})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def check_sum(stats: ClientStats) -> None:
    ends = stats.answered_by_cloud + stats.answered_locally + stats.refused + stats.abandoned
    assert stats.sent == ends


def check_no_threads_left() -> None:
    """Whatever the stream started has ended; gRPC's own threads are not the client's."""
    gc.collect()
    left = [t.name for t in threading.enumerate() if t.name.startswith("splitdeploy-")]
    assert not left


def test_one_picture_after_the_other(folder: Path, cloud: str) -> None:
    x = arrays(3)
    with client(folder, cloud) as split:
        for one in x:
            found = split.infer(one)
            check_right(found.raise_if_refused().outputs, one)
            assert (found.answered_by, found.error, found.attempts) == ("cloud", None, 1)
            assert found.payload_bytes == PAYLOAD_BYTES and found.index == 0
            times = found.times
            parts = (times.preprocess_s, times.head_s, times.wire_s, times.tail_s, times.queue_s)
            assert all(part is not None and part >= 0 for part in parts)
            assert sum(part or 0.0 for part in parts) <= times.total_s
        assert split.stats == ClientStats(sent=3, answered_by_cloud=3, bytes_sent=3 * PAYLOAD_BYTES)


def test_a_picture_is_preprocessed_whatever_it_comes_as(
    folder: Path, cloud: str, tmp_path: Path
) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)
    Image.fromarray(frame).save(tmp_path / "p.png")
    wanted = expected(Preprocessing(3, SIZE, SIZE, (0.5,) * 3, (0.5,) * 3)([frame]))
    with client(folder, cloud) as split:
        for item in (frame, Image.fromarray(frame), tmp_path / "p.png"):
            outputs = split.infer(item).raise_if_refused().outputs
            assert outputs is not None
            np.testing.assert_allclose(outputs["y"], wanted, rtol=1e-4, atol=1e-4)


def test_a_stream_is_answered_in_order(folder: Path, cloud: str) -> None:
    x = arrays(60)
    with client(folder, cloud) as split:
        found = list(split.stream({"x": one} for one in x))
        assert [one.index for one in found] == list(range(60))
        for one, given in zip(found, x, strict=True):
            check_right(one.outputs, given)
        assert split.stats.answered_by_cloud == 60
        assert list(split.stream([])) == []
    check_no_threads_left()


def test_slow_answers_do_not_hold_up_the_order(folder: Path) -> None:
    x = arrays(8)
    with odd_server(late(0.3), answer, late(0.1)) as odd, client(folder, odd.address) as split:
        for number, found in enumerate(split.stream(x)):
            assert found.index == number
            check_right(found.outputs, x[number])
        assert split.stats.answered_by_cloud == 8


@pytest.mark.parametrize("batch", ["n", 1])
def test_a_batch_goes_together_where_the_halves_allow(tmp_path: Path, batch: int | str) -> None:
    bundle = make_bundle(tmp_path / "b", batch=batch)
    x = arrays(10)
    items: list[Any] = [*x[:4], BROKEN, *x[4:7], tmp_path / "none.png", *x[7:]]
    with (
        odd_server(shape=(-1 if batch == "n" else 1, 3, SIZE, SIZE)) as odd,
        client(bundle, odd.address, max_batch=5) as split,
    ):
        found = split.infer_batch(items)
        sizes = sorted(request.inputs[0].shape[0] for request in odd.received)
        assert sizes == ([2, 4, 4] if batch == "n" else [1] * 10)
        assert split.infer_batch([]) == []
    assert [one.index for one in found] == list(range(12))
    good = [one for one in found if one.answered_by == "cloud"]
    for one, given in zip(good, x, strict=True):
        check_right(one.outputs, given)
    assert [one.index for one in found if one.answered_by == "refused"] == [4, 8]
    assert "NaN or infinity among z" in str(found[4].error)
    assert "cannot be read: No such file" in str(found[8].error)
    assert split.stats == ClientStats(12, 10, 0, 2, 0, 0, 0, 10 * PAYLOAD_BYTES)


def test_async(folder: Path, cloud: str) -> None:
    x = arrays(20)

    async def source() -> AsyncIterator[Any]:
        for one in x:
            await asyncio.sleep(0)
            yield one

    async def go() -> None:
        async with client(folder, cloud) as split:
            found = await asyncio.gather(*(split.ainfer(one) for one in x))
            for one, given in zip(found, x, strict=True):
                check_right(one.outputs, given)
            for items in (x, source()):
                number = 0
                async for answered in split.astream(items):
                    assert answered.index == number
                    check_right(answered.outputs, x[number])
                    number += 1
                assert number == 20
            check_sum(split.stats)

    asyncio.run(go())
    check_no_threads_left()


def test_an_error_of_an_async_source_comes_after_the_answers(folder: Path, cloud: str) -> None:
    async def source() -> AsyncIterator[Any]:
        for one in arrays(2):
            yield one
        raise OSError("the camera was unplugged")

    async def go() -> None:
        async with client(folder, cloud) as split:
            with pytest.raises(OSError, match="unplugged"):
                async for _ in split.astream(source()):
                    pass
            assert split.stats.answered_by_cloud == 2
            check_sum(split.stats)

    asyncio.run(asyncio.wait_for(go(), 30))


def test_leaving_an_async_stream_ends_it(folder: Path, cloud: str) -> None:
    left = []

    async def for_ever() -> AsyncIterator[Any]:
        try:
            yield arrays(1)[0]
            await asyncio.Event().wait()
        finally:
            left.append("source")

    async def go() -> None:
        async with client(folder, cloud) as split:
            stream = split.astream(for_ever())
            async for found in stream:
                assert found.answered_by == "cloud"
                break
            await stream.aclose()
            check_sum(split.stats)

    asyncio.run(asyncio.wait_for(go(), 30))
    assert left == ["source"]
    check_no_threads_left()


def test_cancelling_gives_the_request_up(folder: Path) -> None:
    async def go() -> None:
        async with client(folder, odd.address) as split:
            task = asyncio.create_task(split.ainfer(arrays(1)[0]))
            while not odd.received:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert split.stats.abandoned == 1
        check_sum(split.stats)

    with odd_server(always=late(60)) as odd:
        asyncio.run(asyncio.wait_for(go(), 30))


def test_leaving_a_stream_ends_it(folder: Path, cloud: str) -> None:
    given = []

    def source() -> Iterator[Any]:
        for number, one in enumerate(arrays(1) * 10_000):
            given.append(number)
            yield one

    with client(folder, cloud, window=2) as split:
        for found in split.stream(source()):
            if found.index == 5:
                break
        check_no_threads_left()
        # The source is read a few pictures ahead of the consumer, never far.
        assert len(given) <= 6 + 2 + 2
        check_sum(split.stats)
        check_right(split.infer(arrays(1)[0]).outputs, arrays(1)[0])


def test_a_consumer_that_takes_its_time_costs_no_deadline(folder: Path, cloud: str) -> None:
    with client(folder, cloud, deadline_s=2.0) as split:
        stream = split.stream(arrays(12))
        next(stream)
        time.sleep(2.2)
        assert [one.answered_by for one in stream] == ["cloud"] * 11


def test_an_error_of_the_source_comes_after_the_answers(folder: Path, cloud: str) -> None:
    def source() -> Iterator[Any]:
        yield from arrays(3)
        raise OSError("the camera was unplugged")

    with client(folder, cloud) as split:
        found = []
        with pytest.raises(OSError, match="unplugged"):
            found.extend(split.stream(source()))
        check_sum(split.stats)
        assert split.stats.answered_by_cloud == 3
        with pytest.raises(TypeError, match="not iterable"):
            split.stream(3)  # type: ignore[arg-type]
    check_no_threads_left()


def test_an_interrupted_consumer_leaves_no_threads(folder: Path) -> None:
    with odd_server(always=late(60)) as odd, client(folder, odd.address) as split:

        def interrupt() -> None:
            while not odd.received:
                time.sleep(0.01)
            import signal

            signal.raise_signal(signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            list(split.stream(arrays(20)))
        check_no_threads_left()
        check_sum(split.stats)


def test_closing_the_client_ends_its_streams(folder: Path) -> None:
    with odd_server(always=late(60)) as odd:
        split = client(folder, odd.address)
        found: list[Any] = []

        def consume() -> None:
            try:
                found.extend(split.stream(arrays(20)))
            except SessionError as error:
                found.append(error)

        consumer = threading.Thread(target=consume)
        consumer.start()
        while not odd.received:
            time.sleep(0.01)
        split.close()
        split.close()
        consumer.join(20)
        assert not consumer.is_alive()
    assert "expected an open client" in str(found[-1])
    check_sum(split.stats)
    with pytest.raises(SessionError, match="expected an open client, it is closed"):
        split.infer(arrays(1)[0])
    with pytest.raises(SessionError, match="expected an open client, it is closed"):
        split.stream([])
    check_no_threads_left()


def test_what_is_no_input_is_refused_and_the_stream_goes_on(folder: Path, cloud: str) -> None:
    good = arrays(1)[0]
    bad = {
        "expected finite numbers from the head, got NaN or infinity among z": BROKEN,
        "'x': expected finite numbers, got NaN": np.full_like(good, np.nan),
        r"'x': expected float32 \[1, 3, 8, 8\] for one picture, got float32 \[2, 3, 8, 8\]":
            np.concatenate([good, good]),
        r"'x': expected float32 .*, got float64": good.astype(np.float64),
        r"'x': expected float32 .*, got list": {"x": [1]},
        "expected an array for each of x, got q": {"q": good},
        "expected a picture in none.jpg, it cannot be read: No such file": "none.jpg",
        "expected a picture or an array for each of x, got int": 3,
        r"expected a frame \[h, w, 3\] of uint8": np.zeros((3, 4, 5), np.uint8),
        "expected a picture in .*none.png, it cannot be read: No such file": Path("none.png"),
    }  # fmt: skip
    with client(folder, cloud) as split:
        for said, item in bad.items():
            found = list(split.stream([good, item, good]))  # type: ignore[list-item]
            assert [one.answered_by for one in found] == ["cloud", "refused", "cloud"]
            assert found[1].kind == "input" and found[1].attempts == 0
            with pytest.raises(CloudError, match=said):
                found[1].raise_if_refused()
        check_sum(split.stats)
        assert split.stats.refused == len(bad)


def test_a_retry_sends_the_same_bytes(noisy: Path) -> None:
    """Fresh noise on the same picture would let the cloud average it out."""
    x = arrays(1)[0]
    acts = (abort(UNAVAILABLE), abort(grpc.StatusCode.RESOURCE_EXHAUSTED))
    with odd_server(*acts) as odd, client(noisy, odd.address, retries=2) as split:
        found = split.infer(x)
        assert found.answered_by == "cloud" and found.attempts == 3
        first, second, third = (one.SerializeToString(deterministic=True) for one in odd.received)
        assert first == second == third
        split.infer(x)
        again = odd.received[3]
        assert again.id != odd.received[0].id
        assert again.raw_input_contents[0] != odd.received[0].raw_input_contents[0]
        assert split.stats == ClientStats(
            sent=2, answered_by_cloud=2, retried=2, bytes_sent=4 * PAYLOAD_BYTES
        )


def test_the_local_tail_gets_the_payload_that_was_sent(noisy: Path) -> None:
    with (
        odd_server(always=abort(UNAVAILABLE)) as odd,
        client(noisy, odd.address, fallback="local", retries=1) as split,
    ):
        found = split.infer(arrays(1)[0])
        assert found.answered_by == "local" and found.attempts == 2
        assert "UNAVAILABLE: as told" in str(found.error) and found.kind == "unavailable"
        wanted = answer(odd.received[0], None)  # type: ignore[arg-type]
        sent = np.frombuffer(wanted.raw_output_contents[0], np.float32)
        assert found.outputs is not None and found.times.tail_s is not None
        np.testing.assert_allclose(found.outputs["y"][0], sent, rtol=1e-4, atol=1e-4)


def test_every_picture_of_a_batch_has_noise_of_its_own(noisy: Path) -> None:
    x = arrays(1)[0]
    with odd_server() as odd, client(noisy, odd.address) as split:
        split.infer_batch([x, x])
        sent = np.frombuffer(odd.received[0].raw_input_contents[0], np.float32).reshape(2, -1)
        assert (sent[0] != sent[1]).mean() > 0.99


@pytest.mark.parametrize(
    ("act", "kind", "attempts", "said"),
    [
        (abort(UNAVAILABLE), "unavailable", 3, "no answer from .*UNAVAILABLE: as told"),
        (abort(grpc.StatusCode.RESOURCE_EXHAUSTED), "overloaded", 3, "no room for this request"),
        (abort(grpc.StatusCode.INVALID_ARGUMENT), "refused", 1, "this request is refused by"),
        (abort(grpc.StatusCode.UNAUTHENTICATED), "refused", 1, "UNAUTHENTICATED"),
        (late(60), "deadline", 1, "no answer in time from .*DEADLINE_EXCEEDED"),
        (
            abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)"),
            "refused", 1, "larger than max",
        ),
        (
            lambda request, _: write_response(SERVED, {"y": np.zeros((1, 10), "f4")},
                                              request_id="x"),
            "refused", 1, "expected the answer to request '.*-1', got that to 'x'",
        ),
        (
            lambda request, _: write_response(SERVED, {"y": np.zeros((1, 9), "f4")},
                                              request_id=request.id),
            "refused", 1, r"answered wrongly: output 'y': expected shape \[1, 10\], got \[1, 9\]",
        ),
        (
            lambda request, _: write_response(SERVED, {"y": np.full((1, 10), np.nan, "f4")},
                                              request_id=request.id),
            "refused", 1, "answered wrongly: output 'y': expected finite numbers",
        ),
        (
            lambda request, _: write_response(SERVED, {"y": np.zeros((2, 10), "f4")},
                                              request_id=request.id),
            "refused", 1, r"answered wrongly: output 'y': expected shape \[1, 10\], got \[2, 10\]",
        ),
    ],
)  # fmt: skip
def test_what_the_cloud_may_do_instead_of_answering(
    folder: Path, act: Any, kind: str, attempts: int, said: str
) -> None:
    x = arrays(1)[0]
    with odd_server(answer, always=act) as odd, client(folder, odd.address, retries=2) as split:
        check_right(split.infer(x).outputs, x)
        found = split.infer(x, deadline_s=1.0)
        assert (found.answered_by, found.kind, found.attempts) == ("refused", kind, attempts)
        assert found.outputs is None and found.times.total_s < 5.0
        with pytest.raises(CloudError, match=said) as caught:
            found.raise_if_refused()
        assert caught.value.kind == kind and "\n" not in str(caught.value)
        check_sum(split.stats)


def test_the_breaker_leaves_a_cloud_alone_that_fails_and_probes_it(folder: Path) -> None:
    x = arrays(1)[0]
    settings = BreakerSettings(failures=2, pause_s=0.3, longest_pause_s=0.3)
    with (
        odd_server(*[abort(UNAVAILABLE)] * 3) as odd,
        client(folder, odd.address, retries=0, breaker=settings, fallback="local") as split,
    ):
        found = [split.infer(x) for _ in range(4)]
        assert len(odd.received) == 2
        assert [one.attempts for one in found] == [1, 1, 0, 0]
        assert [one.kind for one in found] == ["unavailable"] * 2 + ["open"] * 2
        assert "did not answer several times in a row" in str(found[2].error)
        for one in found:
            assert one.answered_by == "local"
            check_right(one.outputs, x)
        time.sleep(0.35)
        assert split.infer(x).kind == "unavailable"  # the probe
        assert split.infer(x).kind == "open"
        time.sleep(0.35)
        assert [split.infer(x).answered_by for _ in range(2)] == ["cloud", "cloud"]
        assert len(odd.received) == 5
        check_sum(split.stats)


def test_refusals_do_not_open_the_breaker(folder: Path) -> None:
    x = arrays(1)[0]
    act = abort(grpc.StatusCode.INVALID_ARGUMENT)
    with odd_server(*[act] * 9) as odd, client(folder, odd.address) as split:
        assert [split.infer(x).kind for _ in range(9)] == ["refused"] * 9
        check_right(split.infer(x).outputs, x)
        assert len(odd.received) == 10


def test_a_message_that_is_too_large_is_not_sent(folder: Path) -> None:
    settings = LinkSettings(max_message_bytes=(64 << 10) + PAYLOAD_BYTES - 1)
    with odd_server() as odd, client(folder, odd.address, link=settings) as split:
        found = split.infer(arrays(1)[0])
        assert found.kind == "refused" and not odd.received and split.stats.bytes_sent == 0
        assert f"at most {PAYLOAD_BYTES - 1} bytes, got {PAYLOAD_BYTES}" in str(found.error)


def test_a_batch_stays_below_the_largest_message(folder: Path) -> None:
    settings = LinkSettings(max_message_bytes=(64 << 10) + 3 * PAYLOAD_BYTES)
    with odd_server() as odd, client(folder, odd.address, link=settings) as split:
        assert [one.answered_by for one in split.infer_batch(arrays(7))] == ["cloud"] * 7
        sizes = sorted(request.inputs[0].shape[0] for request in odd.received)
        assert sizes == [1, 3, 3]


def test_other_weights_behind_the_same_tensors_are_told(cloud: str, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", work=1)
    with pytest.raises(CloudError, match=r"has other weights: expected a tail with SHA-256"):
        client(other, cloud)


def test_a_tail_of_another_model_is_told_at_once(folder: Path, tmp_path: Path, cloud: str) -> None:
    other = make_bundle(tmp_path / "other", served="another_tail")
    with pytest.raises(
        CloudError, match=f"expected .* to serve 'another_tail', it serves {SERVED}: serve this"
    ):
        client(other, cloud)
    with pytest.raises(CloudError, match="to serve 'another_tail'"):
        client(other, cloud, fallback="local")
    with (
        odd_server() as odd,
        pytest.raises(CloudError, match="to serve 'another_tail', it serves other models"),
    ):
        client(other, odd.address)
    wider = make_bundle(tmp_path / "wider", classes=9)
    with pytest.raises(
        CloudError,
        match=r"is the tail of another model or cut: expected outputs y FP32 \[\?, 9\], it has y "
        r"FP32 \[\?, 10\]",
    ):
        client(wider, cloud)


def test_a_wrong_server_that_comes_later_is_told_too(folder: Path) -> None:
    port = free_port()
    with client(folder, f"127.0.0.1:{port}", fallback="local", deadline_s=0.5) as split:
        assert split.infer(arrays(1)[0]).answered_by == "local"
        with odd_server(port=port, shape=(-1, 5)) as odd:
            ends_s = time.monotonic() + 20
            while (found := split.infer(arrays(1)[0])).kind != "refused":
                assert time.monotonic() < ends_s, found
                time.sleep(0.05)
            assert "another model or cut" in str(found.error)
            assert found.answered_by == "local" and not odd.received


def test_no_cloud(folder: Path) -> None:
    x = arrays(3)
    nobody = f"127.0.0.1:{free_port()}"
    with pytest.raises(
        CloudError, match=f"Protocol at {nobody}, none answered within 0.3 s.*refused"
    ):
        client(folder, nobody, deadline_s=0.3)
    with client(folder, nobody, deadline_s=1.0, fallback="local") as split:
        for one, given in zip(split.stream(x), x, strict=True):
            assert one.answered_by == "local" and one.kind in {"unavailable", "open"}
            check_right(one.outputs, given)
    with client(folder, None, fallback="local") as split:
        for one, given in zip(split.infer_batch(x), x, strict=True):
            assert (one.answered_by, one.error, one.attempts) == ("local", None, 0)
            check_right(one.outputs, given)
        assert split.stats.bytes_sent == 0 and split.uplink is None


def test_a_local_tail_that_does_not_fit_into_the_deadline(tmp_path: Path) -> None:
    slow = make_bundle(tmp_path / "slow", work=300)
    with pytest.raises(UsageError, match="expected a deadline above the .* s that the tail takes"):
        client(slow, None, fallback="local", deadline_s=0.001)
    with client(slow, None, fallback="local") as split:
        found = split.infer(arrays(1)[0], deadline_s=0.002)
        assert found.kind == "deadline" and "the local tail needs" in str(found.error)
        assert split.infer(arrays(1)[0]).answered_by == "local"
        # The answers come one after the other, and each still within its deadline.
        found = list(split.stream(arrays(6), deadline_s=20.0))
        assert [one.answered_by for one in found] == ["local"] * 6


def test_the_head_may_run_in_a_session_of_ones_own(folder: Path, noisy: Path, cloud: str) -> None:
    x = arrays(1)[0]
    with OnnxRuntimeSession(folder / "head.onnx", threads=1) as head:
        with client(folder, cloud, head=head) as split:
            check_right(split.infer(x).outputs, x)
        assert head.run({"x": x})["z"].shape == x.shape  # it stays its owner's
        with pytest.raises(SessionError, match=r"expected a head with inputs noise.z, x and out"):
            client(noisy, cloud, head=head)


def test_settings_that_cannot_be_meant(folder: Path, tmp_path: Path, cloud: str) -> None:
    for settings, error, said in (
        ({"fallback": "locale"}, UnknownNameError, "unknown fallback 'locale': did you mean local"),
        ({"deadline_s": 0.0}, UsageError, "expected a deadline above 0 s, got 0.0 s"),
        ({"window": 0}, UsageError, "a window and a max_batch of at least 1, got 1, 0 and 32"),
        ({"retries": -1}, UsageError, "expected retries of at least 0"),
    ):
        with pytest.raises(error, match=said):
            client(folder, cloud, **settings)
    with pytest.raises(UsageError, match="expected the cloud's address, got none"):
        client(folder, None)
    for address in ("cloud", "cloud:", ":80", "cloud:0", "cloud:99999", "a:b:1", "[::1:1", "x:-1"):
        with pytest.raises(UsageError, match="expected the cloud's address as HOST:PORT"):
            client(folder, address)
    with client(folder, cloud) as split, pytest.raises(UsageError, match="above 0 s, got -1"):
        split.infer(arrays(1)[0], deadline_s=-1)
    bare = make_bundle(tmp_path / "bare")
    (bare / "tail.onnx").unlink()
    with client(bare, cloud) as split:
        check_right(split.infer(arrays(1)[0]).outputs, arrays(1)[0])
    with pytest.raises(ReportError, match=r"expected tail.onnx in .*bare for answers without"):
        client(bare, cloud, fallback="local")


def test_threads_share_a_client(folder: Path, cloud: str) -> None:
    x = arrays(24)
    found: dict[int, Answer] = {}

    def work(places: range) -> None:
        for place in places:
            found[place] = split.infer(x[place])

    with client(folder, cloud) as split:
        workers = [threading.Thread(target=work, args=(range(s, 24, 4),)) for s in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        for place, one in found.items():
            check_right(one.outputs, x[place])
        assert split.stats.answered_by_cloud == len(found) == 24


def test_the_uplink_is_told_from_a_server_that_is_slow_to_be_reached(folder: Path) -> None:
    with odd_server(always=late(0.05)) as odd:
        with client(folder, odd.address) as split:
            split.infer(arrays(1)[0])
            assert split.uplink is None and split.uplink_bps is None
        # As if the tail took nothing, the wait looks like a slow way up.
        with client(folder, odd.address, cloud_tail_s=0.0) as split:
            for one in arrays(3):
                split.infer(one)
            assert split.uplink_bps is not None
            assert split.uplink_bps == pytest.approx(8 * PAYLOAD_BYTES / 0.05, rel=0.5)


def test_a_link_tells_whether_it_is_ready(cloud: str) -> None:
    link = Link(cloud)
    assert link.ready(10.0) and 0 < link.round_trip_s(10.0) < 10
    link.close()
    for ask in (link.ready, link.round_trip_s):
        with pytest.raises(CloudError, match="the client is closed"):
            ask(1.0)
