"""Which attacks a sweep and a user run, in which order, and within which time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import MODEL, splitdeploy
from factories import make_attack, make_report, with_row
from small_models import build
from torch import nn

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.registry import attacks_table, find_attack
from splitdeploy.attacks.split_learning.registry import split_attacks_table
from splitdeploy.attacks.target import AttackTarget
from splitdeploy.attacks.verdict import RECOGNISABLE
from splitdeploy.partitioner import attack_set, strong_attacks
from splitdeploy.partitioner.attack_set import (
    Choice,
    every,
    parse_attacks,
    select,
    strongest,
    why_not,
)
from splitdeploy.partitioner.attack_target import Arsenal, check_twin, deployed_target
from splitdeploy.partitioner.codec import sent_tensors
from splitdeploy.partitioner.deepening import deepen
from splitdeploy.partitioner.evidence import Subjects
from splitdeploy.partitioner.exposure import load_subjects
from splitdeploy.partitioner.importance import by_decision, by_price
from splitdeploy.partitioner.models import load_model
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.plan import Plan, make_plan
from splitdeploy.partitioner.privacy import CUT_SHORT
from splitdeploy.partitioner.progress import Silent
from splitdeploy.partitioner.ranges import Ranges, boundary_ranges
from splitdeploy.partitioner.recommend import judge, rank
from splitdeploy.partitioner.scoring import table_of
from splitdeploy.partitioner.state import State, open_state
from splitdeploy.partitioner.strong_attacks import next_attack, stands
from splitdeploy.profiles.errors import AttackError, UnknownNameError, UsageError
from splitdeploy.profiles.report import Constraints, CutReport, Objective, SweepReport

# --- choosing -------------------------------------------------------------------------------


def test_names_and_presets_are_read() -> None:
    assert parse_attacks(None) is parse_attacks("all") is None
    assert parse_attacks("rmle, noise-aware:thorough") == (
        Choice("rmle"), Choice("noise-aware", "thorough"),
    )  # fmt: skip
    assert parse_attacks("rmle,rmle:fast", "thorough") == (
        Choice("rmle", "thorough"), Choice("rmle", "fast"),
    )  # fmt: skip
    # The default preset and its name are one attack.
    (only,) = parse_attacks("rmle,rmle:fast") or ()
    assert only.label == "rmle:fast" and only.make(3).seed == 3


@pytest.mark.parametrize(
    ("text", "preset", "error", "message"),
    [
        ("rmel", None, UnknownNameError, "unknown attack 'rmel'"),
        ("rmle:slow", None, UnknownNameError, "unknown preset of rmle 'slow'"),
        ("rmle,noise-aware", "restarts", UnknownNameError, "preset of noise-aware 'restarts'"),
        ("rmle,", None, UsageError, "names of attacks with commas between them, got 'rmle,'"),
        ("all", "fast", UsageError, "got none by name"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    text: str, preset: str | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        parse_attacks(text, preset)


def test_every_attack_is_reached_once_and_the_strongest_come_first() -> None:
    names = [choice.name for choice in every()]
    assert sorted(names) == sorted(row["name"] for row in attacks_table())
    first = list(dict.fromkeys(choice.name for choice in strongest()))
    assert names[: len(first)] == first
    assert {"rmle", "noise-aware", "least-squares"} <= set(first)
    for choice in strongest():
        assert choice.preset is None or choice.preset in find_attack(choice.name).presets


def test_the_list_says_what_each_attack_has_to_be_given() -> None:
    rows = json.loads(splitdeploy("attacks", "--format", "json").out)
    needs = {row["name"]: row["needs"] for row in rows}
    for row in attacks_table():
        threat = find_attack(row["name"]).threat
        assert ("--aux-images" in needs[row["name"]]) == threat.auxiliary_data
        assert ("--prior" in needs[row["name"]]) == threat.generator
    assert needs["rmle"] == "nothing"
    assert {needs[row["name"]] for row in split_attacks_table()} == {"a split training"}


def a_target(**given: object) -> AttackTarget:
    head = PixelHead(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (0.0,) * 3, (1.0,) * 3).eval()
    with torch.no_grad():
        sent = head(torch.full((2, 3, 8, 8), 0.5))
    return AttackTarget(sent, head, (3, 8, 8), **given)  # type: ignore[arg-type]


def test_what_cannot_run_is_told_with_what_to_do() -> None:
    target = a_target()
    fit, skipped = select(None, target, every_one=True, seed=0)
    assert Choice("rmle") in fit
    reasons = {s.label: s.reason for s in skipped}
    assert "does not apply to this head" in reasons["least-squares:exact"]
    with pytest.raises(UsageError, match="least-squares:exact cannot run here: it does not apply"):
        select((Choice("rmle"), Choice("least-squares")), target, every_one=False, seed=0)
    graph_alone = replace(target, pixel_head=None)
    assert "needs the head in torch" in (why_not(Choice("rmle").make(0), graph_alone) or "")


def test_no_attack_at_all_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attack_set, "STRONGEST", ("rmle", "least-squares"))
    with pytest.raises(UsageError, match="no attack can run here: .*needs the head in torch"):
        select(None, replace(a_target(), pixel_head=None), every_one=False, seed=0)


# --- what is attacked -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    model = load_model(MODEL, weights="none", input_shape=(3, 16, 16))
    return make_plan(
        model, cuts="act,blocks.0,pool", precision="fp32", images=None, image_count=2, seed=0,
        folder=tmp_path_factory.mktemp("plan"),
    )  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_target_is_the_deployed_head(plan: Plan, precision: str) -> None:
    pixels = torch.from_numpy(plan.pixels)  # type: ignore[arg-type]
    others = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    arsenal = Arsenal(auxiliary=Auxiliary(others), labels=torch.tensor([3, 1]))
    sent = plan
    if precision != "fp32":
        ranges = Ranges(boundary_ranges(plan.exported, [plan.feeds]), plan.images, False)
        sent = replace(
            plan, sent=tuple(sent_tensors(cut, precision) for cut in plan.cuts),
            ranges=ranges if precision == "int8" else None,
        )  # fmt: skip
    for place, cut in enumerate(plan.cuts):
        with deployed_target(sent, place, precision, pixels, arsenal) as target:
            assert target.pixel_head is not None and target.query is not None
            with torch.no_grad():
                own = target.pixel_head(pixels)
                asked = target.query(others, 0)
            tolerance = {"fp32": 1e-5, "fp16": 2e-3, "int8": 1e-2}[precision]
            for mine, seen in zip(own, target.observation, strict=True):
                assert float((mine - seen).abs().max()) <= tolerance * float(mine.abs().max())
            assert [len(tensor) for tensor in asked] == [40] * len(own)
            assert target.labels is arsenal.labels and target.auxiliary is arsenal.auxiliary
            if target.tail is not None and precision == "fp32":
                with torch.no_grad():
                    logits = target.tail(*target.observation)
                expected = torch.from_numpy(plan.expected[0])
                assert torch.allclose(logits, expected, atol=1e-4), cut.name
            assert target.tail is not None or cut.is_end


def test_pictures_beyond_what_int8_was_calibrated_to_are_attacked_all_the_same(
    plan: Plan,
) -> None:
    grey = {name: np.zeros_like(value) for name, value in plan.feeds.items()}
    ranges = Ranges(boundary_ranges(plan.exported, [grey]), 1, True)
    clipped = replace(
        plan, sent=tuple(sent_tensors(cut, "int8") for cut in plan.cuts), ranges=ranges
    )
    pixels = torch.from_numpy(plan.pixels)  # type: ignore[arg-type]
    place = next(i for i, cut in enumerate(plan.cuts) if cut.name == "act")
    with deployed_target(clipped, place, "int8", pixels, Arsenal()) as target:
        assert target.pixel_head is not None
        with torch.no_grad():
            own = target.pixel_head(pixels)[0]
    assert float(target.observation[0].abs().max()) < 0.9 * float(own.abs().max())


def test_a_head_of_other_weights_is_refused(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = build("residual")
    other = PixelHead(model.act, plan.model.input.mean, plan.model.input.std).eval()
    place = next(i for i, cut in enumerate(plan.cuts) if cut.name == "act")
    monkeypatch.setattr(Plan, "pixel_head", lambda *_: other)
    pixels = torch.from_numpy(plan.pixels)  # type: ignore[arg-type]
    with (
        pytest.raises(AttackError, match="they differ by"),
        deployed_target(plan, place, "fp32", pixels, Arsenal()),
    ):
        pass


def test_what_is_all_but_zero_is_sent_in_steps_of_its_precision() -> None:
    """A net without a signal: fp16 rounds 1e-6 to 3 %, and the head is the same."""
    torch.manual_seed(0)
    head = PixelHead(nn.Conv2d(3, 4, 3), (0.5,) * 3, (0.25,) * 3).eval().requires_grad_(False)
    (layer,) = (module for module in head.modules() if isinstance(module, nn.Conv2d))
    layer.weight.mul_(1e-6)
    layer.bias.mul_(1e-6)  # type: ignore[union-attr]
    pixels = torch.rand(1, 3, 8, 8)
    sent = [tensor.half().float() for tensor in head(pixels)]
    check_twin(head, pixels, sent, "fp16", {})
    with pytest.raises(AttackError, match="its gradients would be another head's"):
        check_twin(head, pixels, sent, "fp32", {})
    with pytest.raises(AttackError, match="its gradients would be another head's"):
        check_twin(head, pixels, [2 * tensor for tensor in sent], "fp16", {})


# --- what is kept ---------------------------------------------------------------------------


def test_a_state_of_other_settings_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    own = ("cut-0001.json", "attack-rmle-fast.json", "attack-rmle-fast.npz",
           "training/shadow-fast/head.npz", "training/cut-0001/pfo-fast/x.npz")  # fmt: skip
    others = ("mine.txt", "training/notes.md")
    assert not open_state(tmp_path, {"seed": 0}, resume=True)
    for name in (*own, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert open_state(tmp_path, {"seed": 0}, resume=True)
    assert all((tmp_path / name).exists() for name in (*own, *others))
    for settings, resume in (({"seed": 1}, True), ({"seed": 1}, False)):
        assert not open_state(tmp_path, settings, resume=resume)
        assert not any((tmp_path / name).exists() for name in own)
        assert all((tmp_path / name).exists() for name in others)


# --- the strong ones of a sweep -------------------------------------------------------------


def test_the_pick_comes_first_then_the_pareto_set() -> None:
    report = make_report()
    options = ProfileOptions("resnet18")
    names = [report.cuts[place].name for place in by_decision(report, options)]
    judged = judge(report, constraints=Constraints(), objective=Objective())
    ranked = [f.name for f in rank(judged, table_of(judged), Constraints(), Objective())]
    assert names[0] == ranked[0] and sorted(names) == sorted(ranked)
    # What no case makes the best comes in the order of the Pareto set and of the decision.
    rest = [name for name in names if name in ranked[6:]]
    assert rest == sorted(rest, key=lambda n: (n not in judged.pareto, ranked.index(n)))


def test_what_no_attack_can_mend_is_out_of_the_race() -> None:
    report = make_report()
    slow = ProfileOptions("resnet18", constraints=Constraints(max_latency_s=0.05))
    over = {row.name for row in report.cuts if row.latency_s.total.median > 0.05}  # type: ignore[union-attr]
    names = {report.cuts[place].name for place in by_decision(report, slow)}
    assert over and not names & over
    # A limit on leakage is one that more evidence speaks to.
    leaky = ProfileOptions("resnet18", constraints=Constraints(max_ssim=0.01))
    assert len(by_decision(report, leaky)) == len(report.cuts)
    nothing = ProfileOptions("resnet18", constraints=Constraints(max_latency_s=1e-9))
    assert by_decision(report, nothing) == []


def test_by_price_a_cut_between_the_ends_comes_first() -> None:
    report = make_report()
    bare = replace(report, cuts=tuple(replace(r, leakage=None, attacks=()) for r in report.cuts))
    for objective in ("balanced", "latency", "energy", "leakage", "throughput"):
        options = ProfileOptions("resnet18", objective=Objective(objective))
        places = by_price(bare, options)
        assert sorted(places) == list(range(len(bare.cuts)))
        assert not bare.cuts[places[0]].cut.is_end


def test_a_cut_stands_until_an_attack_breaks_it() -> None:
    report = make_report()
    gained = {
        row.name: (row.attacks[0].ssim - 0.161) / (1 - 0.161)
        for row in report.cuts
        if not row.cut.is_end
    }
    for row in report.cuts:
        assert stands(row, Constraints()) == (gained.get(row.name, 1.0) < RECOGNISABLE)
    limited = Constraints(max_ssim=0.7)
    assert stands(report.find("layer2.1"), limited)
    assert not stands(report.find("layer1.0"), limited)
    failed = with_row(report, "avgpool", error="no", attacks=())
    assert not stands(failed.find("avgpool"), Constraints())


def test_an_attack_that_its_deadline_ended_comes_again_behind_all_others() -> None:
    quick = replace(make_attack("x", 0.0, False), preset="fast", seconds=6.2, steps=30, images=1)
    row = replace(make_report().find("avgpool"), attacks=(quick,), attack_notes=())
    choices = (Choice("noise-aware"), Choice("rmle"))
    first = next_attack(row, choices, 4)
    # Forty steps, each as long as one of the quick attack's 31 passes, on four pictures.
    assert first is not None and first.choice == choices[0] and not first.again
    assert first.least_s == pytest.approx(40 * 4 * 0.2 + 0.5)
    noted = replace(row, attack_notes=("noise-aware:fast failed: lost heart",))
    assert next_attack(noted, choices, 4) is None
    cut_short = replace(quick, notes=(CUT_SHORT,), seconds=30.0)
    again = next_attack(replace(noted, attacks=(cut_short,)), choices, 1)
    assert again is not None and again.again and again.choice == choices[1]
    assert again.least_s == pytest.approx(60.5)


@pytest.fixture
def sweep(plan: Plan) -> SweepReport:
    """Every cut with a quick attack that recovered nothing."""
    weak = replace(make_attack("x", 0.0, True), preset="quick", seconds=0.01, steps=10)
    subjects = load_subjects(plan, ProfileOptions(MODEL, image_count=2))
    rows = [
        CutReport(sent, attacks=(weak,), baseline=subjects.judges.baseline) for sent in plan.sent
    ]
    return replace(make_report(), cuts=tuple(rows), objective=Objective())


@pytest.fixture
def subjects(plan: Plan) -> Iterator[Subjects]:
    yield load_subjects(plan, ProfileOptions(MODEL, image_count=2, precision="fp32"))


def run_strong(
    plan: Plan, sweep: SweepReport, subjects: Subjects, folder: Path, seconds: float
) -> list[CutReport]:
    options = ProfileOptions(MODEL, precision="fp32", image_count=2)
    state = State(folder / "state", {}, resume=True)
    ends_at = time.perf_counter() + seconds
    return deepen(plan, sweep, options, subjects, state, folder, ends_at, Silent())


def test_cuts_that_stand_get_strong_attacks_until_one_breaks_them(
    plan: Plan, sweep: SweepReport, subjects: Subjects, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(attack_set, "STRONGEST", ("rmle", "noise-aware", "absent"))
    rows = run_strong(plan, sweep, subjects, tmp_path, 600)
    by_name = {row.name: row for row in rows}
    for end in ("cloud-only", "edge-only"):
        assert len(by_name[end].attacks) == 1
    # At the first cut rmle recovers the picture; what the pool leaves no attack recovers.
    assert [a.name for a in by_name["act"].attacks] == ["rmle", "rmle"]
    assert [a.name for a in by_name["pool"].attacks] == ["rmle", "rmle", "noise-aware"]
    strong = by_name["act"].strongest_attack
    assert strong is not None and strong.preset == "fast" and strong.verdict is not None
    assert strong.identified == 1.0 and strong.identified_chance == pytest.approx(1 / 32)
    assert strong.picture == "reconstructions/act/rmle-fast.png"
    assert (tmp_path / strong.picture).is_file()
    assert all(not row.attack_notes for row in rows)
    # Taken up again, nothing is left to run, even without time.
    again = replace(sweep, cuts=tuple(rows))
    assert run_strong(plan, again, subjects, tmp_path, -1) == rows


def test_what_there_is_no_time_for_is_told(
    plan: Plan, sweep: SweepReport, subjects: Subjects, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(attack_set, "STRONGEST", ("least-squares", "rmle", "noise-aware"))
    rows = run_strong(plan, sweep, subjects, tmp_path, 0.0)
    for row in rows:
        late = ("not run for lack of time: rmle:fast, noise-aware:fast",)
        assert row.attack_notes == (() if row.cut.is_end else late)
        assert len(row.attacks) == 1
    stored = State(tmp_path / "state", {}, resume=True).load(rows[1].cut.index)
    assert stored is not None and stored.attack_notes == rows[1].attack_notes


def test_an_attack_that_fails_leaves_a_note_and_not_an_error(
    plan: Plan, sweep: SweepReport, subjects: Subjects, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("lost\nheart")

    monkeypatch.setattr(attack_set, "STRONGEST", ("rmle",))
    monkeypatch.setattr(strong_attacks, "run_attack", fail)
    rows = run_strong(plan, sweep, subjects, tmp_path, 600)
    inner = [row for row in rows if not row.cut.is_end]
    assert all(row.attack_notes == ("rmle:fast failed: lost heart",) for row in inner)
    assert all(row.error is None for row in rows)
