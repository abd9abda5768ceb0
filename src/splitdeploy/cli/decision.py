"""Decides over a stored run, or over several that differ in precision or batch, what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from splitdeploy.cli.question import Question
from splitdeploy.profiles.errors import InfeasibleError

if TYPE_CHECKING:
    from splitdeploy.partitioner.join_runs import FolderRun
    from splitdeploy.profiles.report import SweepReport


def read_runs(paths: Sequence[Path]) -> tuple[FolderRun, ...]:
    """The runs in these folders.

    Args:
        paths: As the user named them: run folders, or their ``report.json``.

    Returns:
        A run each.
    """
    from splitdeploy.partitioner.join_runs import FolderRun
    from splitdeploy.profiles.store import read_report

    return tuple(FolderRun(str(path), read_report(path)) for path in paths)


def decide(stored: SweepReport, question: Question, requests_per_s: float) -> SweepReport:
    """What ``splitdeploy recommend`` decides.

    Args:
        stored: With the figures.
        question: What is asked.
        requests_per_s: In a schedule over a trace.

    Returns:
        The report with its recommendation.

    Raises:
        InfeasibleError: No row satisfies the constraints.
    """
    report, refused = decide_or_judge(stored, question, requests_per_s)
    if refused is not None:
        raise refused
    return report


def decide_or_judge(
    stored: SweepReport, question: Question, requests_per_s: float
) -> tuple[SweepReport, InfeasibleError | None]:
    """What ``splitdeploy recommend`` decides, or the rows as they are judged where none is left.

    Args:
        stored: With the figures.
        question: What is asked.
        requests_per_s: In a schedule over a trace.

    Returns:
        The report, and why it has no recommendation.
    """
    from splitdeploy.partitioner.recommend import recommend_or_judge

    return recommend_or_judge(
        stored,
        constraints=question.constraints,
        objective=question.objective,
        network=question.network_or(stored.network),
        trace=question.trace,
        switch_cost_s=question.switch_cost_s,
        requests_per_s=requests_per_s,
    )
