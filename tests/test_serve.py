"""The embedded server over real sockets, with NVIDIA's own client."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from certificates import Authority
from serve_cases import (
    MOODY,
    Running,
    ask,
    bundle,
    check_serves,
    counted,
    expected,
    inputs,
    picture,
    running,
)
from tritonclient.utils import InferenceServerException

from splitdeploy.cloud_runtime.limits import Limits, message_bytes
from splitdeploy.cloud_runtime.server import TailServer
from splitdeploy.cloud_runtime.tls import ServerTls
from splitdeploy.edge_runtime.bundle import Bundle
from splitdeploy.profiles.errors import ServeError, SessionError

SLOW = 4000.0
"""A mood that keeps a core busy for some tenths of a second."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle(tmp_path_factory.mktemp("serve") / "bundle")


@pytest.fixture(scope="module")
def served(tiny: Bundle) -> Iterator[Running]:
    with running(tiny) as found:
        yield found


def wait_for(condition: object, timeout_s: float = 20.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end_s, "it did not come to pass"
        time.sleep(0.005)


@pytest.mark.parametrize("count", [1, 5, 32])
def test_answers_are_right_for_any_batch(served: Running, count: int) -> None:
    sent = picture(count, seed=count)
    answer = ask(served.client, sent, request_id=f"mine-{count}", model_version="1")
    np.testing.assert_allclose(answer.as_numpy("y"), expected(sent), rtol=1e-5, atol=1e-5)
    message = answer.get_response()
    assert message.id == f"mine-{count}"
    assert (message.model_name, message.model_version) == (MOODY, "1")
    assert 0 < message.parameters["compute_us"].int64_param < 20_000_000
    assert 0 <= message.parameters["queue_us"].int64_param < 20_000_000


def test_many_at_once_each_get_their_own(served: Running) -> None:
    sent = [picture(1 + seed % 4, seed=seed) for seed in range(120)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda each: ask(served.client, each).as_numpy("y"), sent))
    for each, answer in zip(sent, answers, strict=True):
        np.testing.assert_allclose(answer, expected(each), rtol=1e-5, atol=1e-5)


def test_health_and_metadata(served: Running) -> None:
    client = served.client
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MOODY)
    assert client.is_model_ready(MOODY, "1") and not client.is_model_ready(MOODY, "2")
    assert not client.is_model_ready("other")
    about = client.get_server_metadata()
    assert about.name == "splitdeploy" and about.version
    model = client.get_model_metadata(MOODY, as_json=True)
    assert model["versions"] == ["1"] and model["platform"] == "onnxruntime_onnx"
    assert model["inputs"] == [
        {"name": "relu", "datatype": "FP32", "shape": ["-1", "4", "2", "2"]},
        {"name": "mood", "datatype": "FP32", "shape": ["-1", "1"]},
    ]
    assert model["outputs"] == [{"name": "y", "datatype": "FP32", "shape": ["-1", "10"]}]
    config = client.get_model_config(MOODY).config
    assert config.max_batch_size == 32 and list(config.input[0].dims) == [4, 2, 2]
    index = client.get_model_repository_index().models
    assert [(m.name, m.version, m.state) for m in index] == [(MOODY, "1", "READY")]


def test_what_is_not_offered_is_unimplemented(served: Running) -> None:
    with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
        served.client.unload_model(MOODY)
    check_serves(served.client)


def test_unknown_models_and_versions_name_what_is_served(served: Running) -> None:
    with pytest.raises(InferenceServerException, match=f"NOT_FOUND.*no model 'x' .*{MOODY}"):
        ask(served.client, picture(), model="x")
    with pytest.raises(InferenceServerException, match="NOT_FOUND.*no version '7' of .* serving 1"):
        ask(served.client, picture(), model_version="7")
    with pytest.raises(InferenceServerException, match="NOT_FOUND.*no model 'x' here"):
        served.client.get_model_metadata("x")
    check_serves(served.client)


def test_outputs_can_be_named(served: Running) -> None:
    named = ask(served.client, picture(), outputs=[triton.InferRequestedOutput("y")])
    np.testing.assert_allclose(named.as_numpy("y"), expected(picture()), rtol=1e-5, atol=1e-5)
    with pytest.raises(InferenceServerException, match="unknown output 'z': expected y"):
        ask(served.client, picture(), outputs=[triton.InferRequestedOutput("z")])
    best = triton.InferRequestedOutput("y", class_count=3)
    with pytest.raises(InferenceServerException, match="classification is not offered here"):
        ask(served.client, picture(), outputs=[best])
    shared = triton.InferRequestedOutput("y")
    shared.set_shared_memory("region", 40)
    with pytest.raises(InferenceServerException, match="shared_memory_region is not offered here"):
        ask(served.client, picture(), outputs=[shared])


