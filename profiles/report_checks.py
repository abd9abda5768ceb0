"""What no schema says of a report: names that must exist, times and rates that must make sense.

A report that was edited by hand may have the right types and still contradict itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from splitdeploy.profiles.document import Node
from splitdeploy.profiles.errors import ReportError
from splitdeploy.profiles.report import row_name

_STAGES = ("edge", "uplink", "cloud", "downlink", "total")


def check_sense(document: Any) -> None:
    """Check that a report does not contradict itself.

    Args:
        document: One that ``report_from_json`` could read.

    Raises:
        ReportError: A name is there twice or names no cut, or a figure cannot be; the message names
            its JSON path.
    """
    root = Node(document)
    names = _names(root)
    for node in _named(root):
        if node.value not in names:
            raise ReportError(
                f"report at {node.path}: expected the name of a cut, got {node.value!r}; "
                f"cuts: {', '.join(sorted(names)[:20])}"
            )
    network = root["network"]
    for key in ("uplink_bps", "downlink_bps"):
        if network[key].number() <= 0:
            raise ReportError(_cannot_be(network[key], "a rate above zero"))
    if network["rtt_s"].number() < 0:
        raise ReportError(_cannot_be(network["rtt_s"], "a time of zero or more"))
    for cut in root["cuts"]:
        _check_cut(cut)


def _names(root: Node) -> set[str]:
    names: set[str] = set()
    for cut in root["cuts"]:
        name = cut["name"].text()
        if name in names:
            raise ReportError(
                f"report at {cut.path}.name: expected each cut once, got {name!r} again"
            )
        names.add(name)
    return names


def _named(root: Node) -> Iterator[Node]:
    """Every place outside the cuts that names one."""
    yield from root["pareto"]
    recommendation = root.get("recommendation")
    if recommendation is None:
        return
    precision, batch = recommendation.get("precision"), recommendation.get("batch")
    name = row_name(
        recommendation["cut"].text(),
        None if precision is None else precision.text(),
        None if batch is None else batch.integer(),
    )
    yield replace(recommendation["cut"], value=name)
    runner_up, trace = recommendation.get("runner_up"), recommendation.get("trace")
    if runner_up is not None:
        yield runner_up
    least_regret = recommendation.get("least_regret")
    if least_regret is not None:
        yield least_regret
    for candidate in recommendation.get("candidates") or ():
        yield candidate["cut"]
    if trace is not None:
        yield trace["best_single"]
        for row in (*trace["cuts"], *trace["schedule"]):
            yield row["cut"]


def _check_cut(cut: Node) -> None:
    latency, energy = cut.get("latency_s"), cut.get("energy_j")
    if latency is not None:
        for node in (latency[stage][key] for stage in _STAGES for key in ("median", "p95")):
            if node.number() < 0:
                raise ReportError(_cannot_be(node, "a time of zero or more"))
    if energy is not None:
        for node in (energy[part] for part in ("compute", "radio", "total")):
            if node.number() < 0:
                raise ReportError(_cannot_be(node, "an energy of zero or more"))
    for attack in cut["attacks"]:
        low, high = (end.number() for end in attack["ssim_ci95"])
        if low > high:
            raise ReportError(_cannot_be(attack["ssim_ci95"], "a lower end before the upper one"))


def _cannot_be(node: Node, what: str) -> str:
    return f"report at {node.path}: expected {what}, got {node.value!r}"
