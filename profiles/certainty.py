"""How sure a recommendation is under the errors of its figures, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from splitdeploy.profiles.document import Node

REGRET_UNITS = {
    "latency": "s", "energy": "J", "leakage": "index", "balanced": "ln", "throughput": "s",
}  # fmt: skip
"""In what regret is counted, by objective. ``ln`` is the unit of the balanced score: a regret of
0.1 is 10 % in everything at once. The regret of a throughput is that of its slowest stage."""


@dataclass(frozen=True)
class UncertainPart:
    """One thing that a decision is uncertain of.

    Attributes:
        name: ``edge``, ``cloud``, ``network``, ``power`` or ``leakage``.
        common: Standard deviation that all rows share, relative.
        own: Standard deviation that each row has of its own, relative.
        text: What the figures are, in words: where the errors come from.
        by_precision: Standard deviation that rows of one precision share besides, relative, by
            precision; those that have none are left out. Of a side that was measured in several
            runs, by run: ``fp16@b8``.
        by_batch: The same of rows whose requests have as many inputs, by their number: what has
            grown by there on a way that all larger numbers share.
    """

    name: str
    common: float
    own: float
    text: str
    by_precision: Mapping[str, float] = field(default_factory=dict)
    by_batch: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """A feasible row under the errors of the figures.

    Attributes:
        cut: Its name.
        probability_best: That no feasible row is better.
        expected_regret: By how much the best is expected to be better.
        p95_regret: What that stays below in 95 of 100 cases.
        p95_latency_s: What its latency stays below in 95 of 100 cases; None without latencies.
        meets: With which probability it meets each limit, by the limit's name.
    """

    cut: str
    probability_best: float
    expected_regret: float
    p95_regret: float
    p95_latency_s: float | None
    meets: Mapping[str, float]


@dataclass(frozen=True)
class Settle:
    """What it would be worth to know one uncertain part.

    Attributes:
        part: Its name.
        value: By how much expected regret falls if the cut is chosen knowing this part.
        probability_best_then: That the cut chosen so is the best.
        text: What to measure, in words.
    """

    part: str
    value: float
    probability_best_then: float
    text: str


@dataclass(frozen=True)
class Certainty:
    """How sure a pick is. Its own regret stands beside that of every feasible row.

    Attributes:
        probability_best: That no feasible row is better than the pick.
        expected_regret: By how much the best row is expected to be better than the pick.
        p95_regret: What that stays below in 95 of 100 cases.
        regret_unit: Of all regrets; one of ``REGRET_UNITS``.
        draws: How many cases were drawn.
        candidates: Every feasible row, in the report's order.
        settle: What to measure, the most valuable first.
        parts: The uncertain parts.
    """

    probability_best: float
    expected_regret: float
    p95_regret: float
    regret_unit: str
    draws: int
    candidates: tuple[Candidate, ...]
    settle: tuple[Settle, ...] = ()
    parts: tuple[UncertainPart, ...] = ()

    @property
    def least_regret(self) -> Candidate:
        """The row with the least expected regret: the safer choice where it is not the pick."""
        return min(self.candidates, key=lambda row: row.expected_regret)

    def of(self, cut: str) -> Candidate:
        """The row of that name, which must be feasible."""
        return next(row for row in self.candidates if row.cut == cut)


def certainty_to_json(certainty: Certainty) -> dict[str, Any]:
    """The keys that a recommendation has of it.

    Args:
        certainty: What to write.

    Returns:
        Its part of the recommendation's document.
    """
    return {
        "probability_best": certainty.probability_best,
        "expected_regret": certainty.expected_regret,
        "p95_regret": certainty.p95_regret,
        "regret_unit": certainty.regret_unit,
        "least_regret": certainty.least_regret.cut,
        "draws": certainty.draws,
        "candidates": [
            dict(vars(row)) | {"meets": dict(row.meets)} for row in certainty.candidates
        ],
        "settle": [dict(vars(settle)) for settle in certainty.settle],
        "uncertain_parts": [_part_to_json(part) for part in certainty.parts],
    }


def _part_to_json(part: UncertainPart) -> dict[str, Any]:
    document = dict(vars(part)) | {"by_precision": dict(part.by_precision)}
    batches = dict(document.pop("by_batch"))
    return document | {"by_batch": batches} if batches else document


def certainty_from_json(node: Node) -> Certainty:
    """The certainty of a recommendation that has one.

    Args:
        node: Where the recommendation stands.

    Returns:
        The certainty.
    """
    return Certainty(
        probability_best=node["probability_best"].number(),
        expected_regret=node["expected_regret"].number(),
        p95_regret=node["p95_regret"].number(),
        regret_unit=node["regret_unit"].choice(tuple(REGRET_UNITS.values())),
        draws=node["draws"].integer(),
        candidates=tuple(_candidate(row) for row in node["candidates"]),
        settle=tuple(_settle(settle) for settle in node["settle"]),
        parts=tuple(_part(part) for part in node["uncertain_parts"]),
    )


def _candidate(node: Node) -> Candidate:
    latency = node.get("p95_latency_s")
    return Candidate(
        cut=node["cut"].text(),
        probability_best=node["probability_best"].number(),
        expected_regret=node["expected_regret"].number(),
        p95_regret=node["p95_regret"].number(),
        p95_latency_s=latency.number() if latency else None,
        meets={limit: share.number() for limit, share in node["meets"].items()},
    )


def _settle(node: Node) -> Settle:
    return Settle(
        part=node["part"].text(),
        value=node["value"].number(),
        probability_best_then=node["probability_best_then"].number(),
        text=node["text"].text(),
    )


def _part(node: Node) -> UncertainPart:
    apart, batches = node.get("by_precision"), node.get("by_batch")
    return UncertainPart(
        name=node["name"].text(),
        common=node["common"].number(),
        own=node["own"].number(),
        text=node["text"].text(),
        by_precision={kind: value.number() for kind, value in apart.items()} if apart else {},
        by_batch={count: value.number() for count, value in batches.items()} if batches else {},
    )
