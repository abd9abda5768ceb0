"""``report --joined``: runs of several precisions as one report, in every form."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from command_line import Outcome, splitdeploy
from precision_runs import write_runs
from test_render import outline

from splitdeploy.partitioner import charts
from splitdeploy.partitioner.join_runs import FolderRun, join_runs
from splitdeploy.partitioner.render_html import render_html
from splitdeploy.profiles.network import NETWORKS
from splitdeploy.profiles.report import SweepReport
from splitdeploy.profiles.report_reader import report_from_json
from splitdeploy.profiles.store import check_schema, check_sense, read_report, write_report


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs of a few cuts, which are decided the sooner."""
    cuts = ("cloud-only", "maxpool", "layer1.0", "layer2.1", "avgpool", "edge-only")
    return write_runs(tmp_path_factory.mktemp("few"), cuts)


def joined(runs: list[Path], *words: object) -> Outcome:
    return splitdeploy("report", *runs, "--joined", *words)


SETTINGS = (
    (),
    ("--objective", "throughput", "--network", "ethernet"),
    ("--min-agreement", "0.8", "--max-energy", "40mJ", "--uplink", "200mbit"),
    ("--max-latency", "20ms", "--confidence", "0.9", "--objective", "leakage"),
)


@pytest.mark.parametrize("words", SETTINGS, ids=" ".join)
def test_it_decides_what_recommend_decides(few: list[Path], words: tuple[str, ...]) -> None:
    document = json.loads(joined(few, *words, "--format", "json").out)
    expected = json.loads(splitdeploy("recommend", *few, *words, "--format", "json").out)
    assert document["recommendation"] == expected
    check_schema(document)
    check_sense(document)
    names = [row["name"] for row in document["cuts"]]
    assert len(names) == 18 and set(document["pareto"]) <= set(names)
    assert report_from_json(document).recommendation is not None


def test_the_joined_document_is_a_report_that_is_read_again(
    few: list[Path], tmp_path: Path
) -> None:
    document = tmp_path / "joined.json"
    document.write_text(joined(few, "--format", "json").out, encoding="utf-8")
    words = ("--objective", "energy", "--network", "ethernet", "--format", "json")
    assert splitdeploy("recommend", document, *words) == splitdeploy("recommend", *few, *words)
    assert splitdeploy("report", document).out == joined(few).out


@pytest.mark.parametrize("form", ["table", "csv", "md"])
def test_it_prints_what_recommend_prints(few: list[Path], form: str) -> None:
    shown = joined(few, "--format", form)
    assert shown == splitdeploy("recommend", *few, "--format", form)
    assert shown.code == 0 and "layer2.1@int8" in shown.out
    if form == "csv":
        lines = list(csv.DictReader(io.StringIO(shown.out)))
        assert [line["run"] for line in lines[:3]] == [str(run) for run in few]
        assert [line["precision"] for line in lines] == ["fp32", "fp16", "int8"] * 6


def test_the_joined_document_says_where_each_run_came_from(few: list[Path]) -> None:
    document = json.loads(joined(few[::-1], "--format", "json").out)
    assert document["command"] == ["splitdeploy", "recommend", *map(str, few)]
    assert document["created"] == "2025-03-05T12:00:00+00:00"
    for run in few:
        origin = document["environment"][str(run)]
        assert origin["command"][-1] == run.name and origin["torch"] == "2.9.0"
        assert origin["seed"] == 0 and origin["created"].startswith("2025-03-0")


# --- the page ---------------------------------------------------------------------------------


def test_the_page_has_every_row_every_run_and_what_is_of_each(
    runs: list[Path], tmp_path: Path
) -> None:
    page = tmp_path / "pair.html"
    done = joined(runs, "--html", "--out", page, "--min-agreement", "0.8")
    assert (done.code, done.out) == (0, f"{page}\n")
    text = page.read_text(encoding="utf-8")
    outline(text)
    assert re.findall(r'<th scope="row"><span class="name">([^<]+)', text) == [
        row.name for row in join_runs([FolderRun(str(r), read_report(r)) for r in runs]).cuts
    ]
    told = unescape(text)
    for run in runs:
        assert f"{run.name} in {run}" in told
        assert f"splitdeploy profile resnet18 --precision {run.name}" in told
    assert '<td class="n">6/8</td>' in text  # layer2.1@int8 keeps the class of 6 of 8
    assert f"reconstructions/layer4.0/rmle.png is not in {runs[1]}" in told
    assert text.count("data:image/webp") == 31  # 11 a run; of one the row failed, one is missing


