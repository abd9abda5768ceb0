"""Generators in files, and generators of a user's own.

A file is an .npz without pickle: tensors by name, and one text with architecture and origin.
"""

from __future__ import annotations

import importlib
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import nn

from splitdeploy.attacks.generator import Generator
from splitdeploy.attacks.generators.check import check_generator
from splitdeploy.attacks.generators.decoder import wrap_generator
from splitdeploy.attacks.generators.origin import Origin
from splitdeploy.attacks.generators.small import Architecture, SmallGenerator
from splitdeploy.profiles.errors import AttackError, OutputError
from splitdeploy.profiles.store import write_atomically

_HEADER = "splitdeploy_generator"
_RESIDUAL = "residual"
_VERSION = 1


def save_generator(generator: SmallGenerator, path: Path) -> None:
    """Write a generator to a file.

    Args:
        generator: Trained or not.
        path: The file; its folder is made where it is missing.

    Raises:
        OutputError: The place cannot be written.
    """
    origin = generator.origin
    header = {
        "version": _VERSION,
        "architecture": asdict(generator.architecture),
        "origin": None if origin is None else asdict(origin),
    }
    arrays: dict[str, Any] = {
        name: tensor.detach().cpu().contiguous().numpy()
        for name, tensor in generator.state_dict().items()
    }
    if generator.residual is not None:
        arrays[_RESIDUAL] = generator.residual.detach().cpu().numpy()
    arrays[_HEADER] = np.array(json.dumps(header))
    out = io.BytesIO()
    np.savez(out, **arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, out.getvalue())
    except (OSError, OutputError) as error:
        raise OutputError(f"cannot write the generator {path}: {error}; choose another") from error


def load_generator(source: Path | str) -> Generator:
    """A generator from a file, or of a user's own code.

    Args:
        source: A file that `save_generator` wrote, or ``package.module:factory``, which is called
            without arguments and returns a `Generator`, or a module from ``[n, k]`` to pixels on
            [0, 1] with the attributes ``latent_size`` and ``image_shape``.

    Returns:
        The generator, in eval mode, without gradients for its parameters.

    Raises:
        AttackError: There is no such file or factory, it is none of a generator, or the generator
            does not fit together.
    """
    if not isinstance(source, Path) and ":" in source and not Path(source).exists():
        generator = _of_factory(source)
    else:
        generator = _of_file(Path(source))
    generator.eval().requires_grad_(False)
    check_generator(generator)
    return generator


def _of_file(path: Path) -> SmallGenerator:
    if not path.is_file():
        raise AttackError(
            f"expected a generator's file, got {path}, which "
            f"{'is no file' if path.exists() else 'does not exist'}: train one with splitdeploy "
            "prior train, or name package.module:factory"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays.pop(_HEADER)[()]))
        if header["version"] != _VERSION:
            raise ValueError(f"version {header['version']} instead of {_VERSION}")
        settings = dict(header["architecture"])
        settings["image_shape"] = tuple(settings["image_shape"])
        generator = SmallGenerator(Architecture(**settings))
        residual = arrays.pop(_RESIDUAL, None)
        if residual is not None:
            generator.residual = torch.from_numpy(residual).view(generator.image_shape)
        generator.load_state_dict({name: torch.from_numpy(a) for name, a in arrays.items()})
        generator.origin = None if header["origin"] is None else Origin(**header["origin"])
    except (
        OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError,
        BadZipFile, AttackError,
    ) as error:  # fmt: skip
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise AttackError(
            f"expected a generator as splitdeploy prior train writes it, got {path} ({reason}): "
            "train it anew"
        ) from error
    return generator


def _of_factory(name: str) -> Generator:
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise AttackError(
            f"expected a generator as package.module:factory, got {name!r} ({error}): check the "
            "name, and that the module can be imported from here"
        ) from error
    made = factory() if callable(factory) else factory
    if isinstance(made, Generator):
        return made
    size, shape = getattr(made, "latent_size", None), getattr(made, "image_shape", None)
    if not isinstance(made, nn.Module) or not isinstance(size, int) or shape is None:
        raise AttackError(
            f"expected {name} to return a Generator, or a module with latent_size and image_shape, "
            f"got {type(made).__name__}: see splitdeploy.attacks.generator"
        )
    return wrap_generator(made, size, _picture_shape(shape))


def _picture_shape(shape: Any) -> tuple[int, int, int]:
    try:
        channels, height, width = (int(s) for s in shape)
    except (TypeError, ValueError):
        raise AttackError(f"expected an image_shape (c, h, w), got {shape!r}") from None
    return channels, height, width
