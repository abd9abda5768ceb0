"""Models by name, factory or file, with their weights and what they expect as input."""

from __future__ import annotations

import importlib
import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from splitdeploy.edge_runtime.preprocess import Preprocessing, normalised
from splitdeploy.partitioner.program import load_program
from splitdeploy.partitioner.trace import Trace, from_program, has_dynamic_batch, trace_module
from splitdeploy.partitioner.weights import (
    Weights,
    apply_state,
    enliven,
    fetch,
    load_state,
    state_sha256,
)
from splitdeploy.profiles.errors import (
    ModelError,
    SplitdeployError,
    UnknownNameError,
    UsageError,
)

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputSpec:
    """What a model takes, for one input.

    Attributes:
        shape: With the batch of one first: ``(1, 3, 224, 224)``.
        mean: What its preprocessing subtracts from pixels on [0, 1], a value a channel.
        std: What it then divides by.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def is_image(self) -> bool:
        """Whether it is one image of one or three channels."""
        return len(self.shape) == 4 and self.shape[1] in {1, 3}

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What is done to a picture before the model; None where it takes none."""
        if not self.is_image:
            return None
        channels, height, width = self.shape[1:]
        return Preprocessing(channels, height, width, self.mean, self.std)

    def normalise(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """The model's input for pixels ``[n, c, h, w]`` on [0, 1]."""
        return normalised(pixels, self.mean, self.std)


@dataclass(frozen=True)
class Given:
    """What `load_model` was called with, so that it can be called again.

    Attributes:
        model: As the user gave it.
        weights: ``auto``, ``none`` or a file.
        input_shape: Without the batch; None for the model's own.
        seed: Of random weights.
    """

    model: str
    weights: str
    input_shape: tuple[int, ...] | None
    seed: int


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to be traced.

    Attributes:
        name: As the user gave it.
        module: In eval mode; None for an ``.onnx`` file.
        input: What it takes.
        example: Positional inputs with a batch of one.
        weights: Where they come from.
        onnx_path: The file, for an ``.onnx`` model; its example inputs are drawn at random.
        program: The exported program, for a ``.pt2`` file.
        given: What it was loaded by; None where it was not by `load_model`.
    """

    name: str
    module: nn.Module | None
    input: InputSpec
    example: tuple[Any, ...]
    weights: Weights
    onnx_path: Path | None = None
    program: torch.export.ExportedProgram | None = None
    given: Given | None = None

    @cached_property
    def trace(self) -> Trace:
        """Its traced graph; traced on first use.

        Returns:
            The trace.

        Raises:
            ModelError: It cannot be traced, or it is an ``.onnx`` file, which has no torch graph.
        """
        if self.program is not None:
            program = self.program.run_decompositions({})
            return from_program(program, self.example, dynamic_batch=has_dynamic_batch(program))
        if self.module is None:
            raise ModelError(f"{self.name} has no torch graph: an .onnx file is cut as it is")
        return trace_module(self.module, self.example)


def model_names() -> list[str]:
    """The torchvision classification models by name, without building any.

    Returns:
        Their names.
    """
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def load_model(
    model: str,
    *,
    weights: str = "auto",
    input_shape: Sequence[int] | None = None,
    seed: int = 0,
) -> LoadedModel:
    """Load a model.

    Args:
        model: A torchvision name, ``package.module:factory``, a ``.pt2`` or an ``.onnx`` file. A
            factory returns a module, or a module and its example inputs (a tuple, batch of one).
        weights: ``auto`` (pretrained where they can be had, else random), ``none`` (random) or a
            state dict's file.
        input_shape: Without the batch: ``(3, 32, 32)``; None for the model's own.
        seed: Of random weights.

    Returns:
        The model, in eval mode, no parameter requiring gradients.

    Raises:
        UnknownNameError: torchvision has no such model.
        ModelError: The factory or file cannot be loaded.
        WeightsError: The weights cannot be loaded, or are of another model.
    """  # noqa: DOC502
    loaded = _load(model, weights, input_shape, seed)
    shape = None if input_shape is None else tuple(input_shape)
    return replace(loaded, given=Given(model, weights, shape, seed))


def _load(model: str, weights: str, input_shape: Sequence[int] | None, seed: int) -> LoadedModel:
    suffix = Path(model).suffix
    if suffix in {".onnx", ".pt2"}:
        _holds_its_own(Path(model), weights, input_shape)
        return _onnx_model(Path(model), seed) if suffix == ".onnx" else _program_model(Path(model))
    if ":" in model:
        return _factory_model(model, weights, input_shape, seed)
    return _torchvision_model(model, weights, input_shape, seed)


def _torchvision_model(
    name: str, weights: str, input_shape: Sequence[int] | None, seed: int
) -> LoadedModel:
    import torchvision

    if name not in model_names():
        raise UnknownNameError(
            "model", name, model_names(), "(or package.module:factory, a .pt2 or an .onnx file)"
        )
    pretrained = torchvision.models.get_model_weights(name).DEFAULT
    transforms = pretrained.transforms()
    size = transforms.crop_size[0]
    shape = tuple(input_shape) if input_shape else (3, size, size)
    build = partial(torchvision.models.get_model, name, weights=None, **_sized(name, shape))
    module = _seeded(build, seed)
    found = _torchvision_weights(name, module, weights, pretrained.url, seed, shape)
    spec = InputSpec((1, *shape), tuple(transforms.mean), tuple(transforms.std))
    return LoadedModel(name, _frozen(module), spec, (torch.zeros(spec.shape),), found)


def _sized(name: str, shape: Sequence[int]) -> dict[str, Any]:
    """What a model whose parameters depend on the size of its pictures is told of it."""
    if name.startswith("vit_"):
        return {"image_size": shape[-1]}
    return {"input_size": tuple(shape[-2:])} if name.startswith("maxvit") else {}


def _torchvision_weights(
    name: str, module: nn.Module, weights: str, url: str, seed: int, shape: tuple[int, ...]
) -> Weights:
    if weights == "auto":
        cached = fetch(url)
        if cached is not None:
            apply_state(module, load_state(cached), cached, name)
            if hasattr(module, "transform_input"):
                # These weights were trained with another normalisation; torchvision's own
                # loading switches this on for them.
                module.transform_input = True  # type: ignore[assignment]
            source = f"pretrained, torchvision {cached.name}"
            return Weights(source, state_sha256(module), trained=True)
        enliven(module, seed, shape)
        source = f"random, seed {seed} (pretrained ones could not be had)"
        return Weights(source, state_sha256(module), trained=False)
    if weights == "none":
        enliven(module, seed, shape)
        return Weights(f"random, seed {seed}", state_sha256(module), trained=False)
    return _from_file(name, module, Path(weights))


def _from_file(name: str, module: nn.Module, path: Path) -> Weights:
    apply_state(module, load_state(path), path, name)
    return Weights(f"file {path.name}", state_sha256(module), trained=True)


def _factory_model(
    name: str, weights: str, input_shape: Sequence[int] | None, seed: int
) -> LoadedModel:
    package, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    if not all(part.isidentifier() for part in [*package.split("."), attribute]):
        raise ModelError(f"expected package.module:factory, got {name!r}")
    try:
        factory = getattr(importlib.import_module(package), attribute)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"cannot find {attribute!r} in module {package!r}: {error}; expected "
            "package.module:factory, importable from here"
        ) from error
    except Exception as error:  # whatever the user's module raises
        raise ModelError(
            f"module {package!r} failed on import: {type(error).__name__}: {error}"
        ) from error
    try:
        made = _seeded(factory, seed)
    except SplitdeployError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise ModelError(f"{name} failed: {type(error).__name__}: {error}") from error
    module, example = made if isinstance(made, tuple) else (made, None)
    if not isinstance(module, nn.Module):
        raise ModelError(f"{name} returned a {type(module).__name__}, expected a torch.nn.Module")
    found = _own_weights(name, module, weights, seed)
    inputs, spec = _example(name, example, input_shape)
    return LoadedModel(name, _frozen(module), spec, inputs, found)


def _own_weights(name: str, module: nn.Module, weights: str, seed: int) -> Weights:
    """What the factory put in, unless a file is given; whether trained, only the user knows."""
    if weights == "auto":
        return Weights("the factory's own", state_sha256(module), trained=True)
    if weights == "none":
        enliven(module, seed)
        source = f"random, as the factory made them with seed {seed}"
        return Weights(source, state_sha256(module), trained=False)
    return _from_file(name, module, Path(weights))


def _example(
    name: str, example: Any, input_shape: Sequence[int] | None
) -> tuple[tuple[Any, ...], InputSpec]:
    if input_shape is not None:
        example = (torch.zeros(1, *input_shape),)
    if example is None:
        example = (torch.zeros(1, 3, 224, 224),)
    inputs = example if isinstance(example, tuple) else (example,)
    first = _first_tensor(inputs)
    if first is None:
        raise ModelError(f"{name}: expected example inputs that hold a tensor, got {example!r:.80}")
    return inputs, _input_spec(tuple(first.shape))


def _first_tensor(tree: Any) -> Tensor | None:
    if isinstance(tree, Tensor):
        return tree
    children = tree.values() if isinstance(tree, dict) else tree
    if isinstance(tree, dict | tuple | list):
        return next((t for child in children if (t := _first_tensor(child)) is not None), None)
    return None


def _input_spec(shape: tuple[int, ...]) -> InputSpec:
    """ImageNet's normalisation for three channels, none otherwise."""
    if len(shape) == 4 and shape[1] == 3:
        return InputSpec(shape, _IMAGENET_MEAN, _IMAGENET_STD)
    channels = shape[1] if len(shape) > 1 else 1
    return InputSpec(shape, (0.0,) * channels, (1.0,) * channels)


def _holds_its_own(path: Path, weights: str, input_shape: Sequence[int] | None) -> None:
    """Refuse options that a file decides."""
    if not path.is_file():
        raise ModelError(f"expected a model file at {path}, there is none: check the path")
    if weights != "auto":
        raise UsageError(f"{path} holds its own weights: leave --weights out")
    if input_shape is not None:
        raise UsageError(f"{path} has its own input shape: leave --input-shape out")


def _program_model(path: Path) -> LoadedModel:
    program = load_program(path)
    if program.example_inputs is None:
        raise ModelError(f"{path} holds no example inputs: save it with torch.export.save again")
    inputs = program.example_inputs[0]
    first = _first_tensor(inputs)
    if first is None:
        raise ModelError(f"{path} takes no tensor, expected a model with a tensor input")
    if first.dim() and first.shape[0] != 1 and not has_dynamic_batch(program):
        raise ModelError(_batch_of(path, first.shape[0]))
    digest = state_sha256(program.module())
    found = Weights(f"in {path.name}", digest, trained=True)
    return LoadedModel(
        path.stem, None, _input_spec((1, *first.shape[1:])), inputs, found, program=program
    )


def _onnx_model(path: Path, seed: int) -> LoadedModel:
    from splitdeploy.partitioner.onnx_graph import onnx_inputs, onnx_sha256

    inputs = onnx_inputs(path)
    for spec in inputs:
        if spec.shape and spec.shape[0] != 1:
            raise ModelError(_batch_of(path, spec.shape[0]))
    found = Weights(f"in {path.name}", onnx_sha256(path), trained=True)
    draw = np.random.default_rng(seed)
    # A file has no example inputs; integers may be indices, of which only zero is surely one.
    example = tuple(
        torch.from_numpy(
            draw.standard_normal(spec.shape).astype(spec.dtype)
            if spec.dtype.startswith("float")
            else np.zeros(spec.shape, spec.dtype)
        )
        for spec in inputs
    )
    shape = _input_spec(inputs[0].shape)
    return LoadedModel(path.stem, None, shape, example, found, onnx_path=path)


def _batch_of(path: Path, batch: int) -> str:
    return (
        f"{path} takes a fixed batch of {batch}, expected one that may vary, or a batch of one: "
        "export it with a dynamic batch"
    )


def _seeded(factory: Any, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        return factory()


def _frozen(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)


def parse_shape(text: str) -> tuple[int, ...]:
    """An input shape from text such as ``3x224x224``.

    Args:
        text: Sizes, an ``x`` between them.

    Returns:
        The sizes.

    Raises:
        UsageError: It is no such text, or a size is not above zero.
    """
    try:
        sizes = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        sizes = ()
    if not sizes or math.prod(sizes) <= 0 or min(sizes) <= 0:
        raise UsageError(f"expected a shape such as 3x224x224, got {text!r}")
    return sizes
