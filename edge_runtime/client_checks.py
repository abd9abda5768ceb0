"""What a client of a split model may be asked for."""

from __future__ import annotations

from typing import Literal

from splitdeploy.profiles.errors import UnknownNameError, UsageError

Fallback = Literal["refuse", "local"]

FALLBACKS = ("refuse", "local")


def check_client(
    fallback: str,
    address: str | None,
    deadline_s: float,
    retries: int,
    window: int,
    max_batch: int,
) -> None:
    """Refuse settings of a client that cannot be meant; they are those of `SplitClient`.

    Args:
        fallback: What to do where the cloud does not answer.
        address: Of the server, or None.
        deadline_s: For each request.
        retries: How often a request is sent again.
        window: How many requests of a stream may be under way.
        max_batch: The most pictures of one request.

    Raises:
        UnknownNameError: The fallback is none.
        UsageError: A number is out of range, or nobody would answer.
    """
    if fallback not in FALLBACKS:
        raise UnknownNameError("fallback", str(fallback), FALLBACKS)
    if address is None and fallback != "local":
        raise UsageError(
            "expected the cloud's address, got none: give HOST:PORT, or fallback='local' to answer "
            "everything on this device"
        )
    check_deadline(deadline_s)
    if retries < 0 or window < 1 or max_batch < 1:
        raise UsageError(
            "expected retries of at least 0, a window and a max_batch of at least 1, got "
            f"{retries}, {window} and {max_batch}"
        )


def check_deadline(deadline_s: float | None) -> None:
    """Refuse a deadline that cannot be meant.

    Args:
        deadline_s: In seconds, or None.

    Raises:
        UsageError: It is not above zero, or without end.
    """
    if deadline_s is not None and not 0 < deadline_s < float("inf"):
        raise UsageError(f"expected a deadline above 0 s, got {deadline_s} s")
