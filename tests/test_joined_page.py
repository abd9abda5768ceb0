"""The page of joined runs in a real browser: it decides as ``recommend RUN RUN…`` does."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from batch_runs import in_batch
from command_line import splitdeploy
from deciding import READ, assert_decided_alike, browser, random_setting, settle
from headless import (
    assert_quiet_and_within,
    forget_logs,
    needs_browser,
    open_at,
)
from precision_runs import WIDTHS, write_runs
from test_page_use import CONTRAST

from splitdeploy.partitioner.join_runs import FolderRun, join_runs
from splitdeploy.partitioner.recommend import recommend
from splitdeploy.profiles.network import NETWORKS
from splitdeploy.profiles.report import Constraints, Objective
from splitdeploy.profiles.store import read_report, write_report
from splitdeploy.profiles.units import format_time

__all__ = ["browser"]  # a fixture

pytestmark = needs_browser


CUTS = ("cloud-only", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer4.0", "avgpool",
        "edge-only")  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_runs(tmp_path_factory.mktemp("runs"), CUTS)


def drawn(runs: list[Path], *words: str) -> Path:
    page = runs[0].parent / f"{len(runs)}{'-'.join(words)}.html"
    if page.exists():
        return page
    done = splitdeploy("report", *runs, "--joined", "--html", "--out", page, *words)
    assert done.code == 0, done.err
    return page


@pytest.fixture(scope="module")
def page(runs: list[Path]) -> Path:
    return drawn(runs)


@pytest.fixture(scope="module")
def found(runs: list[Path]) -> list[FolderRun]:
    return [FolderRun(str(run), read_report(run)) for run in runs]


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Any]:
    open_at(browser, page, 1280)
    yield browser


@pytest.mark.parametrize("seed", range(20))
def test_the_page_picks_the_pair_that_recommend_picks(
    browser: Any, page: Path, found: list[FolderRun], seed: int
) -> None:
    if browser.current_url != page.as_uri():
        open_at(browser, page, 1280)
    fields, chosen = random_setting(random.Random(seed))
    shown = settle(browser, **fields)
    assert_decided_alike(shown, join_runs(found, chosen["network"]), chosen)


@pytest.mark.parametrize("seed", range(30, 36))
def test_the_page_picks_among_batches_as_recommend_does(
    browser: Any, runs: list[Path], tmp_path: Path, seed: int
) -> None:
    batched = []
    for folder, batch in ((runs[1], 1), (runs[1], 8), (runs[2], 8)):
        batched.append(tmp_path / f"{folder.name}-{batch}")
        batched[-1].mkdir()
        write_report(in_batch(read_report(folder), batch), batched[-1] / "report.json")
    open_at(browser, drawn(batched), 1280)
    text = browser.find_element("tag name", "header").text
    assert all(f"{name} in {run}" in text for name, run in zip(
        ("fp16@b1", "fp16@b8", "int8@b8"), batched, strict=True))  # fmt: skip
    fields, chosen = random_setting(random.Random(seed))
    joined = [FolderRun(str(run), read_report(run)) for run in batched]
    shown = settle(browser, **fields)
    report = join_runs(joined, chosen["network"])
    assert_decided_alike(shown, report, chosen)
    if shown["pick"] is not None and not shown["pick"].startswith("cloud-only"):
        end = shown["pick"].replace(shown["pick"].split("@")[0], "cloud-only", 1)
        latency = report.find(end).latency_s
        assert latency is not None
        told = f"than {end} ({format_time(latency.total.median)}"
        assert any(told in text for text in shown["live"]), shown["live"]


@pytest.mark.parametrize("words", [(), ("--network", "lte")])
@pytest.mark.parametrize("seed", [None, 4, 13])
def test_the_command_that_is_shown_decides_alike(
    browser: Any, runs: list[Path], seed: int | None, words: tuple[str, ...]
) -> None:
    """Over another network than the runs' own too, which the command has to name."""
    open_at(browser, drawn(runs, *words), 1280)
    fields = {} if seed is None else random_setting(random.Random(seed))[0]
    shown = settle(browser, **fields)
    command = shown["command"].split()
    assert command[:5] == ["splitdeploy", "recommend", "RUN", "RUN", "RUN"]
    done = splitdeploy("recommend", *runs, *command[5:], "--format", "json")
    if shown["pick"] is None:
        assert (done.code, done.err) == (3, f"error: {shown['live'][0]}\n")
    else:
        decided = json.loads(done.out)
        assert f"{decided['cut']}@{decided['precision']}" == shown["pick"]


def test_a_page_over_another_network_goes_on_from_there(
    browser: Any, runs: list[Path], found: list[FolderRun]
) -> None:
    open_at(browser, drawn(runs, "--network", "lte"), 1280)
    assert "--network lte" in browser.execute_script(READ)["command"]
    shown = settle(browser, **{"objective-name": "energy", "n__uplink_bps": "900"})
    link = replace(NETWORKS["lte"], uplink_bps=900e6, source="given")
    chosen = {"network": link, "constraints": Constraints(), "objective": Objective("energy")}
    assert_decided_alike(shown, join_runs(found, link), chosen)


