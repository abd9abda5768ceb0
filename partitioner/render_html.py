"""Shows a report as one HTML page that needs nothing else: no other file, no network."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from splitdeploy.partitioner import charts, wording
from splitdeploy.partitioner.constraints import why_infeasible
from splitdeploy.partitioner.join_runs import FolderRun
from splitdeploy.partitioner.leakage_table import leakage_table
from splitdeploy.partitioner.page_data import (
    inline_json,
    limit_controls,
    network_controls,
    page_data,
    page_script,
    script_digest,
)
from splitdeploy.partitioner.scoring import OBJECTIVES, leakage_indices
from splitdeploy.profiles.network import NETWORKS
from splitdeploy.profiles.report import (
    AttackRecord,
    Constraints,
    CutReport,
    LeakageRecord,
    SweepReport,
)
from splitdeploy.profiles.units import (
    format_count,
    format_energy,
    format_rate,
    format_size,
    format_time,
)

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {}; "
    "base-uri 'none'; form-action 'none'"
)
"""What a page may do: show what it holds, run one script, and reach nothing."""

_QUALITY = 85
_PNG = b"\x89PNG\r\n\x1a\n"

WIDTHS_FULL = (1040.0, 318.0)
"""Of a chart that fills the page: on a desk, on a phone."""

WIDTHS_HALF = (500.0, 318.0)
"""Of a chart with another beside it."""


def render_html(report: SweepReport, source: Path | str | Sequence[FolderRun]) -> str:
    """The page of a run, or of several joined that differ in precision or batch.

    Args:
        report: What to show; it may lack a recommendation, leakage or pictures.
        source: The run folder, which the pictures' paths are relative to; of a joined report the
            runs, each of which has pictures of its own.

    Returns:
        A whole HTML document, pictures included.
    """
    recommendation = report.recommendation
    runs = () if isinstance(source, (str, Path)) else tuple(source)
    # The caller says which folders are looked into, not the rows of a report.
    folders: dict[str | None, Path] = {run.folder: run.place for run in runs}
    if isinstance(source, (str, Path)):
        folders[None] = Path(source)
    script = page_script()
    return template("report.html.j2").render(
        report=report,
        title=wording.title_of(report),
        network=wording.network_of(report),
        wording=wording,
        recommendation=recommendation,
        pick=report.find(recommendation.cut) if recommendation else None,
        indices=leakage_indices(report) or {},
        holds=_interval(report),
        out=[row for row in report.cuts if row.violations],
        constraints=list(_constraints(report.constraints)),
        latency_chart=_drawn(charts.latency_bars, report, WIDTHS_FULL),
        fsinfo_chart=_drawn(charts.fsinfo_dots, report, WIDTHS_HALF),
        ssim_chart=_drawn(charts.ssim_dots, report, WIDTHS_HALF),
        trade_off_chart=_drawn(charts.trade_off, report, WIDTHS_FULL),
        galleries=_by_cut(_galleries(report, folders)),
        leakage=_first_leakage(report),
        family=leakage_table(report),
        has_latency=any(row.latency_s for row in report.cuts),
        has_energy=any(row.energy_j for row in report.cuts),
        has_leakage=any(row.leakage for row in report.cuts),
        has_attacks=any(row.attacks for row in report.cuts),
        has_classes=any(wording.class_of(row) != wording.MISSING for row in report.cuts),
        runs=wording.runs_of(report),
        origins=[_origin(run.report, run.folder) for run in runs] or [_origin(report)],
        infeasible=_infeasible(report),
        objectives=OBJECTIVES,
        networks=list(NETWORKS),
        network_controls=network_controls(report),
        limit_controls=limit_controls(report),
        data=inline_json(page_data(report)),
        script=script,
        policy=POLICY.format(f"'{script_digest(script)}'"),
        certainty=list(wording.certainty_of(report)),
    )


def template(name: str) -> Template:
    """A template of this package, with the filters that format figures.

    Args:
        name: Its file.

    Returns:
        The template; whatever it is given is escaped.
    """
    environment = Environment(
        loader=PackageLoader("splitdeploy.partitioner", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "time": format_time,
        "energy": format_energy,
        "rate": format_rate,
        "size": format_size,
        "count": format_count,
        "milli": wording.milli,
        "tight": _tight,
        "minus": wording.minus,
        "capitalised": lambda text: text[:1].upper() + text[1:],
    }
    return environment.get_template(name)


@dataclass(frozen=True)
class Picture:
    """A reconstruction to show.

    Attributes:
        attack: The attack.
        data: The file as a data URI, or None where it is not there.
        strongest: Whether no other attack on the cut recovered more.
    """

    attack: AttackRecord
    data: str | None
    strongest: bool


@dataclass(frozen=True)
class Gallery:
    """What the attacks made of one cut.

    Attributes:
        row: The cut.
        pictures: One for each attack that left a picture, the strongest first.
    """

    row: CutReport
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Origin:
    """How a run came about.

    Attributes:
        run: Its folder, where there are several.
        report: What it found.
        environment: What it ran on: names and texts.
    """

    run: str | None
    report: SweepReport
    environment: tuple[tuple[str, str], ...]


def _origin(report: SweepReport, run: str | None = None) -> Origin:
    environment = ((key, _plain(value)) for key, value in report.environment.items())
    return Origin(run, report, tuple(environment))


def _galleries(report: SweepReport, folders: Mapping[str | None, Path]) -> Iterator[Gallery]:
    for row in report.cuts:
        strongest, folder = row.strongest_attack, folders.get(row.run)
        pictures = [
            Picture(attack, _data_uri(folder, attack.picture), attack is strongest)
            for attack in row.attacks
            if attack.picture is not None
        ]
        if pictures:
            yield Gallery(row, tuple(sorted(pictures, key=lambda p: not p.strongest)))


def _by_cut(galleries: Iterable[Gallery]) -> list[list[Gallery]]:
    """Those of one cut in several runs together."""
    return [list(group) for _, group in groupby(galleries, key=lambda one: one.row.cut.name)]


def _data_uri(run_dir: Path | None, name: str) -> str | None:
    """A PNG inside the run folder as a data URI; None where there is no such picture."""
    if run_dir is None:
        return None
    # A report may come from elsewhere; it must not draw files from outside its folder.
    root = run_dir.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        return None
    data = path.read_bytes()
    if not data.startswith(_PNG):
        return None
    try:
        small = _compressed(data)
    except (OSError, ValueError):
        return None  # damaged: the page says that the picture is missing
    return "data:image/webp;base64," + base64.b64encode(small).decode("ascii")


def _compressed(png: bytes) -> bytes:
    """The picture as WebP, a tenth of its size; the run folder keeps the exact one."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.save(out, "WEBP", quality=_QUALITY)
    return out.getvalue()


