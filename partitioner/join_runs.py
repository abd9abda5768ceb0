"""Runs of one model in several precisions and batches as one report, for one decision over all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from splitdeploy.partitioner.rebase import result_bytes, with_network
from splitdeploy.profiles.cut import PRECISIONS
from splitdeploy.profiles.errors import UsageError
from splitdeploy.profiles.network import NetworkProfile
from splitdeploy.profiles.report import CutReport, PlaceInfo, SweepReport, row_name

_AGAIN = "profile one of them again like the other, or decide each by itself"


@dataclass(frozen=True)
class FolderRun:
    """A run to be joined with others.

    Attributes:
        folder: Where it lies, as the user named it; or its ``report.json``.
        report: What it found.
    """

    folder: str
    report: SweepReport

    @property
    def place(self) -> Path:
        """The run folder, which the paths of its pictures are relative to."""
        path = Path(self.folder)
        return path if path.is_dir() else path.parent


def join_runs(runs: Sequence[FolderRun], network: NetworkProfile | None = None) -> SweepReport:
    """One report with the rows of all runs, each named ``<cut>@<precision>``.

    Where runs differ in how many inputs a request has, ``@b<batch>`` comes behind it.

    Args:
        runs: At least two, of the same model in the same setting, no two of them of the same
            precision and batch.
        network: See all of them over this network; None for their own, which must be the same.

    Returns:
        The report, undecided. Rows stand in the order of execution, those of one cut from fp32 to
        int8, then from the smallest batch to the largest. Its command is the one that decides over
        them; what each run was made by and on, its environment tells by the folder.

    Raises:
        UsageError: The runs do not belong together; the message names the first thing that differs.
    """
    ordered = _in_order(runs)
    for other in ordered[1:]:
        _check_alike(ordered[0], other, network)
    first = ordered[0].report
    reports = [run.report for run in ordered]
    differ = len({report.batch for report in reports}) > 1
    rows = [row for run in ordered for row in _rows(run, network, tell_batch=differ)]
    return replace(
        first,
        created=max(report.created for report in reports),
        command=("splitdeploy", "recommend", *(run.folder for run in ordered)),
        environment={run.folder: _origin(run.report) for run in ordered},
        edge=_place([report.edge for report in reports]),
        cloud=_place([report.cloud for report in reports]),
        network=network or first.network,
        cuts=tuple(sorted(rows, key=lambda row: (row.cut.nodes, row.cut.index))),
        pareto=(),
        recommendation=None,
        warnings=tuple(dict.fromkeys(_warnings(reports, tell_batch=differ))),
        result_bytes=result_bytes(first),
        batch=1 if differ else first.batch,
    )


def _in_order(runs: Sequence[FolderRun]) -> list[FolderRun]:
    if len(runs) < 2:
        raise UsageError(f"expected at least two runs to join, got {len(runs)}")
    found: dict[tuple[int, int], FolderRun] = {}
    for run in runs:
        kind = run.report.edge.precision
        if kind not in PRECISIONS:
            raise UsageError(
                f"expected a run in {', '.join(PRECISIONS)}, got {kind!r} in {run.folder}: "
                "profile it anew"
            )
        key = list(PRECISIONS).index(kind), run.report.batch
        if key in found:
            at_once = "" if key[1] == 1 else f" with {key[1]} inputs a request"
            raise UsageError(
                f"expected runs of different precisions or batches, got {kind}{at_once} in "
                f"{found[key].folder} and in {run.folder}: leave one of them out, or profile it "
                "with another --precision or --batch"
            )
        found[key] = run
    return [found[key] for key in sorted(found)]


def _rows(
    run: FolderRun, network: NetworkProfile | None, *, tell_batch: bool
) -> Iterator[CutReport]:
    report = run.report if network is None else with_network(run.report, network)
    batch = report.batch if tell_batch else None
    for row in report.cuts:
        yield replace(row, precision=report.edge.precision, run=run.folder, batch=batch)


def _warnings(reports: Sequence[SweepReport], *, tell_batch: bool) -> Iterator[str]:
    """Of all runs; what not all of them say comes with what the run that does is of."""
    for report in reports:
        name = row_name(report.edge.precision, None, report.batch if tell_batch else None)
        for text in report.warnings:
            everyone = all(text in other.warnings for other in reports)
            yield text if everyone else f"{name}: {text}"


def _origin(report: SweepReport) -> Mapping[str, object]:
    return {
        "created": report.created,
        "command": list(report.command),
        "seed": report.seed,
        **report.environment,
    }


def _place(places: Sequence[PlaceInfo]) -> PlaceInfo:
    """One side of all runs, with every precision that it computes in."""
    kinds = dict.fromkeys(place.precision for place in places)
    return replace(places[0], precision="/".join(kinds))


_SETTING: tuple[tuple[str, Callable[[SweepReport], object], str], ...] = (
    ("model", lambda r: r.model.name, _AGAIN),
    ("weights", lambda r: r.model.weights_sha256[:12], _AGAIN),
    ("input", lambda r: "x".join(map(str, (*r.model.input_shape, r.model.input_dtype))), _AGAIN),
    ("second cut", lambda r: r.return_at or "none", _AGAIN),
    ("edge device", lambda r: r.edge.device, _AGAIN),
    ("power mode", lambda r: r.edge.power_mode or "none", _AGAIN),
    ("source of the edge's figures", lambda r: r.edge.source, _AGAIN),
    ("cloud device", lambda r: r.cloud.device, _AGAIN),
    ("source of the cloud's figures", lambda r: r.cloud.source, _AGAIN),
    ("size of the result", lambda r: result_bytes(r), _AGAIN),
    ("noise of the leakage", lambda r: _noise(r), _AGAIN),
)
"""What has to be the same, in the order in which it is looked at."""


def _check_alike(one: FolderRun, other: FolderRun, network: NetworkProfile | None) -> None:
    for what, value, remedy in _SETTING:
        a, b = value(one.report), value(other.report)
        if a != b and None not in (a, b):
            raise _differ(what, (a, one), (b, other), remedy)
    # Other crops of the pictures are pictures too, as long as there are as many.
    counts = [_pictures(run.report) for run in (one, other)]
    if one.report.seed != other.report.seed and counts[0] != counts[1]:
        a, b = (
            f"{count} from seed {run.report.seed}"
            for count, run in zip(counts, (one, other), strict=True)
        )
        raise _differ("pictures", (a, one), (b, other), _AGAIN)
    links = [_link(run.report.network) for run in (one, other)]
    if network is None and links[0] != links[1]:
        names = (one.report.network.name, other.report.network.name)
        if names[0] == names[1]:
            names = (str(links[0]), str(links[1]))
        remedy = "name one for all with --network or --uplink"
        raise _differ("network", (names[0], one), (names[1], other), remedy)


def _differ(
    what: str, one: tuple[object, FolderRun], other: tuple[object, FolderRun], remedy: str
) -> UsageError:
    (a, first), (b, second) = one, other
    return UsageError(
        f"expected runs that differ in precision and batch alone, got another {what}: {a} in "
        f"{first.folder}, {b} in {second.folder}; {remedy}"
    )


def _noise(report: SweepReport) -> str | None:
    """What the smashed data carried, in words; None where no leakage was measured."""
    return next((row.leakage.noise for row in report.cuts if row.leakage), None)


def _pictures(report: SweepReport) -> int | None:
    """On how many pictures the cuts were verified."""
    return max((row.verified.images for row in report.cuts if row.verified), default=None)


def _link(network: NetworkProfile) -> tuple[float, float, float, str, float]:
    return (
        network.uplink_bps, network.downlink_bps, network.rtt_s, network.radio, network.spread,
    )  # fmt: skip
