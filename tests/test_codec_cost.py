"""What a codec costs in a sweep, against the graphs that a bundle has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.partitioner.codec_cost import compared
from splitdeploy.partitioner.deployed import deployed_halves
from splitdeploy.partitioner.models import load_model
from splitdeploy.partitioner.plan import Plan, make_plan
from splitdeploy.partitioner.progress import Silent
from splitdeploy.partitioner.slicing import write_slice
from splitdeploy.partitioner.state import State
from splitdeploy.partitioner.sweep import verify_cuts
from splitdeploy.profiles.codec_record import CodecRecord, codec_from_json, codec_to_json
from splitdeploy.profiles.document import Node
from splitdeploy.profiles.errors import ReportError


def planned(folder: Path, precision: str, **more: object) -> Plan:
    return make_plan(
        load_model("small_models:small_resnet"), cuts="block", precision=precision, images=None,
        image_count=5, seed=3, folder=folder, **more,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture(scope="module", params=["fp16", "int8"])
def plan(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return planned(tmp_path_factory.mktemp(request.param), request.param)


def deployed(plan: Plan, place: int, folder: Path) -> Iterator[np.ndarray]:
    """The results of the graphs as a bundle would hold them, one part after the other."""
    halves, _ = deployed_halves(plan, plan.cuts[place], plan.sent[place], plan.precision)
    values = dict(plan.feeds)
    for name in ("head", "tail", "last"):
        part = getattr(halves, name)
        if part is None:
            continue
        path = write_slice(part, plan.exported.path, f"{folder.name}.{name}.onnx")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        outputs = [node.name for node in session.get_outputs()]
        given = {node.name: values[node.name] for node in session.get_inputs()}
        found = dict(zip(outputs, session.run(outputs, given), strict=True))
        values |= found
    return iter(found.values())


def test_every_row_has_what_the_deployed_graphs_cost(plan: Plan, tmp_path: Path) -> None:
    rows = verify_cuts(plan, Silent())
    wanted = plan.expected[0]
    assert [row.error for row in rows] == [None] * len(plan.cuts)
    for place, row in enumerate(rows):
        got = next(deployed(plan, place, tmp_path))
        error = np.abs(got - wanted).max() / np.abs(wanted).max()
        loss = row.codec_loss
        assert loss is not None and (loss.images, loss.source) == (5, "measured")
        assert loss.max_rel_error == pytest.approx(error, rel=1e-2, abs=1e-6)
        assert loss.same_class == (got.argmax(1) == wanted.argmax(1)).mean()
        assert f"float32 on this machine, with the {plan.precision} codec" in loss.note
        assert f"a head that computes in {plan.precision} changes is not in it" in loss.note
        assert "calibrated on the same pictures" not in loss.note


def test_without_a_codec_there_is_nothing_to_tell(tmp_path: Path) -> None:
    assert all(row.codec_loss is None for row in verify_cuts(planned(tmp_path, "fp32"), Silent()))


def test_what_comes_back_at_a_second_cut_is_encoded_too(tmp_path: Path) -> None:
    plan = planned(tmp_path, "int8", return_at="blocks.1")
    rows = verify_cuts(plan, Silent())
    assert any(row.cut.last is not None for row in rows)
    wanted = plan.expected[0]
    for place, row in enumerate(rows):
        got = next(deployed(plan, place, tmp_path))
        error = np.abs(got - wanted).max() / np.abs(wanted).max()
        assert row.codec_loss is not None
        assert row.codec_loss.max_rel_error == pytest.approx(error, rel=1e-2, abs=1e-6)


def test_a_resumed_sweep_has_it_from_its_state(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = verify_cuts(plan, Silent(), State(tmp_path, {}, resume=False))
    monkeypatch.setattr(
        "splitdeploy.partitioner.sweep._verified",
        lambda *_: pytest.fail("a finished verification is done again"),
    )
    assert verify_cuts(plan, Silent(), State(tmp_path, {}, resume=True)) == first


def test_a_result_that_is_not_finite_keeps_no_class_and_errs_without_bound() -> None:
    wanted = np.eye(4, dtype=np.float32)
    got = wanted.copy()
    got[1, 3] = np.nan
    got[2] = got[2, ::-1]
    found = compared([wanted], [got], 4)
    assert (found.same_class, found.changed, found.max_rel_error) == (0.5, 2, math.inf)
    assert codec_from_json(Node(codec_to_json(found))) == found


def test_results_that_are_no_classes_have_an_error_alone() -> None:
    wanted = [np.ones((2, 3, 4), np.float32), np.full((2, 2), 8.0, np.float32)]
    found = compared(wanted, [wanted[0], wanted[1] + [[0.0, 2.0], [0.0, 0.0]]], 2)
    assert (found.same_class, found.changed) == (None, None)
    assert found.max_rel_error == 0.25


@given(
    st.integers(1, 10**6), st.none() | st.floats(0, 1),
    st.floats(0, 1e30) | st.just(math.inf), st.text(max_size=20),
)  # fmt: skip
def test_a_record_is_read_as_it_was_written(
    images: int, share: float | None, error: float, note: str
) -> None:
    record = CodecRecord(images, share, error, note=note)
    assert codec_from_json(Node(codec_to_json(record))) == record


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("images", -1, r"\$\.images: expected an integer of zero or more, got -1"),
        ("same_class", "all", r"\$\.same_class: expected a number, got 'all'"),
        ("source", "guessed", r"\$\.source: expected one of measured, .*, got 'guessed'"),
    ],
)
def test_a_damaged_record_is_refused(key: str, value: object, message: str) -> None:
    document = codec_to_json(CodecRecord(4, 1.0, 0.01)) | {key: value}
    with pytest.raises(ReportError, match=message):
        codec_from_json(Node(document))
