"""``splitdeploy serve``: the tails of some bundles, behind the Open Inference Protocol."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from splitdeploy.profiles.errors import UsageError
from splitdeploy.profiles.units import format_size, parse_size_bytes, parse_time_s

if TYPE_CHECKING:
    from splitdeploy.cloud_runtime.server import TailServer
    from splitdeploy.cloud_runtime.tls import ServerTls

_PORT = click.IntRange(0, 65535)
_EMBEDDED_ONLY = ("max_concurrent", "max_waiting", "max_message", "threads", "provider")


def _path(help_text: str) -> dict[str, Any]:
    return {"metavar": "FILE", "type": click.Path(path_type=Path), "help": help_text}


@click.command("serve")
@click.argument(
    "bundles", metavar="BUNDLE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port",
    default=8001,
    show_default=True,
    type=_PORT,
    help="0 takes any that is free; standard output tells which.",
)
@click.option("--tls-cert", **_path("Certificate, in PEM; without one, nothing is encrypted."))
@click.option("--tls-key", **_path("Its private key, in PEM."))
@click.option("--tls-client-ca", **_path("Take only clients with a certificate from these roots."))
@click.option(
    "--max-batch",
    default=32,
    show_default=True,
    type=click.IntRange(1),
    help="Pictures in a request.",
)
@click.option(
    "--max-concurrent",
    type=click.IntRange(1),
    help="Requests that compute at once.  [default: 2]",
)
@click.option(
    "--max-waiting",
    type=click.IntRange(0),
    help="Requests that wait; the next is refused.  [default: 32]",
)
@click.option(
    "--max-message",
    metavar="SIZE",
    help="Of a request or answer, such as 64MB.  [default: what the largest needs, 4 MiB or more]",
)
@click.option(
    "--threads", type=click.IntRange(1), help="Of one operator.  [default: ONNX Runtime's]"
)
@click.option(
    "--provider",
    multiple=True,
    metavar="NAME",
    help="ONNX Runtime's, such as CUDAExecutionProvider; may be repeated, in order of preference. "
    " [default: CPUExecutionProvider]",
)
@click.option("--metrics-port", type=_PORT, help="Offer Prometheus metrics over HTTP on this port.")
@click.option(
    "--grace",
    default="10s",
    show_default=True,
    metavar="TIME",
    help="How long requests in progress may take once a signal asks to stop.",
)
@click.option(
    "--engine",
    type=click.Choice(["embedded", "triton"]),
    default="embedded",
    show_default=True,
    help="This server, or NVIDIA's where it is installed.",
)
@click.option("-v", "--verbose", count=True, help="Log every request; show tracebacks.")
@click.option("-q", "--quiet", is_flag=True, help="Log nothing but failures.")
def command(bundles: tuple[Path, ...], engine: str, **given: Any) -> int:
    """Serve the tails of some BUNDLEs over gRPC, in the Open Inference Protocol (KServe v2).

    \b
    Example:
      splitdeploy serve bundle --port 8001 --metrics-port 8002

    Ends on SIGTERM or Ctrl-C once the requests in progress are answered; a second signal ends it at
    once. Logs go to standard error, a JSON object a line, and never hold what is in a request.
    """
    grace_s, tls = parse_time_s(given["grace"], zero=True), _tls(given)
    if engine == "embedded":
        return _serve(bundles, tls, grace_s, given)
    for name in _EMBEDDED_ONLY:
        if given[name] not in {None, ()}:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} is for --engine embedded: leave it out with --engine triton")
    from splitdeploy.cloud_runtime.triton_launch import run_triton

    return run_triton(
        bundles,
        host=given["host"],
        port=given["port"],
        metrics_port=given["metrics_port"],
        max_batch=given["max_batch"],
        tls=tls,
        grace_s=grace_s,
    )


def _tls(given: dict[str, Any]) -> ServerTls | None:
    cert, key, client_ca = given["tls_cert"], given["tls_key"], given["tls_client_ca"]
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise UsageError(
            "expected --tls-cert and --tls-key together, got one without the other: give both"
        )
    from splitdeploy.cloud_runtime.tls import ServerTls

    return ServerTls(cert, key, client_ca)


def _serve(
    bundles: Sequence[Path], tls: ServerTls | None, grace_s: float, given: dict[str, Any]
) -> int:
    # gRPC writes lines of its own, for each client that sends garbage; read when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from splitdeploy.cloud_runtime.server import TailServer
    from splitdeploy.cloud_runtime.stop_signals import StopSignals
    from splitdeploy.edge_runtime.bundle import read_bundle
    from splitdeploy.edge_runtime.onnxruntime_session import CPU

    settings: dict[str, Any] = {
        name: given[name]
        for name in ("max_concurrent", "max_waiting", "threads")
        if given[name] is not None
    }
    if given["max_message"] is not None:
        settings["max_message_bytes"] = parse_size_bytes(given["max_message"])
    server = TailServer(
        [read_bundle(bundle, "cloud") for bundle in bundles],
        host=given["host"],
        port=given["port"],
        tls=tls,
        max_batch=given["max_batch"],
        providers=given["provider"] or (CPU,),
        with_metrics=given["metrics_port"] is not None,
        **settings,
    )
    _log(given)
    with StopSignals() as signals, server:
        stop_metrics = _offer_metrics(server, given)
        _announce(server, tls, given)
        signals.wait()
        finished = server.drain(grace_s)
        stop_metrics()
    if not finished:
        _cut_off(grace_s)
    return 0


def _log(given: dict[str, Any]) -> None:
    """JSON lines on standard error, also for what other libraries log."""
    from splitdeploy.cloud_runtime.records import LIFE, REQUESTS, JsonLines

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    LIFE.setLevel(logging.ERROR if given["quiet"] else logging.INFO)
    usual = logging.INFO if given["verbose"] else logging.WARNING
    REQUESTS.setLevel(logging.ERROR if given["quiet"] else usual)


def _offer_metrics(server: TailServer, given: dict[str, Any]) -> Any:
    if server.metrics is None:
        return lambda: None
    port, stop = server.metrics.serve(given["host"], given["metrics_port"])
    click.echo(f"metrics http://{_address(server.host, port)}/metrics")
    return stop


def _announce(server: TailServer, tls: ServerTls | None, given: dict[str, Any]) -> None:
    limits = server.limits
    address = _address(server.host, server.port)
    click.echo(f"grpc {address}")
    sys.stdout.flush()
    if given["quiet"]:
        return
    kind = "plaintext" if tls is None else "TLS" if tls.client_ca is None else "mutual TLS"
    click.echo(
        f"serving {', '.join(server.names)} on {address} ({kind}; batches up to "
        f"{limits.max_batch}, {limits.max_concurrent} requests at once, {limits.max_waiting} "
        f"waiting, messages up to {format_size(limits.max_message_bytes or 0)})",
        err=True,
    )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _cut_off(grace_s: float) -> NoReturn:
    """Leave without waiting for a tail that still computes: Python would join its thread."""
    click.echo(
        f"error: requests were still in progress after {grace_s:g} s and were cut off: "
        "allow more with --grace",
        err=True,
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
