"""A link's rate over time, read from a CSV file, and what becomes of the cuts over it."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitdeploy.profiles.document import Node
from splitdeploy.profiles.errors import UsageError
from splitdeploy.profiles.network import NetworkProfile

COLUMNS = ("time_s", "uplink_bps", "downlink_bps", "rtt_s")
"""Of the file; the last two may be missing."""

MOST_SAMPLES = 1_000_000
"""A longer file is refused rather than read into memory."""


@dataclass(frozen=True)
class TraceSample:
    """A link from one moment until the next sample.

    Attributes:
        time_s: When it begins.
        duration_s: How long it holds.
        uplink_bps: Bits per second towards the cloud.
        downlink_bps: Bits per second from it; None where the file does not say.
        rtt_s: Round-trip time; None where the file does not say.
    """

    time_s: float
    duration_s: float
    uplink_bps: float
    downlink_bps: float | None = None
    rtt_s: float | None = None

    def over(self, network: NetworkProfile) -> tuple[float, float, float]:
        """Uplink, downlink and round trip; what the file does not say is the network's."""
        down = network.downlink_bps if self.downlink_bps is None else self.downlink_bps
        return self.uplink_bps, down, network.rtt_s if self.rtt_s is None else self.rtt_s


@dataclass(frozen=True)
class CutOverTrace:
    """The latency of one cut, over the whole of a trace."""

    cut: str
    mean_latency_s: float
    p95_latency_s: float


@dataclass(frozen=True)
class Stretch:
    """A time in which a schedule stays at one cut."""

    from_s: float
    to_s: float
    cut: str


@dataclass(frozen=True)
class TraceOutcome:
    """What a trace makes of every cut.

    Attributes:
        duration_s: Of the trace.
        samples: How many it has.
        requests_per_s: How often an inference is asked for.
        switch_cost_s: What a change of the cut costs.
        best_single: The cut with the least mean latency.
        cuts: Every feasible cut.
        schedule: The cheapest schedule of cuts, its switching paid.
        schedule_mean_latency_s: Mean latency of a request under it, with its share of switching.
    """

    duration_s: float
    samples: int
    requests_per_s: float
    switch_cost_s: float
    best_single: str
    cuts: tuple[CutOverTrace, ...]
    schedule: tuple[Stretch, ...]
    schedule_mean_latency_s: float


def read_trace(path: Path) -> tuple[TraceSample, ...]:
    """Read a bandwidth trace.

    A sample holds until the next; the last one as long as the one before it, or a second where
    there is no other.

    Args:
        path: A CSV file with a header: ``time_s,uplink_bps[,downlink_bps,rtt_s]``.

    Returns:
        The samples, at least one.

    Raises:
        UsageError: It cannot be read, is empty, or a line in it cannot be meant.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = _rows(csv.reader(file), path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        told = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read the trace {path}: {told}; give a CSV file") from error
    if not rows:
        raise UsageError(
            f"expected a line a sample below the header of the trace {path}, got none; "
            f"columns: {', '.join(COLUMNS)}"
        )
    times = [row["time_s"] for row in rows]
    steps = [after - before for before, after in zip(times, times[1:], strict=False)]
    steps.append(steps[-1] if steps else 1.0)
    return tuple(
        TraceSample(
            row["time_s"], step, row["uplink_bps"], row.get("downlink_bps"), row.get("rtt_s")
        )
        for row, step in zip(rows, steps, strict=True)
    )


def _rows(reader: Any, path: Path) -> list[dict[str, float]]:
    header = [name.strip() for name in next(reader, [])]
    unknown = [name for name in header if name not in COLUMNS]
    if header and (unknown or header[:2] != list(COLUMNS[:2]) or len(set(header)) < len(header)):
        raise UsageError(
            f"expected the header time_s,uplink_bps[,downlink_bps,rtt_s] in the trace {path}, got "
            f"{','.join(header)[:80]}"
        )
    rows: list[dict[str, float]] = []
    for fields in reader:
        if not any(field.strip() for field in fields):
            continue
        where = f"line {reader.line_num} of the trace {path}"
        if len(fields) != len(header):
            raise UsageError(f"expected {len(header)} fields in {where}, got {len(fields)}")
        row = {name: _number(text, name, where) for name, text in zip(header, fields, strict=True)}
        if rows and row["time_s"] <= rows[-1]["time_s"]:
            raise UsageError(
                f"expected times that rise, got {row['time_s']:g} after {rows[-1]['time_s']:g} in "
                f"{where}"
            )
        if len(rows) >= MOST_SAMPLES:
            raise UsageError(
                f"expected at most {MOST_SAMPLES} samples, got more in the trace {path}"
            )
        rows.append(row)
    return rows


def _number(text: str, name: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if name.endswith("_bps") and not (math.isfinite(value) and value > 0):
        raise UsageError(
            f"expected {name} above zero in {where}, got {text.strip()[:40]!r}; write an outage as "
            "a low rate, such as 1"
        )
    if not math.isfinite(value) or (name == "rtt_s" and value < 0):
        bound = "a number of zero or more" if name == "rtt_s" else "a number"
        raise UsageError(f"expected {bound} for {name} in {where}, got {text.strip()[:40]!r}")
    return value


def outcome_to_json(outcome: TraceOutcome) -> dict[str, Any]:
    """The document of an outcome.

    Args:
        outcome: What to write.

    Returns:
        Its document.
    """
    return {
        "duration_s": outcome.duration_s,
        "samples": outcome.samples,
        "requests_per_s": outcome.requests_per_s,
        "switch_cost_s": outcome.switch_cost_s,
        "best_single": outcome.best_single,
        "cuts": [dict(vars(row)) for row in outcome.cuts],
        "schedule": [dict(vars(stretch)) for stretch in outcome.schedule],
        "schedule_mean_latency_s": outcome.schedule_mean_latency_s,
    }


def outcome_from_json(node: Node) -> TraceOutcome:
    """The outcome of a document.

    Args:
        node: Where it stands.

    Returns:
        The outcome.
    """
    return TraceOutcome(
        duration_s=node["duration_s"].number(),
        samples=node["samples"].integer(),
        requests_per_s=node["requests_per_s"].number(),
        switch_cost_s=node["switch_cost_s"].number(),
        best_single=node["best_single"].text(),
        cuts=tuple(
            CutOverTrace(
                row["cut"].text(), row["mean_latency_s"].number(), row["p95_latency_s"].number()
            )
            for row in node["cuts"]
        ),
        schedule=tuple(
            Stretch(row["from_s"].number(), row["to_s"].number(), row["cut"].text())
            for row in node["schedule"]
        ),
        schedule_mean_latency_s=node["schedule_mean_latency_s"].number(),
    )
