"""Who may compute: so many at once, so many more wait in order of arrival, the rest are refused."""

from __future__ import annotations

import enum
import threading
from collections import deque


class Admission(enum.Enum):
    """What came of asking for a place."""

    COMPUTE = "compute"
    REFUSED = "refused"
    LEFT = "left"


class Ticket:
    """A place in the queue."""

    def __init__(self) -> None:
        self.called = threading.Event()
        self.admission: Admission | None = None


class Gate:
    """Admits requests to the tails.

    Args:
        max_computing: How many compute at once.
        max_waiting: How many more may wait.
    """

    def __init__(self, max_computing: int, max_waiting: int) -> None:
        self.max_computing = max_computing
        self.max_waiting = max_waiting
        self._lock = threading.Lock()
        self._computing = 0
        self._queue: deque[Ticket] = deque()

    @property
    def computing(self) -> int:
        """How many compute now."""
        return self._computing

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether the next one would be refused."""
        with self._lock:
            return self._full()

    def _full(self) -> bool:
        return self._computing >= self.max_computing and len(self._queue) >= self.max_waiting

    def enter(self) -> Ticket:
        """Ask for a place. Whoever is admitted to compute has to `leave`.

        Returns:
            A ticket that says ``COMPUTE`` or ``REFUSED`` at once, or is called later.
        """
        ticket = Ticket()
        with self._lock:
            if self._computing < self.max_computing:
                self._computing += 1
                ticket.admission = Admission.COMPUTE
            elif self._full():
                ticket.admission = Admission.REFUSED
            else:
                self._queue.append(ticket)
        return ticket

    def give_up(self, ticket: Ticket) -> None:
        """Take a waiting ticket out of the queue; nothing happens if it no longer waits."""
        with self._lock:
            if ticket.admission is None:
                self._queue.remove(ticket)
                ticket.admission = Admission.LEFT
                ticket.called.set()

    def leave(self) -> None:
        """Give one's place to who has waited longest."""
        with self._lock:
            if self._queue:
                ticket = self._queue.popleft()
                ticket.admission = Admission.COMPUTE
                ticket.called.set()
            else:
                self._computing -= 1
