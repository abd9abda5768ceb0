"""Heads in float16 and int8: what ONNX Runtime makes of them, and what is left in float32."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import MODEL, SMALL, splitdeploy
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from small_models import build as small_model
from tensorrt_cases import KERNEL, head_graph, make_bundle

from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.edge_runtime.bundle_part import copy_edge_part
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.partitioner.export import export_onnx
from splitdeploy.partitioner.half_graph import to_half
from splitdeploy.partitioner.head_variants import HeadVariant, add_head_variants
from splitdeploy.partitioner.qdq import activation_ranges, quantisable, quantise
from splitdeploy.partitioner.trace import trace_module
from splitdeploy.profiles.errors import (
    CutError,
    ImagesError,
    ModelError,
    OutputError,
    UnknownNameError,
    VerificationError,
)

RNG = np.random.default_rng(5)
HALF_EPS = 2.0**-10


def run(model: ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    with OnnxRuntimeSession(model.SerializeToString(), optimised=False) as session:
        return session.run(feeds)


def operators(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def picture(count: int = 4) -> np.ndarray:
    return RNG.normal(size=(count, 3, 8, 8)).astype(np.float32)


def inputs_of(model: ModelProto) -> Any:
    def told(values: Any) -> list[tuple[str, int]]:
        return [(v.name, v.type.tensor_type.elem_type) for v in values]

    return told(model.graph.input), told(model.graph.output)


@pytest.mark.parametrize("sent", ["float32", "float16", "int8"])
def test_a_half_head_keeps_its_face(sent: str) -> None:
    head = head_graph(sent=sent)
    half = to_half(head)
    assert inputs_of(half) == inputs_of(head)
    x = picture()
    want, got = (run(m, {"x": x})["z"].astype(np.float32) for m in (head, half))
    # Twenty-seven products of float16 each: their rounding errors add up.
    levels = 1.0 if sent == "int8" else 27 * HALF_EPS * np.abs(want).max()
    assert np.abs(want - got).max() <= levels
    types = {t.name: t.data_type for t in half.graph.initializer}
    assert types["w__half"] == types["b__half"] == TensorProto.FLOAT16
    assert "w" not in types


def test_a_half_head_computes_in_half() -> None:
    half = onnx.shape_inference.infer_shapes(to_half(head_graph()), strict_mode=True)
    kinds = {v.name: v.type.tensor_type.elem_type for v in half.graph.value_info}
    made = {n.op_type: kinds.get(n.output[0]) for n in half.graph.node}
    assert made["Conv"] == made["Relu"] == TensorProto.FLOAT16
    # One cast in, one out.
    assert operators(half) == {"Cast": 2, "Conv": 1, "Relu": 1}


def test_the_noise_of_a_defence_stays_in_float32() -> None:
    head = head_graph(noise=True)
    noise = RNG.normal(size=(4, 4, 8, 8)).astype(np.float32)
    x, places = picture(), quantisable(head, ["noise.z"])
    feeds = {"x": x, "noise.z": noise}
    ranges = activation_ranges(head, places, [feeds])
    for made in (to_half(head, ["noise.z"]), quantise(head, places, ranges)):
        assert inputs_of(made) == inputs_of(head)
        typed = onnx.shape_inference.infer_shapes(made, strict_mode=True)
        kinds = {v.name: v.type.tensor_type.elem_type for v in typed.graph.value_info}
        assert kinds["n"] == TensorProto.FLOAT
        # Without the picture's part, exactly the noise is left.
        quiet = run(made, {"x": x, "noise.z": np.zeros_like(noise)})["z"]
        added = run(made, feeds)["z"] - quiet
        np.testing.assert_allclose(added, noise * np.float32(0.1), atol=1e-6)


def test_a_transformer_in_half(tmp_path: Path) -> None:
    """Attention, a learned token that is expanded late, sizes read off tensors."""
    model, example = small_model("token")
    exported = export_onnx(trace_module(model, example), (), tmp_path)
    whole = onnx.load(str(exported.path))
    half = to_half(whole)
    assert inputs_of(half) == inputs_of(whole)
    feeds = {
        v.name: RNG.normal(size=[d.dim_value or 2 for d in v.type.tensor_type.shape.dim]).astype(
            np.float32
        )
        for v in whole.graph.input
    }
    want, got = run(whole, feeds), run(half, feeds)
    for value in want:
        scale = np.abs(want[value]).max()
        assert np.abs(want[value] - got[value]).max() <= 0.02 * scale


def test_a_weight_that_does_not_fit() -> None:
    head = head_graph()
    head.graph.initializer[0].CopyFrom(numpy_helper.from_array(KERNEL * 1e8, "w"))
    with pytest.raises(ModelError, match=r"weight 'w': expected values that float16 holds"):
        to_half(head)


def test_quantisation_stands_before_each_product() -> None:
    head = head_graph()
    [place] = places = quantisable(head)
    assert (place.data, place.weight, place.axis) == ("x", "w", 0)
    x = picture(32)
    ranges = activation_ranges(head, places, [{"x": one[None]} for one in x])
    assert ranges["x"] == pytest.approx(np.percentile(np.abs(x), 99.99, axis=(1, 2, 3)).max())
    made = quantise(head, places, ranges)
    assert inputs_of(made) == inputs_of(head)
    assert operators(made) == {"QuantizeLinear": 2, "DequantizeLinear": 2, "Conv": 1, "Relu": 1}
    held = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    # One step a channel, and zero at zero, as TensorRT wants it.
    np.testing.assert_allclose(held["w__step"], np.abs(KERNEL).max((1, 2, 3)) / 127, rtol=1e-6)
    assert held["w__zero"].shape == (4,) and not held["w__zero"].any() and held["x__zero"] == 0
    assert held["b"].dtype == np.float32


def test_quantised_results_are_those_of_an_oracle() -> None:
    """By hand: round picture and weights, then convolve in float64."""
    head, x = head_graph(), picture(32)
    places = quantisable(head)
    made = quantise(head, places, activation_ranges(head, places, [{"x": x}]))
    held = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in made.graph.initializer}

    def rounded(values: np.ndarray, step: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(values / step), -128, 127) * step

    kernel = rounded(KERNEL.astype(np.float64), held["w__step"][:, None, None, None])
    padded = np.pad(
        rounded(x.astype(np.float64), held["x__step"]), ((0, 0), (0, 0), (1, 1), (1, 1))
    )
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    want = np.einsum("nchwij,kcij->nkhw", windows, kernel) + held["b"][None, :, None, None]
    # A value on the edge between two steps may be rounded either way in float32.
    off = np.abs(run(made, {"x": x})["z"] - np.maximum(want, 0.0))
    assert np.quantile(off, 0.99) < 1e-4 and off.max() < held["x__step"]


@settings(max_examples=25, deadline=None)
@given(
    operator=st.sampled_from(["Gemm", "GemmT", "MatMul", "ConvTranspose"]),
    wide=st.integers(1, 5),
    scale=st.floats(1e-3, 1e3),
)
def test_any_product(operator: str, wide: int, scale: float) -> None:
    rng = np.random.default_rng(wide)
    name, transposed = operator.removesuffix("T") if operator == "GemmT" else operator, operator
    shape = {"Gemm": (6, wide), "GemmT": (wide, 6), "MatMul": (6, wide)}.get(transposed)
    weight = rng.normal(size=shape or (6, wide, 2, 2)).astype(np.float32) * np.float32(scale)
    x = rng.normal(size=(40, 6) if shape else (10, 6, 3, 3)).astype(np.float32)
    node = helper.make_node(name, ["x", "w"], ["y"], name="product")
    if operator == "GemmT":
        node.attribute.append(helper.make_attribute("transB", 1))
    free = ["n", 6] if shape else ["n", 6, 3, 3]
    made_free = ["n", wide] if shape else ["n", wide, 4, 4]
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, free)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, made_free)],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    places = quantisable(model)
    made = quantise(model, places, activation_ranges(model, places, [{"x": x}]))
    assert places[0].axis == (0 if operator == "GemmT" else 1)
    want, got = run(model, {"x": x})["y"], run(made, {"x": x})["y"]
    assert np.abs(want - got).max() <= 0.06 * np.abs(want).max()


def test_nothing_to_quantise() -> None:
    relu = helper.make_node("Relu", ["x"], ["y"])
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3]) for n in "xy"]
    model = helper.make_model(helper.make_graph([relu], "g", info[:1], info[1:]))
    with pytest.raises(CutError, match="expected a convolution or a matrix product"):
        quantisable(model)


def test_a_bundle_gets_heads(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", noise=True).folder
    made = add_head_variants(folder, ["fp16", "int8"])
    bundle = read_bundle(folder)
    assert set(bundle.head_variants) == {"fp16", "int8"}
    assert [v.calibrated_on for v in made] == [0, 32]
    for variant in made:
        assert variant.loss is not None and variant.loss.images == 32 and variant.loss.aside
        assert variant.loss.top1_agreement is not None and variant.loss.top1_agreement > 0.8
        assert 0.0 < variant.loss.head_rel_error < 0.1 and "same class" in variant.told()
    told = json.loads((folder / "manifest.json").read_text())["head_variants"]
    assert told["int8"]["loss"]["source"] == "measured"
    assert told["int8"]["calibrated_on"] == 32
    # A device gets them with the head; they can be made anew.
    part = copy_edge_part(bundle, tmp_path / "part")
    assert set(part.head_variants) == {"fp16", "int8"}
    assert add_head_variants(folder, ["fp16"])[0].precision == "fp16"
    assert set(read_bundle(folder).head_variants) == {"fp16", "int8"}
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_too_few_pictures(tmp_path: Path) -> None:
    from PIL import Image

    bundle, images = make_bundle(tmp_path / "b"), tmp_path / "images"
    images.mkdir()
    for number in range(3):
        pixels = RNG.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    with pytest.raises(
        ImagesError, match=r"expected at least 32 pictures to calibrate int8 on, got 3 .*--few-im"
    ):
        add_head_variants(bundle.folder, ["int8"], images=images)
    assert read_bundle(bundle.folder).head_variants == {}
    [made] = add_head_variants(bundle.folder, ["int8"], images=images, few_images=True)
    assert made.calibrated_on == 3 and made.loss is not None and not made.loss.aside
    assert "used before since there are no others" in made.told()


def test_what_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path / "b")
    with pytest.raises(UnknownNameError, match=r"unknown precision of a head 'fp8'"):
        add_head_variants(bundle.folder, ["fp8"])
    broken = head_graph()
    broken.graph.initializer[1].CopyFrom(
        numpy_helper.from_array(np.full(4, np.nan, np.float32), "b")
    )
    monkeypatch.setattr("splitdeploy.partitioner.head_variants.to_half", lambda *_: broken)
    with pytest.raises(VerificationError, match=r"head\.fp16\.onnx puts out what is not finite"):
        add_head_variants(bundle.folder, ["fp16"])
    monkeypatch.setattr(
        "splitdeploy.partitioner.head_variants.save_graph", lambda *_: (_ for _ in ()).throw(
            OSError(28, "No space left on device"))
    )  # fmt: skip
    with pytest.raises(OutputError, match="cannot write the bundle .*No space left"):
        add_head_variants(bundle.folder, ["int8"])
    assert read_bundle(bundle.folder).head_variants == {}


def test_a_model_without_pictures(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    manifest = {**bundle.manifest, "preprocessing": None}
    (bundle.folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ImagesError, match="expected a model of pictures to calibrate int8 on"):
        add_head_variants(bundle.folder, ["int8"])
    assert add_head_variants(bundle.folder, ["fp16"]) == (HeadVariant("fp16", 0, None),)
    assert "not judged" in HeadVariant("fp16", 0, None).told()


def test_the_command_line(tmp_path: Path) -> None:
    place = ("--cut", "blocks.0", "--out", tmp_path / "b", *SMALL)
    done = splitdeploy("export", MODEL, *place, "--head-precision", "fp16",
                       "--head-precision", "int8", "--edge-part", tmp_path / "edge")  # fmt: skip
    assert done.code == 0, done.err
    assert "head in fp16, measured on 32 pictures" in done.err and "head in int8" in done.err
    assert set(read_bundle(tmp_path / "edge", "edge").head_variants) == {"fp16", "int8"}
    failed = splitdeploy("export", MODEL, *place, "--head-precision", "int4")
    assert failed.code == 2 and "did you mean int8?" in failed.err