def test_what_the_pick_is_compared_with_has_its_precision(
    opened: Any, found: list[FolderRun]
) -> None:
    shown = settle(opened, n__uplink_bps=400, n__min_agreement="0.9")
    link = replace(found[0].report.network, name="custom", uplink_bps=400e6)
    report = recommend(
        join_runs(found, link),
        constraints=Constraints(min_agreement=0.9), objective=Objective(),
    )  # fmt: skip
    assert report.recommendation is not None and report.recommendation.precision == "fp16"
    end = report.find("cloud-only@fp16").latency_s
    assert end is not None
    told = f"than cloud-only@fp16 ({format_time(end.total.median)})."
    assert any(text.endswith(told) for text in shown["live"])
    assert "fp16" in shown["tiles"] and found[1].folder in shown["tiles"]
    assert "The page began with edge-only@int8." in shown["live"]


def test_a_limit_with_a_probability_is_shown_as_it_was_found(browser: Any, tmp_path: Path) -> None:
    words = ("--min-agreement", "0.5", "--confidence", "0.9", "--objective", "latency")
    runs = write_runs(tmp_path, ("cloud-only", "layer2.1", "avgpool", "edge-only"))[1:]
    open_at(browser, drawn(runs, *words), 1280)
    shown = browser.execute_script(READ)
    report = recommend(
        join_runs([FolderRun(str(run), read_report(run)) for run in runs]),
        constraints=Constraints(min_agreement=0.5, confidence=0.9), objective=Objective("latency"),
    )  # fmt: skip
    assert report.recommendation is not None and shown["pick"] == report.recommendation.cut
    assert shown["whyNot"] == ["; ".join(r.violations) for r in report.cuts if r.violations]
    assert "--confidence 0.9" in shown["command"]
    moved = settle(browser, n__min_agreement="0.8")
    told = "The page asked that its limits hold with probability 0.9"
    assert any(text.startswith(told) for text in moved["live"])


# --- rows, and what opens ----------------------------------------------------------------------


def opened_row(browser: Any, name: str) -> tuple[str, list[int]]:
    """What the details of a row say, and how wide its pictures are."""
    browser.execute_script(
        "[...document.querySelectorAll('#cuts tbody tr')]"
        ".find(r => r.dataset.cut === arguments[0]).click()",
        name,
    )
    said: str = browser.execute_script("return document.querySelector('dialog').textContent")
    widths: list[int] = browser.execute_script(
        "return [...document.querySelectorAll('dialog img')].map(i => i.naturalWidth)"
    )
    browser.execute_script("document.querySelector('dialog').close()")
    return said, widths


@pytest.mark.parametrize("precision", list(WIDTHS))
def test_the_details_of_a_row_are_those_of_its_own_run(
    opened: Any, found: list[FolderRun], precision: str
) -> None:
    run = next(run for run in found if run.report.edge.precision == precision)
    row = run.report.find("layer2.1")
    said, widths = opened_row(opened, f"layer2.1@{precision}")
    assert widths == [WIDTHS[precision]]
    assert row.latency_s is not None
    for text in (
        f"layer2.1@{precision}", f"{precision}, in {run.folder}", row.cut.tensors[0].dtype,
        format_time(row.latency_s.edge.median), "white box", "0.62 (0.57 to 0.67)",
    ):  # fmt: skip
        assert text in said
    assert ("6 of 8 pictures keep their class" in said) == (precision == "int8")


def test_every_picture_is_that_of_its_row(opened: Any, found: list[FolderRun]) -> None:
    pictures = opened.execute_script(
        """
        return [...document.querySelectorAll(".gallery")].flatMap((g) =>
          [...g.querySelectorAll("img")].map((i) => [g.dataset.cut, i.naturalWidth]));
        """
    )
    expected = [
        [row.name, WIDTHS[str(row.precision)]]
        for row in join_runs(found).cuts
        if any(attack.picture for attack in row.attacks) and row.name != "layer4.0@fp16"
    ]
    assert len(expected) == 19 and pictures == expected


def test_points_of_the_charts_tell_their_row(opened: Any) -> None:
    for plot in ("tradeOff", "latencyBars"):
        css = f"[data-plot={plot}] .target[data-cut='avgpool@int8']"
        opened.execute_script("document.querySelector(arguments[0]).focus()", css)
        tip = opened.execute_script("return document.querySelector('#tip').textContent")
        assert tip.startswith("avgpool@int8")


# --- quiet, and for everyone -------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_error_no_request_and_nothing_beyond_the_edge(
    browser: Any, page: Path, width: int, scheme: str
) -> None:
    forget_logs(browser)
    open_at(browser, page, width, scheme)
    settle(browser, **random_setting(random.Random(1))[0])
    settle(browser, **{"objective-name": "throughput"})
    browser.execute_script("document.querySelector('button.open').click()")
    assert_quiet_and_within(browser, page, width)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_marks_stand_out(browser: Any, page: Path, scheme: str) -> None:
    open_at(browser, page, 1280, scheme)
    settle(browser, n__max_edge_memory_bytes=16, n__min_agreement="0.7")
    browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    assert browser.execute_script(CONTRAST) == []
    browser.execute_script("document.querySelectorAll('button.open')[17].click();")
    assert browser.execute_script(CONTRAST) == []


def test_the_table_fits_a_desk_with_every_column(opened: Any) -> None:
    settle(opened, **{"objective-name": "throughput"})
    table = "const t = document.querySelector('#cuts'); return [t.scrollWidth, t.clientWidth]"
    wide, room = opened.execute_script(table)
    assert wide <= room