def test_a_run_may_be_named_by_its_report_and_the_page_is_the_same_each_time(
    few: list[Path], tmp_path: Path
) -> None:
    files = [run / "report.json" for run in few]
    pages = []
    for name in ("a.html", "b.html"):
        assert joined(files, "--html", "--out", tmp_path / name).code == 0
        pages.append((tmp_path / name).read_text(encoding="utf-8"))
    assert pages[0] == pages[1] and pages[0].count("data:image/webp") == 14


def test_pictures_come_from_the_folders_that_were_named_and_from_no_other(
    few: list[Path], tmp_path: Path
) -> None:
    """A document may name any folder as a row's run; it is not looked into."""
    document = tmp_path / "joined.json"
    document.write_text(joined(few, "--format", "json").out, encoding="utf-8")
    report = read_report(document)
    assert {row.run for row in report.cuts} == {str(run) for run in few}
    shutil.copytree(few[0] / "reconstructions", tmp_path / "reconstructions")
    text = render_html(report, tmp_path)
    assert "data:image/webp" not in text and "is not in" in text
    some = [FolderRun(str(few[0]), read_report(few[0]))]
    assert render_html(report, some).count("data:image/webp") == 5


def test_where_no_row_is_left_the_page_says_why_and_the_command_fails(
    few: list[Path], tmp_path: Path
) -> None:
    page = tmp_path / "none.html"
    for words in ((), ("--network", "3g")):
        done = joined(few, *words, "--html", "--out", page, "--max-latency", "0.1ms")
        assert (done.code, done.out) == (3, f"{page}\n")
        told = "--max-latency binds: the nearest cut is edge-only@int8"
        assert told in done.err
        text = unescape(page.read_text(encoding="utf-8"))
        assert told in text and "No cut satisfies the constraints." in text
    assert "over 3g" in text


def test_a_trace_is_that_of_all_rows(few: list[Path], tmp_path: Path) -> None:
    trace = tmp_path / "drive.csv"
    trace.write_text("time_s,uplink_bps\n0,4e8\n10,9e8\n20,2e6\n")
    words = ("--trace", trace, "--fps", "5", "--switch-cost", "10ms", "--objective", "energy")
    document = json.loads(joined(few, *words, "--format", "json").out)
    expected = json.loads(splitdeploy("recommend", *few, *words, "--format", "json").out)
    assert document["recommendation"] == expected and len(expected["trace"]["cuts"]) == 17
    page = tmp_path / "none.html"
    done = joined(few, *words, "--max-latency", "0.1ms", "--html", "--out", page)
    assert done.code == 3
    assert "400 Mbit/s up" in page.read_text(encoding="utf-8")  # the trace's median


@pytest.mark.parametrize("chart", [charts.fsinfo_dots, charts.ssim_dots])
def test_the_trace_along_the_depth_is_one_for_each_precision(
    few: list[Path], chart: Callable[[SweepReport, float], str]
) -> None:
    found = [FolderRun(str(run), read_report(run)) for run in few]
    for report, lengths in ((join_runs(found), [6, 5, 6]), (found[0].report, [6])):
        drawn = chart(report, 1040.0)
        lines = re.findall(r'<polyline points="([^"]+)" class="trace', drawn)
        assert [len(line.split()) for line in lines] == lengths
        # Each leads through the rows of its own: no two lines share a point.
        assert len({point for line in lines for point in line.split()}) == sum(lengths)


# --- what cannot be meant ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-latency", "9ms"], "expected --joined with --max-latency, which decides anew"),
        (["--objective", "balanced"], "expected --joined with --objective, which decides anew"),
        (["--fps", "3"], "expected --joined with --fps, which decides anew"),
        (["--joined", "--fps", "3"], "expected no --fps here, got 3.0: it needs a --trace"),
        (["--joined", "--html"], "expected --out FILE for the page of 3 runs"),
        (["--joined", "--out", "x.html"], "expected --html with --out"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant(few: list[Path], words: list[str], message: str) -> None:
    done = splitdeploy("report", *few, *words)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1


def test_one_run_is_nothing_to_join(few: list[Path]) -> None:
    for words in ((), ("--html",)):
        done = joined(few[:1], *words)
        assert done.code == 2 and "expected at least two runs to join, got 1" in done.err


def test_runs_over_different_networks_are_joined_over_the_one_that_is_named(
    few: list[Path], tmp_path: Path
) -> None:
    other = replace(read_report(few[2]), network=NETWORKS["lte"])
    write_report(other, tmp_path)
    both = [few[0], tmp_path]
    refused = joined(both)
    assert refused.code == 2 and "name one for all with --network or --uplink" in refused.err
    document = json.loads(joined(both, "--network", "5g", "--format", "json").out)
    assert document["network"]["name"] == "5g"
