"""The noise that a defended head takes as inputs, drawn from the operating system's randomness.

A defended head computes ``gate·z + shift + scale·ε`` for each boundary tensor; whoever runs it
draws ε anew for every picture. A seeded generator would not do: who finds its state subtracts the
noise. The seeded draws of an evaluation are made elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitdeploy.profiles.errors import ReportError

RandomBytes = Callable[[int], bytes]
"""So many bytes that nobody can foretell."""

DISTRIBUTIONS = ("gaussian", "laplace", "dropout")

_CHUNK = 1 << 16
_WORD = 8
_STEPS = 1 << 53
"""A float64 tells so many values on [0, 1) apart: normals reach 8.6 standard deviations."""


@dataclass(frozen=True)
class NoiseInput:
    """One noise input of a defended head.

    Attributes:
        name: Of the graph's input: ``noise.<tensor>``.
        tensor: The boundary tensor that it is for.
        shape: Of one picture's noise, without the batch.
        dtype: A NumPy name; ``float32``.
        distribution: Of ε: ``gaussian`` is N(0, 1), ``laplace`` has scale 1; ``dropout`` is a mask
            of 0 and 1/(1 − drop_rate).
        drop_rate: The probability of a 0 in the mask, on [0, 1).
    """

    name: str
    tensor: str
    shape: tuple[int, ...]
    dtype: str
    distribution: str
    drop_rate: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As a manifest holds it."""
        entry = {
            "name": self.name,
            "tensor": self.tensor,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "distribution": self.distribution,
        }
        return entry | ({"drop_rate": self.drop_rate} if self.distribution == "dropout" else {})


def noise_inputs(manifest: Mapping[str, Any]) -> tuple[NoiseInput, ...]:
    """The noise inputs that a bundle's manifest tells of.

    Args:
        manifest: Parsed.

    Returns:
        Them; none for a bundle without a defence.

    Raises:
        ReportError: An entry lacks something, or holds something that cannot be drawn.
    """
    guard = manifest.get("guard_noise")
    if guard is None:
        return ()
    try:
        return tuple(_input(entry) for entry in guard["inputs"])
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(
            f"manifest.json: guard_noise.inputs: expected name, tensor, shape, dtype and "
            f"distribution of each ({type(error).__name__}: {error}): export and defend again"
        ) from error


def _input(entry: Mapping[str, Any]) -> NoiseInput:
    found = NoiseInput(
        name=str(entry["name"]),
        tensor=str(entry["tensor"]),
        shape=tuple(int(size) for size in entry["shape"]),
        dtype=str(entry["dtype"]),
        distribution=str(entry["distribution"]),
        drop_rate=float(entry.get("drop_rate", 0.0)),
    )
    if found.distribution not in DISTRIBUTIONS:
        raise ValueError(
            f"unknown distribution {found.distribution!r}, available: {', '.join(DISTRIBUTIONS)}"
        )
    if not 0.0 <= found.drop_rate < 1.0 or any(size < 0 for size in found.shape):
        raise ValueError(f"drop rate {found.drop_rate} or shape {found.shape} cannot be meant")
    return found


def draw(
    inputs: Sequence[NoiseInput], batch: int, *, random_bytes: RandomBytes = os.urandom
) -> dict[str, NDArray[Any]]:
    """Fresh noise for a batch of pictures, to be fed to a defended head beside them.

    Args:
        inputs: From `noise_inputs`.
        batch: How many pictures, at least 0.
        random_bytes: Where the randomness comes from.

    Returns:
        By input name, ``[batch, …]``.

    Raises:
        ReportError: A distribution is not among `DISTRIBUTIONS`.
    """
    drawn = {}
    for one in inputs:
        shape = (batch, *one.shape)
        count = int(np.prod(shape, dtype=np.int64))
        flat = np.empty(count, dtype=one.dtype)
        for start in range(0, count, _CHUNK):
            end = min(count, start + _CHUNK)
            flat[start:end] = _draw(one, end - start, random_bytes)
        drawn[one.name] = flat.reshape(shape)
    return drawn


def _draw(one: NoiseInput, count: int, random_bytes: RandomBytes) -> NDArray[np.float64]:
    if one.distribution == "gaussian":
        return _gaussian(count, random_bytes)
    if one.distribution == "laplace":
        return _laplace(count, random_bytes)
    if one.distribution == "dropout":
        kept = _uniform(count, random_bytes) >= one.drop_rate
        return np.asarray(kept / (1.0 - one.drop_rate))
    raise ReportError(
        f"unknown distribution {one.distribution!r} of {one.name}: available: "
        f"{', '.join(DISTRIBUTIONS)}"
    )


def _uniform(count: int, random_bytes: RandomBytes) -> NDArray[np.float64]:
    """Uniform on [0, 1), in steps of 2^-53."""
    words = np.frombuffer(random_bytes(_WORD * count), dtype="<u8")
    found: NDArray[np.float64] = (words >> np.uint64(11)).astype(np.float64) / _STEPS
    return found


def _gaussian(count: int, random_bytes: RandomBytes) -> NDArray[np.float64]:
    """Box and Muller 1958: two normals of two uniforms."""
    half = (count + 1) // 2
    # 1 − u lies on (0, 1], where the logarithm is finite.
    radius = np.sqrt(-2.0 * np.log1p(-_uniform(half, random_bytes)))
    angle = 2.0 * np.pi * _uniform(half, random_bytes)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def _laplace(count: int, random_bytes: RandomBytes) -> NDArray[np.float64]:
    """The difference of two exponentials, each the logarithm of a uniform."""
    first, second = (np.log1p(-_uniform(count, random_bytes)) for _ in range(2))
    return np.asarray(first - second)
