"""The head of a cut as it is deployed: exported, with its codec, run in a session."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.partitioner.codec import QuantisationRange, add_codec, calibrate
from splitdeploy.partitioner.plan import Array, Plan
from splitdeploy.partitioner.slicing import PASSED, Halves, write_slice
from splitdeploy.profiles.cut import CutPoint


def deployed_halves(
    plan: Plan, cut: CutPoint, sent: CutPoint, precision: str
) -> tuple[Halves, dict[str, QuantisationRange]]:
    """Both halves with their codec; int8 is calibrated on the plan's pictures.

    Args:
        plan: The model and its export.
        cut: The cut, its tensors as the model computes them.
        sent: The same cut, its tensors as they are sent.
        precision: Of the payload.

    Returns:
        The halves, and for ``int8`` the range of every tensor.
    """
    ranges: dict[str, QuantisationRange] = {}
    if precision == "int8":
        ranges = calibrate(_run_head(plan, plan.slicer.cut(cut)))
    return add_codec(plan.slicer.cut(cut), sent.tensors, precision, ranges), ranges


def observe(plan: Plan, cut: CutPoint, sent: CutPoint, precision: str) -> list[NDArray[np.float32]]:
    """What the cloud gets for the plan's pictures, decoded.

    Args:
        plan: The model and its export.
        cut: The cut, its tensors as the model computes them.
        sent: The same cut, its tensors as they are sent.
        precision: Of the payload.

    Returns:
        The boundary tensors ``[n, …]`` in the order of the boundary.
    """
    halves, ranges = deployed_halves(plan, cut, sent, precision)
    received = _run_head(plan, halves)
    decoded = []
    for tensor in sent.tensors:
        name = tensor.name if tensor.name in received else f"{tensor.name}{PASSED}"
        value = received[name].astype(np.float32)
        if name in ranges:
            scale, axis = ranges[name].scale, ranges[name].axis
            value = value * (scale if axis is None else scale.reshape(1, -1, 1, 1))
        decoded.append(value)
    return decoded


def _run_head(plan: Plan, halves: Halves) -> dict[str, Array]:
    """The head's outputs for all pictures; one at a time where the batch is fixed."""
    path = write_slice(halves.head, plan.exported.path, "deployed.head.onnx")
    with OnnxRuntimeSession(path) as session:
        if plan.exported.dynamic_batch or plan.pixels is None:
            return session.run(plan.feeds)
        inputs = plan.model.input.normalise(plan.pixels)
        name = plan.exported.inputs[0]
        runs = [session.run({name: inputs[i : i + 1]}) for i in range(len(inputs))]
    return {key: np.concatenate([run[key] for run in runs]) for key in runs[0]}
