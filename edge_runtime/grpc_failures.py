"""What a failed call of gRPC means to the client, and how it is told."""

from __future__ import annotations

from typing import Any

import grpc

_KINDS = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "deadline",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "overloaded",
    grpc.StatusCode.INVALID_ARGUMENT: "refused",
    grpc.StatusCode.NOT_FOUND: "refused",
    grpc.StatusCode.ALREADY_EXISTS: "refused",
    grpc.StatusCode.PERMISSION_DENIED: "refused",
    grpc.StatusCode.FAILED_PRECONDITION: "refused",
    grpc.StatusCode.OUT_OF_RANGE: "refused",
    grpc.StatusCode.UNIMPLEMENTED: "refused",
    grpc.StatusCode.UNAUTHENTICATED: "refused",
}
"""All others mean that the server or the link broke down under the request: ``unavailable``."""

_LONGEST_DETAILS = 300


def failure(error: Any, address: str) -> tuple[str, str]:
    """The kind of a failure and its one line, as `CloudError` takes them.

    Args:
        error: gRPC's error.
        address: Of the server.

    Returns:
        Both.
    """
    code = error.code()
    details = " ".join(str(error.details() or "").split())[:_LONGEST_DETAILS]
    kind = _KINDS.get(code, "unavailable")
    # gRPC's own refusal of a message's size bears the code of a server without room.
    if kind == "overloaded" and "message larger than max" in details:
        kind = "refused"
    said = {
        "deadline": "no answer in time from",
        "overloaded": "no room for this request at",
        "refused": "this request is refused by",
        "unavailable": "no answer from",
    }[kind]
    return kind, f"{said} {address} ({code.name}: {details or 'no details'})"
