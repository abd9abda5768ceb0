"""Opens the page in a real browser, where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from factories import make_report, with_row, write_png
from headless import console_of, forget_logs, needs_browser, open_at, requests_of, start

from splitdeploy.partitioner.recommend import recommend
from splitdeploy.partitioner.render_html import render_html
from splitdeploy.profiles.network import NetworkProfile
from splitdeploy.profiles.report import Constraints, Objective

pytestmark = needs_browser

SECTIONS = [
    "Recommendation", "Decide here", "Every cut", "Latency by stage", "Leakage along the depth",
    "Leakage of each cut", "Latency against leakage", "What an attacker sees",
    "Attacks that were not run", "What this rests on",
]  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    report = make_report(NetworkProfile("custom", 900e6, 900e6, 0.0004, "wired"), pictures=True)
    quick = report.find("layer3.0").attacks[0]
    strong = replace(
        quick, name="inverse-network", preset="thorough", ssim=0.61,
        picture="reconstructions/layer3.0/inverse-network.png",
        threat_model="black-box: head unknown; queries; passive; pictures of his own (5000 "
        "pictures, other distribution)",
        verdict="The cloud can recover a recognisable picture. It tells which of 40 pictures was "
        "sent 100% of the time (68% to 100%; chance is 2.5%).",
    )  # fmt: skip
    late = ("not run for lack of time: deep-image-prior:fast, rmle:restarts",)
    report = with_row(report, "layer3.0", attacks=(quick, strong), attack_notes=late)
    for row in report.cuts:
        for attack in row.attacks:
            if attack.picture and row.name != "layer4.1":
                write_png(run / attack.picture, 64, 32)
    limits = Constraints(max_edge_memory_bytes=28_000_000)
    decided = recommend(report, constraints=limits, objective=Objective())
    path = run / "report.html"
    path.write_text(render_html(decided, run), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield from start(tmp_path_factory.mktemp("profile"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_quiet_and_fits(browser: Any, page: Path, width: int, scheme: str) -> None:
    forget_logs(browser)
    open_at(browser, page, width, scheme)
    assert console_of(browser) == []
    requested = requests_of(browser, page)
    assert page.as_uri() in requested
    assert [url for url in requested if url != page.as_uri() and not url.startswith("data:")] == []
    inner, scroll = browser.execute_script(
        "return [document.documentElement.clientWidth, document.documentElement.scrollWidth]"
    )
    assert scroll <= inner <= width


@pytest.mark.parametrize("width", [1280, 390])
def test_every_section_is_there_and_no_text_is_tiny(browser: Any, page: Path, width: int) -> None:
    open_at(browser, page, width)
    headings = browser.execute_script(
        "return [...document.querySelectorAll('main h2')].map(h => h.textContent.trim())"
    )
    assert headings == SECTIONS
    shown = browser.execute_script(
        "return [...document.querySelectorAll('svg.chart')].filter(s => s.clientWidth > 0).length"
    )
    assert shown == 4
    # A drawing is scaled with its text: what counts is its size on the screen.
    smallest = browser.execute_script(
        """
        let sizes = [...document.querySelectorAll('svg.chart')].filter(s => s.clientWidth > 0)
          .map(s => 12 * s.getBoundingClientRect().width / s.viewBox.baseVal.width);
        return Math.min(...sizes);
        """
    )
    assert smallest >= 10.5


def test_the_pictures_are_drawn_and_a_missing_one_is_told(browser: Any, page: Path) -> None:
    open_at(browser, page, 1280)
    widths = browser.execute_script(
        "return [...document.images].map(i => i.complete ? i.naturalWidth : 0)"
    )
    assert widths == [64] * 11
    assert browser.execute_script("return document.querySelectorAll('.missing').length") == 1


def test_what_a_phone_cannot_show_at_once_can_be_scrolled_by_keyboard(
    browser: Any, page: Path
) -> None:
    open_at(browser, page, 390)
    moved = browser.execute_script(
        """
        let table = document.querySelector('.scroll'); table.focus(); table.scrollLeft = 80;
        let first = table.querySelector('tbody th').getBoundingClientRect();
        return [document.activeElement === table, table.scrollLeft, first.left];
        """
    )
    assert moved[0] and moved[1] == 80
    assert 0 <= moved[2] < 60
