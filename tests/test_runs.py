"""Several runs together: a line each, and two of them cut by cut."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from factories import RESNET18, make_report, only, with_row
from hypothesis import given
from hypothesis import strategies as st
from test_render import outline

from splitdeploy.cli.main import cli
from splitdeploy.partitioner.compare import HEADINGS, line_of, name_runs, pairs_of, settings_of
from splitdeploy.partitioner.recommend import judge, recommend
from splitdeploy.partitioner.render_html import render_html
from splitdeploy.partitioner.render_runs import render_runs
from splitdeploy.profiles.network import NETWORKS
from splitdeploy.profiles.report import Constraints, Objective, SweepReport
from splitdeploy.profiles.store import write_report


def decided(report: SweepReport, **limits: float) -> SweepReport:
    return recommend(report, constraints=Constraints(**limits), objective=Objective())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Over WiFi, over LTE with a row less and another worse, and without a feasible cut."""
    wifi = decided(make_report())
    lte = make_report(NETWORKS["lte"])
    lte = only(lte, *(name for name, *_ in RESNET18 if name != "layer1.0"))
    lte = with_row(lte, "layer2.0", edge_memory_bytes=99_000_000, leakage=None)
    none = judge(make_report(), constraints=Constraints(max_latency_s=1e-4), objective=Objective())
    root = tmp_path_factory.mktemp("runs")
    made = []
    for name, report in (("wifi", wifi), ("lte", decided(lte)), ("none <b>", none)):
        folder = root / name
        folder.mkdir()
        write_report(report, folder)
        made.append(folder)
    (made[0] / "report.html").write_text(render_html(wifi, made[0]), encoding="utf-8")
    return made


def invoke(*words: object) -> tuple[int, str, str]:
    from click.testing import CliRunner

    done = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


# --- the data -------------------------------------------------------------------------------


def test_a_pair_tells_what_is_more_less_and_missing() -> None:
    one, other = make_report(), make_report(NETWORKS["lte"])
    other = with_row(other, "layer2.0", edge_memory_bytes=None)
    pair = next(pair for pair in pairs_of(one, other) if pair.name == "layer2.0")
    payload, latency, _, memory, fsinfo, ssim, feasible = pair.cells
    assert (payload.change, latency.change, memory.change) == ("same", "more", "none")
    totals = [r.find("layer2.0").latency_s.total.median for r in (one, other)]  # type: ignore[union-attr]
    assert latency.text == f"+{(totals[1] / totals[0] - 1) * 100:.3g} %"
    assert latency.line.endswith(f"▲ {latency.text}") and memory.other == "–"
    assert {fsinfo.change, ssim.change, feasible.change} == {"same"}


def test_a_difference_that_cannot_be_seen_is_none() -> None:
    one = make_report()
    row = one.find("layer2.0")
    other = with_row(one, "layer2.0", edge_memory_bytes=row.edge_memory_bytes + 1)  # type: ignore[operator]
    pair = next(pair for pair in pairs_of(one, other) if pair.name == "layer2.0")
    assert {cell.change for cell in pair.cells} == {"same"}


@given(st.permutations(range(8)), st.permutations(range(8)), st.sets(st.integers(0, 7)))
def test_every_name_comes_once_and_the_first_run_keeps_its_order(
    first: list[int], second: list[int], dropped: set[int]
) -> None:
    def rows(order: list[int]) -> SweepReport:
        return make_report(rows=tuple((f"c{i}", *RESNET18[1][1:]) for i in order))

    kept = [i for i in first if i not in dropped]
    names = [pair.name for pair in pairs_of(rows(kept), rows(second))]
    assert sorted(names) == [f"c{i}" for i in range(8)]
    assert [name for name in names if int(name[1:]) in kept] == [f"c{i}" for i in kept]


