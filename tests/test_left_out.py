"""What a budget had no room for is told, with the budget that has."""

from __future__ import annotations

from dataclasses import replace

import pytest
from factories import make_attack, make_report

from splitdeploy.partitioner.evidence import ONE_PICTURE
from splitdeploy.partitioner.exposure import UNSEEN
from splitdeploy.partitioner.left_out import left_out, not_used_up
from splitdeploy.partitioner.strong_attacks import LATE
from splitdeploy.profiles.report import CutReport


def rows(*late: int, alone: int = 0, unseen: int = 0, hurried: int = 0) -> list[CutReport]:
    """Cuts with that many late attacks each, then others of which more was left out."""
    row = make_report().find("avgpool")
    assert row.leakage is not None
    # A step a picture takes 0.1 s.
    quick = replace(make_attack("x", 0.2, False), images=1, steps=9, seconds=1.0)
    row = replace(row, attacks=(quick,), leakage=replace(row.leakage, notes=()), attack_notes=())
    one = replace(row.leakage, images=1, notes=(ONE_PICTURE,)) if row.leakage else None
    few = replace(row.leakage, notes=("3 of 8 steps for lack of time",)) if row.leakage else None
    labels = ("noise-aware:fast", "rmle:restarts")
    found = [
        replace(row, attack_notes=(f"{LATE} {', '.join(labels[:count])}",) if count else ())
        for count in late
    ]
    found += [replace(row, leakage=one)] * alone
    found += [replace(row, leakage=None, attacks=(), attack_notes=(UNSEEN,))] * unseen
    return [*found, *[replace(row, leakage=few)] * hurried]


def told(found: list[CutReport], budget_s: float = 60.0) -> str | None:
    return left_out(found, budget_s=budget_s, fixed_s=20.0, pictures=4)


def test_nothing_left_out_is_not_told() -> None:
    assert told(rows(0, 0)) is None


@pytest.mark.parametrize(
    ("found", "parts", "enough"),
    [
        # Forty steps on four pictures at 0.1 s, and half a second for judging.
        (rows(2, 1), "3 stronger attacks on 2 cuts (avgpool, avgpool)", 20 + 3 * 16.5),
        (rows(1), "1 stronger attack on 1 cut (avgpool)", 60),
        # Sixteen steps' worth on four pictures.
        (rows(alone=6), "all pictures but one of 6 cuts (avgpool, avgpool, avgpool and 3 more)",
         20 + 6 * 6.9),
        # What nobody has measured costs as much as what was.
        (rows(0, unseen=1), "leakage and attack of 1 cut (avgpool)", 20 + 120),
    ],
)  # fmt: skip
def test_what_more_time_would_buy(found: list[CutReport], parts: str, enough: float) -> None:
    assert told(found) == (
        f"left out of a budget of 60 s: {parts}; with --resume and --budget {round(enough)}s or "
        "more this is added to what is finished"
    )


def test_steps_of_the_leakage_come_with_a_run_begun_anew() -> None:
    assert told(rows(0, hurried=2)) == (
        "left out of a budget of 60 s: figures of the leakage of 2 cuts (avgpool, avgpool): a "
        "longer --budget, begun anew, has room for them"
    )
    both = told(rows(1, alone=1, hurried=1))
    assert both is not None
    assert "; ".join([
        "all pictures but one of 1 cut (avgpool)", "1 stronger attack on 1 cut (avgpool)",
        "figures of the leakage of 1 cut (avgpool); with --resume",
    ]) in both  # fmt: skip


def test_a_budget_that_was_too_long_is_told() -> None:
    line = not_used_up(rows(0), budget_s=300.0, used_s=200.0)
    assert line is not None and line.startswith("the budget of 300 s was not used up: every cut")
    assert not_used_up(rows(0), budget_s=300.0, used_s=290.0) is None
    for late in (rows(1), rows(alone=1), rows(unseen=1)):
        assert not_used_up(late, budget_s=300.0, used_s=200.0) is None
