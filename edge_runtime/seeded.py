"""Inputs for a head where no picture is needed: the same on every machine that is told the seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from splitdeploy.edge_runtime.session import FREE, Array
from splitdeploy.profiles.cut import TensorSpec


def seeded_feeds(inputs: Sequence[TensorSpec], seed: int = 0) -> dict[str, Array]:
    """An input of each kind: normal numbers, as a normalised picture has them; zeros and ones.

    Args:
        inputs: Of a session; a dimension that is free gets the size 1.
        seed: Of the numbers.

    Returns:
        An array for each input.
    """
    rng = np.random.default_rng(seed)
    feeds = {}
    for spec in inputs:
        shape = [1 if size == FREE else size for size in spec.shape]
        dtype = np.dtype(spec.dtype)
        if np.issubdtype(dtype, np.floating):
            feeds[spec.name] = np.asarray(rng.standard_normal(shape), dtype)
        else:
            feeds[spec.name] = rng.integers(0, 2, shape).astype(dtype)
    return feeds
