"""The embedded server: tails behind the Open Inference Protocol over gRPC."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import grpc

from splitdeploy.cloud_runtime.door import Door
from splitdeploy.cloud_runtime.gate import Gate
from splitdeploy.cloud_runtime.inference import Inference
from splitdeploy.cloud_runtime.limits import Limits, message_bytes
from splitdeploy.cloud_runtime.metrics import Metrics
from splitdeploy.cloud_runtime.records import LIFE, Record, log_request
from splitdeploy.cloud_runtime.served import ServedTail, open_tail
from splitdeploy.cloud_runtime.servicer import Calls, Servicer
from splitdeploy.cloud_runtime.tls import ServerTls
from splitdeploy.edge_runtime.bundle import Bundle
from splitdeploy.edge_runtime.onnxruntime_session import CPU
from splitdeploy.profiles.errors import ServeError

_ARRIVING = 64
"""Requests whose bodies may be on their way, beside those that compute and wait."""

_PATIENCE_S = 30.0
_SPARE_THREADS = 8
"""For health, metadata and refusals, which must be answered when all else is busy."""

_SEND_S = 2.0
"""For answers that are computed and on their way when a drain ends."""


class TailServer:
    """Serves the tails of some bundles; a context manager that starts and stops.

    Args:
        bundles: Read for the cloud; each is offered under its ``served_name``.
        host: Where to listen.
        port: 0 takes any that is free; see ``port``.
        tls: Certificates; None serves plaintext.
        max_batch: Pictures in a request.
        max_concurrent: Requests that compute at once.
        max_waiting: Requests that wait for one of those; the next is refused.
        max_message_bytes: Of a request, and of an answer; None for what ``max_batch`` pictures of
            the largest tail need, and no less than gRPC's default of 4 MiB.
        providers: ONNX Runtime's execution providers, in order of preference.
        threads: How many threads an operator may use; None leaves it to ONNX Runtime.
        with_metrics: Whether to count for Prometheus; needs ``prometheus_client``.

    Raises:
        ServeError: Nothing is to be served, two tails have one name, a limit makes no sense, a
            certificate will not do, a bundle's tail is another model's, or the port is taken.
        SessionError: A tail cannot be opened on these providers.
        MissingExtraError: Metrics were asked for without their package.

    Attributes:
        host: Where it listens.
        port: Where it listens.
        limits: What it takes, with the size of a message worked out.
        metrics: What it counts; None where that was not asked for.
    """

    def __init__(
        self,
        bundles: Sequence[Bundle],
        *,
        host: str = "127.0.0.1",
        port: int = 8001,
        tls: ServerTls | None = None,
        max_batch: int = 32,
        max_concurrent: int = 2,
        max_waiting: int = 32,
        max_message_bytes: int | None = None,
        providers: Sequence[str] = (CPU,),
        threads: int | None = None,
        with_metrics: bool = False,
    ) -> None:
        limits = Limits(max_batch, max_concurrent, max_waiting, max_message_bytes)
        if tls is not None:
            tls.check()
        self.host = host
        self._tails: dict[str, ServedTail] = {}
        try:
            self._open(bundles, providers, threads)
            pairs = [tail.picture_bytes for tail in self._tails.values()]
            self.limits = Limits(
                max_batch, max_concurrent, max_waiting, message_bytes(limits, pairs)
            )
            self.metrics = Metrics(self._tails) if with_metrics else None
            self._listen(host, port, tls)
        except BaseException:
            self._close_tails()
            raise

    @property
    def names(self) -> tuple[str, ...]:
        """The names that are served."""
        return tuple(self._tails)

    def _open(
        self, bundles: Sequence[Bundle], providers: Sequence[str], threads: int | None
    ) -> None:
        if not bundles:
            raise ServeError("expected at least one bundle to serve, got none")
        for bundle in bundles:
            if bundle.served_name in self._tails:
                raise ServeError(
                    f"two bundles would be served as {bundle.served_name!r}, the second is "
                    f"{bundle.folder}: serve one of them, or start another server"
                )
            tail = open_tail(bundle, providers=providers, threads=threads)
            self._tails[tail.name] = tail

    def _listen(self, host: str, port: int, tls: ServerTls | None) -> None:
        limits = self.limits
        self._door = Door(limits.max_concurrent + limits.max_waiting + _ARRIVING, _PATIENCE_S)
        self._gate = gate = Gate(limits.max_concurrent, limits.max_waiting)
        if self.metrics is not None:
            self.metrics.watch(lambda: float(self._door.within))
        inference = Inference(self._tails, gate, self._door, limits.max_batch, self._ended)
        servicer = Servicer(self._tails, limits.max_batch, lambda: self._door.is_open)
        self._threads = ThreadPoolExecutor(
            limits.max_concurrent + limits.max_waiting + _ARRIVING + _SPARE_THREADS,
            thread_name_prefix="serve",
        )
        self._server = grpc.server(
            self._threads,
            handlers=[Calls(servicer, inference, self._door, gate, self._ended)],
            options=_options(limits.max_message_bytes or -1),
        )
        self._stopping = threading.Lock()
        self._stopped = False
        try:
            self.port = _bind(self._server, host, port, tls)
        except BaseException:
            self._threads.shutdown(wait=False)
            raise

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def drain(self, grace_s: float) -> bool:
        """Take no more requests, finish those in progress, and stop.

        Meanwhile the server answers that it is not ready, and refuses requests as unavailable.

        Args:
            grace_s: How long to wait for those in progress; the rest are cut off.

        Returns:
            Whether all in progress were answered.
        """
        LIFE.info("draining", extra={"fields": {"in_progress": self._door.within}})
        end_s = time.monotonic() + grace_s
        self._door.close()
        finished = self._door.wait_empty(grace_s)
        # Whoever has left the door may still have its answer on the wire.
        self._stop(max(end_s - time.monotonic(), _SEND_S) if finished else None)
        LIFE.info("drained", extra={"fields": {"finished": finished}})
        return finished

    def stop(self) -> None:
        """Cut off what is in progress, and release everything. Stopping twice does nothing."""
        self._door.close()
        self._stop(None)

    def _stop(self, grace_s: float | None) -> None:
        with self._stopping:
            if self._stopped:
                return
            self._stopped = True
            self._server.stop(grace_s).wait()
            # What computes on after it was cut off ends by itself; its answer goes nowhere.
            self._threads.shutdown(wait=grace_s is not None)
            self._close_tails()

    def _close_tails(self) -> None:
        for tail in self._tails.values():
            tail.close()

    def _ended(self, record: Record) -> None:
        if self.metrics is not None:
            self.metrics.count(record)
        log_request(record)

    def __enter__(self) -> TailServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _options(most_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", most_bytes),
        ("grpc.max_send_message_length", most_bytes),
        ("grpc.so_reuseport", 0),  # else a second server on the port would take half the requests
        ("grpc.keepalive_time_ms", 20_000),  # a client that vanished gives its thread back
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 500),  # clients may look for us often
        ("grpc.server_handshake_timeout_ms", 15_000),
    ]


def _bind(server: grpc.Server, host: str, port: int, tls: ServerTls | None) -> int:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if tls is None:
            return int(server.add_insecure_port(address))
        roots = tls.client_ca.read_bytes() if tls.client_ca is not None else None
        credentials = grpc.ssl_server_credentials(
            [(tls.key.read_bytes(), tls.cert.read_bytes())], roots, roots is not None
        )
        return int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise ServeError(
            f"cannot listen on {address}: {_why(host, port)}: choose another --port or --host"
        ) from error


def _why(host: str, port: int) -> str:
    """Why a port cannot be had; gRPC does not tell."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen()
    except OSError as error:
        return error.strerror or str(error)
    return "gRPC could not bind it"
