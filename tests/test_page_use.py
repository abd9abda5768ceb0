"""The page in a real browser: by keys, by pointing, for everyone, and without a network."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from deciding import (
    READ,
    RUN,
    browser,
    opened,
    page,
    random_setting,
    settle,
)
from headless import (
    assert_quiet_and_within,
    console_of,
    forget_logs,
    needs_browser,
    open_at,
    requests_of,
)

from splitdeploy.partitioner.compare import name_runs
from splitdeploy.partitioner.recommend import recommend
from splitdeploy.partitioner.render_html import render_html
from splitdeploy.partitioner.render_runs import render_runs
from splitdeploy.profiles.report import Constraints, Objective
from splitdeploy.profiles.units import format_energy, format_rate, format_time

Keys = pytest.importorskip("selenium.webdriver.common.keys", reason="selenium is missing").Keys
ActionChains = pytest.importorskip("selenium.webdriver").ActionChains

__all__ = ["browser", "opened", "page"]  # fixtures

pytestmark = needs_browser

# --- details, keys and pointing -------------------------------------------------------------


def press(browser: Any, *keys: str) -> Any:
    """Press keys where the focus is; what has it then."""
    for key in keys:
        browser.switch_to.active_element.send_keys(getattr(Keys, key))
    return browser.switch_to.active_element


def test_rows_are_stepped_through_and_opened_by_keys(opened: Any) -> None:
    opened.execute_script("document.querySelector('button.open').focus()")
    names = [row.name for row in RUN.cuts]
    assert press(opened, "DOWN", "DOWN").text == names[2]
    assert press(opened, "END").text == names[-1]
    assert press(opened, "UP").text == names[-2]
    assert press(opened, "HOME").text == names[0]
    # The rows are one stop: the next Tab leaves them.
    stops = opened.execute_script(
        "return document.querySelectorAll('button.open[tabindex=\"0\"]').length"
    )
    assert stops == 1
    press(opened, "DOWN", "ENTER")
    dialog = opened.execute_script(
        "const d = document.querySelector('dialog');"
        "return [d.open, d.querySelector('h2').textContent];"
    )
    assert dialog == [True, names[1]]
    press(opened, "RIGHT")
    assert (
        opened.execute_script("return document.querySelector('dialog h2').textContent")
        == (names[2])
    )
    assert press(opened, "ESCAPE").text == names[1]
    assert not opened.execute_script("return document.querySelector('dialog').open")


def test_the_details_of_a_cut(opened: Any) -> None:
    opened.execute_script(
        "[...document.querySelectorAll('#cuts tbody tr')]"
        ".find(r => r.dataset.cut === 'layer3.0').click()"
    )
    row = RUN.find("layer3.0")
    said = opened.execute_script("return document.querySelector('dialog').textContent")
    assert row.latency_s and row.energy_j
    for text in (
        "layer3.0.out", "1 × 256 × 14 × 14", "float16", format_time(row.latency_s.edge.median),
        format_energy(row.energy_j.radio), "rmle sweep", "0.44 (0.39 to 0.49)", "white box",
        "relative error 3.1e-06", "95th percentile",
    ):  # fmt: skip
        assert text in said
    stages, trip_s = row.latency_s, RUN.network.rtt_s / 2
    slowest_s = max(stages.edge.median, stages.cloud.median, stages.uplink.median - trip_s)
    assert f"{1 / slowest_s:.3g} a second" in said
    drawn = opened.execute_script(
        "return [...document.querySelectorAll('dialog img')].map(i => i.naturalWidth)"
    )
    assert drawn == [64]


def test_points_of_the_charts_tell_and_open(opened: Any) -> None:
    point = "[data-plot=tradeOff] .target[data-cut=avgpool]"
    opened.execute_script(f"document.querySelector('{point}').focus()")
    tip = "const t = document.querySelector('#tip'); return t.hidden ? null : t.textContent"
    assert "avgpool" in opened.execute_script(tip)
    assert press(opened, "ESCAPE") and opened.execute_script(tip) is None
    mouse = ActionChains(opened)
    target = opened.find_element("css selector", point.replace("avgpool", "maxpool"))
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", target)
    mouse.move_to_element(target).perform()
    assert "leakage index" in opened.execute_script(tip)
    mouse.click().perform()
    assert opened.execute_script("return document.querySelector('dialog').open")


# --- quiet, and for everyone ----------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_error_no_request_and_nothing_beyond_the_edge(
    browser: Any, page: Path, width: int, scheme: str
) -> None:
    forget_logs(browser)
    open_at(browser, page, width, scheme)
    for seed in range(3):
        settle(browser, **random_setting(random.Random(seed))[0])
    browser.execute_script("document.querySelector('button.open').click()")
    assert_quiet_and_within(browser, page, width)


def test_the_policy_forbids_the_network(opened: Any) -> None:
    outcome = opened.execute_async_script(
        """
        const done = arguments[0];
        const blocked = [];
        document.addEventListener("securitypolicyviolation", (e) => blocked.push(e.blockedURI));
        const image = new Image();
        image.src = "http://127.0.0.1:9/x.png";
        const script = document.createElement("script");
        script.textContent = "window.injected = true";
        document.body.append(script);
        fetch("http://127.0.0.1:9/").then(() => done("reached"), () =>
          setTimeout(() => done([window.injected === undefined, blocked.sort()]), 50));
        """
    )
    assert outcome == [True, ["http://127.0.0.1:9/", "http://127.0.0.1:9/x.png", "inline"]]


CONTRAST = """
const parse = (text) => {
  const [r, g, b, a] = text.match(/[\\d.]+/g).map(Number);
  return [r, g, b, a === undefined ? 1 : a];
};
const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3]));
const lum = (rgb) => rgb.map((v) => v / 255)
  .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ratio = (a, b) => {
  const [x, y] = [lum(a), lum(b)].sort((m, n) => n - m);
  return (x + 0.05) / (y + 0.05);
};
function behind(element) {
  const layers = [];
  for (let e = element; e; e = e.parentElement) {
    layers.push(parse(getComputedStyle(e).backgroundColor));
  }
  return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
}
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  const text = walker.currentNode.textContent.trim().slice(0, 40);
  if (!text || !element.checkVisibility({ visibilityProperty: true })) continue;
  if (element.closest("script, style, title, option, .sr, .skip, :disabled")) continue;
  const style = getComputedStyle(element);
  const inSvg = element instanceof SVGElement;
  const ground = behind(element.closest("svg")?.parentElement || element);
  const colour = over(parse(inSvg ? style.fill : style.color), ground);
  const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
  const needed = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
  const got = ratio(colour, ground);
  if (got < needed) found.push(`${text}: ${got.toFixed(2)}`);
}
// What tells a control or a mark apart needs 3 to 1 against what it lies on.
const marks = "#controls input[type=number], #controls select, #reset, .dot, .k, .badge";
for (const element of document.querySelectorAll(marks)) {
  if (element.disabled || !element.checkVisibility()) continue;
  const style = getComputedStyle(element);
  const ground = behind((element.closest("svg") || element).parentElement);
  const edge = element instanceof SVGElement ? style.stroke
    : element.matches(".k, .badge") ? style.backgroundColor : style.borderTopColor;
  const got = ratio(over(parse(edge), ground), ground);
  if (got < 3) found.push(`${element.id || element.getAttribute("class")}: ${got.toFixed(2)}`);
}
return [...new Set(found)];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("opening", ["", "document.querySelectorAll('button.open')[8].click();"])
def test_text_and_marks_stand_out(browser: Any, page: Path, scheme: str, opening: str) -> None:
    open_at(browser, page, 1280, scheme)
    settle(browser, n__max_edge_memory_bytes=16)
    browser.execute_script(opening)
    assert browser.execute_script(CONTRAST) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_two_runs_is_quiet_and_readable(
    browser: Any, tmp_path: Path, scheme: str
) -> None:
    reports = [
        recommend(RUN, constraints=limits, objective=Objective())
        for limits in (Constraints(), Constraints(max_edge_memory_bytes=16_000_000))
    ]
    places = [tmp_path / "before", tmp_path / "after"]
    path = tmp_path / "both.html"
    path.write_text(render_runs(name_runs(places, reports), path), encoding="utf-8")
    for width in (1280, 390):
        forget_logs(browser)
        open_at(browser, path, width, scheme)
        assert console_of(browser) == []
        asked = requests_of(browser, path)
        assert [u for u in asked if u != path.as_uri() and not u.startswith("data:")] == []
        assert browser.execute_script(CONTRAST) == []
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width


