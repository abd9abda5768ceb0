"""One connection to a server of the Open Inference Protocol: our own, Triton, or another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from splitdeploy.edge_runtime.grpc_failures import failure
from splitdeploy.edge_runtime.session import FREE, Array, shown
from splitdeploy.edge_runtime.tls import ClientTls
from splitdeploy.edge_runtime.wire import DATATYPES, TAIL_DIGEST, read_response
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.errors import CloudError, UsageError, WireError

DEFAULT_MESSAGE_BYTES = 64 << 20
"""gRPC's own limit, 4 MiB, is less than many payloads."""

_FRAMING_BYTES = 64 << 10
"""More than names, shapes and parameters of a message take beside its values."""

_WHY_S = 0.2


@dataclass(frozen=True)
class LinkSettings:
    """How a connection behaves.

    Attributes:
        max_message_bytes: The largest message that is sent or taken.
        keepalive_s: While requests wait, the other side is asked for a sign of life this often.
        keepalive_timeout_s: Without one for so long, or with bytes that nobody acknowledges for so
            long, the connection counts as broken and another is made.
        reconnect_s: The longest pause between two attempts to connect.
    """

    max_message_bytes: int = DEFAULT_MESSAGE_BYTES
    keepalive_s: float = 10.0
    keepalive_timeout_s: float = 3.0
    reconnect_s: float = 1.0

    @property
    def max_payload_bytes(self) -> int:
        """The largest payload that fits into a message."""
        return self.max_message_bytes - _FRAMING_BYTES


@dataclass(frozen=True)
class Reply:
    """An answer of the server.

    Attributes:
        outputs: By name.
        compute_s: What the server says that the tail took; None where it does not say.
        queue_s: What it says that the request waited for its turn; None where it does not say.
    """

    outputs: dict[str, Array]
    compute_s: float | None
    queue_s: float | None


class PendingReply:
    """An answer that is under way.

    Args:
        call: gRPC's future.
        request_id: That the answer must bear.
        expected: The model's outputs.
        address: For messages.
    """

    def __init__(self, call: Any, request_id: str, expected: Sequence[TensorSpec], address: str):
        self._call = call
        self._request_id = request_id
        self._expected = expected
        self._address = address

    def cancel(self) -> None:
        """Give it up; `result` then fails with ``unavailable``."""
        self._call.cancel()

    def result(self) -> Reply:
        """Wait for it, at most until the deadline that it was sent with.

        Returns:
            The answer.

        Raises:
            CloudError: There is none, or it is not what was asked for.
        """
        try:
            response = self._call.result()
        except grpc.FutureCancelledError as error:
            raise CloudError("unavailable", f"{self._address}: the request was given up") from error
        except grpc.RpcError as error:
            raise CloudError(*failure(error, self._address)) from error
        if response.id != self._request_id:
            raise CloudError(
                "refused",
                f"{self._address}: expected the answer to request {self._request_id!r}, got that "
                f"to {response.id[:80]!r}: what answers there is no server of this protocol",
            )
        try:
            outputs = read_response(response, self._expected)
        except WireError as error:
            raise CloudError("refused", f"{self._address} answered wrongly: {error}") from error
        return Reply(outputs, _micros(response, "compute_us"), _micros(response, "queue_us"))


