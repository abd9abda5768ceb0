"""The heads of all cuts measured on a device behind ssh."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from splitdeploy.edge_runtime.measure_job import HeadJob
from splitdeploy.partitioner.measured import MeasuredSide
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.remote.address import parse_address
from splitdeploy.partitioner.remote.board import Board, Facts
from splitdeploy.partitioner.remote.job import JobFiles, write_job
from splitdeploy.partitioner.remote.reach import folder_on, reach
from splitdeploy.partitioner.remote.results import side_of
from splitdeploy.partitioner.remote.transfer import send
from splitdeploy.profiles.errors import RemoteError
from splitdeploy.profiles.report import CutReport
from splitdeploy.profiles.store import write_atomically

_SKEW_TOLD_S = 1.0


def measure_remotely(
    plan: Plan, rows: Sequence[CutReport], options: ProfileOptions, state: Path, reporter: Reporter
) -> MeasuredSide:
    """Send the heads of all cuts, have them measured there, bring the results back.

    Args:
        plan: The model, its cuts and its export.
        rows: As far as they are; a cut that failed is left out.
        options: Of the sweep.
        state: Where the results are kept for ``--resume``.
        reporter: Told as it goes.

    Returns:
        The edge side.

    Raises:
        RemoteError: The device cannot be reached or lacks something, or the link was cut.
    """  # noqa: DOC502
    written = write_job(plan, rows, options)
    kept = state / f"device-{written.job.digest[:12]}.json"
    found = _kept(kept, written.job) if options.resume else None
    if found is None:
        with reach(options.device, options.remote) as (board, facts):
            found = _measured(board, facts, written, options, reporter)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps(found))
    address = str(parse_address(options.device))
    return side_of(address, found["device"], found["heads"], found.get("messages"))


def _measured(
    board: Board, facts: Facts, written: JobFiles, options: ProfileOptions, reporter: Reporter
) -> dict[str, Any]:
    if abs(facts.skew_s) > _SKEW_TOLD_S + facts.round_trip_s:
        reporter.note(f"the clock of {board.address} is {facts.skew_s:+.0f} s off this machine's")
    place = f"{folder_on(facts, options.remote)}/jobs/{written.job.digest[:12]}"
    total = sum(file.size_bytes for file in written.sent)
    reporter.stage("sending the heads", total)
    send(board, written.files, place, sent=written.sent, advance=reporter.advance)
    found = _follow(board, place, written.job, reporter, fresh=not options.resume)
    board.ask("forget-job", place, doing="tidying up")
    return found


def _follow(
    board: Board, place: str, job: HeadJob, reporter: Reporter, *, fresh: bool
) -> dict[str, Any]:
    """The results of all heads, as they come."""
    reporter.stage("measuring on the device", len(job.names))
    device: Mapping[str, Any] = {}
    messages: Mapping[str, Any] = {}
    heads: dict[str, Mapping[str, Any]] = {}
    words = [place, "--fresh"] if fresh else [place]
    for event in board.follow("measure", *words, doing="measuring the heads"):
        if event["event"] == "conditions" and isinstance(event.get("device"), dict):
            device = event["device"]
            messages = event.get("messages") or {}
        elif event["event"] == "head" and event.get("name") in job.names:
            told = {key: value for key, value in event.items() if key not in {"event", "key"}}
            heads[str(event["name"])] = told
            reporter.advance()
    missing = [name for name in job.names if name not in heads]
    if missing:
        raise RemoteError("failed", f"{board.address} told nothing of {missing[0]}: run again")
    told_of = [dict(heads[name]) for name in job.names]
    return {"device": dict(device), "messages": messages, "heads": told_of}


def _kept(path: Path, job: HeadJob) -> dict[str, Any] | None:
    """The results of the same job that came back before."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        names = [head["name"] for head in found["heads"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if names == list(job.names) and isinstance(found.get("device"), dict) else None