def test_every_input_has_a_name_and_the_focus_follows_the_page(opened: Any) -> None:
    unnamed = opened.execute_script(
        """
        const named = (e) => e.getAttribute("aria-label") || e.labels?.length
          || e.textContent.trim();
        return [...document.querySelectorAll("input, select, button, [role=button]")]
          .filter((e) => !named(e)).map((e) => e.outerHTML.slice(0, 80));
        """
    )
    assert unnamed == []
    ids = opened.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    positive = opened.execute_script("return document.querySelectorAll('[tabindex=\"1\"]').length")
    assert positive == 0
    order = opened.execute_script(
        """
        return [...document.querySelectorAll("#controls :is(input, select, button)")]
          .filter((e) => e.checkVisibility()).map((e) => e.getBoundingClientRect().top);
        """
    )
    assert all(b >= a - 12 for a, b in zip(order, order[1:], strict=False))


def test_less_motion_where_it_is_asked_for(browser: Any, page: Path) -> None:
    css = "return getComputedStyle(document.querySelector('#reset')).transitionDuration"
    open_at(browser, page, 1280)
    assert browser.execute_script(css) != "0s"
    open_at(browser, page, 1280, motion="reduce")
    assert browser.execute_script(css) == "0s"


def test_marks_are_told_apart_without_colour(opened: Any) -> None:
    settle(opened, n__max_edge_memory_bytes=16)
    marks = opened.execute_script(
        """
        return [...document.querySelectorAll("[data-plot=tradeOff] .target")].map((t) => [
          t.querySelector("polygon") !== null, t.querySelector(".dot").classList.contains("hollow"),
          t.querySelector(".halo") !== null, t.dataset.cut]);
        """
    )
    state = opened.execute_script(READ)
    for front, hollow, ringed, name in marks:
        assert front == (name in state["pareto"])
        assert hollow == (name not in state["feasible"])
        assert ringed == (name == state["pick"])


def test_numbers_are_written_as_python_writes_them(opened: Any) -> None:
    generator = random.Random(5)
    values = [generator.uniform(-1, 1) * 10 ** generator.randint(-7, 9) for _ in range(300)]
    values += [0.0, 12.25, 12.35, 0.125, 2.5, 0.5, 1.5, 999.5, 1e22, 1e-5, 123456.5, 100.0]
    got = opened.execute_script(
        """
        return arguments[0].map((v) => [Numbers.general(v, 3), Numbers.fixed(v, 0),
          Numbers.fixed(v, 2), Numbers.time(v), Numbers.rate(v), Numbers.roundEven(v)]);
        """,
        values,
    )
    expected = [
        [f"{v:.3g}", f"{v:.0f}", f"{v:.2f}", format_time(v), format_rate(v), round(v)]
        for v in map(float, values)
    ]
    assert got == expected


def test_the_page_is_drawn_alike_each_time_and_stays_small(page: Path) -> None:
    decided = recommend(RUN, constraints=Constraints(), objective=Objective())
    text = page.read_text(encoding="utf-8")
    assert render_html(decided, page.parent) == text
    assert len(text.encode()) < 400_000
