"""Everything that a sweep needs before it looks at its first cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from numpy.typing import NDArray
from torch import Tensor

from splitdeploy.attacks.images import load_photographs
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.partitioner.codec import sent_tensors
from splitdeploy.partitioner.cuts import GRAINS, find_cuts, find_named_cuts
from splitdeploy.partitioner.downset import merge_cuts
from splitdeploy.partitioner.export import ExportedModel, boundary_values, export_onnx
from splitdeploy.partitioner.graph import TracedGraph
from splitdeploy.partitioner.head_module import OneByOne, torch_head
from splitdeploy.partitioner.models import LoadedModel
from splitdeploy.partitioner.onnx_graph import import_onnx, read_onnx_graph
from splitdeploy.partitioner.ranges import CALIBRATED_ON, Ranges, boundary_ranges
from splitdeploy.partitioner.slicing import Slicer
from splitdeploy.partitioner.two_cuts import find_return, with_return
from splitdeploy.partitioner.verify import compare
from splitdeploy.profiles.cut import CLOUD_ONLY, CutPoint
from splitdeploy.profiles.errors import ModelError, UsageError
from splitdeploy.profiles.report import Verification

Array = NDArray[Any]

OPTIMAL = "optimal"
"""In a text that asks for cuts: the best of all downsets."""


@dataclass(frozen=True)
class Plan:
    """A model that is cut on paper: its graph, its cuts, its one export, and what it is tried on.

    Attributes:
        model: The loaded model.
        graph: Its traced graph.
        cuts: With the two ends; tensors as the model computes them.
        sent: The same cuts with the tensors as they are sent.
        exported: The whole model in ONNX.
        slicer: Slices it.
        pixels: Pictures ``[n, c, h, w]`` on [0, 1]; None where the input is no picture.
        feeds: The model's inputs, normalised, by name.
        expected: What the whole exported model puts out on them, in order.
        whole: The exported model against the model that came, on the same inputs.
        image_source: Where the pictures come from, in words.
        ranges: What an int8 codec is made with; None for the other precisions.
        precision: Of the payload.
        back: The second cut, behind which the edge computes again; None where there is one cut.
        every: All cuts of the run, also where a shard looks at a part of them.
    """

    model: LoadedModel
    graph: TracedGraph
    cuts: tuple[CutPoint, ...]
    sent: tuple[CutPoint, ...]
    exported: ExportedModel
    slicer: Slicer
    pixels: NDArray[np.float32] | None
    feeds: dict[str, Array]
    expected: tuple[Array, ...]
    whole: Verification
    image_source: str
    ranges: Ranges | None = None
    precision: str = "fp32"
    back: CutPoint | None = None
    every: tuple[CutPoint, ...] = ()

    @property
    def images(self) -> int:
        """How many inputs it is tried on."""
        return len(next(iter(self.feeds.values())))

    @property
    def result_bytes(self) -> int:
        """What the result weighs, for one inference."""
        return sum(self.graph.values[name].bytes for name in dict.fromkeys(self.graph.outputs))

    def downlink_bytes(self, sent: CutPoint) -> int:
        """What the downlink carries for one inference: the result, or what a second cut returns."""
        return self.result_bytes if sent.last is None else sent.last.downlink_bytes

    def request(self, batch: int) -> dict[str, Array]:
        """As many of the first inputs as a request has, for timing; over again if there are fewer.

        Args:
            batch: How many inputs a request has.

        Returns:
            The model's inputs by name, `batch` first in every shape.
        """
        places = np.arange(batch) % self.images
        return {name: value[places] for name, value in self.feeds.items()}

    def check_batch(self, batch: int) -> None:
        """Refuse requests of several inputs where the model takes one at a time.

        Args:
            batch: How many inputs a request has.

        Raises:
            UsageError: It takes no other batch than its own.
        """
        if batch > 1 and not self.exported.dynamic_batch:
            raise UsageError(
                f"expected a model whose batch may vary with --batch {batch}, got "
                f"{self.model.name}, whose graph has a fixed batch: leave --batch out, or export "
                "the model with a batch that may vary"
            )

    def pixel_head(self, cut: CutPoint) -> PixelHead | None:
        """The torch head of a cut, from pixels; None without a torch graph or a picture."""
        if self.pixels is None or self.model.onnx_path is not None:
            return None
        if cut.name == CLOUD_ONLY:
            head: torch.nn.Module = torch.nn.Identity()
        else:
            names = [tensor.name for tensor in cut.tensors]
            head = torch_head(self.model.trace.program, names)
            if not self.exported.dynamic_batch:
                head = OneByOne(head)
        return PixelHead(head, self.model.input.mean, self.model.input.std).eval()


def model_graph(model: LoadedModel) -> TracedGraph:
    """The graph that cuts are sought in.

    Args:
        model: A loaded model.

    Returns:
        Its traced graph; for an ``.onnx`` file, that of the file.
    """
    return read_onnx_graph(model.onnx_path) if model.onnx_path else model.trace.graph


def asks_for_optimal(cuts: str) -> bool:
    """Whether a text asks for the best downsets, beside other cuts or alone."""
    return OPTIMAL in [name.strip() for name in cuts.split(",")]


def choose_cuts(
    graph: TracedGraph, cuts: str, optimal: Sequence[CutPoint] | None = None
) -> tuple[CutPoint, ...]:
    """The cuts that a text asks for, with the two ends.

    Args:
        graph: The traced graph.
        cuts: A grain, ``all`` (every operation), names with commas between them, or ``optimal``
            alone or behind any of these.
        optimal: What ``optimal`` stands for; None where nobody knows what runs where.

    Returns:
        The cuts, in the order of execution.

    Raises:
        UsageError: The text names no cut, or ``optimal`` where that is not known.
    """
    if asks_for_optimal(cuts):
        if optimal is None:
            raise UsageError(
                "expected cuts that a model has by itself, got optimal, which depends on the "
                "device and the network: splitdeploy profile MODEL --cuts block,optimal finds them"
            )
        rest = ",".join(name for name in cuts.split(",") if name.strip() != OPTIMAL)
        ordered = choose_cuts(graph, rest) if rest else find_named_cuts(graph, ())
        return merge_cuts(ordered, optimal)
    grain = "op" if cuts == "all" else cuts
    if grain in GRAINS:
        return find_cuts(graph, grain)
    names = [name.strip() for name in cuts.split(",") if name.strip()]
    if not names:
        raise UsageError(f"expected block, layer, all or the names of cuts, got {cuts!r}")
    return find_named_cuts(graph, names)


def make_plan(
    model: LoadedModel,
    *,
    cuts: str,
    precision: str,
    images: Path | None,
    image_count: int,
    seed: int,
    folder: Path,
    labels: Path | None = None,
    optimal: Sequence[CutPoint] | None = None,
    return_at: str | None = None,
) -> Plan:
    """Trace, find the cuts, read the pictures, and export once.

    Args:
        model: A loaded model.
        cuts: As `choose_cuts` takes it.
        precision: Of the payload.
        images: A folder of pictures; None for scikit-image's photographs.
        image_count: How many of them.
        seed: Places the crops of the photographs.
        folder: Where the export is written.
        labels: A CSV file with the columns ``file`` and ``label``; only those pictures are taken.
        optimal: As `choose_cuts` takes it.
        return_at: The cut behind which the edge computes again; None where there is one cut.

    Returns:
        The plan.
    """
    graph = model_graph(model)
    chosen = choose_cuts(graph, cuts, optimal)
    back = None if return_at is None else find_return(graph, return_at)
    values = boundary_values(chosen if back is None else (*chosen, back))
    if back is not None:
        chosen = with_return(graph, chosen, back)
    pixels, source, extra = None, "the model's example inputs", None
    if model.input.is_image and len(graph.inputs) == 1:
        count = image_count + (CALIBRATED_ON if precision == "int8" else 0)
        everyone, source = _pictures(model.input.shape, images, count, seed, labels)
        pixels, extra = everyone[:image_count], everyone[image_count:]
    exported = (
        import_onnx(model.onnx_path, values, folder)
        if model.onnx_path
        else export_onnx(model.trace, values, folder)
    )
    feeds = _feeds(model, exported, pixels)
    with OnnxRuntimeSession(exported.path) as session:
        everything = session.run(feeds)
    expected = tuple(everything[name] for name in exported.results)
    return Plan(
        model=model,
        graph=graph,
        cuts=chosen,
        sent=tuple(sent_tensors(cut, precision) for cut in chosen),
        exported=exported,
        slicer=Slicer(exported),
        pixels=pixels,
        feeds=feeds,
        expected=expected,
        whole=compare(_original(model, feeds), expected, len(next(iter(feeds.values())))),
        image_source=source,
        ranges=_ranges(model, exported, feeds, extra) if precision == "int8" else None,
        precision=precision,
        back=back,
        every=chosen,
    )


def _ranges(
    model: LoadedModel,
    exported: ExportedModel,
    feeds: dict[str, Array],
    extra: NDArray[np.float32] | None,
) -> Ranges:
    """From pictures that nothing else looks at, where there are any."""
    if extra is None or len(extra) == 0:
        return Ranges(boundary_ranges(exported, [feeds]), len(next(iter(feeds.values()))), False)
    # One picture at a time: all boundary values of a batch would take gigabytes.
    inputs = ({exported.inputs[0]: model.input.normalise(one[None])} for one in extra)
    return Ranges(boundary_ranges(exported, inputs), len(extra), True)


def _pictures(
    input_shape: tuple[int, ...], images: Path | None, count: int, seed: int, labels: Path | None
) -> tuple[NDArray[np.float32], str]:
    _, channels, height, width = input_shape
    found = load_photographs(
        images or "photos", shape=(channels, height, width), count=count, seed=seed, labels=labels
    )
    return found.pixels, found.source


def _feeds(
    model: LoadedModel, exported: ExportedModel, pixels: NDArray[np.float32] | None
) -> dict[str, Array]:
    if pixels is not None:
        batch = pixels if exported.dynamic_batch else pixels[:1]
        return {exported.inputs[0]: model.input.normalise(batch)}
    flat = [leaf for leaf in pytree.tree_leaves(model.example) if isinstance(leaf, Tensor)]
    return {name: leaf.numpy() for name, leaf in zip(exported.inputs, flat, strict=True)}


def _original(model: LoadedModel, feeds: dict[str, Array]) -> list[Array]:
    """What the model that came puts out: in torch, or in ONNX Runtime where it is an ONNX file."""
    if model.onnx_path is not None:
        with OnnxRuntimeSession(model.onnx_path) as session:
            return list(session.run(feeds).values())
    module = model.program.module() if model.program is not None else model.module
    if module is None:
        raise ModelError(f"{model.name} holds neither a module nor a program nor a file")
    leaves, spec = pytree.tree_flatten(model.example)
    given = iter(feeds.values())
    filled = [torch.from_numpy(next(given)) if isinstance(x, Tensor) else x for x in leaves]
    with torch.no_grad():
        results = module(*pytree.tree_unflatten(filled, spec))
    return [leaf.numpy() for leaf in pytree.tree_leaves(results) if isinstance(leaf, Tensor)]
