"""All cuts verified by one run in pieces: what that says, and what it leaves to the halves."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.partitioner import pieces, profile
from splitdeploy.partitioner.downset import downset_cut, merge_cuts
from splitdeploy.partitioner.models import load_model
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.pieces import nested, verify_in_pieces
from splitdeploy.partitioner.plan import Plan, make_plan
from splitdeploy.partitioner.progress import Silent
from splitdeploy.partitioner.slicing import Slicer
from splitdeploy.partitioner.state import State
from splitdeploy.partitioner.sweep import run_halves_of, verify_cuts
from splitdeploy.partitioner.under_way import FAULT, UNDER_WAY
from splitdeploy.profiles.cut import EDGE_ONLY, CutPoint
from splitdeploy.profiles.errors import SessionError
from splitdeploy.profiles.network import NetworkProfile
from splitdeploy.profiles.report import HALVES, PIECES, Constraints, CutReport, Objective
from splitdeploy.profiles.store import read_report


def planned(folder: Path, model: str = "small_resnet", precision: str = "fp32") -> Plan:
    return make_plan(
        load_model(f"small_models:{model}"), cuts="all", precision=precision, images=None,
        image_count=3, seed=3, folder=folder,
    )  # fmt: skip


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return planned(tmp_path_factory.mktemp("plan"))


def between(plan: Plan) -> list[int]:
    return [cut.index for cut in plan.cuts if not cut.is_end]


def test_one_run_says_what_the_halves_of_every_cut_say(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    real = pieces.OnnxRuntimeSession
    monkeypatch.setattr(pieces, "OnnxRuntimeSession", lambda path: opened.append(0) or real(path))
    found = list(verify_in_pieces(plan, frozenset(between(plan))))
    assert [one.index for one in found] == between(plan) and len(found) > 8
    assert len(opened) == len(found) + 1
    for one in found:
        row = run_halves_of(plan, CutReport(plan.sent[one.index]))
        assert one.verified.ok and one.verified.ran == PIECES and one.verified.images == 3
        assert row.verified is not None and row.verified.ok and row.verified.ran == HALVES
        # Both are float32's rounding alone.
        assert max(one.verified.max_rel_error, row.verified.max_rel_error) < 1e-5


def test_rows_tell_what_was_run_and_one_cut_alone_is_run_as_it_is(
    plan: Plan, tmp_path: Path
) -> None:
    rows = verify_cuts(plan, Silent())
    assert [row.verified and row.verified.ran for row in rows] == [
        HALVES, *[PIECES] * len(between(plan)), HALVES,
    ]  # fmt: skip
    alone = make_plan(
        load_model("small_models:small_resnet"), cuts="blocks.0", precision="fp32", images=None,
        image_count=3, seed=3, folder=tmp_path,
    )  # fmt: skip
    assert [row.verified and row.verified.ran for row in verify_cuts(alone, Silent())] == [
        HALVES,
    ] * 3


def test_a_slice_that_is_not_made_of_the_pieces_is_run_and_found_wrong(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = Slicer.cut
    wrong = plan.cuts[4]

    def damaged(self: Slicer, asked: CutPoint) -> object:
        halves = cut(self, asked)
        if asked.name == wrong.name:
            node = next(n for n in halves.tail.graph.node if n.op_type == "Relu")
            node.op_type = "Neg"
        return halves

    monkeypatch.setattr(Slicer, "cut", damaged)
    rows = verify_cuts(plan, Silent())
    assert [row.name for row in rows if row.error] == [wrong.name]
    row = rows[4]
    assert row.verified is not None and row.verified.ran == HALVES and not row.verified.ok
    assert "differs from the whole model" in str(row.error)


def test_where_the_pieces_fail_every_cut_is_looked_at_by_itself(plan: Plan) -> None:
    other = replace(plan, expected=tuple(value + 1.0 for value in plan.expected))
    assert list(verify_in_pieces(other, frozenset(between(plan)))) == []
    rows = verify_cuts(other, Silent())
    assert {row.verified and row.verified.ran for row in rows} == {HALVES}
    assert all(rows[at].error is not None for at in between(plan))


def test_a_run_in_pieces_that_breaks_leaves_the_rest_to_the_halves(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> object:
        raise SessionError("onnxruntime: the graph failed: as told")

    monkeypatch.setattr(pieces, "_run", broken)
    rows = verify_cuts(plan, Silent(), State(tmp_path, {}, resume=False))
    assert all(row.error is None and row.verified and row.verified.ok for row in rows)
    assert {row.verified.ran for row in rows if row.verified} == {HALVES}


def test_after_a_crash_in_pieces_every_cut_is_run_by_itself(plan: Plan, tmp_path: Path) -> None:
    State(tmp_path, {}, resume=False)
    (tmp_path / UNDER_WAY).write_text('{"work": "the verification of all cuts at once"}')
    (tmp_path / FAULT).write_text("Fatal Python error: Segmentation fault\n")
    rows = verify_cuts(plan, Silent(), State(tmp_path, {}, resume=True))
    assert all(row.error is None for row in rows)
    assert {row.verified.ran for row in rows if row.verified} == {HALVES}


def test_a_cut_that_lies_in_no_order_with_the_others_is_run_by_itself(tmp_path: Path) -> None:
    first = planned(tmp_path, "branching")
    (second,) = [cut for cut in first.cuts if cut.name == "b"]
    branch = downset_cut(first.graph, [second.tensors[-1].name], "second branch alone")
    cuts = merge_cuts(first.cuts, [branch])
    rows = verify_cuts(replace(first, cuts=cuts, sent=cuts, every=cuts), Silent())
    assert all(row.error is None and row.verified and row.verified.ok for row in rows)
    ran = {row.name: row.verified.ran for row in rows if row.verified}
    assert {name for name, what in ran.items() if what == HALVES} == {
        "cloud-only", "second branch alone", "edge-only",
    }  # fmt: skip


def test_an_input_that_is_read_behind_the_cuts_is_handed_on(tmp_path: Path) -> None:
    skipping = planned(tmp_path, "skipping", "fp16")
    assert sum("x" in [tensor.name for tensor in cut.tensors] for cut in skipping.cuts) > 5
    rows = verify_cuts(skipping, Silent())
    for row in rows:
        assert row.error is None and row.verified and row.verified.ok
        assert row.cut.is_end or row.verified.ran == PIECES
        alone = run_halves_of(skipping, CutReport(row.cut))
        assert row.codec_loss is not None and alone.codec_loss is not None
        assert row.codec_loss.max_rel_error == pytest.approx(
            alone.codec_loss.max_rel_error, rel=1e-2, abs=1e-6
        )


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_a_codec_costs_is_that_of_the_halves(precision: str, tmp_path: Path) -> None:
    coded = planned(tmp_path, precision=precision)
    found = {one.index: one for one in verify_in_pieces(coded, frozenset(between(coded)))}
    assert found.keys() == set(between(coded))
    for index, one in found.items():
        row = run_halves_of(coded, CutReport(coded.sent[index]))
        assert one.codec_loss is not None and row.codec_loss is not None
        assert one.codec_loss.same_class == row.codec_loss.same_class
        assert one.codec_loss.max_rel_error == pytest.approx(
            row.codec_loss.max_rel_error, rel=1e-2, abs=1e-6
        )


@given(st.lists(st.frozensets(st.integers(0, 5), max_size=6), max_size=7))
def test_the_longest_nested_sequence_is_found(heads: list[frozenset[int]]) -> None:
    heads = sorted(heads, key=len)
    names = [frozenset(map(str, head)) for head in heads]
    cuts = [CutPoint(str(at), at, (), 0, 0, 0) for at in range(len(heads))]
    found = [cut.index for cut in nested(cuts, names)]
    assert all(heads[a] < heads[b] for a, b in zip(found, found[1:], strict=False))
    some_of = [
        some for size in range(len(heads) + 1) for some in combinations(heads, size)
        if all(one < other for one, other in zip(some, some[1:], strict=False))
    ]  # fmt: skip
    assert len(found) == max(map(len, some_of))


OPTIONS = ProfileOptions(
    "small_models:small_resnet", device="jetson-nano", weights="none", cuts="act,blocks.0,pool",
    image_count=2, privacy=False, objective=Objective("latency"),
    network=NetworkProfile("slow", uplink_bps=1e4, downlink_bps=1e4, rtt_s=0.01),
)  # fmt: skip


@pytest.fixture(scope="module")
def within(tmp_path_factory: pytest.TempPathFactory) -> ProfileOptions:
    """With less memory than the whole model takes: the pick lies between the ends."""
    whole = profile.profile(OPTIONS, tmp_path_factory.mktemp("whole") / "run").find(EDGE_ONLY)
    assert whole.edge_memory_bytes is not None
    limit = Constraints(max_edge_memory_bytes=whole.edge_memory_bytes - 1)
    return replace(OPTIONS, constraints=limit)


def test_what_is_recommended_has_been_run_as_it_is(within: ProfileOptions, tmp_path: Path) -> None:
    report = profile.profile(within, tmp_path / "run")
    assert report.recommendation is not None and report.recommendation.cut == "pool"
    ran = {row.name: row.verified.ran for row in report.cuts if row.verified}
    assert ran == {
        "cloud-only": HALVES, "act": PIECES, "blocks.0": PIECES, "pool": HALVES,
        "edge-only": HALVES,
    }  # fmt: skip
    stored = read_report(tmp_path / "run")
    assert {row.name: row.verified.ran for row in stored.cuts if row.verified} == ran


def test_a_pick_whose_halves_fail_is_no_pick(
    within: ProfileOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(plan: Plan, row: CutReport) -> CutReport:
        return replace(row, error="as told") if row.name == "pool" else run_halves_of(plan, row)

    monkeypatch.setattr(profile, "run_halves_of", failing)
    report = profile.profile(within, tmp_path / "run")
    assert report.find("pool").error == "as told"
    assert report.recommendation is not None and report.recommendation.cut != "pool"
    picked = report.find(report.recommendation.cut)
    assert picked.verified is not None and picked.verified.ran == HALVES
