"""Labelled pictures of a folder: one sub-folder a class, or a CSV file beside it.

Where two pictures of a class are needed, the first pictures must not be all of one class, nor each
of another. So classes come in a seeded order, two pictures of two classes at a time; once every
class has given two, thirds and fourths follow likewise.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from splitdeploy.profiles.errors import ImagesError

ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
"""Files of a folder that count as images, in any case; all others are ignored."""

_AT_ONCE = 2


def images_in(folder: Path) -> list[Path]:
    """The pictures of a folder, in the order of their names; not those of its sub-folders."""
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in ENDINGS and f.is_file())


def by_folder(folder: Path) -> dict[str, list[Path]]:
    """The pictures of each class, where a folder has one sub-folder a class.

    Args:
        folder: As torchvision's ``ImageFolder`` has it.

    Returns:
        For each sub-folder with pictures, in the order of names, its pictures; empty where none is.
    """
    held = {sub.name: images_in(sub) for sub in sorted(folder.iterdir()) if sub.is_dir()}
    return {name: files for name, files in held.items() if files}


def labelled_classes(folder: Path, table: Path | None) -> dict[str, int]:
    """The classes of a folder of pictures, numbered as `splitdeploy.attacks.images` numbers them.

    Args:
        folder: Where the pictures lie.
        table: A CSV file with the columns ``file`` and ``label``; None for a sub-folder a class.

    Returns:
        The number of each name; empty where the pictures have no labels.
    """
    if table is not None:
        return class_numbers(tuple(by_table(table, folder)))
    return {} if images_in(folder) else class_numbers(tuple(by_folder(folder)))


def by_table(table: Path, folder: Path) -> dict[str, list[Path]]:
    """The pictures of each class, from a table.

    Args:
        table: A CSV file with the columns ``file`` (relative to the folder) and ``label``.
        folder: Where the pictures lie.

    Returns:
        For each label its pictures.

    Raises:
        ImagesError: The table cannot be read, lacks a column or a row, or names a picture twice, or
            one that is not there.
    """
    classes: dict[str, list[Path]] = {}
    seen: set[Path] = set()
    for line, name, label in _rows(table):
        path = folder / name
        if path in seen or Path(name).is_absolute() or not path.is_file():
            reason = "named twice" if path in seen else f"not in {folder}"
            raise ImagesError(
                f"{table}, line {line}: expected a picture of {folder}, each once, got {name!r}, "
                f"{reason}: give file names relative to that folder"
            )
        seen.add(path)
        classes.setdefault(label, []).append(path)
    if not classes:
        raise ImagesError(f"expected a labelled picture a line in {table}, got none below its head")
    return classes


def _rows(table: Path) -> list[tuple[int, str, str]]:
    try:
        with table.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            if not {"file", "label"} <= set(columns):
                raise ImagesError(
                    f"expected the columns file,label in {table}, got "
                    f"{','.join(columns) or 'an empty file'}: write them in its first line"
                )
            rows = [(reader.line_num, row["file"] or "", row["label"] or "") for row in reader]
    except FileNotFoundError:
        raise ImagesError(
            f"expected a CSV file of labels (columns file,label), got {table}, which does not "
            "exist: give its path, or a folder with one sub-folder a class"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImagesError(f"cannot read the labels {table} as CSV: {error}") from error
    for line, name, label in rows:
        if not name.strip() or not label.strip():
            raise ImagesError(
                f"{table}, line {line}: expected a file and its label, got {name!r} and {label!r}"
            )
    return [(line, name.strip(), label.strip()) for line, name, label in rows]


def class_numbers(classes: Sequence[str]) -> dict[str, int]:
    """The number of each class.

    Args:
        classes: All names, in the order of names.

    Returns:
        The name itself where all are whole numbers of zero or more, as a model's outputs are
        numbered; else the place in the order, as torchvision's ``ImageFolder`` numbers them.
    """
    if all(name.isdecimal() for name in classes):
        return {name: int(name) for name in classes}
    return {name: place for place, name in enumerate(sorted(classes))}


def interleaved(classes: Mapping[str, Sequence[Path]], seed: int) -> list[tuple[str, Path]]:
    """All labelled pictures, so that any first few hold classes with two pictures each.

    Args:
        classes: The pictures of each.
        seed: Of the order of classes.

    Returns:
        Class and picture of each.
    """
    names = sorted(classes)
    random.Random(seed).shuffle(names)
    found: list[tuple[str, Path]] = []
    longest = max(len(files) for files in classes.values())
    for turn in range(0, longest, _AT_ONCE):
        for start in range(0, len(names), _AT_ONCE):
            group = names[start : start + _AT_ONCE]
            for place in range(turn, turn + _AT_ONCE):
                found += [(n, classes[n][place]) for n in group if place < len(classes[n])]
    return found
