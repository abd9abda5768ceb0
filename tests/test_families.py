"""One torchvision classifier of every family, cut at every block, each cut verified."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from splitdeploy.partitioner.models import load_model, model_names
from splitdeploy.partitioner.plan import make_plan
from splitdeploy.partitioner.progress import Silent
from splitdeploy.partitioner.sweep import run_halves_of, verify_cuts

# What the names of a family look like; the smallest of it, on pictures as small as it takes.
FAMILIES = {
    r"alexnet": ("alexnet", 64),
    r"convnext_[a-z]+": ("convnext_tiny", 64),
    r"densenet\d+": ("densenet121", 64),
    r"efficientnet_b\d": ("efficientnet_b0", 64),
    r"efficientnet_v2_[sml]": ("efficientnet_v2_s", 64),
    r"googlenet": ("googlenet", 64),
    r"inception_v3": ("inception_v3", 96),
    r"maxvit_t": ("maxvit_t", 224),  # its windows of 7 × 7, 32 times coarser than the picture
    r"mnasnet\d_\d+": ("mnasnet0_5", 64),
    r"mobilenet_v2": ("mobilenet_v2", 64),
    r"mobilenet_v3_[a-z]+": ("mobilenet_v3_small", 64),
    r"regnet_x_\w+": ("regnet_x_400mf", 64),
    r"regnet_y_\w+": ("regnet_y_400mf", 64),
    r"resnet\d+": ("resnet18", 64),
    r"resnext\d+_\w+": ("resnext50_32x4d", 64),
    r"shufflenet_v2_\w+": ("shufflenet_v2_x0_5", 64),
    r"squeezenet\d_\d": ("squeezenet1_1", 64),
    r"swin_[tsb]": ("swin_t", 64),
    r"swin_v2_[tsb]": ("swin_v2_t", 64),
    r"vgg\d+(_bn)?": ("vgg11", 64),
    r"vit_[a-z]_\d+": ("vit_b_32", 64),
    r"wide_resnet\d+_\d": ("wide_resnet50_2", 64),
}

MARGIN = 1e-3
"""How far apart two answers are at least: ten times the error that verification lets pass."""


def test_the_list_covers_every_family() -> None:
    assert [n for n in model_names() if not any(re.fullmatch(f, n) for f in FAMILIES)] == []


@pytest.mark.parametrize(("name", "size"), FAMILIES.values())
def test_every_block_cut_is_verified(name: str, size: int, tmp_path: Path) -> None:
    model = load_model(name, weights="none", input_shape=(3, size, size))
    plan = make_plan(
        model, cuts="block", precision="fp32", images=None, image_count=2, seed=0, folder=tmp_path
    )
    assert plan.exported.dynamic_batch
    assert plan.whole.ok, f"ONNX Runtime against torch: {plan.whole}"
    assert plan.whole.images == 2
    # A model that answers the same to both would make the comparison vain.
    first, second = plan.expected[0]
    assert np.abs(first - second).max() > MARGIN * np.abs(first).max()
    rows = verify_cuts(plan, Silent())
    assert len(rows) >= 6
    for row in (*rows, *(run_halves_of(plan, row) for row in rows)):
        assert row.error is None, f"{row.name}: {row.error}"
        assert row.verified is not None and row.verified.ok
    assert [row.cut.head_macs for row in rows] == sorted(row.cut.head_macs for row in rows)
