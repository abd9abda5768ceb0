"""Every cut of nets that are hard to cut, exported, sliced and run in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.utils._pytree as pytree
from numpy.typing import NDArray
from small_models import MODELS, build

from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.partitioner.codec import add_codec, calibrate, sent_tensors
from splitdeploy.partitioner.cuts import find_cuts
from splitdeploy.partitioner.export import ExportedModel, boundary_values, export_onnx
from splitdeploy.partitioner.head_module import torch_head
from splitdeploy.partitioner.slicing import PASSED, Halves, Slicer
from splitdeploy.partitioner.trace import Trace, trace_module
from splitdeploy.partitioner.verify import compare, run_halves
from splitdeploy.profiles.cut import CutPoint, TensorSpec
from splitdeploy.profiles.errors import CutError, UnknownNameError

Array = NDArray[Any]
BATCH = 3


class Cut:
    """A small net, cut behind every operation."""

    def __init__(self, name: str, folder: Path, grain: str = "op") -> None:
        self.model, self.example = build(name)
        self.trace: Trace = trace_module(self.model, self.example)
        self.cuts = find_cuts(self.trace.graph, grain)
        self.exported: ExportedModel = export_onnx(self.trace, boundary_values(self.cuts), folder)
        self.slicer = Slicer(self.exported)
        leaves, spec = pytree.tree_flatten(self.example)
        generator = torch.Generator().manual_seed(1)
        wide = [torch.randn(BATCH, *t.shape[1:], generator=generator) for t in leaves]
        self.inputs = pytree.tree_unflatten(wide, spec)
        names = self.exported.inputs
        self.feeds = {name: t.numpy() for name, t in zip(names, wide, strict=True)}
        with torch.no_grad():
            results = pytree.tree_leaves(self.model(*self.inputs))
        self.expected = [result.numpy() for result in results]

    def open(self, halves: Halves) -> tuple[OnnxRuntimeSession, OnnxRuntimeSession]:
        folder = self.exported.path.parent
        sessions = []
        for name, proto in (("head", halves.head), ("tail", halves.tail)):
            (folder / f"{name}.onnx").write_bytes(proto.SerializeToString())
            onnx.checker.check_model(str(folder / f"{name}.onnx"), full_check=True)
            sessions.append(OnnxRuntimeSession(folder / f"{name}.onnx"))
        return sessions[0], sessions[1]


@pytest.mark.parametrize("name", MODELS)
def test_every_cut_equals_the_torch_model_for_any_batch(name: str, tmp_path: Path) -> None:
    cut_model = Cut(name, tmp_path)
    assert cut_model.exported.dynamic_batch
    for cut in cut_model.cuts:
        head, tail = cut_model.open(cut_model.slicer.cut(cut))
        with head, tail:
            got = run_halves(head, tail, cut_model.feeds)
            if not cut.is_end:
                sent = {spec.name.removesuffix(PASSED) for spec in head.outputs}
                assert sent == {t.name for t in cut.tensors}
                assert {spec.name for spec in tail.inputs} <= {s.name for s in head.outputs}
        verdict = compare(cut_model.expected, got, BATCH)
        assert verdict.ok, f"{cut.name}: {verdict}"
        # float32 sums in another order; these nets are a dozen layers deep.
        assert verdict.max_rel_error < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_the_torch_head_equals_the_exported_head(name: str, tmp_path: Path) -> None:
    cut_model = Cut(name, tmp_path)
    for cut in cut_model.cuts[1:]:
        names = [tensor.name for tensor in cut.tensors]
        module = torch_head(cut_model.trace.program, names)
        flat = [torch.from_numpy(cut_model.feeds[n]) for n in cut_model.exported.inputs]
        want = [t.numpy() for t in module(*flat)]
        head, tail = cut_model.open(cut_model.slicer.cut(cut))
        with head, tail:
            got = head.run(cut_model.feeds)
        have = [got.get(n, got.get(f"{n}{PASSED}")) for n in names]
        assert compare(want, have, BATCH).max_rel_error < 1e-5, cut.name


def test_batch_norm_is_folded_into_the_torch_head(tmp_path: Path) -> None:
    cut_model = Cut("residual", tmp_path, "block")
    module = torch_head(cut_model.trace.program, [cut_model.cuts[2].tensors[0].name])
    assert not any("batch_norm" in str(node.target) for node in module.graph.nodes)
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_unknown_boundary_is_told(tmp_path: Path) -> None:
    cut_model = Cut("residual", tmp_path, "block")
    with pytest.raises(CutError, match="has no value 'nowhere'"):
        torch_head(cut_model.trace.program, ["nowhere"])
    strange = CutPoint("c", 1, (TensorSpec("nowhere", (1,)),), 4, 0, 0)
    with pytest.raises(CutError, match="the exported graph has no value 'nowhere'"):
        cut_model.slicer.cut(strange)


def test_a_tail_that_needs_the_input_is_refused(tmp_path: Path) -> None:
    cut_model = Cut("branches", tmp_path)
    several = next(cut for cut in cut_model.cuts if len(cut.tensors) == 3)
    half = CutPoint("half", 1, several.tensors[-1:], 4, 0, 0)
    with pytest.raises(CutError, match="would need the model's input 'x'"):
        cut_model.slicer.cut(half)


def _observed(cut_model: Cut, cut: CutPoint, precision: str) -> tuple[list[Array], list[Array]]:
    """Features in float32, and the results through the codec; the payload's dtypes are checked."""
    head, tail = cut_model.open(cut_model.slicer.cut(cut))
    with head, tail:
        plain = head.run(cut_model.feeds)
    ranges = calibrate(plain)
    sent = sent_tensors(cut, precision)
    halves = add_codec(cut_model.slicer.cut(cut), sent.tensors, precision, ranges)
    head, tail = cut_model.open(halves)
    with head, tail:
        coded = head.run(cut_model.feeds)
        results = run_halves(head, tail, cut_model.feeds)
    for tensor in sent.tensors:
        assert coded[tensor.name].dtype.name == tensor.dtype
    assert sum(value.nbytes for value in coded.values()) == BATCH * sent.payload_bytes
    if precision == "fp16":
        for name, value in coded.items():
            np.testing.assert_array_equal(value, plain[name].astype(np.float16))
    else:
        for name, value in coded.items():
            scale = ranges[name].scale
            wide = scale.reshape(1, -1, 1, 1) if ranges[name].axis == 1 else scale
            # Rounding is off by half a step at most; nothing is clipped on its own calibration.
            assert np.abs(value * wide - plain[name]).max() <= 0.5 * scale.max() * (1 + 1e-5)
    return list(plain.values()), results


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 2e-3), ("int8", 5e-2)])
@pytest.mark.parametrize("name", ["residual", "branches", "token"])
def test_codec_is_in_the_graphs(
    name: str, precision: str, tolerance: float, tmp_path: Path
) -> None:
    """fp16 keeps 11 bits and int8 7 of each value; results inherit about that error."""
    cut_model = Cut(name, tmp_path)
    for cut in cut_model.cuts[1:-1]:
        _, results = _observed(cut_model, cut, precision)
        assert compare(cut_model.expected, results, BATCH).max_rel_error < tolerance, cut.name


