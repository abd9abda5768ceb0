from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from factories import RESNET18, make_report, with_row, write_png
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.partitioner import charts, svg
from splitdeploy.partitioner.recommend import judge, recommend
from splitdeploy.partitioner.render_html import render_html
from splitdeploy.partitioner.render_table import render
from splitdeploy.profiles.errors import UnknownNameError
from splitdeploy.profiles.report import Constraints, Objective, SweepReport
from splitdeploy.profiles.store import cuts_csv, report_from_json

CHARTS = (charts.latency_bars, charts.fsinfo_dots, charts.ssim_dots, charts.trade_off)


def decided(report: SweepReport | None = None) -> SweepReport:
    return recommend(report or make_report(), constraints=Constraints(), objective=Objective())


def without_privacy() -> SweepReport:
    rows = tuple(
        replace(row, leakage=None, attacks=(), baseline=None) for row in make_report().cuts
    )
    return decided(replace(make_report(), cuts=rows))


@pytest.mark.parametrize("width", [100, 80, 60, 40])
def test_the_table_fits_the_terminal(width: int) -> None:
    shown = render(decided(), width=width)
    assert max(len(line) for line in shown.splitlines()) <= width
    for name, *_ in RESNET18:
        assert name in shown
    assert "total ms" in shown


def test_at_100_columns_every_stage_has_its_column() -> None:
    shown = render(decided(), width=100)
    assert shown.startswith(
        "resnet18 on jetson-orin-nano (simulated, fp16, 15W) → t4 (predicted, fp16) over wifi\n"
    )
    header = next(line for line in shown.splitlines() if "total ms" in line)
    assert header.split() == [
        "cut", "kB", "edge", "up", "cloud", "down", "total", "ms", "mJ", "FSInfo", "SSIM",
        "verified", "feasible",
    ]  # fmt: skip
    assert "verified" not in render(decided(), width=80)


def test_the_pick_the_pareto_set_and_what_had_not_converged_are_marked() -> None:
    lines = render(decided(), width=100).splitlines()
    pick = next(line for line in lines if "edge-only " in line)
    assert pick.startswith("▶◆") and "0.16*" in pick
    assert any(line.startswith("* the attack had not converged") for line in lines)
    assert any("warning: The attack had 4 photographs." in line for line in lines)


def test_colour_is_only_where_it_is_asked_for() -> None:
    assert "\x1b" not in render(decided())
    assert "\x1b[" in render(decided(), colour=True)


def test_without_privacy_its_columns_are_gone() -> None:
    shown = render(without_privacy())
    assert "SSIM" not in shown and "FSInfo" not in shown


def test_a_failed_cut_keeps_its_row_and_says_why() -> None:
    report = with_row(make_report(), "layer2.0", error="an operator is missing", latency_s=None,
                      energy_j=None, leakage=None, attacks=(), verified=None)  # fmt: skip
    shown = render(decided(report))
    assert "layer2.0 failed: an operator is missing" in shown
    assert "an operator is missing" in render_html(decided(report), ".")


def test_json_and_csv_are_the_files() -> None:
    report = decided()
    assert report_from_json(json.loads(render(report, "json"))) == report
    assert render(report, "csv") == cuts_csv(report)


def test_markdown_is_a_table_of_equal_rows() -> None:
    lines = render(decided(), "md").splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + len(RESNET18)
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert "**Recommended: edge-only**" in lines


def test_an_unknown_format_is_told() -> None:
    with pytest.raises(UnknownNameError, match="unknown format 'yaml'.*csv"):
        render(decided(), "yaml")


# --- charts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.__name__)
@pytest.mark.parametrize("width", [318.0, 1040.0])
def test_charts_are_well_formed_titled_and_inside_their_frame(chart, width: float) -> None:
    root = ET.fromstring(chart(decided(), width))
    ns = "{http://www.w3.org/2000/svg}"
    assert root.find(f"{ns}title") is not None
    height = float(root.get("viewBox").split()[3])
    for element in root.iter():
        for key in ("x", "x1", "x2", "cx"):
            if element.get(key) is not None:
                assert -0.01 <= float(element.get(key)) <= width + 0.01
        for key in ("y", "y1", "y2", "cy"):
            if element.get(key) is not None:
                assert -0.01 <= float(element.get(key)) <= height + 0.01


def test_bars_are_as_long_as_their_times() -> None:
    report = decided()
    root = ET.fromstring(charts.latency_bars(report, 1040.0))
    bars = [e for e in root.iter() if (e.get("class") or "") == "s-uplink"]
    spans = [float(bar.get("width")) + 1 for bar in bars]
    times = [row.latency_s.uplink.median for row in report.cuts]
    for span, time in zip(spans[:9], times[:9], strict=True):
        assert span / spans[0] == pytest.approx(time / times[0], rel=2e-3)


