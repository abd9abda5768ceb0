"""The energy of a head: run over and over while the board's sensor is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from splitdeploy.edge_runtime.session import Array, Session


def measure_energy(session: Session, feeds: Mapping[str, Array], window_s: float) -> dict[str, Any]:
    """What a run of a head costs, or why it is not known.

    Args:
        session: The head.
        feeds: Its inputs.
        window_s: How long it is run over and over; 0 leaves it out.

    Returns:
        ``joules`` of the whole board and ``why`` there are none; never 0 for what was not measured.
    """
    del session, feeds
    if window_s <= 0:
        return {"joules": None, "why": "it was not asked for"}
    return {"joules": None, "why": "no power reader"}
