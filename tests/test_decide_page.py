"""The page decides in a real browser as ``recommend`` does."""

from __future__ import annotations

import json
import random
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deciding import (
    READ,
    RUN,
    assert_decided_alike,
    browser,
    opened,
    page,
    random_setting,
    settle,
)
from headless import needs_browser, open_at

from splitdeploy.partitioner.recommend import judge, recommend
from splitdeploy.partitioner.render_html import render_html
from splitdeploy.partitioner.wording import pace_of
from splitdeploy.profiles.errors import InfeasibleError
from splitdeploy.profiles.network import NETWORKS, NetworkProfile
from splitdeploy.profiles.report import Constraints, Objective
from splitdeploy.profiles.store import write_report
from splitdeploy.profiles.units import format_energy, format_rate

Keys = pytest.importorskip("selenium.webdriver.common.keys", reason="selenium is missing").Keys
ActionChains = pytest.importorskip("selenium.webdriver").ActionChains

__all__ = ["browser", "opened", "page"]  # fixtures

pytestmark = needs_browser


@pytest.mark.parametrize("seed", range(50))
def test_the_page_picks_what_recommend_picks(browser: Any, page: Path, seed: int) -> None:
    if seed == 0 or browser.current_url != page.as_uri():
        open_at(browser, page, 1280)
    fields, chosen = random_setting(random.Random(seed))
    assert_decided_alike(settle(browser, **fields), RUN, chosen)


# --- each control ---------------------------------------------------------------------------


def slide(browser: Any, key: str, share: float) -> dict[str, Any]:
    """Move a slider to a share of its way."""
    return settle(browser, **{f"s__{key}": round(1000 * share)})


def field_of(browser: Any, key: str) -> str:
    value: str = browser.execute_script(f"return document.getElementById('n-{key}').value")
    return value


@pytest.mark.parametrize(
    ("key", "share", "objective"),
    [
        ("max_latency_s", 0.2, "leakage"),
        ("max_energy_j", 0.16, "leakage"),
        ("max_edge_memory_bytes", 0.4, "balanced"),
        ("max_ssim", 0.17, "latency"),
        ("max_fsinfo", 0.08, "latency"),
        ("min_agreement", 0.9, "leakage"),
    ],
)
def test_each_limit_moves_the_pick_and_lets_it_go(
    opened: Any, key: str, share: float, objective: str
) -> None:
    fast = {"n__uplink_bps": 9000, "n__downlink_bps": 9000, "n__rtt_s": 0}
    free = settle(opened, **fast, **{"objective-name": objective})
    bound = slide(opened, key, share)
    text = field_of(opened, key)
    assert text and bound["pick"] != free["pick"]
    limit = {"max_latency_s": 1e-3, "max_energy_j": 1e-3, "max_edge_memory_bytes": 1e6}
    value = float(text) * limit.get(key, 1)
    network = NetworkProfile("custom", 9e9, 9e9, 0.0, RUN.network.radio)
    constraints = Constraints(**{key: round(value) if key.endswith("bytes") else value})
    try:
        expected = recommend(
            RUN, constraints=constraints, objective=Objective(objective), network=network
        ).recommendation
    except InfeasibleError as error:
        assert bound["live"][0] == str(error)
    else:
        assert expected is not None and bound["pick"] == expected.cut
    # At its end a limit's slider lifts the limit; a floor's where it begins.
    assert slide(opened, key, 0.0 if key == "min_agreement" else 1.0)["pick"] == free["pick"]
    assert field_of(opened, key) == ""


