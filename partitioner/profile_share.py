"""What is a cut's own, done for a share of the cuts: the rows are kept for whoever sums them up."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from splitdeploy.partitioner.begin import begun
from splitdeploy.partitioner.exposure import expose_cuts
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.profile import budget_end
from splitdeploy.partitioner.progress import Reporter, Silent
from splitdeploy.partitioner.share import Share
from splitdeploy.partitioner.strong_attacks import STRONG_SHARE
from splitdeploy.partitioner.sweep import verify_cuts


def profile_share(
    options: ProfileOptions,
    out: Path,
    share: Share,
    *,
    reporter: Reporter | None = None,
    started: float | None = None,
) -> None:
    """Verify some of the cuts, measure their leakage and attack them quickly.

    A cut gets the time that it would get in a run of its own process; so much less is needed in
    all. What costs and a decision need of all cuts together is not made.

    Args:
        options: What the run is asked for.
        out: The folder whose state the rows go to; it gets no report.
        share: Whose cuts.
        reporter: Told as it goes.
        started: When the budget began to run, by ``time.perf_counter``; now, where None.

    Raises:
        OutputError: The folder cannot be made.
        UsageError: The options cannot be meant.
    """  # noqa: DOC502
    ends_at = budget_end(options, started)
    told = reporter or Silent()
    with begun(options, out, told) as run:
        plan = _own_part(run.plan, share)
        rows = verify_cuts(plan, told, run.state)
        if run.subjects is None or not rows:
            return
        now = time.perf_counter()
        until = now + (1 - STRONG_SHARE) * max(0.0, ends_at - now) / share.of
        expose_cuts(plan, rows, run.options, run.subjects, run.state, out, until, told)


def _own_part(plan: Plan, share: Share) -> Plan:
    """The plan as if it had no other cuts; each keeps its index."""
    places = share.places(plan.sent)
    return replace(
        plan,
        cuts=tuple(plan.cuts[place] for place in places),
        sent=tuple(plan.sent[place] for place in places),
    )
