"""Shards of the cuts of one run: several processes do what is a cut's own, the last sums up."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from splitdeploy.profiles.cut import CutPoint
from splitdeploy.profiles.errors import UsageError

CLOSING = 0
"""In place of a number: what is left to do when all shards are done."""


@dataclass(frozen=True)
class Shard:
    """What one process does of a run.

    Attributes:
        nth: Whose cuts, from 1; `CLOSING` for the process that comes after them.
        of: How many shards there are.
    """

    nth: int
    of: int

    def __str__(self) -> str:
        return f"{self.nth}/{self.of}"

    @property
    def closes(self) -> bool:
        """Whether it comes after the others."""
        return self.nth == CLOSING

    def places(self, cuts: Sequence[CutPoint]) -> tuple[int, ...]:
        """Which of the cuts are its own, by their place among all."""
        return deal(cuts, self.of)[self.nth - 1]


def parse_shard(text: str) -> Shard:
    """A shard as `Shard` writes it.

    Args:
        text: Such as ``2/4``; ``0/4`` closes.

    Returns:
        The shard.

    Raises:
        UsageError: It is none.
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if found is None or not int(found[1]) <= int(found[2]) or int(found[2]) < 1:
        raise UsageError(f"expected a shard such as 2/4, got {text!r}")
    return Shard(int(found[1]), int(found[2]))


def deal(cuts: Sequence[CutPoint], of: int) -> tuple[tuple[int, ...], ...]:
    """Deal the cuts out so that no shard has much more to do than another.

    The dearest cut first, each to the shard that has the least: two shards differ by one cut at
    most. A cut costs a pass through the whole model, to verify it, and passes through its head, to
    attack it.

    Args:
        cuts: Of the run.
        of: How many shards.

    Returns:
        The places of every shard's cuts, in order; a shard may have none.
    """
    costs = [2 * cut.head_macs + cut.tail_macs + 1 for cut in cuts]
    loads = [0] * of
    shards: list[list[int]] = [[] for _ in loads]
    for place in sorted(range(len(cuts)), key=lambda place: (-costs[place], place)):
        least = loads.index(min(loads))
        loads[least] += costs[place]
        shards[least].append(place)
    return tuple(tuple(sorted(shard)) for shard in shards)