def test_shared_memory_is_told_not_to_be_offered(served: Running) -> None:
    sent = inputs(picture())
    sent[0].set_shared_memory("region", 64)
    with pytest.raises(InferenceServerException, match="shared_memory_region is not offered here"):
        served.client.infer(MOODY, sent)


def test_a_tail_of_one_picture_answers_one(tmp_path: Path) -> None:
    with running(bundle(tmp_path / "b", batch=1)) as found:
        sent = picture(1, seed=4)
        answer = ask(found.client, sent).as_numpy("y")
        np.testing.assert_allclose(answer, expected(sent), rtol=1e-5, atol=1e-5)
        with pytest.raises(InferenceServerException, match=r"expected shape \[1, 4, 2, 2\], got"):
            ask(found.client, picture(2))
        assert found.client.get_model_config(MOODY).config.max_batch_size == 0


def test_batches_have_a_limit(tiny: Bundle) -> None:
    with running(tiny, max_batch=4) as found:
        ask(found.client, picture(4))
        with pytest.raises(InferenceServerException, match="a batch of at most 4, got 5: send few"):
            ask(found.client, picture(5))
        assert found.client.get_model_config(MOODY).config.max_batch_size == 4


def test_several_tails_side_by_side(tiny: Bundle, tmp_path: Path) -> None:
    with running(tiny, bundle(tmp_path / "b", name="second")) as found:
        assert found.server.names == (MOODY, "second")
        for name in found.server.names:
            check_serves(found.client, model=name)
    with pytest.raises(ServeError, match="two bundles would be served as 'tiny_moody_tail'"):
        TailServer([tiny, tiny], port=0)
    with pytest.raises(ServeError, match="expected at least one bundle"):
        TailServer([], port=0)


def test_compressed_requests_are_read(served: Running) -> None:
    sent = picture(2, seed=9)
    for kind in ("gzip", "deflate"):
        answer = ask(served.client, sent, compression_algorithm=kind).as_numpy("y")
        np.testing.assert_allclose(answer, expected(sent), rtol=1e-5, atol=1e-5)


def test_who_finds_no_room_is_refused_at_once_and_health_still_answers(tiny: Bundle) -> None:
    with running(tiny, max_concurrent=1, max_waiting=1) as found, ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(ask, found.client, picture(mood=SLOW, seed=s)) for s in range(2)]
        wait_for(lambda: found.server._gate.full)
        for _ in range(20):
            with pytest.raises(InferenceServerException, match="is full: 1 compute and 1 wait"):
                ask(found.client, picture())
            assert found.client.is_server_ready()
            assert found.client.get_model_metadata(MOODY).name == MOODY
        assert found.server._gate.full, "the refusals took longer than the slow requests"
        for seed, each in enumerate(slow):
            answer = each.result().as_numpy("y")
            np.testing.assert_allclose(answer, expected(picture(seed=seed)), rtol=1e-5, atol=1e-5)
        check_serves(found.client)
        assert counted(found.server) == {"ok": 3, "overloaded": 20}


def test_who_waits_waits_in_order_of_arrival(tiny: Bundle) -> None:
    ended: list[int] = []
    with running(tiny, max_concurrent=1, max_waiting=4) as found, ThreadPoolExecutor(4) as pool:

        def one(number: int) -> None:
            ask(found.client, picture(mood=SLOW if number == 0 else 300))
            ended.append(number)

        for number in range(4):
            pool.submit(one, number)
            wait_for(lambda n=number: found.server._door.within == n + 1)
            wait_for(lambda n=number: found.server._gate.waiting == n)
    assert ended == [0, 1, 2, 3]


def test_late_and_cancelled_requests_are_not_computed(tiny: Bundle) -> None:
    with running(tiny, max_concurrent=1) as found, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, found.client, picture(mood=SLOW))
        wait_for(lambda: found.server._gate.computing == 1)
        with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
            ask(found.client, picture(), client_timeout=0.05)
        # On a busy machine the deadline may pass before the request has left.
        wait_for(lambda: found.server._gate.waiting == 0)
        before = counted(found.server).get("gone", 0)
        left = found.client.async_infer(MOODY, inputs(picture()), lambda result, error: None)
        wait_for(lambda: found.server._gate.waiting == 1)
        left.cancel()
        wait_for(lambda: counted(found.server).get("gone", 0) > before)
        slow.result()
        assert found.server.metrics is not None
        computed = found.server.metrics.registry.get_sample_value(
            "splitdeploy_stage_seconds_count", {"model": MOODY, "stage": "compute"}
        )
        assert computed == 1
        check_serves(found.client)


