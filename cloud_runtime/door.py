"""Who may come in: bounds the requests that are on their way, and closes for a drain."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from splitdeploy.cloud_runtime.records import Outcome


class Call(Protocol):
    """What of a gRPC call is needed to end it."""

    def cancel(self) -> object:
        """End the call."""


class Door:
    """Counts the requests within, from their first header to their last byte.

    A request whose body comes slowly holds a thread. Where no thread is left for others, the one
    that has been arriving longest is cut off if it had its time, so that no client can hold all.

    Args:
        room: How many requests may be within at once.
        patience_s: How long a body may take to arrive when others find no room.
    """

    def __init__(self, room: int, patience_s: float) -> None:
        self._room = room
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._within = 0
        self._open = True
        self._arriving: dict[int, tuple[float, Call]] = {}

    @property
    def is_open(self) -> bool:
        """Whether requests are still taken."""
        return self._open

    @property
    def within(self) -> int:
        """How many requests are in progress."""
        return self._within

    def enter(self, now_s: float) -> Outcome:
        """Ask to come in. Whoever gets ``OK`` has to `leave`.

        Args:
            now_s: By the clock that `arriving` is told by.

        Returns:
            ``OK``, ``DRAINING`` or ``OVERLOADED``.
        """
        with self._changed:
            if not self._open:
                return Outcome.DRAINING
            if self._within < self._room:
                self._within += 1
                return Outcome.OK
            slowest = self._slowest(now_s)
        if slowest is not None:
            slowest.cancel()
        return Outcome.OVERLOADED

    def _slowest(self, now_s: float) -> Call | None:
        # A dict keeps the order of arrival.
        for since_s, call in self._arriving.values():
            return call if now_s - since_s > self._patience_s else None
        return None

    def arriving(self, call: Call, since_s: float) -> None:
        """Tell that a call's body is awaited."""
        with self._changed:
            self._arriving[id(call)] = (since_s, call)

    def arrived(self, call: Call) -> None:
        """Tell that it came, or that it never will."""
        with self._changed:
            self._arriving.pop(id(call), None)

    def leave(self) -> None:
        """Tell that a request has ended."""
        with self._changed:
            self._within -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Take no more requests."""
        with self._changed:
            self._open = False

    def wait_empty(self, timeout_s: float) -> bool:
        """Wait for the requests within.

        Args:
            timeout_s: At most so long.

        Returns:
            Whether all have left.
        """
        end_s = time.monotonic() + timeout_s
        with self._changed:
            while self._within:
                left_s = end_s - time.monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
        return True
