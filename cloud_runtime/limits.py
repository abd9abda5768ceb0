"""What a server takes at most."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from splitdeploy.profiles.errors import ServeError

_LEAST_MESSAGE_BYTES = 4 << 20
"""What gRPC allows where nobody sets a limit; clients may count on it."""

_ROOM_BYTES = 64 << 10
"""Of a message beside its tensors: names, shapes, parameters."""

_MOST_MESSAGE_BYTES = (1 << 31) - 1
"""Neither gRPC nor protobuf carries more."""


@dataclass(frozen=True)
class Limits:
    """What a server takes at most.

    Attributes:
        max_batch: Pictures in a request.
        max_concurrent: Requests that compute at once.
        max_waiting: Requests that wait for one of those.
        max_message_bytes: Of a request, and of an answer; None for what the largest needs.
    """

    max_batch: int = 32
    max_concurrent: int = 2
    max_waiting: int = 32
    max_message_bytes: int | None = None

    def __post_init__(self) -> None:
        for what, value, least in (
            ("max_batch", self.max_batch, 1),
            ("max_concurrent", self.max_concurrent, 1),
            ("max_waiting", self.max_waiting, 0),
            ("max_message_bytes", self.max_message_bytes, 1),
        ):
            if value is not None and value < least:
                raise ServeError(f"expected {what} of at least {least}, got {value}")


def message_bytes(limits: Limits, picture_bytes: Iterable[tuple[int, int]]) -> int:
    """The limit of a message's size, of requests and answers alike.

    Args:
        limits: With the batch, and a limit if one was asked for.
        picture_bytes: Of every served tail: its inputs and results for one picture.

    Returns:
        Bytes.

    Raises:
        ServeError: A single picture does not fit.
    """
    largest = max(max(pair) for pair in picture_bytes)
    most = limits.max_message_bytes or _MOST_MESSAGE_BYTES
    if largest + _ROOM_BYTES > most:
        raise ServeError(
            f"one picture needs a message of {largest + _ROOM_BYTES} bytes, the limit is {most}: "
            "allow more with --max-message, or cut elsewhere"
        )
    if limits.max_message_bytes is not None:
        return limits.max_message_bytes
    wanted = limits.max_batch * largest + _ROOM_BYTES
    return min(max(wanted, _LEAST_MESSAGE_BYTES), _MOST_MESSAGE_BYTES)