def test_codec_at_the_ends(tmp_path: Path) -> None:
    cut_model = Cut("residual", tmp_path, "block")
    for cut in (cut_model.cuts[0], cut_model.cuts[-1]):
        sent = sent_tensors(cut, "fp16")
        halves = add_codec(cut_model.slicer.cut(cut), sent.tensors, "fp16")
        head, tail = cut_model.open(halves)
        with head, tail:
            assert [spec.dtype for spec in head.outputs] == ["float16"]
            results = run_halves(head, tail, cut_model.feeds)
        assert compare(cut_model.expected, results, BATCH).max_rel_error < 2e-3


def test_unknown_precision(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown precision 'fp8': did you mean"):
        sent_tensors(CutPoint("c", 1, (), 0, 0, 0), "fp8")


def test_weights_stay_outside_the_slices(tmp_path: Path) -> None:
    cut_model = Cut("residual", tmp_path, "block")
    halves = cut_model.slicer.cut(cut_model.cuts[2])
    weights = sum(p.numel() * 4 for p in cut_model.model.parameters())
    assert (tmp_path / "model.onnx.data").stat().st_size >= 0.9 * weights
    assert halves.tail.ByteSize() < weights


@pytest.mark.parametrize(
    ("got", "ok"),
    [
        ([np.array([1.0, 2.0])], True),
        ([np.array([1.0, 2.0 + 1e-4])], True),
        ([np.array([1.0, 2.1])], False),
        ([np.array([1.0, np.nan])], False),
        ([np.array([1.0, np.inf])], False),
        ([np.array([1.0])], False),
        ([], False),
    ],
)
def test_verdicts(got: list[Array], ok: bool) -> None:
    assert compare([np.array([1.0, 2.0])], got, 1).ok is ok


def test_nan_in_the_reference_fails_too() -> None:
    assert not compare([np.array([np.nan])], [np.array([np.nan])], 1).ok
    assert compare([np.zeros(3)], [np.zeros(3)], 1).ok
    assert not compare([np.zeros(3)], [np.full(3, 1e-3)], 1).ok
