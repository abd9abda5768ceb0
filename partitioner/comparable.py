"""What two reports of the same work agree in: everything but when, where and how long."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TOLD = frozenset({"created", "command", "environment", "seconds"})
_TIMED = frozenset({"median", "p95", "spread", "count", "stability"})
_SECONDS = re.compile(r"\b\d+(\.\d+)? s\b")


def comparable(document: Mapping[str, Any]) -> dict[str, Any]:
    """A report without its timings.

    Args:
        document: As `splitdeploy.profiles.store.report_to_json` gives it.

    Returns:
        The same without dates, the command, the machine, and the seconds that attacks took or
        notes tell of; of a time that was measured only that it was.
    """
    stripped = _stripped(document)
    return stripped if isinstance(stripped, dict) else {}


def _stripped(value: Any) -> Any:
    if isinstance(value, str):
        return _SECONDS.sub("… s", value)
    if isinstance(value, list):
        return [_stripped(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    left_out = _TOLD | (_TIMED if value.get("source") == "measured" else frozenset())
    return {key: _stripped(inner) for key, inner in value.items() if key not in left_out}
