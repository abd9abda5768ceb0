"""Whatever comes over the socket or lies in a bundle: a clear error, and the server serves on."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from certificates import Authority, Pair
from command_line import splitdeploy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve_cases import (
    MOODY,
    Running,
    ask,
    bundle,
    check_serves,
    connect,
    counted,
    make_bundle,
    picture,
    running,
)
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from splitdeploy.cloud_runtime.server import TailServer
from splitdeploy.cloud_runtime.tls import ServerTls
from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.edge_runtime.wire import write_request
from splitdeploy.profiles.digest import file_sha256
from splitdeploy.profiles.errors import ReportError, ServeError, SessionError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(bundle(tmp_path_factory.mktemp("bad") / "b")) as found:
        yield found


@pytest.fixture(autouse=True)
def serves_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test with the shared server, a good request still gets its answer."""
    yield
    if "served" in request.fixturenames:
        check_serves(request.getfixturevalue("served").client)


def raw(served: Running) -> tuple[grpc.Channel, Callable[..., bytes]]:
    channel = grpc.insecure_channel(
        f"127.0.0.1:{served.server.port}", options=[("grpc.max_send_message_length", -1)]
    )
    return channel, channel.unary_unary(INFER)


def refused(served: Running, sent: dict[str, np.ndarray[Any, Any]], message: str) -> None:
    with pytest.raises(InferenceServerException, match=f"INVALID_ARGUMENT.*{message}"):
        ask(served.client, sent)


def test_wrong_tensors_are_told(served: Running) -> None:
    good = picture(2)
    refused(served, good | {"relu": good["relu"].astype("f8")}, "expected datatype FP32, got 'FP64")
    refused(served, good | {"relu": good["relu"][:, :3]}, r"expected shape \[\?, 4, 2, 2\], got")
    refused(served, good | {"relu": good["relu"][0]}, r"got \[4, 2, 2\]")
    refused(served, good | {"relu": good["relu"][:1]}, r"one batch, got batches of \[1, 2\]")
    refused(served, good | {"relu": good["relu"][:0]}, r"got \[0, 4, 2, 2\]")
    refused(served, {"relu": good["relu"]}, "input 'mood' is missing: expected relu, mood")
    refused(served, good | {"more": good["mood"]}, "unknown input 'more': expected relu, mood")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_told(served: Running, value: float) -> None:
    sent = picture(2)
    sent["relu"][1, 3, 1, 1] = value
    refused(served, sent, "input 'relu': expected finite numbers, got NaN or infinity")


@pytest.mark.parametrize("change", [-4, -1, 1, 4000])
def test_a_wrong_count_of_bytes_is_told(served: Running, change: int) -> None:
    message = write_request(MOODY, picture())
    values = message.raw_input_contents[0]
    message.raw_input_contents[0] = values[:change] if change < 0 else values + bytes(change)
    channel, infer = raw(served)
    with channel, pytest.raises(grpc.RpcError, match="expected 64 bytes for .* of FP32, got"):
        infer(message.SerializeToString())


def test_too_large_a_message_is_refused_before_it_is_read(served: Running) -> None:
    limit = served.server.limits.max_message_bytes
    channel, infer = raw(served)
    with channel:
        for kind in (None, grpc.Compression.Gzip):
            with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED.*larger than max"):
                infer(bytes((limit or 0) + 1), compression=kind)


def test_what_is_no_request_is_told(served: Running) -> None:
    channel, infer = raw(served)
    with channel:
        with pytest.raises(grpc.RpcError, match="expected a ModelInferRequest, the message is non"):
            infer(b"\xff" * 100)
        with pytest.raises(grpc.RpcError, match="no model '' here"):
            infer(b"")
        none = channel.stream_unary(INFER)
        with pytest.raises(grpc.RpcError, match="expected a request, got none"):
            none(iter([]), timeout=20)
        with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
            channel.unary_unary("/inference.GRPCInferenceService/Nothing")(b"")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_requests_are_refused_or_answered(served: Running, data: st.DataObject) -> None:
    # The values come last and stay whole: a damaged mood could keep the tail busy for hours.
    message = write_request(MOODY, picture(), request_id="some-id")
    values = [bytes(entry) for entry in message.raw_input_contents]
    del message.raw_input_contents[:]
    front = bytearray(message.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(front) - 1))
        front[place] = data.draw(st.integers(0, 255))
    back = pb.ModelInferRequest(raw_input_contents=values).SerializeToString()
    channel, infer = raw(served)
    with channel:
        try:
            infer(bytes(front) + back, timeout=20)
        except grpc.RpcError as error:
            allowed = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
            assert error.code() in allowed, (error.code(), error.details())
            assert "\n" not in error.details()


