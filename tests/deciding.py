"""The page of a run that has everything, and how the tests read it and type into it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from factories import make_report, with_row, write_png
from headless import open_at, start

from splitdeploy.partitioner.recommend import judge, recommend
from splitdeploy.partitioner.render_html import render_html
from splitdeploy.partitioner.scoring import OBJECTIVES
from splitdeploy.profiles.codec_record import CodecRecord
from splitdeploy.profiles.errors import InfeasibleError
from splitdeploy.profiles.network import NETWORKS, NetworkProfile
from splitdeploy.profiles.report import Constraints, Objective, SweepReport
from splitdeploy.profiles.units import format_time

SET = """
let last = null;
for (const [id, value] of arguments[0]) {
  last = document.getElementById(id);
  last.value = value;
  // A preset sets other fields, and a slider its own, so that these speak at once.
  if (id === "network" || id.startsWith("s-")) {
    last.dispatchEvent(new Event("input", { bubbles: true }));
  }
}
last?.dispatchEvent(new Event("input", { bubbles: true }));
"""

READ = """
const text = (css) => document.querySelector(css).textContent;
const rows = [...document.querySelectorAll("#cuts tr[data-cut]")];
const shown = (css) => rows.filter((r) => !r.querySelector(css).hidden).map((r) => r.dataset.cut);
return {
  verdict: text("#verdict"),
  pick: document.querySelector("#verdict strong")?.textContent ?? null,
  badge: shown(".badge"), pareto: shown(".front"),
  feasible: rows.filter((r) => r.querySelector(".c-feasible").textContent === "yes")
    .map((r) => r.dataset.cut),
  totals: rows.map((r) => r.querySelector(".c-total").textContent),
  whyNot: [...document.querySelectorAll("#why-not dd")].map((d) => d.textContent),
  live: [...document.querySelectorAll("#live li")].map((d) => d.textContent),
  liveHidden: document.querySelector("#live").hidden,
  tiles: [...document.querySelectorAll("#tiles dd")].map((d) => d.textContent),
  command: text("#command"),
};
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield from start(tmp_path_factory.mktemp("profile"))


def undecided() -> SweepReport:
    """A run with rows that tie, that failed, that lack figures, and that were found wrong."""
    report = make_report(pictures=True)
    twin = report.find("layer3.1")
    cuts = []
    for row in report.cuts:
        cuts.append(row)
        if row.name == "layer3.1":
            cuts.append(replace(twin, cut=replace(twin.cut, name="layer3.1.twin")))
    report = replace(report, cuts=tuple(cuts))
    report = with_row(report, "layer1.0", error="an operator is missing", latency_s=None,
                      energy_j=None, leakage=None, attacks=(), verified=None)  # fmt: skip
    report = with_row(report, "layer1.1", leakage=None, attacks=(), edge_memory_bytes=None)
    wrong = replace(report.find("layer2.0").verified, ok=False, max_rel_error=0.125)
    report = with_row(report, "layer2.0", verified=wrong)
    # What the codec costs: all, some or no pictures change; no classes; or it was not measured.
    shares = {"maxpool": 0.875, "layer2.1": 0.5, "layer3.0": 0.75, "layer3.1": 0.625,
              "layer3.1.twin": 1.0, "layer4.0": 0.375, "layer4.1": 1.0, "avgpool": None,
              "edge-only": 0.875}  # fmt: skip
    for name, share in shares.items():
        report = with_row(report, name, codec_loss=CodecRecord(8, share, 0.02, note="in a test"))
    return report


RUN = undecided()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    for row in RUN.cuts:
        for attack in row.attacks:
            if attack.picture:
                write_png(run / attack.picture, 64, 32)
    path = run / "report.html"
    decided = recommend(RUN, constraints=Constraints(), objective=Objective())
    path.write_text(render_html(decided, run), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: Any, page: Path) -> Any:
    open_at(browser, page, 1280)
    return browser


def settle(browser: Any, **fields: object) -> dict[str, Any]:
    """Type into the page's own inputs and read what it shows."""
    values = [[name.replace("__", "-"), str(value)] for name, value in fields.items()]
    browser.execute_script(SET, values)
    shown: dict[str, Any] = browser.execute_script(READ)
    return shown


def assert_decided_alike(
    shown: dict[str, Any], report: SweepReport, chosen: dict[str, Any]
) -> None:
    """The page shows what ``recommend`` decides over a report at the chosen settings."""
    try:
        expected = recommend(report, **chosen)
    except InfeasibleError as error:
        expected = judge(report, **chosen)
        assert shown["pick"] is None and shown["badge"] == []
        assert shown["verdict"] == "No cut satisfies the constraints."
        assert shown["live"][0] == str(error)
    else:
        assert expected.recommendation is not None
        assert shown["pick"] == expected.recommendation.cut
        assert shown["badge"] == [shown["pick"]]
        total = expected.find(shown["pick"]).latency_s.total.median  # type: ignore[union-attr]
        assert shown["tiles"][0] == format_time(total)
        if expected.recommendation.runner_up:
            assert f"The runner-up is {expected.recommendation.runner_up}." in shown["live"]
    assert shown["feasible"] == [row.name for row in expected.cuts if row.feasible]
    assert shown["pareto"] == list(expected.pareto)
    assert shown["whyNot"] == ["; ".join(r.violations) for r in expected.cuts if r.violations]


def random_setting(generator: random.Random) -> tuple[dict[str, object], dict[str, Any]]:
    """Fields of the page, and the same as arguments of ``recommend``."""
    base = generator.choice(["own", *NETWORKS])
    network = RUN.network if base == "own" else NETWORKS[base]
    fields: dict[str, object] = {"network": base}
    if generator.random() < 0.8:
        up, down = (f"{10 ** generator.uniform(-1, 3.5):.4g}" for _ in range(2))
        rtt = f"{generator.choice([0, 1, generator.uniform(0, 200)]):.3g}"
        fields |= {"n__uplink_bps": up, "n__downlink_bps": down, "n__rtt_s": rtt}
        network = NetworkProfile(
            "custom" if base == "own" else base, float(up) * 1e6, float(down) * 1e6,
            float(rtt) * 1e-3, network.radio,
        )  # fmt: skip
    limits: dict[str, Any] = {}
    for key, low, high, factor in (
        ("max_latency_s", 3, 300, 1e-3), ("max_energy_j", 8, 400, 1e-3),
        ("max_edge_memory_bytes", 7, 32, 1e6), ("max_ssim", 0.15, 1, 1.0),
        ("max_fsinfo", -2, 2.5, 1.0),
    ):  # fmt: skip
        text = f"{generator.uniform(low, high):.3g}" if generator.random() < 0.4 else ""
        fields[f"n__{key}"] = text
        if text:
            value = float(text) * factor
            limits[key] = round(value) if key == "max_edge_memory_bytes" else value
    weights = [generator.choice([0, 0.5, 1, 3]) for _ in range(2)] + [generator.choice([0.2, 1])]
    name = generator.choice(["balanced", *OBJECTIVES])
    kinds = ("latency", "energy", "leakage")
    fields |= {f"w__{kind}": weight for kind, weight in zip(kinds, weights, strict=True)}
    fields["objective-name"] = name
    text = generator.choice(["", "", "", "0.4", "0.62", "0.75", "0.9", "1"])
    fields["n__min_agreement"] = text
    if text:
        limits["min_agreement"] = float(text)
    chosen = {"network": network, "constraints": Constraints(**limits),
              "objective": Objective(name, *weights)}  # fmt: skip
    return fields, chosen
