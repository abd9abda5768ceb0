"""A defence in a head's graph, against the same defence in torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from small_models import build

from splitdeploy.attacks.defences.base import Defended, Perturbation, additive
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.edge_runtime.guard_noise import draw
from splitdeploy.partitioner.codec import add_codec, calibrate, read_ranges, sent_tensors
from splitdeploy.partitioner.cuts import find_cuts
from splitdeploy.partitioner.deployed import DeployedHead
from splitdeploy.partitioner.export import boundary_values, export_onnx
from splitdeploy.partitioner.guarded_head import add_guard, remove_guard, seeded_draws
from splitdeploy.partitioner.head_module import torch_head, torch_tail
from splitdeploy.partitioner.models import InputSpec
from splitdeploy.partitioner.slicing import Halves, Slicer, write_slice
from splitdeploy.partitioner.trace import trace_module
from splitdeploy.profiles.cut import CutPoint
from splitdeploy.profiles.errors import CutError, DefenceError

BATCH = 3
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3, "int8": 1e-2}
"""Of the largest value: float32 sums in another order, 2^-11, half of 1/127."""


class Exported:
    """A small net in torch and in ONNX."""

    def __init__(self, name: str, folder: Path) -> None:
        model, example = build(name)
        self.trace = trace_module(model, example)
        self.cuts = [c for c in find_cuts(self.trace.graph, "op") if not c.is_end]
        self.exported = export_onnx(self.trace, boundary_values(self.cuts), folder)
        self.shape = tuple(example[0].shape)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Each net exported once."""
    return functools.cache(lambda name: Exported(name, tmp_path_factory.mktemp(name)))


class Defendable:
    """A small net cut at one place, in ONNX and in torch."""

    def __init__(self, net: Exported, cut: CutPoint, precision: str = "fp32") -> None:
        self.trace, self.exported = net.trace, net.exported
        self.cut: CutPoint = sent_tensors(cut, precision)
        names = [tensor.name for tensor in cut.tensors]
        plain = (0.0,) * net.shape[1], (1.0,) * net.shape[1]
        self.spec = InputSpec(net.shape, *plain)
        self.head = PixelHead(torch_head(self.trace.program, names), *plain).eval()
        self.tail = torch_tail(self.trace.program, names)
        generator = torch.Generator().manual_seed(4)
        self.pixels = torch.rand(BATCH, *net.shape[1:], generator=generator)
        with torch.no_grad():
            features = dict(zip(names, (t.numpy() for t in self.head(self.pixels)), strict=True))
        ranges = calibrate(features) if precision == "int8" else {}
        halves = Slicer(self.exported).cut(cut)
        self.halves: Halves = add_codec(halves, self.cut.tensors, precision, ranges)

    def open(self) -> DeployedHead:
        path = write_slice(self.halves.head, self.exported.path, "defended.onnx")
        onnx.checker.check_model(str(path), full_check=True)
        ranges = read_ranges(self.halves, self.cut.tensors)
        return DeployedHead(path, self.cut.tensors, self.spec, ranges)


def named(net: Exported, name: str) -> CutPoint:
    return next(c for c in find_cuts(net.trace.graph, "block") if c.name == name)


def perturbations(kind: str, model: Defendable) -> tuple[Perturbation, ...]:
    """One for each tensor, with gates, shifts and scales of every shape that broadcasts."""
    found = []
    for tensor in model.cut.tensors:
        generator = torch.Generator().manual_seed(len(found))
        channels = (1, tensor.shape[1], *[1] * (len(tensor.shape) - 2))
        gate = 0.5 + torch.rand(channels, generator=generator)
        shift = torch.randn(tensor.shape[1:], generator=generator)
        scale = 0.1 * torch.rand((1, *tensor.shape[1:]), generator=generator)
        zero = torch.zeros(())
        found.append({
            "gaussian": Perturbation("gaussian", gate, shift, scale),
            "laplace": additive("laplace", 0.2),
            "dropout": Perturbation("dropout", torch.ones(()), shift, zero, 0.4),
            "none": Perturbation("none", gate, zero, zero),
        }[kind])  # fmt: skip
    return tuple(found)


