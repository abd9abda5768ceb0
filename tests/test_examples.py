"""The examples do what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

import splitdeploy

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_a_model_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    model = splitdeploy.load_model("own_model:camera_net")
    assert model.input.shape == (1, 3, 96, 128)
    names = [cut.name for cut in splitdeploy.find_cuts(model)]
    assert names == ["cloud-only", "stem.1", "body.0", "body.1", "pool", "edge-only"]
