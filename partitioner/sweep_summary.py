"""What a sweep says in one table: the pick of every run, and the runs that have none."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from splitdeploy.partitioner.sweep_batch import Planned
from splitdeploy.partitioner.sweep_jobs import Outcome
from splitdeploy.profiles.document import Node
from splitdeploy.profiles.errors import ReportError, SplitdeployError
from splitdeploy.profiles.network import NetworkProfile
from splitdeploy.profiles.report import SweepReport
from splitdeploy.profiles.store import read_report, write_atomically
from splitdeploy.profiles.units import format_rate

SUMMARY_FILE = "summary.json"
SCHEMA_VERSION = 1
_WHOLE = ("done", "infeasible")
_STATUSES = (*_WHOLE, "failed", "crashed")


@dataclass(frozen=True)
class SummaryRow:
    """One run.

    Attributes:
        name: Of the run.
        key: Of its settings.
        folder: Where it lies; relative to the summary where that is above it.
        status: ``done``, ``infeasible``, ``failed`` or ``crashed``.
        error: Why there is no pick.
        seconds: That the run took.
        host: That it ran on.
        model: Its name.
        device: That runs the head.
        cloud: That runs the tail.
        network: Its name, or its uplink.
        device_source: Whether the device's latencies were ``measured`` or ``simulated``.
        cut: The pick.
        runner_up: The second best.
        latency_s: Median of the pick's total.
        energy_j: Of the device an inference.
        payload_bytes: That the pick sends.
        ssim: Of the strongest attack on the pick.
        fsinfo: Of the pick, in nats per input element.
        precision: That the run computes and sends in.
        batch: Inputs a request of the run.
    """

    name: str
    key: str
    folder: str
    status: str
    error: str | None
    seconds: float
    host: str
    model: str
    device: str
    cloud: str
    network: str
    device_source: str | None = None
    cut: str | None = None
    runner_up: str | None = None
    latency_s: float | None = None
    energy_j: float | None = None
    payload_bytes: int | None = None
    ssim: float | None = None
    fsinfo: float | None = None
    precision: str | None = None
    batch: int | None = None


def summarise(
    planned: Sequence[Planned], outcomes: Sequence[Outcome], out: Path
) -> tuple[SummaryRow, ...]:
    """A row for every run, from its report.

    Args:
        planned: The runs.
        outcomes: How each of them ended.
        out: The folder of the sweep.

    Returns:
        The rows, in the same order.
    """
    return tuple(_row(run, end, out) for run, end in zip(planned, outcomes, strict=True))


def _row(run: Planned, outcome: Outcome, out: Path) -> SummaryRow:
    options = run.options
    base = SummaryRow(
        outcome.name, outcome.key, outcome.name, outcome.status, outcome.error, outcome.seconds,
        outcome.host, options.model, options.device, options.cloud, _network(options.network),
        precision=options.precision, batch=options.batch,
    )  # fmt: skip
    if outcome.status not in _WHOLE:
        return base
    try:
        return replace(base, **_figures(read_report(out / outcome.name)))
    except ReportError as error:
        return replace(base, status="failed", error=str(error))


def _network(network: NetworkProfile) -> str:
    return format_rate(network.uplink_bps) if network.name == "custom" else network.name


def _figures(report: SweepReport) -> dict[str, Any]:
    """What the table says of a report."""
    found: dict[str, Any] = {"device_source": report.edge.source}
    if report.recommendation is None:
        return found
    row = report.find(report.recommendation.cut)
    attack = row.strongest_attack
    return found | {
        "cut": row.name,
        "runner_up": report.recommendation.runner_up,
        "latency_s": row.latency_s and row.latency_s.total.median,
        "energy_j": row.energy_j and row.energy_j.total,
        "payload_bytes": row.cut.payload_bytes,
        "ssim": attack and attack.ssim,
        "fsinfo": row.leakage and row.leakage.fsinfo.value,
    }


def summary_to_json(rows: Sequence[SummaryRow]) -> dict[str, Any]:
    """The document of a summary.

    Args:
        rows: Of the runs.

    Returns:
        What ``json.dumps`` takes.
    """
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {
        "schema_version": SCHEMA_VERSION,
        "created": created,
        "runs": [asdict(row) for row in rows],
    }


def write_summary(rows: Sequence[SummaryRow], out: Path) -> None:
    """Write ``summary.json``.

    Args:
        rows: Of the runs.
        out: The folder of the sweep.
    """
    text = json.dumps(summary_to_json(rows), indent=2, ensure_ascii=False)
    write_atomically(out / SUMMARY_FILE, text + "\n")


def read_summary(folder: Path) -> tuple[SummaryRow, ...]:
    """Read the summary of a sweep.

    Args:
        folder: Of the sweep.

    Returns:
        Its rows.

    Raises:
        ReportError: There is none, or it does not hold what it should.
    """
    path = folder / SUMMARY_FILE
    try:
        document = Node(json.loads(path.read_text(encoding="utf-8")), document=str(path))
    except FileNotFoundError as error:
        raise ReportError(
            f"expected the folder of a sweep with a {SUMMARY_FILE}, got {folder}: "
            "write one with: splitdeploy sweep FILE.yaml --out DIR"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ReportError(f"{path} is no JSON document: {error}") from error
    version = document["schema_version"].value
    if version != SCHEMA_VERSION:
        raise ReportError(
            f"{path} at $.schema_version: expected {SCHEMA_VERSION}, got {version!r}: read it with "
            "the splitdeploy that wrote it"
        )
    return tuple(_read_row(node) for node in document["runs"])


def _read_row(node: Node) -> SummaryRow:
    known = {field.name: field.type for field in fields(SummaryRow)}
    values: dict[str, Any] = {}
    for key, type_name in known.items():
        needed = "None" not in str(type_name)
        found = node[key] if needed else node.get(key)
        if found is None:
            values[key] = None
        elif "str" in str(type_name):
            values[key] = found.text()
        else:
            values[key] = found.integer() if "int" in str(type_name) else found.number()
    node["status"].choice(_STATUSES)
    return SummaryRow(**values)


def merge(folders: Sequence[Path], out: Path | None) -> tuple[SummaryRow, ...]:
    """The rows of several sweeps as one.

    A run of the same settings that is there more than once counts once: one that has a report comes
    before one that failed.

    Args:
        folders: Of the sweeps.
        out: Where the merged summary goes: the rows' folders are told from there. None for here.

    Returns:
        The rows, in the order of the folders.

    Raises:
        SplitdeployError: Two finished runs of the same settings pick different cuts.
    """
    merged: dict[str, tuple[SummaryRow, Path]] = {}
    for folder in folders:
        for row in read_summary(folder):
            known = merged.get(row.key)
            if known is None or (known[0].status not in _WHOLE and row.status in _WHOLE):
                merged[row.key] = (row, folder)
            elif row.status in _WHOLE and row.cut != known[0].cut:
                raise SplitdeployError(
                    f"two runs of the same settings pick different cuts: {known[1] / row.folder} "
                    f"picks {known[0].cut}, {folder / row.folder} picks {row.cut}: leave one of "
                    "the sweeps out, or run both with a longer budget"
                )
    return _apart([(row, _seen_from(folder / row.folder, out)) for row, folder in merged.values()])


def _seen_from(folder: Path, out: Path | None) -> str:
    whole, start = folder.resolve(), (out or Path()).resolve()
    return str(whole.relative_to(start)) if whole.is_relative_to(start) else str(whole)


def _apart(rows: Sequence[tuple[SummaryRow, str]]) -> tuple[SummaryRow, ...]:
    """Under their folders, and with those as names where a name is there twice."""
    names = [row.name for row, _ in rows]
    return tuple(
        replace(row, folder=folder, name=row.name if names.count(row.name) == 1 else folder)
        for row, folder in rows
    )
