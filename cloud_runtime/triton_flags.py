"""Flags of ``tritonserver`` that a process here and a fleet in a cluster share."""

from __future__ import annotations

import math

_NOT_FOR_CLIENTS = "shared-memory,model-repository,trace,logging"
_NOT_OVER_HTTP = f"inference,metadata,model-config,statistics,{_NOT_FOR_CLIENTS}"


def closed_flags(secret: str, drain_s: float) -> list[str]:
    """Close what no client of a tail needs: gRPC infers and describes, HTTP tells of health.

    Triton can only put a part of its interface behind a header; so it is one that nobody is told.

    Args:
        secret: The header's value.
        drain_s: How long it answers what it has when it is told to end.

    Returns:
        The flags.
    """
    return [
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        f"--grpc-restricted-protocol={_NOT_FOR_CLIENTS}:closed={secret}",
        f"--http-restricted-api={_NOT_OVER_HTTP}:closed={secret}",
        f"--exit-timeout-secs={max(1, math.ceil(drain_s))}",
    ]


def tls_flags(cert: str, key: str, client_ca: str | None) -> list[str]:
    """Have gRPC speak TLS, and ask clients for a certificate where there is an authority for them.

    Args:
        cert: The file of the server's certificate.
        key: Of its key.
        client_ca: Of the authority that a client's certificate must come from, or None.

    Returns:
        The flags.
    """
    flags = ["--grpc-use-ssl=true", f"--grpc-server-cert={cert}", f"--grpc-server-key={key}"]
    if client_ca is not None:
        flags += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={client_ca}"]
    return flags
