"""Originals and what came back, side by side in one file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from splitdeploy.profiles.errors import OutputError
from splitdeploy.profiles.store import write_atomically

_GAP = 2  # pixels of white between pictures


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
    picture = Image.fromarray(_grid(rows))
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
