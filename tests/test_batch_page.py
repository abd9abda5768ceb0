"""The page of a run whose requests carry several inputs decides as ``recommend`` does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from batch_runs import in_batch
from deciding import RUN, random_setting, settle
from headless import needs_browser, open_at, start

from splitdeploy.partitioner.recommend import judge, recommend
from splitdeploy.partitioner.render_html import render_html
from splitdeploy.profiles.errors import InfeasibleError
from splitdeploy.profiles.network import NETWORKS
from splitdeploy.profiles.report import Constraints, Objective
from splitdeploy.profiles.throughput import throughput_per_s
from splitdeploy.profiles.units import format_rate, format_time

pytestmark = needs_browser

RUN8 = in_batch(RUN, 8)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield from start(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    decided = recommend(RUN8, constraints=Constraints(), objective=Objective())
    path = run / "report.html"
    path.write_text(render_html(decided, run), encoding="utf-8")
    return path


@pytest.mark.parametrize("seed", range(12))
def test_the_page_picks_what_recommend_picks_with_a_batch(
    browser: Any, page: Path, seed: int
) -> None:
    if browser.current_url != page.as_uri():
        open_at(browser, page, 1280)
    fields, chosen = random_setting(random.Random(seed))
    if seed % 2:  # the objective that counts inputs
        fields["objective-name"] = "throughput"
        chosen["objective"] = replace(chosen["objective"], name="throughput")
    shown = settle(browser, **fields)
    try:
        expected = recommend(RUN8, **chosen)
    except InfeasibleError as error:
        expected = judge(RUN8, **chosen)
        assert shown["pick"] is None and shown["live"][0] == str(error)
    else:
        assert expected.recommendation is not None
        assert shown["pick"] == expected.recommendation.cut
        row = expected.find(shown["pick"])
        assert row.latency_s is not None
        assert shown["tiles"][0] == format_time(row.latency_s.total.median)
        if chosen["objective"].name == "throughput":
            rate = throughput_per_s(row.latency_s, expected.network, 8)
            assert f"{rate:.3g} a second" in shown["tiles"]
    assert shown["feasible"] == [row.name for row in expected.cuts if row.feasible]
    assert shown["pareto"] == list(expected.pareto)


def test_the_page_says_what_is_of_a_request(browser: Any, page: Path) -> None:
    open_at(browser, page, 1280)
    text = browser.execute_script("return document.body.innerText")
    assert "8 inputs a request" in text
    assert "latency and memory are of a request; energy, payload and throughput of an input" in text


def test_an_interval_of_the_uplink_is_that_of_recommend(browser: Any, page: Path) -> None:
    open_at(browser, page, 1280)
    for name in ("lte", "wifi"):
        shown = settle(browser, network=name, **{"objective-name": "throughput"})
        found = recommend(
            RUN8, constraints=Constraints(), objective=Objective("throughput"),
            network=NETWORKS[name],
        ).recommendation  # fmt: skip
        assert found is not None and shown["pick"] == found.cut
        low, high = found.stable_while["uplink_bps"]
        assert low > 0 and high is not None
        assert f"{format_rate(low)} – {format_rate(high)}" in shown["tiles"]
