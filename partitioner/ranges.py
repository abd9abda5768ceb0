"""The ranges of an int8 codec, of every boundary value at once, on pictures put aside for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.session import Array
from splitdeploy.partitioner.codec import QuantisationRange, calibrate, widest
from splitdeploy.partitioner.export import ExportedModel

CALIBRATED_ON = 32
"""Pictures. A range is a maximum, which a few pictures tell too low."""


@dataclass(frozen=True)
class Ranges:
    """What an int8 codec is made with.

    Attributes:
        by_value: How large each boundary value gets.
        images: On how many pictures.
        aside: Whether these are others than those that the sweep looks at.
    """

    by_value: Mapping[str, QuantisationRange]
    images: int
    aside: bool


def boundary_ranges(
    exported: ExportedModel, inputs: Iterable[Mapping[str, Array]]
) -> dict[str, QuantisationRange]:
    """How large every value gets at which some cut is made.

    Args:
        exported: The whole model, every boundary value among its outputs.
        inputs: The model's inputs, a mapping for each run.

    Returns:
        By value, those of float32 alone; the model's inputs among them.
    """
    ranges: dict[str, QuantisationRange] = {}
    with OnnxRuntimeSession(exported.path) as session:
        for feeds in inputs:
            found = {**feeds, **session.run(feeds)}
            floats = {k: v for k, v in found.items() if v.dtype == np.float32}
            ranges = widest(ranges, calibrate(floats))
    return ranges
