"""What a cut is: the tensors that cross it, and what lies on either side."""

from __future__ import annotations

from dataclasses import dataclass

CLOUD_ONLY = "cloud-only"
"""The end of the sweep at which the input itself is sent."""

EDGE_ONLY = "edge-only"
"""The end of the sweep at which nothing but the result is sent."""

PRECISIONS = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
"""Each precision, and the dtype that its payload is sent in."""

TAIL_PRECISIONS = {"fp32": "fp32", "fp16": "fp16", "int8": "fp16"}
"""What a tail computes in, by the run's precision: an int8 payload is decoded first."""

_ITEM_BYTES = {
    "float64": 8, "int64": 8, "uint64": 8, "float32": 4, "int32": 4, "uint32": 4,
    "float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip


def item_bytes(dtype: str) -> int:
    """Bytes of one element of a dtype, by its NumPy name.

    Args:
        dtype: A NumPy dtype name, or ``bfloat16``.

    Returns:
        The size in bytes.

    Raises:
        ValueError: The dtype is not one that a tensor can cross a cut in.
    """
    if dtype not in _ITEM_BYTES:
        raise ValueError(f"unknown dtype {dtype!r}: available: {', '.join(_ITEM_BYTES)}")
    return _ITEM_BYTES[dtype]


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor: its shape (with the batch first) and dtype (a NumPy name)."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def elements(self) -> int:
        """How many elements it holds."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def bytes(self) -> int:
        """What it weighs on the wire, uncompressed."""
        return self.elements * item_bytes(self.dtype)

    def with_dtype(self, dtype: str) -> TensorSpec:
        """The same tensor in another dtype."""
        return TensorSpec(self.name, self.shape, dtype)


@dataclass(frozen=True)
class LastPart:
    """What the last part of a model takes: behind a second cut, the edge computes it again.

    Attributes:
        returned: The tensors that the cloud sends back.
        held: Those that the edge made itself before the first cut, and keeps.
    """

    returned: tuple[TensorSpec, ...]
    held: tuple[TensorSpec, ...] = ()

    @property
    def downlink_bytes(self) -> int:
        """What comes back for one input."""
        return sum(tensor.bytes for tensor in self.returned)


@dataclass(frozen=True)
class CutPoint:
    """A downset of the traced graph, and its boundary.

    With a second cut, the tensors are those that the cloud needs, and whatever is told of the head
    is told of all that the edge computes: the head and the last part.

    Attributes:
        name: The module that ends here, as engineers know it: ``layer2.0``; or one of the two ends.
        index: The place in the order of execution; ``cloud-only`` has 0, later cuts more.
        tensors: Every live tensor that crosses, each once, in the order of execution.
        payload_bytes: The sum of their sizes for one input, in the precision that is sent.
        head_macs: Multiply-accumulates of the head, for one input.
        tail_macs: Multiply-accumulates of the tail, for one input.
        head_parameters: Parameters that the head holds.
        head_peak_activation_bytes: The most memory that the head's activations occupy at once, in
            the order of execution, in float32 before any precision is chosen.
        nodes: How many nodes of the traced graph lie in the head, before the first cut.
        last: What comes back to the edge at the second cut; None where the result does.
    """

    name: str
    index: int
    tensors: tuple[TensorSpec, ...]
    payload_bytes: int
    head_macs: int
    tail_macs: int
    head_parameters: int = 0
    head_peak_activation_bytes: int = 0
    nodes: int = 0
    last: LastPart | None = None

    @property
    def is_end(self) -> bool:
        """Whether this is one of the two ends, where nothing is cut."""
        return self.name in {CLOUD_ONLY, EDGE_ONLY}
