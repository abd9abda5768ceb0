"""Several runs as one HTML page or one document: a line each, and two of them cut by cut."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from splitdeploy.partitioner.compare import (
    HEADINGS,
    QUANTITIES,
    Run,
    line_of,
    pairs_of,
    settings_of,
)
from splitdeploy.partitioner.render_html import POLICY, template
from splitdeploy.profiles.report_writer import recommendation_to_json, row_to_json

_KINDS = {
    heading: "wide" if heading in {"edge", "cloud", "network"} else "n" for heading in HEADINGS[3:]
} | {"model": "", "pick": "chosen"}
"""The style of each column."""


def render_runs(runs: Sequence[Run], page: Path) -> str:
    """The page of several runs.

    Args:
        runs: What to show; with two, their cuts are shown side by side too.
        page: Where it will lie: the links to the runs' own pages are relative to it.

    Returns:
        A whole HTML document without a script.
    """
    both = tuple(runs) if len(runs) == 2 else None
    return template("runs.html.j2").render(
        title=" and ".join(run.label for run in runs) if both else f"{len(runs)} runs",
        policy=POLICY.format("'none'"),
        headings=HEADINGS,
        kinds=[_KINDS.get(heading, "") for heading in HEADINGS],
        lines=[(line_of(run), _link(run, page)) for run in runs],
        runs=runs,
        both=both,
        quantities=[*(quantity.heading for quantity in QUANTITIES), "Feasible"],
        pairs=pairs_of(both[0].report, both[1].report) if both else (),
        settings=settings_of(both[0].report, both[1].report) if both else (),
        picks=[run.report.recommendation and run.report.recommendation.cut for run in runs],
    )


def _link(run: Run, page: Path) -> str | None:
    """The way from the page to the run's own, or None where it has none."""
    own = run.folder / "report.html"
    if not own.is_file():
        return None
    try:
        way = os.path.relpath(own.resolve(), page.resolve().parent)
    except ValueError:  # on another drive
        return None
    return quote(Path(way).as_posix())


def documents_of(runs: Sequence[Run]) -> dict[str, Any]:
    """Several runs as data.

    Args:
        runs: The runs; of two, the cuts come side by side too.

    Returns:
        ``runs``, each with its setting, recommendation and the pick's row; of two ``cuts``, each
        with the rows ``a`` and ``b``, as they stand in ``report.json``.
    """
    document: dict[str, Any] = {"runs": [_document(run) for run in runs]}
    if len(runs) == 2:
        document["cuts"] = [
            {
                "name": pair.name,
                "a": pair.one and row_to_json(pair.one),
                "b": pair.other and row_to_json(pair.other),
            }
            for pair in pairs_of(runs[0].report, runs[1].report)
        ]
    return document


def _document(run: Run) -> dict[str, Any]:
    report = run.report
    pick = report.recommendation
    return {
        "run": run.label,
        "folder": str(run.folder),
        "model": report.model.name,
        "edge": dict(vars(report.edge)),
        "cloud": dict(vars(report.cloud)),
        "network": dict(vars(report.network)),
        "recommendation": pick and recommendation_to_json(pick),
        "pick": pick and row_to_json(report.find(pick.cut)),
    }