@pytest.mark.parametrize("key", ["uplink_bps", "downlink_bps", "rtt_s"])
def test_each_slider_of_the_network_moves_the_pick(opened: Any, key: str) -> None:
    settle(opened, **{"objective-name": "latency", "n__uplink_bps": 9000,
                      "n__downlink_bps": 9000, "n__rtt_s": 0})  # fmt: skip
    picks = [slide(opened, key, share)["pick"] for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert len(set(picks)) > 1


TRADED = """
const visible = (css) => [...document.querySelectorAll(css)].filter((e) => e.checkVisibility());
return {
  words: document.querySelector("#h-cuts + .lead").innerText,
  legend: document.querySelector("#h-tradeoff ~ .legend li").innerText,
  paces: visible("#cuts .c-pace").map((e) => e.textContent),
  headings: visible("#cuts thead th").map((e) => e.textContent),
  diamonds: visible("[data-plot=tradeOff] .target").filter((t) => t.querySelector("polygon"))
    .map((t) => [t.dataset.cut, t.getAttribute("aria-label")]),
};
"""


@pytest.mark.parametrize("uplink", [20, 300, 3000])
def test_with_throughput_the_pace_is_traded_too(opened: Any, uplink: int) -> None:
    network = replace(RUN.network, name="custom", uplink_bps=uplink * 1e6, downlink_bps=1e9)
    sets = {}
    for objective in ("latency", "throughput"):
        shown = settle(opened, **{"objective-name": objective, "n__uplink_bps": uplink,
                                  "n__downlink_bps": 1000})  # fmt: skip
        expected = recommend(
            RUN, constraints=Constraints(), objective=Objective(objective), network=network
        )
        sets[objective] = expected.pareto
        assert shown["pareto"] == list(expected.pareto)
        said = opened.execute_script(TRADED)
        paced = objective == "throughput"
        words = "throughput, latency" if paced else "set of latency"
        assert f"{words}, energy and leakage index." in said["words"]
        assert ("(throughput, latency, energy, leakage)" in said["legend"]) == paced
        assert ("Per s" in said["headings"]) == paced
        rates = [pace_of(row, expected) for row in expected.cuts]
        assert said["paces"] == (rates if paced else [])
        assert [name for name, _ in said["diamonds"]] == list(expected.pareto)
        for name, label in said["diamonds"]:
            rate = f"{pace_of(expected.find(name), expected)} a second"
            assert (rate in label) == paced
    assert set(sets["latency"]) < set(sets["throughput"])


def test_a_preset_sets_rates_and_radio(opened: Any) -> None:
    shown = settle(opened, **{"network": "lte", "objective-name": "energy", "n__rtt_s": 7})
    lte = replace(NETWORKS["lte"], rtt_s=7e-3, source="given")
    expected = recommend(RUN, constraints=Constraints(), objective=Objective("energy"), network=lte)
    assert expected.recommendation and shown["pick"] == expected.recommendation.cut
    energy = expected.find(shown["pick"]).energy_j
    assert energy and shown["tiles"][2] == format_energy(energy.total)


@pytest.mark.parametrize(
    ("uplink", "objective", "limit_ms", "words"),
    [
        (100, "latency", None, "below {high}"),
        (1000, "latency", None, "above {low}"),
        (100, "leakage", 40, "above {low}"),
    ],
)
def test_the_interval_in_which_the_pick_holds_is_that_of_recommend(
    opened: Any, uplink: int, objective: str, limit_ms: float | None, words: str
) -> None:
    shown = settle(opened, **{
        "n__max_edge_memory_bytes": 16, "n__uplink_bps": uplink, "objective-name": objective,
        "n__max_latency_s": limit_ms or "",
    })  # fmt: skip
    limits = Constraints(max_edge_memory_bytes=16_000_000,
                         max_latency_s=limit_ms and limit_ms * 1e-3)  # fmt: skip
    decided = recommend(
        RUN, constraints=limits, objective=Objective(objective),
        network=replace(RUN.network, name="custom", uplink_bps=uplink * 1e6, source="given"),
    ).recommendation  # fmt: skip
    assert decided is not None and shown["pick"] == decided.cut
    low, high = decided.stable_while["uplink_bps"]
    assert (low > 0) == ("{low}" in words) and (high is not None) == ("{high}" in words)
    assert words.format(low=format_rate(low), high=format_rate(high or 0)) in shown["tiles"]


@pytest.mark.parametrize("seed", [1, 3, 8, 21])
def test_the_command_that_is_shown_decides_alike(opened: Any, seed: int, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from splitdeploy.cli.main import cli

    write_report(recommend(RUN, constraints=Constraints(), objective=Objective()), tmp_path)
    shown = settle(opened, **random_setting(random.Random(seed))[0])
    words = shlex.split(shown["command"].replace(" RUN ", f" {shlex.quote(str(tmp_path))} "))
    done = CliRunner().invoke(cli, [*words[1:], "--format", "json"])
    if shown["pick"] is None:
        assert isinstance(done.exception, InfeasibleError)
        assert str(done.exception) == shown["live"][0]
    else:
        assert json.loads(done.stdout)["cut"] == shown["pick"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n__uplink_bps": "0"}, "expected a number above zero for uplink, got 0"),
        ({"n__uplink_bps": ""}, "expected a number above zero for uplink, got none"),
        ({"n__rtt_s": "-1"}, "expected a number of zero or more for round trip, got -1"),
        ({"n__max_latency_s": "-3"}, "expected a number above zero for latency at most, got -3"),
        ({"w__latency": "-1"}, "expected weights of zero or more"),
        ({"n__min_agreement": "1.5"}, "expected a share above 0 and at most 1 for --min-agreement"),
    ],
)
def test_what_cannot_be_meant_is_told_and_picks_nothing(
    opened: Any, fields: dict[str, object], message: str
) -> None:
    shown = settle(opened, **fields)
    assert shown["verdict"].startswith(message)
    assert shown["pick"] is None and shown["command"] == ""
    again = settle(opened, **{"n__uplink_bps": 5, "n__rtt_s": 5, "n__max_latency_s": "",
                              "w__latency": 1, "n__min_agreement": ""})  # fmt: skip
    assert again["pick"] is not None


def test_before_anything_is_moved_the_page_says_what_the_run_said(browser: Any, page: Path) -> None:
    open_at(browser, page, 1280)
    live = browser.execute_script(READ)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        open_at(browser, page, 1280)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    still = browser.execute_script(READ)
    for shown in (live, still):
        shown["tiles"] = [text.replace("\u00a0", " ") for text in shown["tiles"]]
        shown["whyNot"] = [text.replace("\u00a0", " ") for text in shown["whyNot"]]
    for key in ("pick", "badge", "pareto", "feasible", "totals", "whyNot", "liveHidden", "tiles"):
        assert live[key] == still[key], key
    assert browser.execute_script("return document.querySelector('#controls').hidden")


def test_how_sure_the_run_was_is_shown_while_its_settings_are(opened: Any) -> None:
    certainty = recommend(RUN, constraints=Constraints(), objective=Objective()).recommendation
    assert certainty is not None and certainty.certainty is not None
    css = "dl.tiles[data-as-run]"
    element = opened.find_element("css selector", css)
    assert f"{100 * certainty.certainty.probability_best:.0f} %" in element.text
    settle(opened, n__uplink_bps=1)
    assert not element.is_displayed()


def test_the_way_back(opened: Any) -> None:
    before = opened.execute_script(READ)
    moved = settle(opened, **random_setting(random.Random(2))[0])
    assert not moved["liveHidden"]
    opened.execute_script("document.querySelector('#reset').click()")
    assert opened.execute_script(READ) == before


def test_a_run_without_a_pick_can_be_relaxed(browser: Any, tmp_path: Path) -> None:
    limits = Constraints(max_latency_s=3e-3, max_ssim=0.3)
    report = judge(RUN, constraints=limits, objective=Objective())
    path = tmp_path / "report.html"
    path.write_text(render_html(report, tmp_path), encoding="utf-8")
    open_at(browser, path, 1280)
    with pytest.raises(InfeasibleError) as told:
        recommend(RUN, constraints=limits, objective=Objective())
    said = browser.execute_script("return document.querySelector('.outcome .words').textContent")
    assert str(told.value)[1:] in said.replace("\u00a0", " ")
    assert settle(browser, n__max_latency_s=5)["pick"] == "edge-only"


def test_limits_that_hold_with_a_probability_are_the_commands_part(
    browser: Any, tmp_path: Path
) -> None:
    limits = Constraints(max_latency_s=30e-3, confidence=0.95)
    report = recommend(RUN, constraints=limits, objective=Objective("leakage"))
    path = tmp_path / "report.html"
    path.write_text(render_html(report, tmp_path), encoding="utf-8")
    open_at(browser, path, 1280)
    shown = browser.execute_script(READ)
    assert report.recommendation and shown["pick"] == report.recommendation.cut
    assert shown["whyNot"] == ["; ".join(r.violations) for r in report.cuts if r.violations]
    assert "--confidence 0.95" in shown["command"]
    moved = settle(browser, n__max_latency_s=40)
    assert any("with probability 0.95" in text for text in moved["live"])
    assert "--confidence" not in moved["command"]