def test_no_chart_where_there_is_no_figure() -> None:
    report = without_privacy()
    assert charts.fsinfo_dots(report, 400) == charts.ssim_dots(report, 400) == ""
    assert charts.trade_off(report, 400) == ""
    bare = replace(report, cuts=tuple(replace(row, latency_s=None) for row in report.cuts))
    assert charts.latency_bars(bare, 400) == ""


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 10))
def test_ticks_are_round_and_inside(low: float, span: float, about: int) -> None:
    found = svg.ticks(low, low + span, about)
    slack = 1e-6 * (abs(low) + span)
    assert all(low - slack <= tick <= low + span + slack for tick in found)
    assert 1 <= len(found) + 1 <= 2 * about + 2


# --- the page -------------------------------------------------------------------------------


class Outline(HTMLParser):
    """Collects headings, references to other places, and whether tags nest."""

    VOID = {"meta", "link", "img", "br", "circle", "line", "rect", "polyline", "polygon"}

    def __init__(self) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.references: list[str] = []
        self.open: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "link", "img", "br", "input"}:
            self.open.append(tag)
        self.scripts += tag == "script"
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.references += [v or "" for k, v in attrs if k in {"src", "href"}]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag
        self.open.pop()


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    write_png(tmp_path / "reconstructions/layer1.0/rmle.png", 8, 4)
    page = render_html(decided(make_report(pictures=True)), tmp_path)
    found = outline(page)
    assert all(ref.startswith(("data:", "#")) for ref in found.references)
    assert sum(ref.startswith("data:image/webp;base64,") for ref in found.references) == 1
    assert found.scripts == 2 and "@import" not in page and "url(" not in page
    assert "reconstructions/layer2.0/rmle.png is not in the run folder" in page
    assert found.headings[0] == 1 and found.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(found.headings, found.headings[1:], strict=False))


def test_the_page_says_what_each_attack_recovered_and_what_was_not_run(tmp_path: Path) -> None:
    report = make_report(pictures=True)
    quick = replace(report.find("layer3.0").attacks[0], verdict="Outlines <b>alone</b>.")
    strong = replace(quick, name="noise-aware", preset="fast", ssim=0.6, ssim_ci95=(0.5, 0.7),
                     verdict="The cloud can recover a recognisable picture.",
                     picture="reconstructions/layer3.0/noise-aware.png")  # fmt: skip
    late = ("not run for lack of time: rmle:restarts",)
    report = with_row(report, "layer3.0", attacks=(quick, strong), attack_notes=late)
    for attack in (quick, strong):
        write_png(tmp_path / str(attack.picture), 8, 4)
    page = render_html(decided(report), tmp_path)
    assert sum(r.startswith("data:image/webp") for r in outline(page).references) == 2
    # The strongest speaks for the cut, and stands first.
    said = page.split("<script", 1)[0]  # the figures that the script reads hold all verdicts
    assert strong.verdict in said and "Outlines" not in said
    assert page.index("<strong>noise-aware</strong>") < page.index(
        "<strong>rmle</strong>", page.index('<h3 class="cut" data-cut="layer3.0"')
    )
    assert "0.60 (0.50 to 0.70)" in page and late[0] in page
    assert "Attacks that were not run" not in render_html(decided(), tmp_path)


def test_what_the_pick_was_not_attacked_with_is_a_warning() -> None:
    report = with_row(make_report(), "edge-only", attack_notes=("pfo failed: lost heart",))
    assert "Attacks on edge-only: pfo failed: lost heart." in " ".join(
        decided(report).recommendation.warnings  # type: ignore[union-attr]
    )


def test_a_report_from_elsewhere_writes_no_markup_into_the_page(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    report = make_report()
    rows = ((evil, *RESNET18[1][1:]), *RESNET18[2:])
    report = replace(make_report(rows=rows), warnings=(evil,), environment={evil: evil},
                     model=replace(report.model, name=evil))  # fmt: skip
    page = render_html(decided(report), tmp_path)
    assert "alert(1)" in page and "<script>alert" not in page
    assert outline(page).scripts == 2


def test_a_report_draws_no_file_from_outside_its_folder(tmp_path: Path) -> None:
    write_png(tmp_path / "secret.png", 4, 4)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.png").write_text("no picture")
    report = make_report(pictures=True)
    for name in ("../secret.png", str(tmp_path / "secret.png"), "notes.png"):
        attack = replace(report.find("layer1.0").attacks[0], picture=name)
        page = render_html(with_row(report, "layer1.0", attacks=(attack,)), tmp_path / "run")
        assert "data:image/" not in page


def test_pages_of_poor_reports_are_whole(tmp_path: Path) -> None:
    page = render_html(without_privacy(), tmp_path)
    outline(page)
    assert "Leakage along the depth" not in page and "Latency by stage" in page
    nothing = judge(
        make_report(), constraints=Constraints(max_latency_s=1e-4), objective=Objective()
    )
    page = render_html(nothing, tmp_path)
    outline(page)
    assert "No cut satisfies the constraints" in page and "exceeds --max-latency" in page
