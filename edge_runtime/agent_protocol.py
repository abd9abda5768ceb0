"""How workstation and device talk: a version that both must have, and lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

PROTOCOL = 1
"""Raised when a request or an answer changes its meaning."""


def line_of(event: str, fields: Mapping[str, Any]) -> str:
    """An event as a line.

    Args:
        event: Its name.
        fields: What it tells.

    Returns:
        JSON, on one line.
    """
    return json.dumps({"event": event, **fields}, separators=(",", ":"))


def read_line(line: str) -> dict[str, Any] | None:
    """An event out of a line.

    Args:
        line: Anything: a login shell may print among them.

    Returns:
        The event, or None where the line is none.
    """
    if not line.startswith("{"):
        return None
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and "event" in document else None
