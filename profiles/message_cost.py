"""What a request costs a machine beside computing: its messages are made, sent, taken and read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MessageCost:
    """A line over the bytes of a request and its answer.

    Attributes:
        request_s: Seconds of a request of no size.
        byte_s: Seconds that a byte adds.
    """

    request_s: float
    byte_s: float

    def of(self, size_bytes: float) -> float:
        """Seconds of one request.

        Args:
            size_bytes: What goes and what comes back.

        Returns:
            Them.
        """
        return self.request_s + self.byte_s * size_bytes
