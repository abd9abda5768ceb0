"""Labelled pictures: sub-folders, tables, the order that they come in, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from splitdeploy.attacks.images import load_photographs
from splitdeploy.attacks.labels import class_numbers, interleaved
from splitdeploy.profiles.errors import ImagesError

SHAPE = (3, 8, 8)


def picture(path: Path, value: int, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes with three pictures each; each picture's brightness says which it is."""
    for place, name in enumerate(("ant", "bee", "cat")):
        for turn in range(3):
            picture(tmp_path / name / f"{turn}.png", 10 * place + turn)
    return tmp_path


def levels(folder: Path, count: int, **given: object) -> tuple[list[int], list[int]]:
    found = load_photographs(folder, shape=SHAPE, count=count, **given)  # type: ignore[arg-type]
    assert found.labels is not None and found.labels.dtype == np.int64
    values = np.rint(found.pixels[:, 0, 0, 0] * 255).astype(int)
    return values.tolist(), found.labels.tolist()


def test_sub_folders_are_classes_two_pictures_of_each_at_a_time(folder: Path) -> None:
    values, labels = levels(folder, 9)
    # The same numbers as torchvision's ImageFolder: places in the order of names.
    assert labels == [value // 10 for value in values]
    assert sorted(values) == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    assert sorted(labels[:4]).count(labels[0]) == 2 and len(set(labels[:4])) == 2
    few, _ = levels(folder, 4)
    assert few == values[:4]
    assert levels(folder, 9, seed=3)[0] != values


def test_a_table_gives_classes_whatever_the_folders(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("file,label,note\nant/0.png,7,x\nbee/1.png,281,y\nbee/2.png,7,z\n")
    values, labels = levels(folder, 9, labels=table)
    assert dict(zip(values, labels, strict=True)) == {0: 7, 11: 281, 12: 7}


def test_numbers_stand_for_themselves_and_names_for_their_place() -> None:
    assert class_numbers(("10", "9")) == {"10": 10, "9": 9}
    assert class_numbers(("b", "10", "a")) == {"10": 0, "a": 1, "b": 2}


@given(st.dictionaries(st.text("abc", min_size=1), st.integers(1, 6), min_size=1), st.integers())
def test_any_order_holds_every_picture_once_and_pairs_first(
    sizes: dict[str, int], seed: int
) -> None:
    classes = {name: [Path(name) / str(i) for i in range(n)] for name, n in sizes.items()}
    found = interleaved(classes, seed)
    assert sorted(found) == sorted((n, p) for n, files in classes.items() for p in files)
    # After any four pictures of classes that have two, two classes have two each.
    if all(size >= 2 for size in sizes.values()) and len(sizes) >= 2:
        first = [name for name, _ in found[:4]]
        assert sorted(first.count(name) for name in set(first)) == [2, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the columns file,label in .*, got an empty file"),
        ("name,class\na,b\n", "expected the columns file,label in .*, got name,class: write them"),
        ("file,label\n", "expected a labelled picture a line in .*, got none"),
        ("file,label\nant/9.png,a\n", r"line 2: expected a picture of .*'ant/9.png', not in"),
        ("file,label\nant/0.png,a\nant/0.png,b\n", "line 3: .*'ant/0.png', named twice"),
        ("file,label\nant/0.png,\n", "line 2: expected a file and its label, got 'ant/0.png' and"),
        ("file,label\nant/0.png\n", "line 2: expected a file and its label"),
    ],
)
def test_tables_that_cannot_be_meant(folder: Path, text: str, message: str) -> None:
    table = folder / "labels.csv"
    table.write_text(text)
    with pytest.raises(ImagesError, match=message):
        load_photographs(folder, shape=SHAPE, count=2, labels=table)


def test_labels_without_a_table_or_without_pictures_are_told(folder: Path) -> None:
    with pytest.raises(ImagesError, match=r"none\.csv, which does not exist: give its path"):
        load_photographs(folder, shape=SHAPE, count=2, labels=folder / "none.csv")
    with pytest.raises(ImagesError, match="got scikit-image's photographs: give their folder"):
        load_photographs("photos", shape=SHAPE, count=2, labels=folder / "none.csv")
    (folder / "empty").mkdir()
    with pytest.raises(ImagesError, match="or one sub-folder of them a class; put some there"):
        load_photographs(folder / "empty", shape=SHAPE, count=2)


def test_pictures_far_too_small_for_the_input_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "dot.png", 3, side=2)
    message = "expected pictures for an input of 32x32 pixels, got .*dot.png of 2x2: .* larger ones"
    with pytest.raises(ImagesError, match=message):
        load_photographs(tmp_path, shape=(3, 32, 32), count=1)
    assert len(load_photographs(tmp_path, shape=(3, 16, 16), count=1)) == 1