def test_settings_that_differ_are_found() -> None:
    one, other = make_report(), replace(make_report(NETWORKS["lte"]), seed=7)
    differing = {name for name, a, b in settings_of(one, other) if a != b}
    assert differing == {"Network", "Seed"}


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    places = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "c" / "other"]
    for place in places:
        place.mkdir(parents=True)
    labels = [run.label for run in name_runs(places, [make_report()] * 3)]
    assert labels == [str(places[0]), str(places[1]), "other"]


def test_the_line_of_a_run_without_a_pick(folders: list[Path]) -> None:
    none = judge(make_report(), constraints=Constraints(max_latency_s=1e-4), objective=Objective())
    line = dict(zip(HEADINGS, line_of(name_runs(folders[2:], [none])[0]), strict=True))
    assert line["pick"] == "none is feasible" and line["latency"] == "–"


# --- the page -------------------------------------------------------------------------------


def test_two_runs_are_one_page_that_links_to_theirs(folders: list[Path], tmp_path: Path) -> None:
    code, out, _ = invoke("report", *folders[:2], "--html", "--out", tmp_path / "both.html")
    assert (code, out) == (0, f"{tmp_path / 'both.html'}\n")
    page = (tmp_path / "both.html").read_text(encoding="utf-8")
    found = outline(page)
    assert found.scripts == 0 and "script-src 'none'" in unescape(page)
    links = [ref for ref in found.references if ref.endswith("report.html")]
    assert len(links) == 1  # the other run has no page
    assert (tmp_path / links[0]).resolve() == (folders[0] / "report.html").resolve()
    assert "only in A" in page and "99 MB" in page and "▲" in page and "▼" in page
    assert "pick of A" in page and "pick of B" in page
    again = invoke("report", *folders[:2], "--html", "--out", tmp_path / "both.html")
    assert again[0] == 0 and (tmp_path / "both.html").read_text(encoding="utf-8") == page


def test_more_runs_are_a_table_alone(folders: list[Path], tmp_path: Path) -> None:
    reports = [decided(make_report()), decided(make_report(NETWORKS["lte"])), make_report()]
    page = render_runs(name_runs(folders, reports), tmp_path / "all.html")
    outline(page)
    assert "Cut by cut" not in page and "3 runs" in page
    assert "none &lt;b&gt;" in page and "<b>" not in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (lambda f: [f[0], f[1], "--html"], r"expected --out FILE for the page of 2 runs"),
        (lambda f: [f[0], "--out", "x.html"], r"expected --html with --out"),
        (lambda f: [f[0], f[1], "--html", "--out", f[0] / "no" / "x.html"],
         r"expected a folder for --out, got .*no"),
        (lambda f: [f[0], f[0] / "absent"], r"expected a run folder with a report.json"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_told(
    folders: list[Path], words: Callable[[list[Path]], list[object]], message: str
) -> None:
    from splitdeploy.profiles.errors import SplitdeployError

    with pytest.raises(SplitdeployError, match=message):
        invoke("report", *words(folders))


def test_several_runs_as_text(folders: list[Path]) -> None:
    _, out, _ = invoke("report", *folders, "--format", "csv")
    lines = list(csv.DictReader(io.StringIO(out)))
    assert [line["run"] for line in lines] == ["wifi", "lte", "none <b>"]
    assert lines[0]["pick"] == "edge-only"
    _, out, _ = invoke("report", *folders[:2], "--format", "json")
    document = json.loads(out)
    assert [run["pick"]["name"] for run in document["runs"]] == ["edge-only", "edge-only"]
    missing = next(cut for cut in document["cuts"] if cut["name"] == "layer1.0")
    assert missing["b"] is None and missing["a"]["payload_bytes"] == 401_408
    _, out, _ = invoke("report", *folders[:2], "--format", "md")
    assert "| run |" in out and "| layer2.0 |" in out
    _, out, _ = invoke("report", *folders[:2])
    assert "model: resnet18" in out and "cut by cut" in out
