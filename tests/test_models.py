"""Models by name, by factory and by file, and what is said of those that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import SmallResNet
from torch import nn

from splitdeploy.partitioner.models import InputSpec, load_model, model_names, parse_shape
from splitdeploy.profiles.errors import ModelError, SplitdeployError, UnknownNameError, UsageError


def test_a_torchvision_model_knows_its_input_and_is_frozen() -> None:
    model = load_model("squeezenet1_1", weights="none")
    assert model.module is not None
    assert model.input.shape == (1, 3, 224, 224)
    assert model.input.mean == (0.485, 0.456, 0.406)
    assert not model.module.training
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert [tuple(t.shape) for t in model.example] == [(1, 3, 224, 224)]


def test_the_input_shape_may_be_given() -> None:
    model = load_model("squeezenet1_1", weights="none", input_shape=(3, 64, 96))
    assert model.input.shape == (1, 3, 64, 96)
    assert model.trace.graph.inputs[0].shape == (1, 3, 64, 96)


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown model 'resnet81': did you mean .*resnet18"
    ):
        load_model("resnet81")


def test_an_unknown_name_says_what_else_a_model_may_be() -> None:
    with pytest.raises(UnknownNameError, match=r"package\.module:factory, a \.pt2 or an \.onnx"):
        load_model("qqqq")


def test_names_are_those_of_torchvision() -> None:
    import torchvision

    assert model_names() == torchvision.models.list_models(module=torchvision.models)


def test_a_factory_brings_its_example_inputs() -> None:
    model = load_model("small_models:small_resnet")
    assert isinstance(model.module, SmallResNet)
    assert model.input.shape == (1, 3, 32, 32)
    assert model.weights.source == "the factory's own"
    assert not model.module.training


def test_a_class_is_a_factory_too() -> None:
    model = load_model("small_models:SmallResNet", input_shape=(3, 16, 16))
    assert model.trace.graph.inputs[0].shape == (1, 3, 16, 16)


def test_a_factory_is_seeded() -> None:
    hashes = [
        load_model("small_models:small_resnet", seed=seed).weights.sha256 for seed in (3, 3, 4)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_making_a_model_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model("small_models:small_resnet", seed=9)
    assert torch.equal(torch.rand(3), expected)


def test_without_weights_a_factory_is_taken_at_its_word() -> None:
    weights = load_model("small_models:small_resnet", weights="none").weights
    assert not weights.trained
    assert weights.source == "random, as the factory made them with seed 0"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module:f", r"cannot find 'f' in module 'no_such_module'"),
        ("small_models:no_such_name", r"has no attribute 'no_such_name'"),
        ("small_models:", r"expected package\.module:factory, got 'small_models:'"),
        (":f", r"expected package\.module:factory, got ':f'"),
        (".small_models:f", r"expected package\.module:factory"),
        ("small_models:failing", r"failed: RuntimeError: no such checkpoint"),
        ("small_models:no_module", r"returned a int, expected a torch\.nn\.Module"),
        ("small_models:MODELS", r"failed: TypeError"),
    ],
)
def test_a_factory_that_is_none_is_told(name: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        load_model(name)


def test_a_module_that_fails_on_import_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fails_on_import.py").write_text("raise ValueError('no licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="failed on import: ValueError: no licence"):
        load_model("fails_on_import:make")


def test_an_error_of_ours_passes_through_a_factory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from splitdeploy.profiles.errors import ImagesError as E\ndef f():\n    raise E('x')\n"
    (tmp_path / "raises_ours.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SplitdeployError, match="^x$"):
        load_model("raises_ours:f")


def test_an_example_without_a_tensor_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import torch\ndef f():\n    return torch.nn.ReLU(), (3, 'x')\n"
    (tmp_path / "odd_example.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="expected example inputs that hold a tensor"):
        load_model("odd_example:f")


def test_control_flow_that_depends_on_data_is_told_and_nothing_is_printed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = load_model("small_models:data_dependent")
    with pytest.raises(ModelError, match="control flow depends on data") as error:
        _ = model.trace
    assert "torch.where" in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_shape_that_the_model_cannot_take_is_told() -> None:
    with pytest.raises(ModelError, match=r"torch\.export cannot trace the model"):
        _ = load_model("small_models:small_resnet", input_shape=(1, 16, 16)).trace


def test_a_model_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    for name in ("gone.pt2", "gone.onnx"):
        with pytest.raises(ModelError, match=f"expected a model file at .*{name}, there is none"):
            load_model(str(tmp_path / name))


def test_a_model_file_holds_its_own_weights_and_shape(tmp_path: Path) -> None:
    path = tmp_path / "any.onnx"
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="leave --weights out"):
        load_model(str(path), weights="none")
    with pytest.raises(UsageError, match="leave --input-shape out"):
        load_model(str(path), input_shape=(3, 8, 8))


@pytest.mark.parametrize(
    ("text", "shape"), [("3x224x224", (3, 224, 224)), ("1X28x28", (1, 28, 28)), ("10", (10,))]
)
def test_shapes_are_parsed(text: str, shape: tuple[int, ...]) -> None:
    assert parse_shape(text) == shape


@pytest.mark.parametrize("text", ["", "x", "3x", "3x0x5", "-3x-4", "3,4", "axb", "3x2.5"])
def test_what_is_no_shape_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="expected a shape such as 3x224x224"):
        parse_shape(text)


def test_normalising_is_what_torch_does() -> None:
    spec = InputSpec((1, 3, 4, 4), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    pixels = np.random.default_rng(0).random((2, 3, 4, 4), np.float32)
    mean, std = torch.tensor(spec.mean).view(3, 1, 1), torch.tensor(spec.std).view(3, 1, 1)
    expected = ((torch.from_numpy(pixels) - mean) / std).numpy()
    np.testing.assert_allclose(spec.normalise(pixels), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "is_image"),
    [((1, 3, 8, 8), True), ((1, 1, 8, 8), True), ((1, 4, 8, 8), False), ((1, 12), False)],
)
def test_what_counts_as_a_picture(shape: tuple[int, ...], is_image: bool) -> None:
    assert InputSpec(shape, (0.0,), (1.0,)).is_image is is_image


def test_a_grey_factory_is_not_normalised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import torch\ndef f():\n    return torch.nn.Conv2d(1, 2, 3), torch.zeros(1, 1, 8, 8)\n"
    (tmp_path / "grey_factory.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    model = load_model("grey_factory:f")
    assert isinstance(model.module, nn.Conv2d)
    assert (model.input.mean, model.input.std) == ((0.0,), (1.0,))
