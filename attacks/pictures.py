"""Originals and what came back, side by side in one file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from splitdeploy.profiles.errors import OutputError
from splitdeploy.profiles.store import write_atomically

_GAP = 2  # pixels of white between pictures
_TEXT = 15  # height of a caption's letters
_LEAST_SIDE = 96  # of a picture on a sheet: smaller ones are enlarged


def save_comparison(
    path: Path, originals: Tensor, reconstructions: Tensor, baseline: Tensor | None = None
) -> None:
    """Write a PNG: originals on top, reconstructions below them, a baseline below those.

    It is written aside and renamed, so that no half a picture ever stands under the name.

    Args:
        path: The file; its folder is made where it is missing.
        originals: ``[n, c, h, w]`` on [0, 1]; c is 1 or 3.
        reconstructions: The same shape.
        baseline: The same shape, or None.

    Raises:
        OutputError: The place cannot be written.
    """
    rows = [originals, reconstructions] if baseline is None else [
        originals, reconstructions, baseline,
    ]  # fmt: skip
    _write(path, Image.fromarray(_grid(rows)))


def save_sheet(path: Path, rows: Sequence[tuple[str, Tensor]]) -> None:
    """Write a PNG of several rows of pictures, each below its caption.

    Args:
        path: The file; its folder is made where it is missing.
        rows: Captions, and pictures ``[n, c, h, w]`` on [0, 1] of one shape.

    Raises:
        OutputError: The place cannot be written.
    """  # noqa: DOC502
    font = _font()
    side = min(rows[0][1].shape[2:])
    factor = max(1, -(-_LEAST_SIDE // side))
    strips = [
        Image.fromarray(_grid([pictures]).repeat(factor, 0).repeat(factor, 1))
        for _, pictures in rows
    ]
    line = 2 * _TEXT
    texts = [font.getlength(caption) for caption, _ in rows]
    width = round(max(*texts, *(strip.width for strip in strips))) + 2 * _TEXT
    height = sum(strip.height + line for strip in strips) + _TEXT
    sheet = Image.new("RGB", (width, height), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for (caption, _), strip in zip(rows, strips, strict=True):
        draw.text((_TEXT, top + _TEXT // 2), caption, fill="black", font=font)
        sheet.paste(strip, (_TEXT, top + line))
        top += line + strip.height
    _write(path, sheet)


def _font() -> ImageFont.FreeTypeFont:
    """A font that has every letter of a caption; it comes with matplotlib."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), _TEXT)


def _write(path: Path, picture: Image.Image) -> None:
    out = io.BytesIO()
    picture.save(out, format="PNG")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, out.getvalue())
    except (OSError, OutputError) as error:
        raise OutputError(f"cannot write the picture {path}: {error}; choose another") from error


def _grid(rows: list[Tensor]) -> NDArray[np.uint8]:
    """``[H, W, 3]``: a row of pictures for each batch, on white."""
    n, _, h, w = rows[0].shape
    sheet = np.full((len(rows) * (h + _GAP) - _GAP, n * (w + _GAP) - _GAP, 3), 255, np.uint8)
    for i, batch in enumerate(rows):
        levels = (batch.detach().cpu().clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
        for j, picture in enumerate(levels):
            top, left = i * (h + _GAP), j * (w + _GAP)
            sheet[top : top + h, left : left + w] = picture  # grey broadcasts to three channels
    return sheet