class Link:
    """A connection to one server, made when it is first used, and made again when it breaks.

    Args:
        address: ``host:port``.
        tls: How to secure it; None sends everything in the clear.
        settings: How it behaves.

    Raises:
        UsageError: The address is none, or the certificates will not do.
    """

    def __init__(
        self, address: str, *, tls: ClientTls | None = None, settings: LinkSettings | None = None
    ) -> None:
        check_address(address)
        self.address = address
        self.settings = settings or LinkSettings()
        options = _options(self.settings)
        if tls is None:
            self._channel = grpc.insecure_channel(address, options=options)
        else:
            self._channel = grpc.secure_channel(address, tls.credentials(), options=options)
        self._stub = GRPCInferenceServiceStub(self._channel)

    def ready(self, deadline_s: float) -> bool:
        """Whether the server says that it is ready.

        Args:
            deadline_s: The longest to wait for it, also for the connection.

        Returns:
            What it says.

        Raises:
            CloudError: It does not answer.
        """
        call, message = self._stub.ServerReady, pb.ServerReadyRequest()
        try:
            return bool(self._ask(call, message, deadline_s, wait=True).ready)
        except CloudError as error:
            if error.kind != "deadline":
                raise
        # Who waits for a connection is not told why there is none; who does not wait is.
        return bool(self._ask(call, message, _WHY_S).ready)

    def round_trip_s(self, deadline_s: float) -> float:
        """The time of the smallest request and its answer.

        Args:
            deadline_s: The longest to wait.

        Returns:
            Seconds.

        Raises:
            CloudError: There was no answer.
        """  # noqa: DOC502
        started = time.perf_counter()
        self._ask(self._stub.ServerLive, pb.ServerLiveRequest(), deadline_s)
        return time.perf_counter() - started

    def check_model(
        self,
        name: str,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        digest: str,
        deadline_s: float,
    ) -> None:
        """Make sure that the server serves this tail and not another one.

        A server that does not tell which weights it has (`TAIL_DIGEST`) is believed.

        Args:
            name: Under which it is served.
            inputs: That it takes.
            outputs: That it gives.
            digest: Of the file that holds its weights.
            deadline_s: The longest to wait.

        Raises:
            CloudError: It does not (``refused``), or it cannot be asked.
        """
        try:
            told = self._ask(
                self._stub.ModelMetadata, pb.ModelMetadataRequest(name=name), deadline_s
            )
        except CloudError as error:
            # Triton says UNAVAILABLE of a model that it does not have.
            if error.kind == "refused" or name in str(error):
                raise CloudError(
                    "refused",
                    f"expected {self.address} to serve {name!r}, it serves "
                    f"{self._served(deadline_s)}: serve this bundle there, or name another server",
                ) from error
            raise
        for what, specs, found in (
            ("inputs", inputs, told.inputs),
            ("outputs", outputs, told.outputs),
        ):
            wanted = {spec.name: _wanted(spec) for spec in specs}
            there = {entry.name: (entry.datatype, tuple(entry.shape)) for entry in found}
            if set(wanted) != set(there) or not all(_fits(wanted[n], there[n]) for n in wanted):
                raise CloudError(
                    "refused",
                    f"{name!r} at {self.address} is the tail of another model or cut: expected "
                    f"{what} {_listed(wanted)}, it has {_listed(there)}: serve this bundle there",
                )
        told_digest = self._told_digest(name, deadline_s)
        if told_digest not in {"", digest}:
            raise CloudError(
                "refused",
                f"{name!r} at {self.address} has other weights: expected a tail with SHA-256 "
                f"{digest[:12]}…, it has {told_digest[:12]}…: serve this bundle there",
            )

    def _told_digest(self, name: str, deadline_s: float) -> str:
        """Which weights a server says that it has; empty where it does not tell."""
        try:
            told = self._ask(self._stub.ModelConfig, pb.ModelConfigRequest(name=name), deadline_s)
        except CloudError as error:
            if error.kind != "refused":
                raise
            return ""  # the protocol does not ask for this call
        if TAIL_DIGEST not in told.config.parameters:
            return ""
        return str(told.config.parameters[TAIL_DIGEST].string_value)

    def infer(self, message: Any, expected: Sequence[TensorSpec], deadline_s: float) -> Reply:
        """Send a request and wait for its answer.

        Args:
            message: A ``ModelInferRequest`` with an id.
            expected: The model's outputs.
            deadline_s: The longest to wait.

        Returns:
            The answer.

        Raises:
            CloudError: There is none.
        """  # noqa: DOC502
        return self.infer_async(message, expected, deadline_s).result()

    def infer_async(
        self, message: Any, expected: Sequence[TensorSpec], deadline_s: float
    ) -> PendingReply:
        """Send a request.

        Args:
            message: A ``ModelInferRequest`` with an id.
            expected: The model's outputs.
            deadline_s: From now; the answer is there by then, or never comes.

        Returns:
            Its answer, under way.

        Raises:
            CloudError: The message is too large, or the connection was closed.
        """
        weight = sum(len(raw) for raw in message.raw_input_contents)
        limit = self.settings.max_payload_bytes
        if weight > limit:
            raise CloudError(
                "refused",
                f"expected a payload of at most {limit} bytes, got {weight}: set "
                "a larger limit on both sides, send fewer pictures at once, or cut elsewhere",
            )
        try:
            call = self._stub.ModelInfer.future(message, timeout=max(0.0, deadline_s))
        except ValueError as error:  # gRPC's way to say that the channel was closed
            raise CloudError("unavailable", f"{self.address}: the client is closed") from error
        return PendingReply(call, message.id, expected, self.address)

    def close(self) -> None:
        """Break the connection, and give up what is under way."""
        self._channel.close()

    def _served(self, deadline_s: float) -> str:
        """What the server has, where it tells; for a message."""
        try:
            index = self._ask(
                self._stub.RepositoryIndex, pb.RepositoryIndexRequest(ready=True), deadline_s
            )
        except CloudError:
            return "other models"
        return ", ".join(sorted(model.name for model in index.models)[:20]) or "nothing"

    def _ask(self, call: Any, message: Any, deadline_s: float, *, wait: bool = False) -> Any:
        try:
            return call(message, timeout=max(0.0, deadline_s), wait_for_ready=wait)
        except grpc.RpcError as error:
            raise CloudError(*failure(error, self.address)) from error
        except ValueError as error:
            raise CloudError("unavailable", f"{self.address}: the client is closed") from error


