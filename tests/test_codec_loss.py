"""What a codec costs, and what it is calibrated on: pictures that nothing else looks at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from splitdeploy.edge_runtime.bundle import read_bundle
from splitdeploy.edge_runtime.bundle_part import copy_edge_part
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.partitioner.api import split
from splitdeploy.partitioner.codec import calibrate, widest
from splitdeploy.partitioner.models import LoadedModel, load_model
from splitdeploy.partitioner.ranges import CALIBRATED_ON
from splitdeploy.profiles.errors import OutputError


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model("small_models:small_resnet")


def test_ranges_of_batches_are_the_range_of_all() -> None:
    features = np.random.default_rng(0).normal(size=(6, 3, 4, 4)).astype(np.float32)
    whole = calibrate({"z": features})["z"]
    both = widest(calibrate({"z": features[:2]}), calibrate({"z": features[2:]}))["z"]
    np.testing.assert_array_equal(both.largest, whole.largest)


def test_an_int8_codec_is_calibrated_and_judged_on_pictures_of_their_own(
    model: LoadedModel, tmp_path: Path
) -> None:
    found = split(model, "blocks.0", tmp_path / "b", precision="int8")
    assert found.ranges is not None and found.loss is not None
    assert found.ranges.images == CALIBRATED_ON and found.ranges.aside
    assert found.loss.images == 32 and found.loss.aside
    assert found.loss.top1_agreement is not None and found.loss.top1_agreement > 0.5
    told = json.loads((tmp_path / "b/manifest.json").read_text())["codec_loss"]
    assert told["source"] == "measured" and told["top1_agreement"] == found.loss.top1_agreement
    assert 0.0 < told["max_rel_error"] < 0.1
    assert len(found.told()) == 1 and "same class" in found.told()[0]


def test_the_loss_is_what_the_written_graphs_have(model: LoadedModel, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i in range(7):
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 40)).save(folder / f"{i}.png")
    found = split(model, "blocks.0", tmp_path / "b", precision="fp16", images=folder, image_count=3)
    assert found.loss is not None and found.loss.images == 4 and found.loss.aside
    bundle = read_bundle(tmp_path / "b")
    assert bundle.preprocessing is not None
    pictures = [Image.open(folder / f"{i}.png") for i in range(3, 7)]
    inputs = bundle.preprocessing(pictures)
    split(model, "blocks.0", tmp_path / "plain", images=folder, image_count=3)
    answers = []
    for place in ("b", "plain"):
        head = OnnxRuntimeSession(tmp_path / place / "head.onnx")
        tail = OnnxRuntimeSession(tmp_path / place / "tail.onnx")
        answers.append(next(iter(tail.run(head.run({head.inputs[0].name: inputs})).values())))
    error = np.abs(answers[0] - answers[1]).max() / np.abs(answers[1]).max()
    # Half a unit of float16 at the cut, summed in another order by a batch of four.
    assert found.loss.max_rel_error == pytest.approx(error, rel=0.2)
    same = (answers[0].argmax(1) == answers[1].argmax(1)).mean()
    assert found.loss.top1_agreement == same


def test_too_few_pictures_are_told(model: LoadedModel, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(2):
        Image.new("RGB", (40, 40), (90 * i, 40, 200)).save(folder / f"{i}.png")
    found = split(model, "blocks.0", tmp_path / "b", precision="int8", images=folder, image_count=4)
    assert "calibrated on 2 pictures, of 32" in found.told()[1]
    assert "judged on pictures that were used before" in found.told()[2]


def test_a_devices_part_has_a_head_and_a_tail_only_if_asked(
    model: LoadedModel, tmp_path: Path
) -> None:
    split(model, "blocks.0", tmp_path / "b")
    bundle = read_bundle(tmp_path / "b")
    part = copy_edge_part(bundle, tmp_path / "edge")
    assert part.head.read_bytes() == bundle.head.read_bytes()
    assert sorted(path.name for path in part.folder.iterdir()) == ["head.onnx", "manifest.json"]
    assert part.digest == bundle.digest
    both = copy_edge_part(bundle, tmp_path / "both", local_tail=True)
    assert both.tail.read_bytes() == bundle.tail.read_bytes()
    with pytest.raises(OutputError, match="expected a new or an empty folder"):
        copy_edge_part(bundle, tmp_path / "both")
