"""What a server remembers of a request: enough to count and to log it, nothing of its payload."""

from __future__ import annotations

import enum
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_LONGEST_TEXT = 300
_LONGEST_ID = 64

LIFE = logging.getLogger("splitdeploy.serve")
"""Tells when a server drains."""

LIFE.addHandler(logging.NullHandler())  # silent until whoever embeds a server wants to hear it

REQUESTS = logging.getLogger("splitdeploy.serve.requests")
"""A line a request: those answered at INFO, those refused at WARNING, failures at ERROR."""


class Outcome(enum.Enum):
    """How a request ended."""

    OK = "ok"
    INVALID = "invalid"
    NOT_FOUND = "not_found"
    OVERLOADED = "overloaded"
    DRAINING = "draining"
    GONE = "gone"
    """The client left, or its deadline passed, before the tail ran or the answer was ready."""
    FAILED = "failed"


_LEVELS = {Outcome.OK: logging.INFO, Outcome.FAILED: logging.ERROR}


@dataclass
class Record:
    """One request, filled in as it goes.

    Attributes:
        peer: Who sent it, as gRPC says.
        outcome: How it ended.
        model: A name that is served; empty where the request named none that is.
        request_id: As the client gave it.
        batch: How many pictures.
        bytes_in: Of the request's message.
        bytes_out: Of the answer's.
        queue_s: Waited for a place to compute.
        compute_s: In the graph; None where it did not run to its end.
        reason: Why it was not answered.
    """

    peer: str
    outcome: Outcome = Outcome.OK
    model: str = ""
    request_id: str = ""
    batch: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    queue_s: float = 0.0
    compute_s: float | None = None
    reason: str = ""


def log_request(record: Record) -> None:
    """Write a request's line, where its level is wanted.

    Args:
        record: Of a request that has ended.
    """
    level = _LEVELS.get(record.outcome, logging.WARNING)
    if not REQUESTS.isEnabledFor(level):
        return
    compute_s = record.compute_s
    fields = {
        "outcome": record.outcome.value,
        "model": record.model,
        "id": cleaned(record.request_id, _LONGEST_ID),
        "peer": record.peer,
        "batch": record.batch,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "queue_us": round(record.queue_s * 1e6),
        "compute_us": None if compute_s is None else round(compute_s * 1e6),
    }
    if record.reason:
        fields["reason"] = cleaned(record.reason, _LONGEST_TEXT)
    REQUESTS.log(level, "request", extra={"fields": fields})


def cleaned(text: str, longest: int) -> str:
    """What came from a client, made fit for a log: printable ASCII, and no more than so much.

    Args:
        text: Any.
        longest: In characters.

    Returns:
        The text, with ``?`` for what a terminal or a log reader might act upon.
    """
    short = text if len(text) <= longest else text[:longest] + "..."
    return "".join(c if " " <= c <= "~" else "?" for c in short)


class JsonLines(logging.Formatter):
    """A JSON object a line: ``time``, ``level``, ``event``, and the fields of the event."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, one of another library's too."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": cleaned(record.getMessage().partition("\n")[0], _LONGEST_TEXT),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            line.update(fields)
        else:
            line["logger"] = record.name
        return json.dumps(line)
