"""The face that every session has: named tensors in, named tensors out, whatever runs the graph."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitdeploy.profiles.closing import Closing
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.errors import SessionError

Array = NDArray[Any]


@dataclass(frozen=True)
class StageTimes:
    """Where the time of one run went.

    Attributes:
        copy_in_s: Handing the inputs to the device that computes.
        compute_s: The graph.
        copy_out_s: Handing the results back to the host.
    """

    copy_in_s: float
    compute_s: float
    copy_out_s: float

    @property
    def total_s(self) -> float:
        """All three."""
        return self.copy_in_s + self.compute_s + self.copy_out_s


FREE = -1
"""The size, in a session's ``TensorSpec``, of a dimension that the graph leaves open."""


class Session(Closing):
    """An opened graph. ``run`` checks what goes in; a subclass writes ``_run`` and ``_close``.

    Args:
        name: What messages call it: ``onnxruntime``.
        inputs: What the graph takes; ``FREE`` stands for a dimension that may have any size.
        outputs: What it gives.
    """

    def __init__(self, name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]):
        self.name = name
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.note = ""
        """What a user should know of how it was opened."""
        self._open = True

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph once; returns when the results lie in the host's memory.

        Args:
            feeds: An array for every input, of its shape and dtype.

        Returns:
            An array for every output, by name, in the order of ``outputs``.

        Raises:
            SessionError: The session is closed, an input is missing, unknown or of another shape
                or dtype, or the graph fails on these values.
        """
        if not self._open:
            raise SessionError(f"{self.name}: expected an open session, it is closed: open another")
        self._check(feeds)
        return self._run(feeds)

    def run_timed(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], StageTimes]:
        """As `run`, with the time of each stage; the device is waited for after each.

        Args:
            feeds: As in `run`.

        Returns:
            The outputs, and where the time went.

        Raises:
            SessionError: As `run`.
        """  # noqa: DOC502
        if not self._open:
            raise SessionError(f"{self.name}: expected an open session, it is closed: open another")
        self._check(feeds)
        return self._run_timed(feeds)

    def close(self) -> None:
        """Release the graph; ``run`` fails from then on. Closing twice does nothing."""
        if self._open:
            self._open = False
            self._close()

    def __repr__(self) -> str:
        def listed(specs: tuple[TensorSpec, ...]) -> str:
            return ", ".join(f"{s.name} {shown(s.shape)} {s.dtype}" for s in specs)

        return f"{type(self).__name__}({listed(self.inputs)} -> {listed(self.outputs)})"

    @abstractmethod
    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run on feeds that were checked."""

    @abstractmethod
    def _run_timed(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], StageTimes]:
        """Run in three stages on feeds that were checked."""

    @abstractmethod
    def _close(self) -> None:
        """Release what the graph holds."""

    def _check(self, feeds: Mapping[str, Array]) -> None:
        known = [spec.name for spec in self.inputs]
        listed = ", ".join(known)
        for name in feeds:
            if name not in known:
                raise SessionError(f"{self.name}: unknown input {name!r}: expected {listed}")
        for spec in self.inputs:
            if spec.name not in feeds:
                raise SessionError(
                    f"{self.name}: input {spec.name!r} is missing: expected {listed}, "
                    f"got {', '.join(feeds) or 'nothing'}"
                )
            self._check_one(spec, feeds[spec.name])

    def _check_one(self, spec: TensorSpec, array: Array) -> None:
        if not isinstance(array, np.ndarray):
            raise SessionError(
                f"{self.name}: input {spec.name!r}: expected a NumPy array, "
                f"got {type(array).__name__}"
            )
        fits = len(array.shape) == len(spec.shape) and all(
            want in {FREE, got} for want, got in zip(spec.shape, array.shape, strict=True)
        )
        if array.dtype.name != spec.dtype or not fits:
            raise SessionError(
                f"{self.name}: input {spec.name!r}: expected {spec.dtype} {shown(spec.shape)}, "
                f"got {array.dtype.name} {shown(array.shape)}"
            )


def shown(shape: Sequence[int]) -> str:
    """A shape for people, with ``?`` where any size will do: ``[?, 3, 224, 224]``."""
    return "[" + ", ".join("?" if size == FREE else str(size) for size in shape) + "]"
