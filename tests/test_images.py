"""Photographs from a folder and from scikit-image, and the pictures that are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from splitdeploy.attacks.images import PHOTOGRAPHS, load_photographs
from splitdeploy.attacks.pictures import save_comparison
from splitdeploy.profiles.errors import ImagesError, OutputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for name, size in (("b.JPG", (40, 30)), ("a.png", (30, 50)), ("c.webp", (33, 33))):
        array = draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / name)
    (tmp_path / "labels.csv").write_text("a,b\n")
    return tmp_path


def test_photographs_are_real_distinct_and_repeatable() -> None:
    images = load_photographs("photos", shape=(3, 32, 32), count=9)
    assert images.pixels.shape == (9, 3, 32, 32)
    assert images.pixels.dtype == np.float32
    assert 0.0 <= images.pixels.min() < images.pixels.max() <= 1.0
    assert len(set(images.names)) == 9
    assert all(images.pixels[i].std() > 0.05 for i in range(9))
    distance = np.abs(images.pixels[:, None] - images.pixels[None]).mean((2, 3, 4))
    assert distance[~np.eye(9, dtype=bool)].min() > 0.01
    again = load_photographs("photos", shape=(3, 32, 32), count=9)
    assert np.array_equal(images.pixels, again.pixels)
    other = load_photographs("photos", shape=(3, 32, 32), count=9, seed=1)
    assert np.array_equal(images.pixels[: len(PHOTOGRAPHS)], other.pixels[: len(PHOTOGRAPHS)])
    assert not np.array_equal(images.pixels, other.pixels)


def test_a_folder_is_read_in_order_and_gives_what_it_has(folder: Path) -> None:
    images = load_photographs(folder, shape=(3, 16, 16), count=8)
    assert images.names == ("a.png", "b.JPG", "c.webp")
    assert len(load_photographs(folder, shape=(3, 16, 16), count=2)) == 2


@pytest.mark.parametrize("size", [16, 24, 64])
def test_resizing_is_torchvisions(folder: Path, size: int) -> None:
    images = load_photographs(folder, shape=(3, size, size), count=3)
    recipe = transforms.Compose([
        transforms.Resize(size),
        transforms.CenterCrop(size),
        transforms.ToTensor(),
    ])
    for name, pixels in zip(images.names, images.pixels, strict=True):
        with Image.open(folder / name) as picture:
            expected = recipe(picture.convert("RGB"))
        assert np.allclose(pixels, expected.numpy(), atol=1e-6)


def test_grey_and_oblong_shapes(folder: Path) -> None:
    assert load_photographs(folder, shape=(1, 28, 28), count=1).pixels.shape == (1, 1, 28, 28)
    assert load_photographs(folder, shape=(3, 20, 37), count=3).pixels.shape == (3, 3, 20, 37)


def test_an_empty_or_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match=r"no images in .*expected files ending in \.bmp"):
        load_photographs(tmp_path, shape=(3, 8, 8), count=1)
    with pytest.raises(ImagesError, match="does not exist"):
        load_photographs(tmp_path / "none", shape=(3, 8, 8), count=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(ImagesError, match="is a file"):
        load_photographs(tmp_path / "file", shape=(3, 8, 8), count=1)


def test_a_text_file_with_an_images_ending_is_named_wherever_it_stands(folder: Path) -> None:
    (folder / "zz.png").write_text("not a picture")
    with pytest.raises(ImagesError, match=r"zz\.png as an image \(not an image\)"):
        load_photographs(folder, shape=(3, 8, 8), count=1)


@pytest.mark.parametrize("name", ["a.png", "b.JPG"])
def test_a_truncated_image_is_named(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ImagesError, match=f"cannot read .*{name}"):
        load_photographs(folder, shape=(3, 8, 8), count=3)


@pytest.mark.parametrize(("shape", "count"), [((4, 8, 8), 1), ((3, 0, 8), 1), ((3, 8, 8), 0)])
def test_shapes_that_no_picture_has(shape: tuple[int, int, int], count: int) -> None:
    with pytest.raises(ImagesError, match="expected a shape"):
        load_photographs("photos", shape=shape, count=count)


def test_a_comparison_shows_what_was_given(tmp_path: Path) -> None:
    originals, found = torch.zeros(3, 3, 8, 6), torch.full((3, 3, 8, 6), 2.0)
    save_comparison(tmp_path / "deep" / "x.png", originals, found, torch.full_like(found, 0.2))
    with Image.open(tmp_path / "deep" / "x.png") as picture:
        sheet = np.asarray(picture)
    assert sheet.shape == (8 * 3 + 4, 6 * 3 + 4, 3)
    assert (sheet[:8, :6] == 0).all()
    assert (sheet[10:18, 8:14] == 255).all()
    assert (sheet[20:28, 16:] == 51).all()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["x.png"]
    save_comparison(tmp_path / "grey.png", torch.zeros(1, 1, 8, 6), torch.ones(1, 1, 8, 6))


def test_a_comparison_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the picture"):
        save_comparison(
            tmp_path / "file" / "x.png", torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
        )
