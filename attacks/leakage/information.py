"""The information matrix I(x) = JᵀΣ⁻¹J of one image in float64, by blocks of the Jacobian.

A convolutional head's Jacobian is sparse: an element of the smashed data depends on a window of the
picture. Columns whose windows do not meet are found in one product (Curtis, Powell and Reid 1974),
so that 7 by 7 windows in three channels take 147 products whatever the picture's size, and JᵀΣ⁻¹J
is the sum of small products. Where a head is not local, its whole rows are the blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.locality import find_windows

_STORED_ELEMENTS = 1 << 28
"""The most elements of one image's Jacobian that are kept at once: 1 GiB in float32."""

_PARTS = 4
"""A symmetric product is made by so many parts of columns, those above the diagonal alone."""


@dataclass(frozen=True)
class Block:
    """Rows and columns of the Jacobian outside of which these rows are zero.

    Attributes:
        values: ``[r, s]``.
        rows: ``[r]``: which elements of the smashed data.
        window: The rows and columns of the picture, in all channels, that ``s`` runs over.
    """

    values: Tensor
    rows: Tensor
    window: tuple[slice, slice]


def information(jacobian: HeadJacobian, image: int, sigma: Tensor) -> Tensor:
    """I(x) = JᵀΣ⁻¹J at one image; products and sums in float64.

    Args:
        jacobian: J at each image.
        image: Which.
        sigma: ``[k]``: the noise of each smashed-data element.

    Returns:
        ``[d, d]`` float64.
    """
    picture, device = jacobian.shape, jacobian.features.device
    total = torch.zeros(*picture, *picture, dtype=torch.float64, device=device)
    for block in blocks(jacobian, image):
        ys, xs = block.window
        part = total[:, ys, xs, :, ys, xs]
        part += gram(block.values.double() / sigma[block.rows].double().unsqueeze(1)).view_as(part)
    return total.view(jacobian.inputs, jacobian.inputs)


def squared_columns(jacobian: HeadJacobian, image: int, variance: Tensor) -> Tensor:
    """The diagonal of I(x) = JᵀΣ⁻¹J at one image.

    Args:
        jacobian: J at each image.
        image: Which.
        variance: ``[k]``: the diagonal of Σ.

    Returns:
        ``[d]`` float64.
    """
    total = torch.zeros(jacobian.shape, dtype=torch.float64, device=jacobian.features.device)
    for block in blocks(jacobian, image):
        part = total[:, block.window[0], block.window[1]]
        weights = 1.0 / variance[block.rows].double()
        part += (weights @ block.values.double().square()).view_as(part)
    return total.flatten()


def gram(rows: Tensor) -> Tensor:
    """AᵀA, with the parts below the diagonal copied from those above.

    Args:
        rows: A, ``[r, s]``.

    Returns:
        ``[s, s]``.
    """
    size = rows.shape[1]
    if size < 64 * _PARTS:
        return rows.T @ rows
    total = rows.new_empty(size, size)
    edges = [size * i // _PARTS for i in range(_PARTS + 1)]
    for i in range(_PARTS):
        here = slice(edges[i], edges[i + 1])
        product = rows[:, here].T @ rows[:, edges[i] :]
        total[here, edges[i] :] = product
        total[edges[i] :, here] = product.T
    return total


def blocks(jacobian: HeadJacobian, image: int) -> Iterator[Block]:
    """The Jacobian of one image in blocks that hold all that is not zero, every row once.

    Args:
        jacobian: J at each image.
        image: Which.

    Yields:
        The blocks.
    """
    windows = find_windows(jacobian, image)
    if windows is not None and windows.hold(jacobian, image):
        for part in windows.parts:
            for values, rows, window in part.tiles():
                yield Block(values, rows, window)
        return
    k, d = jacobian.outputs, jacobian.inputs
    device = jacobian.features.device
    whole = (slice(0, jacobian.shape[1]), slice(0, jacobian.shape[2]))
    if d < k and k * d <= _STORED_ELEMENTS:
        units = torch.eye(d).to(jacobian.features)
        yield Block(jacobian.jvps(image, units).T, torch.arange(k, device=device), whole)
        return
    for start in range(0, k, d):
        rows = torch.arange(start, min(start + d, k), device=device)
        units = torch.zeros(len(rows), k).to(jacobian.features)
        units[torch.arange(len(rows), device=device), rows] = 1.0
        yield Block(jacobian.vjps(image, units), rows, whole)