def throw(port: int, data: bytes, *, read: bool = True) -> None:
    """Bytes on the port, from somebody who may not even wait for an answer."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as thrower:
        thrower.settimeout(0.2)
        thrower.sendall(data)
        if read:
            thrower.recv(65536)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sampled_from([b"", PREFACE[:12], PREFACE, PREFACE + SETTINGS]),
    rest=st.binary(max_size=200),
)
def test_garbage_on_the_port_does_no_harm(served: Running, start: bytes, rest: bytes) -> None:
    throw(served.server.port, start + rest, read=False)
    assert served.client.is_server_ready()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        PREFACE[:10],
        PREFACE + SETTINGS + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
        PREFACE + SETTINGS + b"\x00\x00\x04\x01\x04\x00\x00\x00\x01\xff\xff\xff\xff",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        np.random.default_rng(0).bytes(1 << 20),
    ],
    ids=["nothing", "http1", "half-preface", "huge-frame", "bad-headers", "tls-hello", "noise"],
)
def test_known_garbage_does_no_harm(served: Running, data: bytes) -> None:
    throw(served.server.port, data)


def test_a_tls_client_on_a_plaintext_port_is_turned_away(served: Running) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", served.server.port), 5) as plain:
        plain.settimeout(5)
        with pytest.raises(OSError):
            context.wrap_socket(plain)


def test_half_open_connections_keep_nobody_out(served: Running) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(40):
            half = stack.enter_context(socket.create_connection(("127.0.0.1", served.server.port)))
            half.sendall(PREFACE[: number % len(PREFACE)])
        check_serves(served.client)
        with connect(served.server.port) as another:
            check_serves(another)


def test_bodies_that_never_come_keep_nobody_out(served: Running) -> None:
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(20)
        yield from ()

    with grpc.insecure_channel(f"127.0.0.1:{served.server.port}") as channel:
        held = [channel.stream_unary(INFER).future(nothing()) for _ in range(30)]
        check_serves(served.client)
        for call in held:
            call.cancel()
        never.set()


def test_an_unknown_model_becomes_no_label(served: Running) -> None:
    for number in range(5):
        with pytest.raises(InferenceServerException, match="no model"):
            ask(served.client, picture(), model=f"unheard-of-{number}")
    assert served.server.metrics is not None
    labels = {
        sample.labels.get("model", "")
        for family in served.server.metrics.registry.collect()
        for sample in family.samples
    }
    assert labels == {"", MOODY}
    assert counted(served.server)["not_found"] >= 5


# Certificates.


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def test_only_known_clients_reach_a_server_with_mutual_tls(
    authority: Authority, tmp_path: Path
) -> None:
    server, client = authority.server(), authority.client()
    other = Authority(tmp_path / "other", "other")
    tls = ServerTls(server.cert, server.key, authority.pair.cert)
    strangers: dict[str, tuple[Path | None, Pair | None]] = {
        "no certificate": (authority.pair.cert, None),
        "expired": (authority.pair.cert, authority.client("late", expired=True)),
        "another authority's": (authority.pair.cert, other.client()),
        "trusts another authority": (other.pair.cert, client),
        "a server's": (authority.pair.cert, server),
        "plaintext": (None, None),
    }
    with running(bundle(tmp_path / "b"), tls=tls, trust=authority.pair.cert, mine=client) as found:
        for kind, (trust, mine) in strangers.items():
            with (
                connect(found.server.port, trust=trust, mine=mine) as stranger,
                pytest.raises(InferenceServerException, match="UNAVAILABLE"),
            ):
                ask(stranger, picture())
                pytest.fail(f"a client was let in: {kind}")
            check_serves(found.client)
        throw(found.server.port, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))
        throw(found.server.port, PREFACE + SETTINGS)
        check_serves(found.client)
        assert set(counted(found.server)) == {"ok"}


def test_an_expired_certificate_of_the_server_is_refused_at_the_start(
    authority: Authority, tmp_path: Path
) -> None:
    late = authority.server("late-server", expired=True)
    with pytest.raises(ServeError, match="certificate has expired: renew it"):
        TailServer([bundle(tmp_path / "b")], port=0, tls=ServerTls(late.cert, late.key))


# Bundles.


def rehash(folder: Path) -> None:
    """Make a manifest that vouches for the files as they now are."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        manifest["files"][name]["sha256"] = file_sha256(folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_tampered_and_a_truncated_bundle_are_refused(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    whole = (folder / "tail.onnx").read_bytes()
    for damaged in (whole[:-1] + b"x", whole[: len(whole) // 2], b""):
        (folder / "tail.onnx").write_bytes(damaged)
        with pytest.raises(ReportError, match="tail.onnx was changed: expected SHA-256"):
            read_bundle(folder, "cloud")
        outcome = splitdeploy("serve", folder, "--port", 0)
        assert outcome.code == 1 and outcome.out == ""
        assert outcome.err.count("\n") == 1 and "was changed" in outcome.err
    (folder / "tail.onnx").write_bytes(whole[: len(whole) // 2])
    rehash(folder)
    with pytest.raises(SessionError, match="expected an ONNX model that ONNX Runtime"):
        TailServer([read_bundle(folder, "cloud")], port=0)


def other_outputs(manifest: dict[str, Any]) -> None:
    manifest["tail"]["outputs"][0]["shape"] = [-1, 1000]


def other_inputs(manifest: dict[str, Any]) -> None:
    manifest["tail"]["inputs"][0]["name"] = "relu_1"


def other_dtype(manifest: dict[str, Any]) -> None:
    manifest["tail"]["inputs"][0]["dtype"] = "float16"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_outputs, r"outputs y float32\[\?, 1000\], the graph has y float32\[\?, 10\]"),
        (other_inputs, r"inputs relu_1 float32\[.*the graph has relu float32\["),
        (other_dtype, r"inputs relu float16\[\?, 4, 2, 2\]"),
    ],
)
def test_the_tail_of_another_model_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    folder = make_bundle(tmp_path / "b", change=change)
    with pytest.raises(ServeError, match=f"is the tail of another model: .*{message}"):
        TailServer([read_bundle(folder, "cloud")], port=0)
    outcome = splitdeploy("serve", folder, "--port", 0)
    assert outcome.code == 1 and "is the tail of another model" in outcome.err


def test_requests_without_raw_contents_are_read_too(served: Running) -> None:
    sent = picture()
    message = write_request(MOODY, sent)
    del message.raw_input_contents[:]
    for entry, name in zip(message.inputs, sent, strict=True):
        entry.contents.fp32_contents.extend(sent[name].ravel().tolist())
    channel, infer = raw(served)
    with channel:
        answer = pb.ModelInferResponse.FromString(infer(message.SerializeToString()))
    whole = ask(served.client, sent).as_numpy("y")
    np.testing.assert_array_equal(np.frombuffer(answer.raw_output_contents[0], "<f4"), whole[0])


def test_a_request_may_not_mix_kinds_of_contents(served: Running) -> None:
    message = write_request(MOODY, picture())
    del message.raw_input_contents[1:]
    channel, infer = raw(served)
    with channel, pytest.raises(grpc.RpcError, match="expected raw contents of 2 inputs, got 1"):
        infer(message.SerializeToString())


def test_no_input_at_all_is_told(served: Running) -> None:
    with pytest.raises(InferenceServerException, match="input 'relu' is missing"):
        served.client.infer(MOODY, [])
