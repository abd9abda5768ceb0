"""Which window of the picture each place of a feature map depends on, and J in those windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from splitdeploy.attacks.leakage.jacobian import HeadJacobian

_TILE = 4
"""Places of a feature map whose windows are joined, in each direction."""

_WORTH = 0.5
"""Windows are taken where they save at least this share of the products."""

_AGREEMENT = 1e3
"""Roundings within which products by windows and by the operator are the same."""


@dataclass(frozen=True)
class MapWindows:
    """The Jacobian of one feature map in windows of the picture.

    Attributes:
        first: The map's first element among the smashed data's.
        top: ``[h']``: the first row of each map row's window.
        left: ``[w']``: likewise for columns.
        values: ``[h', w', o, c, p, q]``: derivatives of the map's o channels by the window's p rows
            and q columns.
    """

    first: int
    top: Tensor
    left: Tensor
    values: Tensor

    def push(self, v: Tensor) -> Tensor:
        """J v for a direction ``[c, h, w]``: ``[o, h', w']``."""
        p, q = self.values.shape[4:]
        rows = self.top.unsqueeze(1) + torch.arange(p, device=v.device)
        columns = self.left.unsqueeze(1) + torch.arange(q, device=v.device)
        seen = v[:, rows][:, :, :, columns]  # [c, h', p, w', q]
        return torch.einsum("yxocpq,cypxq->oyx", self.values, seen)

    def tiles(self) -> Iterator[tuple[Tensor, Tensor, tuple[slice, slice]]]:
        """Neighbouring places together: their rows of J within the union of their windows.

        Yields:
            Values ``[r, s]``, which smashed-data elements ``[r]``, and the window of the picture.
        """
        height, width = self.values.shape[:2]
        for y in range(0, height, _TILE):
            for x in range(0, width, _TILE):
                yield self._tile(slice(y, min(y + _TILE, height)), slice(x, min(x + _TILE, width)))

    def _tile(self, ys: slice, xs: slice) -> tuple[Tensor, Tensor, tuple[slice, slice]]:
        height, width, o, c, p, q = self.values.shape
        top, bottom = int(self.top[ys].min()), int(self.top[ys].max()) + p
        left, right = int(self.left[xs].min()), int(self.left[xs].max()) + q
        tall, wide = ys.stop - ys.start, xs.stop - xs.start
        joined = self.values.new_zeros(tall, wide, o, c, bottom - top, right - left)
        for y in range(tall):
            for x in range(wide):
                a, b = int(self.top[ys.start + y]) - top, int(self.left[xs.start + x]) - left
                joined[y, x, :, :, a : a + p, b : b + q] = self.values[ys.start + y, xs.start + x]
        device = self.values.device
        places = torch.arange(o * height * width, device=device).view(o, height, width)
        rows = self.first + places[:, ys, xs].permute(1, 2, 0).flatten()
        return joined.view(len(rows), -1), rows, (slice(top, bottom), slice(left, right))


@dataclass(frozen=True)
class Windows:
    """The Jacobian of one image in windows.

    Attributes:
        parts: For each boundary tensor.
    """

    parts: tuple[MapWindows, ...]

    def hold(self, jacobian: HeadJacobian, image: int) -> bool:
        """Whether a product by windows is the operator's, for a random direction.

        Windows are found by random cotangents, which a window's rim could escape. An entry that is
        missing or in a wrong column changes a random product (with probability one).

        Args:
            jacobian: J at each image.
            image: Which.

        Returns:
            Whether the two agree but for rounding.
        """
        generator = torch.Generator().manual_seed(1)
        v = torch.randn(1, jacobian.inputs, generator=generator).to(jacobian.features)
        expected = jacobian.jvps(image, v)[0]
        found = torch.cat([part.push(v.view(jacobian.shape)).flatten() for part in self.parts])
        rounding = torch.finfo(expected.dtype).eps
        return float((found - expected).norm()) <= _AGREEMENT * rounding * float(expected.norm())


def find_windows(jacobian: HeadJacobian, image: int) -> Windows | None:
    """The Jacobian of one image in windows, where every boundary tensor is a local feature map.

    Args:
        jacobian: J at each image.
        image: Which.

    Returns:
        The windows, to be checked by `Windows.hold`; None where they would not save enough.
    """
    shapes = [tuple(t.shape[1:]) for t in jacobian.tensors]
    if any(len(shape) != 3 for shape in shapes):
        return None
    rims = [_rims(jacobian, image, i) for i in range(len(shapes))]
    c, height, width = jacobian.shape
    p = max(int((bottom - top).max()) for top, bottom, _, _ in rims)
    q = max(int((right - left).max()) for _, _, left, right in rims)
    if c * p * q > _WORTH * min(jacobian.inputs, jacobian.outputs):
        return None
    pushed = jacobian.jvps(image, _combs(jacobian, p, q))
    parts, first = [], 0
    for (top, _, left, _), (o, h, w) in zip(rims, shapes, strict=True):
        top, left = top.clamp_max(height - p), left.clamp_max(width - q)
        by_comb = pushed[:, first : first + o * h * w].view(c, p, q, o, h, w)
        values = _in_windows(by_comb, top, left)
        parts.append(MapWindows(first, top, left, values))
        first += o * h * w
    return Windows(tuple(parts))


def _combs(jacobian: HeadJacobian, p: int, q: int) -> Tensor:
    """Every p-th row and q-th column of a channel, for each of the c·p·q ways: ``[cpq, d]``."""
    c, height, width = jacobian.shape
    combs = jacobian.features.new_zeros(c, p, q, c, height, width)
    for channel in range(c):
        for i in range(p):
            for j in range(q):
                combs[channel, i, j, channel, i::p, j::q] = 1.0
    return combs.view(c * p * q, -1)


def _in_windows(by_comb: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Products with combs sorted by place: the one tooth that lies in each place's window.

    Args:
        by_comb: ``[c, p, q, o, h', w']``.
        top: ``[h']``.
        left: ``[w']``.

    Returns:
        ``[h', w', o, c, p, q]``.
    """
    p, q, h, w = *by_comb.shape[1:3], *by_comb.shape[4:]
    rows = (top.unsqueeze(1) + torch.arange(p, device=top.device)) % p  # [h', p]
    columns = (left.unsqueeze(1) + torch.arange(q, device=top.device)) % q  # [w', q]
    ys = torch.arange(h, device=top.device)
    xs = torch.arange(w, device=top.device)
    moved = by_comb.permute(4, 5, 1, 2, 3, 0)  # [h', w', p, q, o, c]
    chosen = moved[
        ys.view(h, 1, 1, 1), xs.view(1, w, 1, 1), rows.view(h, 1, p, 1), columns.view(1, w, 1, q)
    ]
    return chosen.permute(0, 1, 4, 5, 2, 3).contiguous()


def _rims(jacobian: HeadJacobian, image: int, tensor: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From where to where the window of each row and each column of a feature map goes.

    Returns:
        First and end row ``[h']``, first and end column ``[w']``; end excluded.
    """
    _, height, width = jacobian.shape
    first = sum(t[0].numel() for t in jacobian.tensors[:tensor])
    o, h, w = jacobian.tensors[tensor].shape[1:]
    generator = torch.Generator().manual_seed(0)
    cotangents = torch.zeros(h + w, jacobian.outputs)
    signs = cotangents[:, first : first + o * h * w].view(h + w, o, h, w)
    for y in range(h):
        signs[y, :, y, :] = torch.randn(o, w, generator=generator)
    for x in range(w):
        signs[h + x, :, :, x] = torch.randn(o, h, generator=generator)
    pulled = jacobian.vjps(image, cotangents.to(jacobian.features))
    touched = pulled.view(h + w, -1, height, width) != 0
    top, bottom = _ends(touched[:h].any(dim=3).any(dim=1))
    left, right = _ends(touched[h:].any(dim=2).any(dim=1))
    return top, bottom, left, right


def _ends(touched: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the end of what is true in each row of ``[m, s]``; 0 and 1 where nothing is."""
    s = touched.shape[1]
    place = torch.arange(s, device=touched.device)
    first = torch.where(touched, place, s).amin(dim=1)
    end = torch.where(touched, place + 1, 0).amax(dim=1)
    empty = end == 0
    return first.masked_fill(empty, 0), end.masked_fill(empty, 1)
