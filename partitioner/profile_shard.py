"""What is a cut's own, done for a shard of the cuts: the rows are kept for whoever sums them up."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from splitdeploy.partitioner.begin import begun
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.profile import budget_end, examined
from splitdeploy.partitioner.progress import Reporter, Silent
from splitdeploy.partitioner.shard import Shard

IN_SHARDS = 0.75
"""The part of the time for leakage and attacks that is spent in shards; with the rest, the process
that sums up attacks the cuts that the decision of all hangs on."""


def profile_shard(
    options: ProfileOptions,
    out: Path,
    shard: Shard,
    *,
    reporter: Reporter | None = None,
    started: float | None = None,
) -> None:
    """Verify some of the cuts, measure their leakage and attack them.

    All shards together take `IN_SHARDS` of the time for leakage and attacks, side by side. Which of
    its cuts are worth the most of that, each shard finds out among its own.

    Args:
        options: What the run is asked for.
        out: The folder whose state the rows go to; it gets no report.
        shard: Whose cuts.
        reporter: Told as it goes.
        started: When the budget began to run, by ``time.perf_counter``; now, where None.

    Raises:
        OutputError: The folder cannot be made.
        UsageError: The options cannot be meant.
    """  # noqa: DOC502
    began = time.perf_counter()
    started = began if started is None else started
    told = reporter or Silent()
    with begun(options, out, told) as run:
        own = replace(run, plan=_own_part(run.plan, shard), optima=None)
        if own.plan.cuts:
            ends_at = budget_end(options, started, time.perf_counter() - began)
            examined(own, out, started, ends_at, told, part=IN_SHARDS / shard.of)


def _own_part(plan: Plan, shard: Shard) -> Plan:
    """The plan with no other cuts of its own; each keeps its index."""
    places = shard.places(plan.sent)
    return replace(
        plan,
        cuts=tuple(plan.cuts[place] for place in places),
        sent=tuple(plan.sent[place] for place in places),
    )
