"""ONNX files as models: cut, exported and verified as they are, whoever made them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from small_models import SmallResNet

from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.partitioner.cuts import find_cuts
from splitdeploy.partitioner.models import load_model
from splitdeploy.partitioner.onnx_graph import onnx_inputs, read_onnx_graph
from splitdeploy.partitioner.plan import Plan, make_plan
from splitdeploy.partitioner.profile import write_cut_bundle
from splitdeploy.partitioner.progress import Silent
from splitdeploy.partitioner.sweep import run_halves_of, verify_cuts
from splitdeploy.profiles.errors import CutError, ModelError, UnknownNameError
from splitdeploy.profiles.report import CutReport


def torch_onnx(path: Path, *, dynamic: bool, external: bool) -> SmallResNet:
    torch.manual_seed(0)
    module = SmallResNet().eval()
    torch.onnx.export(
        module,
        (torch.zeros(2 if dynamic else 1, 3, 16, 16),),
        path,
        dynamo=True,
        verbose=False,
        external_data=external,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},) if dynamic else None,
    )
    return module


def hand_made(path: Path, shape: tuple[object, ...] = ("n", 3, 16, 16)) -> dict[str, np.ndarray]:
    """A net with a skip connection and no trace of modules: names are those of values alone."""
    draw = np.random.default_rng(0)
    weights = {
        name: (draw.normal(size=size) / 4).astype(np.float32)
        for name, size in (("w1", (8, 3, 3, 3)), ("b1", (8,)), ("w2", (8, 8, 3, 3)), ("w3", (8, 4)))
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "hand",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (shape[0], 4))],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    save(graph, path)
    return weights


def save(graph: onnx.GraphProto, path: Path) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)


def plan_of(path: Path, cuts: str = "all") -> Plan:
    folder = path.parent / "work"
    folder.mkdir(exist_ok=True)
    return make_plan(
        load_model(str(path)), cuts=cuts, precision="fp32", images=None, image_count=3, seed=0,
        folder=folder,
    )  # fmt: skip


def verified(plan: Plan) -> list[CutReport]:
    """All rows, of which every one must hold, in pieces and by its halves."""
    rows = verify_cuts(plan, Silent())
    for row in (*rows, *(run_halves_of(plan, row) for row in rows)):
        assert row.error is None
        assert row.verified is not None and row.verified.ok
        assert row.verified.max_rel_error < 1e-5
    return rows


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_every_cut_of_a_torch_export_equals_the_torch_model(
    dynamic: bool, external: bool, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    module = torch_onnx(path, dynamic=dynamic, external=external)
    assert (tmp_path / "net.onnx.data").exists() is external
    plan = plan_of(path)
    assert plan.images == (3 if dynamic else 1)
    assert len(verified(plan)) > 10
    with torch.no_grad():
        expected = module(torch.from_numpy(plan.feeds["x"])).numpy()
    np.testing.assert_allclose(plan.expected[0], expected, rtol=1e-4, atol=1e-6)


def test_blocks_bear_the_names_of_the_torch_modules(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    torch_onnx(path, dynamic=True, external=False)
    names = [cut.name for cut in find_cuts(read_onnx_graph(path), "block")]
    assert names == ["cloud-only", "act", "blocks.0", "blocks.1", "pool", "edge-only"]


def test_a_graph_without_modules_is_cut_at_its_values(tmp_path: Path) -> None:
    path = tmp_path / "hand.onnx"
    weights = hand_made(path)
    plan = plan_of(path, "block")
    rows = verified(plan)
    assert [row.name for row in rows] == [
        "cloud-only", "c1", "r1", "c2", "s", "p", "f", "edge-only",
    ]  # fmt: skip
    by_name = {row.name: row.cut for row in rows}
    assert [tensor.name for tensor in by_name["c2"].tensors] == ["r1", "c2"]
    # 16 × 16 positions, a kernel of 3 × 3 from 3 to 8 channels, then from 8 to 8; then 8 to 4.
    convolutions = 256 * 9 * (3 * 8 + 8 * 8)
    assert by_name["s"].head_macs == convolutions
    assert by_name["s"].tail_macs == 8 * 4
    assert by_name["edge-only"].head_parameters == sum(value.size for value in weights.values())


def test_a_bundle_of_a_file_runs_and_equals_the_file(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    torch_onnx(path, dynamic=True, external=True)
    plan = plan_of(path, "blocks.0")
    row = verified(plan)[1]
    write_cut_bundle(plan, 1, "fp32", row, tmp_path / "bundle")
    shutil.rmtree(tmp_path / "work")
    batch = {"x": np.random.default_rng(1).normal(size=(5, 3, 16, 16)).astype(np.float32)}
    with (
        OnnxRuntimeSession(path) as whole,
        OnnxRuntimeSession(tmp_path / "bundle" / "head.onnx") as head,
        OnnxRuntimeSession(tmp_path / "bundle" / "tail.onnx") as tail,
    ):
        expected = list(whole.run(batch).values())[0]
        got = list(tail.run(head.run(batch)).values())[0]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_inputs_that_are_no_picture_are_drawn_and_one_that_lives_on_may_cross(
    tmp_path: Path,
) -> None:
    path = tmp_path / "two.onnx"
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w"], ["a"]),
            helper.make_node("Tanh", ["a"], ["b"]),
            helper.make_node("Add", ["b", "z"], ["y"]),
        ],
        "two",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.ones((6, 4), np.float32), "w")],
    )
    save(graph, path)
    plan = plan_of(path)
    rows = verified(plan)
    assert plan.pixels is None
    assert all(value.any() for value in plan.feeds.values())
    assert {"z", "b"} == {tensor.name for tensor in rows[2].cut.tensors}


def test_an_unknown_cut_of_a_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "hand.onnx"
    hand_made(path)
    with pytest.raises(UnknownNameError, match="unknown cut 'c9': did you mean c2, c1"):
        plan_of(path, "c9")


def test_a_value_that_the_file_has_not_is_told(tmp_path: Path) -> None:
    from splitdeploy.partitioner.onnx_graph import import_onnx

    path = tmp_path / "hand.onnx"
    hand_made(path)
    with pytest.raises(CutError, match="has no value 'q' to cut at"):
        import_onnx(path, ["q"], tmp_path)


@pytest.mark.parametrize("content", [b"", b"no ONNX model", b"\x08\x08\x12\x05hello"])
def test_a_file_that_is_no_model_is_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="no ONNX model"):
        load_model(str(path))


def test_a_truncated_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "hand.onnx"
    hand_made(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="is damaged or no ONNX model"):
        load_model(str(path))


def test_weights_that_are_not_beside_the_file_are_told(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    torch_onnx(path, dynamic=False, external=True)
    (tmp_path / "net.onnx.data").unlink()
    with pytest.raises(ModelError, match=r"lie in a file of their own.*net\.onnx\.data"):
        load_model(str(path))


def test_truncated_weights_beside_the_file_are_told(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    torch_onnx(path, dynamic=False, external=True)
    data = tmp_path / "net.onnx.data"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ModelError, match="lie in a file of their own"):
        plan_of(path)


def test_other_weights_beside_the_file_are_other_weights(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    torch_onnx(path, dynamic=False, external=True)
    before = load_model(str(path)).weights.sha256
    data = tmp_path / "net.onnx.data"
    data.write_bytes(data.read_bytes()[::-1])
    assert load_model(str(path)).weights.sha256 != before


def test_a_fixed_batch_above_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hand.onnx"
    hand_made(path, (8, 3, 16, 16))
    with pytest.raises(ModelError, match="takes a fixed batch of 8"):
        load_model(str(path))


def test_a_size_that_is_left_open_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hand.onnx"
    hand_made(path, ("n", 3, "h", "w"))
    with pytest.raises(ModelError, match=r"leaves the size of its input x open \(\?×3×\?×\?\)"):
        onnx_inputs(path)
