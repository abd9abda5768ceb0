"""What a device executes: groups of operators that a compiler fuses into one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KernelKind = Literal[
    "conv",          # dense spatial convolution
    "pointwise",     # 1x1 convolution
    "grouped",       # grouped convolution, neither dense nor depthwise
    "depthwise",     # one filter a channel
    "dense",         # fully connected: a matrix of weights times the activations
    "matmul",        # activations times activations, as in attention
    "pool",
    "reduce",        # means, sums, softmax, layer normalisation
    "elementwise",   # additions, activations that no convolution before them absorbs
    "copy",          # slicing, transposition, padding, channel shuffle
    "concat",        # the kernels before it write their parts in place: free
]  # fmt: skip


@dataclass(frozen=True)
class KernelGroup:
    """One fused kernel, for one input or a batch of them.

    Sizes are in elements, so that a device can be asked about any precision.

    Attributes:
        name: The value that it produces.
        kind: What dominates it.
        macs: Multiply-accumulates, of all inputs.
        input_elements: Activations read, of all inputs.
        output_elements: Activations written, of all inputs.
        weight_elements: Weights read: once, however many inputs there are.
        output_channels: Channels (or features) of the result; how well it fills the device.
        kernel_size: Positions under the filter of a convolution, 9 for 3x3; 1 for all else.
        stride: Its stride over all axes, 4 where it halves height and width; 1 for all else.
        reduction: Products summed for one result: input channels times the kernel's size.
    """

    name: str
    kind: KernelKind
    macs: int
    input_elements: int
    output_elements: int
    weight_elements: int
    output_channels: int
    kernel_size: int = 1
    stride: int = 1
    reduction: int = 1
