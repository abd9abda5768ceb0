"""Two cuts: the three parts chained are the whole model, whatever pair of cuts is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_models import MODELS, Branches, build
from torch import Tensor, nn

from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.partitioner.cuts import find_cuts
from splitdeploy.partitioner.export import boundary_values, export_onnx
from splitdeploy.partitioner.slicing import HELD, Slicer, write_slice
from splitdeploy.partitioner.trace import Trace, trace_module
from splitdeploy.partitioner.two_cuts import as_one_cut, find_return, sees_results, with_return
from splitdeploy.partitioner.verify import compare, run_halves
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY, CutPoint
from splitdeploy.profiles.errors import UnknownNameError, UsageError

Array = NDArray[Any]


class Skips(nn.Module):
    """Skip connections over any pair of cuts, from the input itself too."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.c = nn.Conv2d(4, 4, 3, padding=1)
        self.d = nn.Conv2d(11, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = torch.relu(self.a(x))
        b = torch.tanh(self.b(a))
        c = torch.sigmoid(self.c(b)) * a
        return self.d(torch.cat([a, c, x], 1)).mean((2, 3)), b.mean((2, 3))


@dataclass(frozen=True)
class Case:
    trace: Trace
    cuts: tuple[CutPoint, ...]
    slicer: Slicer
    feeds: Mapping[str, Array]
    expected: list[Array]


def make_case(model: nn.Module, example: tuple[object, ...], folder: Path) -> Case:
    trace = trace_module(model, example)
    cuts = find_cuts(trace.graph, "op")
    exported = export_onnx(trace, boundary_values(cuts), folder)
    flat = [leaf for leaf in torch.utils._pytree.tree_leaves(example) if isinstance(leaf, Tensor)]
    feeds = {name: leaf.numpy() for name, leaf in zip(exported.inputs, flat, strict=True)}
    with OnnxRuntimeSession(exported.path) as session:
        found = session.run(feeds)
    return Case(
        trace, cuts, Slicer(exported), feeds, [found[name] for name in exported.results]
    )


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    made = {}
    for name in [*MODELS, "skips"]:
        torch.manual_seed(1)
        model, example = (
            (Skips().eval(), (torch.randn(1, 3, 8, 8),)) if name == "skips" else build(name)
        )
        made[name] = make_case(model, example, tmp_path_factory.mktemp(name))
    return made


def chained(case: Case, cut: CutPoint, folder: Path) -> list[Array]:
    halves = case.slicer.cut(cut)
    assert halves.last is not None
    path = case.slicer.exported.path
    with (
        OnnxRuntimeSession(write_slice(halves.head, path, "t.head.onnx")) as head,
        OnnxRuntimeSession(write_slice(halves.tail, path, "t.tail.onnx")) as tail,
        OnnxRuntimeSession(write_slice(halves.last, path, "t.last.onnx")) as last,
    ):
        return run_halves(head, tail, case.feeds, last)


@pytest.mark.parametrize("name", [*MODELS, "skips"])
@settings(
    max_examples=15, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(data=st.data())
def test_any_pair_of_cuts_is_the_whole(
    cases: dict[str, Case], tmp_path: Path, name: str, data: st.DataObject
) -> None:
    case = cases[name]
    inner = case.cuts[1:-1]
    back = data.draw(st.sampled_from(inner[1:]), label="back")
    kept = with_return(case.trace.graph, case.cuts, back)
    assert kept[0].name == CLOUD_ONLY and kept[-1] == replace(case.cuts[-1], index=len(kept) - 1)
    cut = data.draw(st.sampled_from(kept[:-1]), label="cut")
    verdict = compare(case.expected, chained(case, cut, tmp_path), 1)
    assert verdict.ok, verdict
