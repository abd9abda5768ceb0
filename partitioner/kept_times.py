"""The timings on this machine, kept so that a resumed sweep takes them up as they were."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from splitdeploy.edge_runtime.device_state import read_state
from splitdeploy.edge_runtime.message_cost import MessageCosts, measure_messages
from splitdeploy.edge_runtime.power_mode import power_mode
from splitdeploy.partitioner.local_times import time_locally
from splitdeploy.partitioner.measured import MeasuredSide
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.state import State
from splitdeploy.profiles.errors import SessionError
from splitdeploy.profiles.measurement import Measurement
from splitdeploy.profiles.message_cost import MessageCost

_LOCAL_TIMING_S = 4.0

_PART = "local-times"


@dataclass(frozen=True)
class LocalSides:
    """Heads and tails of all cuts on this machine."""

    heads: MeasuredSide
    tails: MeasuredSide


def local_sides(
    plan: Plan, precision: str, mode: str | None, batch: int, state: State, reporter: Reporter
) -> LocalSides:
    """Time every half on this machine, or take up what an interrupted sweep had timed.

    Args:
        plan: The model, its cuts and its export.
        precision: Of the payload; this machine computes in fp32.
        mode: The power mode to set on a Jetson; None to leave it.
        batch: How many inputs a request has.
        state: Where the timings are kept.
        reporter: Told as it goes.

    Returns:
        Both sides.
    """
    # What times are good for beside the settings of the state, which other runs may share.
    here = {
        "machine": platform.node(), "power_mode": mode, "precision": precision, "batch": batch,
    }  # fmt: skip
    kept = _read(state.load_part(_PART), here)
    if kept is not None:
        return kept
    began = time.perf_counter()
    with power_mode(mode):
        device = read_state()
        local = time_locally(plan, reporter, _LOCAL_TIMING_S, batch)
        messages, why = _messages()
    heads, tails = local.heads(precision), local.tails()
    if messages is None:
        heads = replace(heads, warnings=(*heads.warnings, why))
    else:
        heads = replace(heads, messages=messages.client)
        tails = replace(tails, messages=messages.server)
    if device is not None and device.board is not None:
        # With what a Jetson tells of itself; any other machine tells nothing.
        heads = replace(heads, power_mode=device.power_mode, facts=device.to_json())
    sides = LocalSides(heads, tails)
    document = {"here": here, "heads": _to_json(sides.heads), "tails": _to_json(sides.tails)}
    state.save_part(_PART, document)
    state.tell("timing on this machine", time.perf_counter() - began)
    return sides


def _messages() -> tuple[MessageCosts | None, str]:
    """What a request costs here, or why that is not known."""
    try:
        return measure_messages(), ""
    except SessionError as error:
        return None, f"{error}; times are without it"


def _to_json(side: MeasuredSide) -> dict[str, Any]:
    times = {cut: dict(vars(measured)) for cut, measured in side.times.items()}
    messages = None if side.messages is None else vars(side.messages)
    return {
        **vars(side), "times": times, "warnings": list(side.warnings), "messages": messages,
    }  # fmt: skip


def _read(document: Any, here: Mapping[str, Any]) -> LocalSides | None:
    """What was kept; None where there is nothing, or it is of another machine."""
    try:
        if document["here"] != dict(here):
            return None
        return LocalSides(_side(document["heads"]), _side(document["tails"]))
    except (KeyError, TypeError, AttributeError):
        return None


def _side(document: Mapping[str, Any]) -> MeasuredSide:
    times = {cut: Measurement(**measured) for cut, measured in document["times"].items()}
    told = document["messages"]
    messages = None if told is None else MessageCost(**told)
    rest = {"times": times, "warnings": tuple(document["warnings"]), "messages": messages}
    return MeasuredSide(**{**document, **rest})