def test_a_deadline_that_passes_in_the_graph_frees_the_place(tiny: Bundle) -> None:
    with running(tiny, max_concurrent=1) as found:
        with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
            ask(found.client, picture(mood=SLOW), client_timeout=0.05)
        check_serves(found.client)
        assert counted(found.server) == {"gone": 1, "ok": 1}


@pytest.mark.parametrize(
    ("mood", "message"),
    [(-1.0, "the tail gave NaN or infinity in output 'y'"), (3e9, "the graph failed")],
)
def test_a_tail_that_fails_is_an_error_and_the_server_goes_on(
    served: Running, mood: float, message: str
) -> None:
    with pytest.raises(InferenceServerException, match=f"INTERNAL.*{message}"):
        ask(served.client, picture(mood=mood))
    check_serves(served.client)


def test_a_drain_finishes_what_is_in_progress_and_refuses_the_rest(tiny: Bundle) -> None:
    with running(tiny) as found, ThreadPoolExecutor(2) as pool:
        slow = pool.submit(ask, found.client, picture(mood=SLOW))
        wait_for(lambda: found.server._gate.computing == 1)
        drained = pool.submit(found.server.drain, 20.0)
        wait_for(lambda: not found.server._door.is_open)
        with pytest.raises(InferenceServerException, match="UNAVAILABLE.*the server is draining"):
            ask(found.client, picture())
        assert found.client.is_server_live() and not found.client.is_server_ready()
        assert not found.client.is_model_ready(MOODY)
        answer = slow.result().as_numpy("y")
        np.testing.assert_allclose(answer, expected(picture()), rtol=1e-5, atol=1e-5)
        assert drained.result() is True
        with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
            ask(found.client, picture(), client_timeout=2.0)


def test_a_drain_cuts_off_what_takes_too_long(tiny: Bundle) -> None:
    with running(tiny, max_concurrent=1) as found, ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(ask, found.client, picture(mood=SLOW)) for _ in range(2)]
        wait_for(lambda: found.server._gate.waiting == 1)
        assert found.server.drain(0.01) is False
        for each in slow:
            with pytest.raises(InferenceServerException, match="CANCELLED|UNAVAILABLE"):
                each.result()
        found.server.stop()


def test_stopping_ends_every_thread(tiny: Bundle) -> None:
    with running(tiny) as found:
        check_serves(found.client)
        assert any(t.name.startswith("serve") for t in threading.enumerate())
        found.server.drain(1.0)
        mine = found.server._threads._threads
        assert mine and not any(thread.is_alive() for thread in mine)


def test_tls_and_mutual_tls(tiny: Bundle, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    server, client = authority.server(), authority.client()
    root = authority.pair.cert
    for client_ca in (None, root):
        tls = ServerTls(server.cert, server.key, client_ca)
        with running(tiny, tls=tls, trust=root, mine=client if client_ca else None) as found:
            check_serves(found.client)


def test_a_taken_port_is_told(tiny: Bundle, served: Running) -> None:
    with pytest.raises(
        ServeError, match=f"cannot listen on 127.0.0.1:{served.server.port}: Address already in use"
    ):
        TailServer([tiny], port=served.server.port)
    with pytest.raises(ServeError, match=r"cannot listen on 192\.0\.2\.1:0: Cannot assign"):
        TailServer([tiny], host="192.0.2.1", port=0)
    with pytest.raises(ServeError, match="cannot offer metrics on 127.0.0.1"):
        assert served.server.metrics is not None
        served.server.metrics.serve("127.0.0.1", served.server.port)


def test_a_provider_is_never_replaced(tiny: Bundle) -> None:
    with pytest.raises(SessionError, match="execution provider NoSuchProvider is not in this"):
        TailServer([tiny], port=0, providers=("NoSuchProvider",))


def test_the_size_of_a_message_follows_the_batch() -> None:
    assert message_bytes(Limits(max_batch=32), [(800_000, 4000)]) == 32 * 800_000 + (64 << 10)
    assert message_bytes(Limits(max_batch=32), [(100, 4000)]) == 4 << 20
    assert message_bytes(Limits(max_batch=2, max_message_bytes=1 << 20), [(1000, 10)]) == 1 << 20
    assert message_bytes(Limits(max_batch=4096), [(10_000_000, 10)]) == (1 << 31) - 1
    with pytest.raises(ServeError, match="one picture needs a message of 1065536 bytes, the limit"):
        message_bytes(Limits(max_message_bytes=1 << 20), [(1_000_000, 10)])
    for wrong in ({"max_batch": 0}, {"max_concurrent": 0}, {"max_waiting": -1}):
        with pytest.raises(ServeError, match=f"expected {next(iter(wrong))} of at least"):
            Limits(**wrong)