@pytest.mark.parametrize("kind", ["gaussian", "laplace", "dropout", "none"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_defended_head_sends_what_the_defence_says(
    kind: str, precision: str, exports: Callable[[str], Exported]
) -> None:
    net = exports("residual")
    model = Defendable(net, named(net, "blocks.0"), precision)
    chosen = perturbations(kind, model)
    inputs = add_guard(model.halves.head, model.cut.tensors, chosen)
    assert [i.name for i in inputs] == [
        f"noise.{t.name}" for t in model.cut.tensors if kind != "none"
    ]
    defended = Defended(model.head, model.tail, chosen, kind)
    with torch.no_grad():
        want = defended.send(model.pixels, torch.Generator().manual_seed(9))
    noise = seeded_draws(chosen, model.cut.tensors, BATCH, torch.Generator().manual_seed(9))
    with model.open() as head:
        got = head.send(model.pixels, noise)
        fresh = head.send(model.pixels, draw(inputs, BATCH))
    for one, other, new in zip(want, got, fresh, strict=True):
        assert float((one - other).abs().max() / one.abs().max()) < TOLERANCE[precision]
        assert kind == "none" or not torch.allclose(other, new)


def test_every_boundary_tensor_is_defended_and_nothing_else(
    exports: Callable[[str], Exported],
) -> None:
    net = exports("branches")
    # The most crowded cut: of these branches one tensor is read by others inside the head.
    model = Defendable(net, max(net.cuts, key=lambda cut: len(cut.tensors)))
    assert len(model.cut.tensors) >= 3
    with model.open() as head:
        plain = head.send(model.pixels)
    chosen = tuple(additive("gaussian", 0.3) for _ in model.cut.tensors)
    inputs = add_guard(model.halves.head, model.cut.tensors, chosen)
    silent = {i.name: np.zeros((BATCH, *i.shape), np.float32) for i in inputs}
    with model.open() as head:
        for one, other in zip(plain, head.send(model.pixels, silent), strict=True):
            assert torch.equal(one, other)
        for name in silent:
            loud = silent | {name: np.ones_like(silent[name])}
            for tensor, one, other in zip(
                model.cut.tensors, plain, head.send(model.pixels, loud), strict=True
            ):
                extra = 0.3 if name == f"noise.{tensor.name}" else 0.0
                assert torch.allclose(other - one, torch.full_like(one, extra), atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_defence_can_be_taken_out_again(
    precision: str, exports: Callable[[str], Exported]
) -> None:
    net = exports("residual")
    model = Defendable(net, named(net, "blocks.0"), precision)
    before = model.halves.head.SerializeToString(deterministic=True)
    add_guard(model.halves.head, model.cut.tensors, perturbations("gaussian", model))
    assert model.halves.head.SerializeToString(deterministic=True) != before
    remove_guard(model.halves.head)
    assert model.halves.head.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", ["residual", "branches", "token", "chunked"])
def test_the_torch_tail_continues_the_torch_head(name: str) -> None:
    model, example = build(name)
    trace = trace_module(model, example)
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(5, *example[0].shape[1:], generator=generator)
    with torch.no_grad():
        want = model(inputs)
        for cut in find_cuts(trace.graph, "op"):
            if cut.is_end:
                continue
            names = [tensor.name for tensor in cut.tensors]
            got = torch_tail(trace.program, names)(*torch_head(trace.program, names)(inputs))
            assert torch.allclose(want, got, atol=1e-5), cut.name


def test_refusals(exports: Callable[[str], Exported]) -> None:
    net = exports("residual")
    model = Defendable(net, named(net, "blocks.0"))
    with pytest.raises(DefenceError, match="expected a perturbation for each of 1 boundary"):
        add_guard(model.halves.head, model.cut.tensors, ())
    wide = additive("gaussian", torch.ones(1, 99))
    with pytest.raises(DefenceError, match=r"broadcasts to \[1, 8, 8, 8\] of .*, got \[1, 99\]"):
        add_guard(model.halves.head, model.cut.tensors, (wide,))
    counted = (replace(model.cut.tensors[0], dtype="int64"),)
    with pytest.raises(DefenceError, match="computes in float32, got int64"):
        add_guard(model.halves.head, counted, (additive("gaussian", 0.1),))
    with pytest.raises(CutError, match="has no value 'nowhere'"):
        torch_tail(model.trace.program, ["nowhere"])
    late = [cut for cut in net.cuts if len(cut.tensors) == 2]
    with pytest.raises(CutError, match="would need the model's input 'x'"):
        torch_tail(model.trace.program, [late[0].tensors[-1].name])
