"""What a client gives back for each picture, and what it counts."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

from splitdeploy.edge_runtime.session import Array
from splitdeploy.profiles.errors import CloudError

AnsweredBy = Literal["cloud", "local", "refused"]


@dataclass(frozen=True)
class RequestTimes:
    """Where the time of one request went; of a batch, that of the whole batch.

    Attributes:
        preprocess_s: From a picture to the head's input.
        head_s: The head, with drawing its noise.
        wire_s: To the cloud and back, without the cloud's own work where it tells of it; with
            retries and the pauses between them.
        tail_s: The tail's work: the server's own figure, or the local tail's; None where a server
            does not tell it, which leaves it in ``wire_s``.
        queue_s: How long the request waited in the server for its turn, where the server tells it.
        total_s: From taking the picture until the answer was there, waiting included.
        last_s: The last part, behind a second cut; None where there is none.
    """

    preprocess_s: float = 0.0
    head_s: float = 0.0
    wire_s: float = 0.0
    tail_s: float | None = None
    queue_s: float | None = None
    total_s: float = 0.0
    last_s: float | None = None


@dataclass(frozen=True)
class Answer:
    """The answer to one picture, of which there is exactly one.

    Attributes:
        index: Of the picture: in its stream or batch, from 0.
        outputs: The model's results by name, a batch of one; None where it was refused.
        answered_by: ``cloud``, ``local`` (the device's own tail) or ``refused``.
        error: Why the cloud did not answer, in one line; None where it did or was not to be asked.
        kind: Of that error: one of `CloudError`'s kinds, or ``input`` where the picture itself or
            what the head made of it would not do.
        payload_bytes: What the head's output weighs on the wire, once; 0 where there was none.
        times: Where the time went.
        attempts: How often it was sent.
    """

    index: int
    outputs: Mapping[str, Array] | None
    answered_by: AnsweredBy
    error: str | None
    kind: str | None
    payload_bytes: int
    times: RequestTimes
    attempts: int

    def raise_if_refused(self) -> Answer:
        """Turn a refusal into an exception.

        Returns:
            This answer.

        Raises:
            CloudError: It was refused.
        """
        if self.answered_by == "refused":
            raise CloudError(self.kind or "refused", self.error or "refused")
        return self


@dataclass(frozen=True)
class ClientStats:
    """What a client counted so far.

    Once nothing is under way, ``sent`` is the sum of ``answered_by_cloud``, ``answered_locally``,
    ``refused`` and ``abandoned``.

    Attributes:
        sent: Pictures given to the client.
        answered_by_cloud: Of them, those that the cloud answered.
        answered_locally: Those that the device's own tail answered.
        refused: Those without an answer.
        abandoned: Those whose caller left before the answer was there.
        retried: Requests that were sent again.
        late: Pictures whose answer or refusal came after the deadline.
        bytes_sent: Payload handed to the network, retries included.
    """

    sent: int = 0
    answered_by_cloud: int = 0
    answered_locally: int = 0
    refused: int = 0
    abandoned: int = 0
    retried: int = 0
    late: int = 0
    bytes_sent: int = 0


_COUNTED: Mapping[AnsweredBy, str] = {
    "cloud": "answered_by_cloud",
    "local": "answered_locally",
    "refused": "refused",
}


class Counter:
    """Counts from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stats = ClientStats()

    @property
    def stats(self) -> ClientStats:
        """All counts at one moment."""
        return self._stats

    def add(self, **amounts: int) -> None:
        """Add to counts.

        Args:
            **amounts: By the name of `ClientStats`.
        """
        with self._lock:
            sums = {name: getattr(self._stats, name) + more for name, more in amounts.items()}
            self._stats = replace(self._stats, **sums)

    def ended(self, answered_by: AnsweredBy, pictures: int = 1, *, late: bool = False) -> None:
        """Count how a request ended."""
        self.add(**{_COUNTED[answered_by]: pictures, "late": pictures if late else 0})


def count_names() -> tuple[str, ...]:
    """The names of what is counted, in the order of `ClientStats`."""
    return tuple(field.name for field in fields(ClientStats))
