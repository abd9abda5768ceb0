"""The head of a cut as it is deployed: exported, with its codec, run in a session."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor

from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.session import FREE
from splitdeploy.partitioner.codec import QuantisationRange, add_codec
from splitdeploy.partitioner.models import InputSpec
from splitdeploy.partitioner.plan import Array, Plan
from splitdeploy.partitioner.slicing import PASSED, Halves, write_slice
from splitdeploy.profiles.cut import CutPoint, TensorSpec

_LEVELS = 127.0

TWIN_TOLERANCE = {"fp32": 1e-3, "fp16": 2e-3, "int8": 1e-2}
"""Largest difference between torch head and exported head, over the largest value: the rounding of
what is sent (2^-11; half of 1/127) and that of float32 sums in another order."""

LEAST_STEP = {"fp32": 0.0, "fp16": 2.0**-24, "int8": 0.0}
"""Between the smallest numbers of a precision: what is all but zero is sent in such steps."""


def deployed_halves(
    plan: Plan, cut: CutPoint, sent: CutPoint, precision: str
) -> tuple[Halves, dict[str, QuantisationRange]]:
    """Both halves with their codec; int8 has the plan's ranges.

    What comes back at a second cut is sent in the same precision; what the edge holds stays as it
    was computed.

    Args:
        plan: The model and its export.
        cut: The cut, its tensors as the model computes them.
        sent: The same cut, its tensors as they are sent.
        precision: Of the payload.

    Returns:
        The halves, and for ``int8`` the range of every tensor that is sent up.
    """
    halves = plan.slicer.cut(cut)
    ranges = codec_ranges(plan, halves.head)
    if halves.last is not None and sent.last is not None:
        returned = Halves(halves.tail, halves.last)
        add_codec(returned, sent.last.returned, precision, codec_ranges(plan, halves.tail))
    return add_codec(halves, sent.tensors, precision, ranges), ranges


def codec_ranges(plan: Plan, part: ModelProto) -> dict[str, QuantisationRange]:
    """For ``int8``, the ranges of what a part puts out; none for the other precisions."""
    if plan.ranges is None:
        return {}
    names = [value.name for value in part.graph.output]
    known = ((name, plan.ranges.by_value.get(name.removesuffix(PASSED))) for name in names)
    return {name: found for name, found in known if found is not None}


def observe(
    plan: Plan, cut: CutPoint, sent: CutPoint, precision: str, pictures: int | None = None
) -> list[NDArray[np.float32]]:
    """What the cloud gets for the plan's pictures, decoded.

    Args:
        plan: The model and its export.
        cut: The cut, its tensors as the model computes them.
        sent: The same cut, its tensors as they are sent.
        precision: Of the payload.
        pictures: How many of the first ones; None for all.

    Returns:
        The boundary tensors ``[n, …]`` in the order of the boundary.
    """
    halves, ranges = deployed_halves(plan, cut, sent, precision)
    return decode(_run_head(plan, halves, pictures), sent.tensors, ranges)


def decode(
    received: Mapping[str, Array],
    tensors: Sequence[TensorSpec],
    ranges: Mapping[str, QuantisationRange],
) -> list[NDArray[np.float32]]:
    """What a head sent, as the tail reads it.

    Args:
        received: Its outputs by name.
        tensors: The boundary, as it is sent.
        ranges: For ``int8`` the range of every tensor.

    Returns:
        The boundary tensors ``[n, …]`` in the order of the boundary.
    """
    decoded = []
    for tensor in tensors:
        name = tensor.name if tensor.name in received else f"{tensor.name}{PASSED}"
        value = received[name].astype(np.float32)
        if name in ranges:
            scale, axis = ranges[name].scale, ranges[name].axis
            value = value * (scale if axis is None else scale.reshape(1, -1, 1, 1))
        decoded.append(value)
    return decoded


def twin_error(own: Sequence[Tensor], sent: Sequence[Tensor], step: float = 0.0) -> float:
    """The largest difference of two heads' tensors, over the largest value of each.

    Args:
        own: What one of them gives.
        sent: What the other gives; NaN counts as infinite.
        step: A difference that is none.

    Returns:
        The difference; infinite where the tensors are others.
    """
    if [t.shape for t in own] != [t.shape for t in sent]:
        return math.inf
    errors = [
        _beyond(float((one - other).abs().max()), step) / (float(one.abs().max()) or 1.0)
        for one, other in zip(own, sent, strict=True)
    ]
    return max(error if math.isfinite(error) else math.inf for error in errors)


def _beyond(difference: float, step: float) -> float:
    return 0.0 if difference <= step else difference


def saturated(
    tensors: Sequence[Tensor], ranges: Mapping[str, QuantisationRange]
) -> tuple[Tensor, ...]:
    """Tensors as far as an int8 codec can carry them: what lies beyond its range is clipped.

    Args:
        tensors: Of the boundary, each ``[n, …]``.
        ranges: In the same order; none for the other precisions.

    Returns:
        The tensors, clipped.
    """
    if not ranges:
        return tuple(tensors)
    found = []
    for tensor, known in zip(tensors, ranges.values(), strict=True):
        most = torch.as_tensor(_LEVELS * known.scale).to(tensor)
        most = most if known.axis is None else most.view(1, -1, *[1] * (tensor.dim() - 2))
        found.append(tensor.clamp(-most, most))
    return tuple(found)


class DeployedHead:
    """A head of a bundle in a session: what it sends for pictures, decoded.

    Args:
        model: The head's graph, with its codec and its defence; a file where its weights lie
            beside it.
        tensors: The boundary, as it is sent.
        expects: What the model takes.
        ranges: For ``int8`` the range of every tensor.
    """

    def __init__(
        self,
        model: bytes | Path,
        tensors: Sequence[TensorSpec],
        expects: InputSpec,
        ranges: Mapping[str, QuantisationRange],
    ) -> None:
        self._session = OnnxRuntimeSession(model)
        self._tensors, self._expects, self._ranges = tensors, expects, ranges
        self._pixels = self._session.inputs[0]

    def send(self, pixels: Tensor, noise: Mapping[str, Array] | None = None) -> tuple[Tensor, ...]:
        """What the cloud gets.

        Args:
            pixels: ``[n, c, h, w]`` on [0, 1].
            noise: An array ``[n, …]`` for each noise input.

        Returns:
            The boundary tensors ``[n, …]``, float32.
        """
        return self.decoded(self.payload(pixels, noise))

    def payload(self, pixels: Tensor, noise: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """What goes over the network, encoded.

        Args:
            pixels: ``[n, c, h, w]`` on [0, 1].
            noise: An array ``[n, …]`` for each noise input.

        Returns:
            The head's outputs by name.
        """
        inputs = self._expects.normalise(pixels.numpy().astype(np.float32))
        feeds = {self._pixels.name: inputs, **(noise or {})}
        if self._pixels.shape[0] == FREE:
            return self._session.run(feeds)
        runs = [
            self._session.run({name: value[i : i + 1] for name, value in feeds.items()})
            for i in range(len(inputs))
        ]
        return {key: np.concatenate([run[key] for run in runs]) for key in runs[0]}

    def decoded(self, payload: Mapping[str, Array]) -> tuple[Tensor, ...]:
        """A payload as the tail reads it: the boundary tensors ``[n, …]``, float32."""
        found = decode(payload, self._tensors, self._ranges)
        return tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in found)

    def close(self) -> None:
        """Release the graph."""
        self._session.close()

    def __enter__(self) -> DeployedHead:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _run_head(plan: Plan, halves: Halves, pictures: int | None = None) -> dict[str, Array]:
    """The head's outputs for the first pictures; one at a time where the batch is fixed."""
    path = write_slice(halves.head, plan.exported.path, "deployed.head.onnx")
    with OnnxRuntimeSession(path) as session:
        if plan.exported.dynamic_batch or plan.pixels is None:
            return session.run({name: value[:pictures] for name, value in plan.feeds.items()})
        inputs = plan.model.input.normalise(plan.pixels[:pictures])
        name = plan.exported.inputs[0]
        runs = [session.run({name: inputs[i : i + 1]}) for i in range(len(inputs))]
    return {key: np.concatenate([run[key] for run in runs]) for key in runs[0]}
