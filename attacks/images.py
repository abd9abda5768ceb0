"""Photographs to attack: from a folder, or those that scikit-image carries in its wheel.

Never noise: smashed data of noise says nothing of smashed data of pictures.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from splitdeploy.attacks.labels import (
    ENDINGS,
    by_folder,
    by_table,
    class_numbers,
    images_in,
    interleaved,
)
from splitdeploy.edge_runtime.preprocess import cover, to_array
from splitdeploy.profiles.errors import ImagesError

PHOTOGRAPHS = (
    "astronaut.png",  # Eileen Collins, NASA
    "chelsea.png",  # a cat, Stéfan van der Walt
    "coffee.png",  # a cup, Rachel Michetti
    "rocket.jpg",  # a launch, SpaceX
    "motorcycle_left.png",  # Middlebury stereo, Scharstein et al. 2014
)
"""The colour photographs among scikit-image's pictures; the rest are grey, drawn or microscopic."""

_MOST_ENLARGED = 8
"""CIFAR's 32 pixels for a net of 224 are enlarged seven times."""

_CROP_SHARE = 0.6  # side of a seeded crop over the photograph's short side


@dataclass(frozen=True)
class Images:
    """A batch of pictures.

    Attributes:
        pixels: ``[n, c, h, w]``, float32 on [0, 1].
        names: One for each.
        source: Where they come from, in words.
        labels: ``[n]`` int64: the number of each one's class; None where none were given.
    """

    pixels: NDArray[np.float32]
    names: tuple[str, ...]
    source: str
    labels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """How many there are."""
        return len(self.names)


def load_photographs(
    source: Path | Literal["photos"],
    *,
    shape: tuple[int, int, int],
    count: int,
    seed: int = 0,
    labels: Path | None = None,
) -> Images:
    """Pictures of one shape, as many as asked for, or all where a folder holds fewer.

    A folder's files are taken in the order of their names, resized to cover ``(h, w)`` (bilinear,
    antialiased) and cropped at the centre, as torchvision's ``Resize`` and ``CenterCrop`` do.
    ``photos`` are the `PHOTOGRAPHS` treated likewise, then seeded crops of them. Whatever the
    count, the first few are the same.

    A folder without pictures, but with sub-folders of pictures, has one sub-folder a class. Then,
    and with a table of labels, pictures come two a class (see `splitdeploy.attacks.labels`).

    Args:
        source: A folder, or ``"photos"``.
        shape: ``(c, h, w)``; c is 1 (grey) or 3 (RGB).
        count: How many, at least 1.
        seed: Places the crops of ``photos``, and orders the classes.
        labels: A CSV file with the columns ``file`` and ``label``; only those pictures are taken.

    Returns:
        The pictures.

    Raises:
        ImagesError: The shape is no picture's, the folder does not exist or holds no image, a file
            with an image's ending is none or is truncated, or labels cannot be read.
    """
    if shape[0] not in {1, 3} or min(shape) < 1 or count < 1:
        raise ImagesError(
            f"expected a shape (1 or 3, height, width) and a count of at least 1, got {shape} and "
            f"{count}: pictures cannot be made for this input"
        )
    if source == "photos":
        if labels is not None:
            raise ImagesError(
                f"expected a folder of pictures for the labels in {labels}, got scikit-image's "
                "photographs: give their folder with --images"
            )
        crops = list(_photo_crops(shape, count, seed))
        names, arrays = zip(*crops, strict=True)
        return Images(np.stack(arrays), tuple(names), "scikit-image's photographs")
    return _folder(source, shape, count, seed, labels)


def _folder(
    folder: Path, shape: tuple[int, int, int], count: int, seed: int, table: Path | None
) -> Images:
    if not folder.is_dir():
        raise ImagesError(
            f"expected a folder of images, got {folder}, which "
            f"{'is a file' if folder.exists() else 'does not exist'}: give a folder, or 'photos'"
        )
    flat = images_in(folder) if table is None else []
    classes = {} if flat else by_folder(folder) if table is None else by_table(table, folder)
    if not flat and not classes:
        raise ImagesError(
            f"no images in {folder}: expected files ending in {', '.join(ENDINGS)}, or one "
            "sub-folder of them a class; put some there or use 'photos'"
        )
    files = [("", file) for file in flat] or interleaved(classes, seed)
    for _, file in files:
        _check(file, shape[1], shape[2])
    files = files[:count]
    arrays = [to_array(cover(_open(file), shape[1], shape[2]), shape[0]) for _, file in files]
    numbers = class_numbers(tuple(classes))
    labels = np.array([numbers[name] for name, _ in files], np.int64) if classes else None
    names = tuple(file.relative_to(folder).as_posix() for _, file in files)
    where = f"{folder}, {len(classes)} classes" if classes else str(folder)
    return Images(np.stack(arrays), names, where, labels)


def _photo_crops(
    shape: tuple[int, int, int], count: int, seed: int
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    folder = _skimage_data()
    draw = random.Random(seed)
    for index in range(count):
        name = PHOTOGRAPHS[index % len(PHOTOGRAPHS)]
        if not (folder / name).is_file():
            raise ImagesError(
                f"the installed scikit-image lacks {name} in {folder}: install scikit-image 0.24 "
                "or later, or give a folder of images"
            )
        picture, label = _open(folder / name), Path(name).stem
        turn = index // len(PHOTOGRAPHS)
        if turn:
            picture, label = _seeded_crop(picture, draw), f"{label}-{turn}"
        yield label, to_array(cover(picture, shape[1], shape[2]), shape[0])


def _skimage_data() -> Path:
    """Where scikit-image keeps its pictures, without importing it."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ImagesError(
            "'photos' are scikit-image's photographs, and it is not installed: "
            'pip install "splitdeploy[workstation]", or give a folder of images'
        )
    return Path(spec.origin).parent / "data"


def _seeded_crop(picture: Image.Image, draw: random.Random) -> Image.Image:
    width, height = picture.size
    side = round(_CROP_SHARE * min(width, height))
    left, top = draw.randrange(width - side + 1), draw.randrange(height - side + 1)
    return picture.crop((left, top, left + side, top + side))


def _check(file: Path, height: int, width: int) -> None:
    """Read the header, so that a file far down the folder is found out before any work is done."""
    try:
        with Image.open(file) as picture:
            has_width, has_height = picture.size
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise _unreadable(file, error) from error
    if _MOST_ENLARGED * has_width < width or _MOST_ENLARGED * has_height < height:
        raise ImagesError(
            f"expected pictures for an input of {width}x{height} pixels, got {file} of "
            f"{has_width}x{has_height}: enlarged more than {_MOST_ENLARGED} times it would hold "
            "nothing to leak; give larger ones, or a smaller --input-shape"
        )


def _open(file: Path) -> Image.Image:
    try:
        with Image.open(file) as picture:
            decoded: Image.Image = picture.convert("RGB")
            return decoded
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> ImagesError:
    reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
    return ImagesError(f"cannot read {file} as an image ({reason}): repair it or take it away")
