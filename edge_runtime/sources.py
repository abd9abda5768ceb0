"""Where pictures come from: files, folders, video files and cameras."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from splitdeploy.profiles.errors import ImagesError, MissingExtraError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif")
"""Of the files that are taken from a folder."""


def picture_files(paths: Sequence[Path]) -> list[Path]:
    """The files of pictures that some paths name.

    Args:
        paths: Files, taken whatever their ending, and folders, whose pictures are taken in the
            order of their names.

    Returns:
        The files.

    Raises:
        ImagesError: A path does not exist, or a folder has no pictures.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS)
            if not inside:
                raise ImagesError(
                    f"no pictures in {path}: expected files ending in {', '.join(ENDINGS)}"
                )
            found.extend(inside)
        elif path.exists():
            found.append(path)
        else:
            raise ImagesError(f"expected a picture or a folder of them at {path}, there is none")
    return found


def open_picture(path: Path) -> Image.Image:
    """Read and decode a picture.

    Args:
        path: The file.

    Returns:
        The picture, in memory.

    Raises:
        ImagesError: It is no picture, damaged, or too large to be one.
    """
    try:
        with Image.open(path) as picture:
            decoded: Image.Image = picture.convert("RGB")
    except (
        *(UnidentifiedImageError, Image.DecompressionBombError),
        *(OSError, ValueError, SyntaxError),
    ) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ImagesError(f"expected a picture in {path}, it cannot be read: {why}") from error
    return decoded


def video_frames(source: Path | int, *, limit: int | None = None) -> Iterator[NDArray[np.uint8]]:
    """The frames of a video file or of a camera, one after the other.

    The source is opened at once, so that a wrong name fails here and not in mid-stream.

    Args:
        source: A file, or the number of a camera: 0 is the first.
        limit: At most so many frames; None for all.

    Returns:
        Frames ``[h, w, 3]`` in RGB. The source is released when they end or are left.

    Raises:
        ImagesError: There is no such file or camera, or it cannot be read.
        MissingExtraError: OpenCV is not installed.
    """  # noqa: DOC502
    cv2 = _opencv()
    if isinstance(source, Path) and not source.is_file():
        raise ImagesError(f"expected a video file at {source}, there is none")
    what = f"camera {source}" if isinstance(source, int) else str(source)
    opened = cv2.VideoCapture(source if isinstance(source, int) else str(source))
    if not opened.isOpened():
        opened.release()
        raise ImagesError(
            f"expected a video that OpenCV {cv2.__version__} can read, got {what}, which it cannot "
            "open: name another, or convert it"
        )
    return _frames(cv2, opened, limit)


def _frames(cv2: Any, opened: Any, limit: int | None) -> Iterator[NDArray[np.uint8]]:
    given = 0
    try:
        while limit is None or given < limit:
            there, frame = opened.read()
            if not there:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            given += 1
    finally:
        opened.release()


def _opencv() -> Any:
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise MissingExtraError(
            "reading a video or a camera needs OpenCV, which is not installed: "
            "type  pip install 'splitdeploy[video]'"
        ) from error
