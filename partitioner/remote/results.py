"""What a device says that it measured, read as what it is: text from another machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from splitdeploy.partitioner.measured import MeasuredSide
from splitdeploy.profiles.cut import CLOUD_ONLY
from splitdeploy.profiles.errors import RemoteError
from splitdeploy.profiles.measurement import Measurement, Stability
from splitdeploy.profiles.message_cost import MessageCost

_VERDICTS = get_args(Stability)
_LONGEST = 300


def read_latency(document: Any) -> Measurement:
    """A time that was measured there.

    Args:
        document: As JSON.

    Returns:
        The time.

    Raises:
        RemoteError: It cannot be one.
    """
    try:
        median_s, p95_s, spread = (float(document[key]) for key in ("median", "p95", "spread"))
        count, stability = int(document["count"]), document["stability"]
    except (KeyError, TypeError, ValueError) as error:
        raise RemoteError(
            "failed", f"the device tells what is no time ({type(error).__name__}): run again"
        ) from error
    finite = all(math.isfinite(number) for number in (median_s, p95_s, spread))
    if not finite or min(median_s, p95_s, spread) < 0 or count < 1 or stability not in _VERDICTS:
        raise RemoteError(
            "failed", f"the device tells a time that cannot be one ({median_s} s): run again"
        )
    return Measurement(median_s, p95_s, spread, count, stability, "measured")


def read_joules(document: Any) -> tuple[float | None, str]:
    """An energy that was measured there, or why there is none.

    Args:
        document: As JSON.

    Returns:
        Joules a run, or None and the reason.
    """
    if not isinstance(document, Mapping):
        return None, "the device told nothing of it"
    joules = document.get("joules")
    if isinstance(joules, float | int) and math.isfinite(joules) and joules > 0:
        return float(joules), ""
    return None, str(document.get("why") or "the device did not say why")[:_LONGEST]


def read_messages(document: Any) -> tuple[MessageCost | None, str]:
    """What a request costs the device, or why that is not known.

    Args:
        document: As JSON.

    Returns:
        The cost, or None and the reason.
    """
    if not isinstance(document, Mapping):
        return None, "the device told nothing of it"
    parts = [document.get(key) for key in ("request_s", "byte_s")]
    numbers = [float(part) for part in parts if isinstance(part, float | int)]
    if len(numbers) == 2 and all(math.isfinite(part) and part >= 0 for part in numbers):
        return MessageCost(*numbers), ""
    return None, str(document.get("error") or "the device did not say why")[:_LONGEST]


def side_of(
    address: str,
    device: Mapping[str, Any],
    heads: Sequence[Mapping[str, Any]],
    messages: object = None,
) -> MeasuredSide:
    """All that a device told, as the edge side of a sweep.

    Args:
        address: Of the device.
        device: Its conditions before the first head.
        heads: A result each.
        messages: What a request costs it beside computing.

    Returns:
        The side.
    """
    times: dict[str, Measurement] = {}
    joules: dict[str, float] = {}
    failures: dict[str, str] = {}
    reasons, backends, notes = [], [], []
    for head in heads:
        name = str(head.get("name"))
        if head.get("error") is not None:
            failures[name] = f"on {address}: {str(head['error'])[:_LONGEST]}"
            continue
        times[name] = read_latency(head.get("latency"))
        backends.append(str(head.get("backend", "?"))[:_LONGEST])
        notes += [str(note)[:_LONGEST] for note in head.get("notes") or ()]
        energy, why = read_joules(head.get("energy"))
        if energy is None:
            reasons.append(why)
        else:
            joules[name] = energy
    warnings = [*dict.fromkeys(notes), *_unsteady(address, times)]
    message_cost, unknown = read_messages(messages)
    if message_cost is None:
        warnings.append(f"what a request costs {address} is not in its times: {unknown}")
    if reasons:
        # A sum of some cuts alone would make them look worse than those without a figure.
        joules = {}
        warnings.append(f"energy of {address} not measured: {reasons[0]}")
    elif joules:
        joules[CLOUD_ONLY] = 0.0
    mode = device.get("power_mode")
    return MeasuredSide(
        times=times,
        note=_note(address, device, list(dict.fromkeys(backends)), reasons),
        joules=joules,
        failures=failures,
        power_mode=None if mode is None else str(mode)[:80],
        warnings=tuple(warnings),
        facts={"address": address, **device, "heads": [dict(head) for head in heads]},
        messages=message_cost,
    )


def _unsteady(address: str, times: Mapping[str, Measurement]) -> list[str]:
    shaky = [name for name, time_s in times.items() if time_s.stability != "stable"]
    if not shaky:
        return []
    return [
        f"the timings on {address} are not steady at {len(shaky)} of {len(times)} cuts "
        f"({', '.join(shaky[:3])}{', …' if len(shaky) > 3 else ''}): lock its clocks, close other "
        "programs and run again"
    ]


def _note(
    address: str, device: Mapping[str, Any], backends: Sequence[str], reasons: Sequence[str]
) -> str:
    """Under what conditions it was measured, in words."""
    board = device.get("board") or f"a {device.get('machine', 'machine')}"
    parts = [f"measured on {str(board)[:80]} at {address} in {' and '.join(backends) or 'nothing'}"]
    for label, key, unit in (("clocks", "clocks_mhz", "MHz"), ("at", "temperatures_c", "°C")):
        known = device.get(key)
        if isinstance(known, Mapping) and known:
            told = [f"{name} {_number(value)}" for name, value in list(known.items())[:6]]
            parts.append(f"{label} {', '.join(told)} {unit}")
    parts.append(f"energy not measured: {reasons[0]}" if reasons else "energy by its own sensor")
    return "; ".join(parts)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | int) else str(value)[:20]
