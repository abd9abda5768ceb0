"""What a server counts, for Prometheus. Labels are served names and fixed words alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from splitdeploy.cloud_runtime.records import Outcome, Record
from splitdeploy.profiles.errors import MissingExtraError, ServeError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

UNSERVED = ""
"""The label of requests that name no served model: a client's text never becomes a label."""

_BUCKETS_S = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip


class Metrics:
    """The figures of one server, in a registry of its own.

    Args:
        models: The names that are served.

    Raises:
        MissingExtraError: ``prometheus_client`` is not installed.
    """

    def __init__(self, models: Iterable[str]) -> None:
        prometheus = _prometheus()
        self.registry: CollectorRegistry = prometheus.CollectorRegistry()
        names = [*models, UNSERVED]
        requests = prometheus.Counter(
            "splitdeploy_requests", "Requests by how they ended.", ("model", "outcome"),
            registry=self.registry,
        )  # fmt: skip
        stages = prometheus.Histogram(
            "splitdeploy_stage_seconds", "Time of answered requests by stage.", ("model", "stage"),
            buckets=_BUCKETS_S, registry=self.registry,
        )  # fmt: skip
        payload = prometheus.Counter(
            "splitdeploy_message_bytes", "Bytes of requests and answers.", ("model", "direction"),
            registry=self.registry,
        )  # fmt: skip
        pictures = prometheus.Counter(
            "splitdeploy_pictures", "Pictures answered.", ("model",), registry=self.registry
        )
        self._in_progress = prometheus.Gauge(
            "splitdeploy_requests_in_progress", "Requests that are received, wait or compute.",
            registry=self.registry,
        )  # fmt: skip
        # Made here, so that a request pays for no look-up, and a scraper sees zeros from the start.
        self._requests = {(n, o): requests.labels(n, o.value) for n in names for o in Outcome}
        self._queue = {n: stages.labels(n, "queue") for n in names if n}
        self._compute = {n: stages.labels(n, "compute") for n in names if n}
        self._in = {n: payload.labels(n, "in") for n in names}
        self._out = {n: payload.labels(n, "out") for n in names}
        self._pictures = {n: pictures.labels(n) for n in names if n}

    def watch(self, in_progress: Callable[[], float]) -> None:
        """Read the gauge of requests in progress from here, when it is asked for.

        Args:
            in_progress: How many there are.
        """
        self._in_progress.set_function(in_progress)

    def count(self, record: Record) -> None:
        """Count a request that has ended.

        Args:
            record: What is known of it.
        """
        self._requests[record.model, record.outcome].inc()
        self._in[record.model].inc(record.bytes_in)
        if record.outcome is Outcome.OK and record.compute_s is not None:
            self._out[record.model].inc(record.bytes_out)
            self._queue[record.model].observe(record.queue_s)
            self._compute[record.model].observe(record.compute_s)
            self._pictures[record.model].inc(record.batch)

    def serve(self, host: str, port: int) -> tuple[int, Callable[[], None]]:
        """Offer the figures over HTTP at ``/metrics``.

        Args:
            host: Where to listen.
            port: 0 takes any that is free.

        Returns:
            The port, and a function that stops it.

        Raises:
            ServeError: The port cannot be had.
        """
        try:
            server, thread = _prometheus().start_http_server(port, host, self.registry)
        except OSError as error:
            raise ServeError(
                f"cannot offer metrics on {host}:{port}: {error.strerror or error}: choose another "
                "--metrics-port"
            ) from error

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return server.server_port, stop


def _prometheus() -> Any:
    try:
        return importlib.import_module("prometheus_client")
    except ImportError as error:
        raise MissingExtraError(
            "metrics need prometheus_client, which is not installed: "
            "type  pip install 'splitdeploy[serve]'"
        ) from error