def _drawn(
    chart: Callable[[SweepReport, float], str], report: SweepReport, widths: tuple[float, float]
) -> Markup:
    """The drawing for a desk and the one for a phone; the page's style shows one of them."""
    # The charts escape every text that they take from the report.
    return Markup("".join(chart(report, width) for width in widths))


def _first_leakage(report: SweepReport) -> LeakageRecord | None:
    return next((row.leakage for row in report.cuts if row.leakage), None)


def _infeasible(report: SweepReport) -> str | None:
    if report.recommendation is not None or any(row.feasible for row in report.cuts):
        return None
    return why_infeasible(report, report.constraints)


def _interval(report: SweepReport) -> str | None:
    if report.recommendation is None or "uplink_bps" not in report.recommendation.stable_while:
        return None
    low, high = report.recommendation.stable_while["uplink_bps"]
    if low == 0 and high is None:
        return "any uplink"
    if high is None:
        return f"above {format_rate(low)}"
    return f"below {format_rate(high)}" if low == 0 else f"{format_rate(low)} – {format_rate(high)}"


def _constraints(limits: Constraints) -> Iterator[str]:
    if limits.max_latency_s is not None:
        yield f"total latency at most {format_time(limits.max_latency_s)}"
    if limits.max_energy_j is not None:
        yield f"energy at most {format_energy(limits.max_energy_j)}"
    if limits.max_edge_memory_bytes is not None:
        yield f"edge memory at most {format_size(limits.max_edge_memory_bytes)}"
    if limits.max_ssim is not None:
        yield f"SSIM of the strongest attack at most {limits.max_ssim:g}"
    if limits.max_fsinfo is not None:
        yield f"FSInfo at most {limits.max_fsinfo:g} nats"
    if limits.min_agreement is not None:
        yield f"share of pictures that keep their class at least {limits.min_agreement:g}"


def _tight(text: str) -> str:
    """The text with every number tied to its unit, so that no line ends between them."""
    return re.sub(r"(?<=\d) (?=(?:%|[munkMGµ]?(?:s|J|B|bit/s|nats))(?:\W|$))", "\u00a0", text)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