def check_address(address: str) -> None:
    """Refuse what is no address of a server.

    Args:
        address: ``host:port``, the host a name, an IPv4 address, or an IPv6 one in brackets.

    Raises:
        UsageError: It is none.
    """
    host, _, port = address.rpartition(":")
    bare = host.startswith("[") == host.endswith("]") and (":" not in host or "[" in host)
    if not (host and bare and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise UsageError(
            f"expected the cloud's address as HOST:PORT such as 127.0.0.1:8001, got {address!r}"
        )


def _options(settings: LinkSettings) -> list[tuple[str, int]]:
    def milliseconds(seconds: float) -> int:
        return max(1, round(1000 * seconds))

    return [
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.keepalive_time_ms", milliseconds(settings.keepalive_s)),
        # On Linux this is TCP_USER_TIMEOUT as well.
        ("grpc.keepalive_timeout_ms", milliseconds(settings.keepalive_timeout_s)),
        ("grpc.initial_reconnect_backoff_ms", milliseconds(min(0.1, settings.reconnect_s))),
        ("grpc.min_reconnect_backoff_ms", milliseconds(settings.reconnect_s)),
        ("grpc.max_reconnect_backoff_ms", milliseconds(settings.reconnect_s)),
        # Each client has a connection of its own: one that is closed does not linger in another's.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),  # retries are counted, and end with the deadline
    ]


def _micros(response: Any, name: str) -> float | None:
    """A time that the server tells; what makes no sense is as good as not told."""
    parameter = response.parameters.get(name)
    if parameter is None or parameter.WhichOneof("parameter_choice") != "int64_param":
        return None
    return parameter.int64_param / 1e6 if parameter.int64_param >= 0 else None


_Described = tuple[str, tuple[int, ...]]


def _wanted(spec: TensorSpec) -> _Described:
    return DATATYPES.get(spec.dtype, spec.dtype), spec.shape


def _fits(wanted: _Described, there: _Described) -> bool:
    return wanted[0] == there[0] and len(wanted[1]) == len(there[1]) and all(
        one == other or FREE in {one, other} for one, other in zip(wanted[1], there[1], strict=True)
    )  # fmt: skip


def _listed(entries: dict[str, _Described]) -> str:
    return ", ".join(f"{name} {kind} {shown(shape)}" for name, (kind, shape) in entries.items())
