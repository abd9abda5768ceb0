"""Weights: pretrained where they can be had, from a file, or seeded random ones."""

from __future__ import annotations

import hashlib
import os
import socket
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from splitdeploy.partitioner.trace import quiet
from splitdeploy.profiles.errors import WeightsError

CONNECT_TIMEOUT_S = 3.0
"""A connection that does not come in this time counts as none."""


@dataclass(frozen=True)
class Weights:
    """Where the weights of a model come from.

    Attributes:
        source: In words, for the report.
        sha256: Of the state dict: names, dtypes, shapes and bytes, in order.
        trained: Whether they were trained; leakage of random ones says little of trained ones.
    """

    source: str
    sha256: str
    trained: bool


def load_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, without unpickling anything but tensors.

    Args:
        path: ``.safetensors``, or what ``torch.save`` wrote; a dict that holds the state dict
            under ``state_dict`` or ``model`` will do.

    Returns:
        Tensors by name; a ``module.`` in front of every name is taken off.

    Raises:
        WeightsError: There is no such file, or it is no state dict.
    """
    if not path.is_file():
        raise WeightsError(f"expected a weights file at {path}, there is none: check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: Any = load_file(path)
        else:
            with quiet():
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise many types
        first = str(error).strip().splitlines()
        raise WeightsError(
            f"{path} is damaged or no state dict ({type(error).__name__}: "
            f"{first[0][:120] if first else ''}): expected a .safetensors file or tensors saved "
            "by torch.save; whole pickled modules are refused, save model.state_dict()"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise WeightsError(f"{path} holds a {type(loaded).__name__}, expected tensors by name")
    if loaded and all(name.startswith("module.") for name in loaded):
        return {name.removeprefix("module."): value for name, value in loaded.items()}
    return dict(loaded)


def apply_state(module: nn.Module, state: Mapping[str, Tensor], path: Path, model: str) -> None:
    """Put a state dict into a module, all of it or not at all.

    Args:
        module: Changed in place.
        state: Tensors by name.
        path: Where they come from, for the message.
        model: What the module is called, for the message.

    Raises:
        WeightsError: Names or shapes do not match: the file is of another model.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("batches_tracked")]
    unexpected = [name for name in state if name not in own]
    reshaped = [n for n in state if n in own and own[n].shape != state[n].shape]
    if not (missing or unexpected or reshaped):
        module.load_state_dict(state, strict=False)
        return
    parts = []
    for what, names in (("lacks", missing), ("has besides", unexpected)):
        if names:
            parts.append(f"{what} {len(names)} tensors ({', '.join(names[:2])}, …)")
    if reshaped:
        name = reshaped[0]
        want, have = list(own[name].shape), list(state[name].shape)
        parts.append(f"{name} is {have} where {want} is expected")
    raise WeightsError(
        f"{path} is not of {model}: it {'; '.join(parts)}. Give the weights of this model, "
        "or --weights none"
    )


def fetch(url: str) -> Path | None:
    """A weights file from torch's cache, or downloaded into it; None where it cannot be had.

    Args:
        url: As torchvision names it; the first digits of the file's SHA-256 stand in its name.

    Returns:
        The cached file.

    Raises:
        WeightsError: What arrived is not what its name promises.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    name = Path(urlparse(url).path).name
    cached = folder / name
    if cached.is_file():
        return cached
    host = urlparse(url).hostname or ""
    partial = folder / f"{name}.{os.getpid()}.part"
    try:
        socket.create_connection((host, 443), timeout=CONNECT_TIMEOUT_S).close()
        folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with (
            urllib.request.urlopen(url, timeout=CONNECT_TIMEOUT_S) as answer,
            partial.open("wb") as out,
        ):
            while block := answer.read(1 << 20):
                digest.update(block)
                out.write(block)
        if digest.hexdigest()[:8] not in name:
            raise WeightsError(f"{url} did not arrive whole: its checksum is not in its name")
        partial.replace(cached)
    except OSError:
        return None
    finally:
        partial.unlink(missing_ok=True)
    return cached


def state_sha256(module: nn.Module) -> str:
    """A digest of all tensors of a module.

    Args:
        module: Any.

    Returns:
        Hexadecimal SHA-256.
    """
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(
            tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data
            if tensor.dim() and tensor.numel()
            else bytes(str(tensor.tolist()), "ascii")
        )
    return digest.hexdigest()


def enliven(module: nn.Module, seed: int, shape: tuple[int, ...] | None = None) -> None:
    """Let an untrained model answer something, and something else to every input.

    Some start with a zero classifier; in others the signal fades below the biases, as batch norms
    that saw no data do not bring it back. Comparing a tail that answers the same to everything
    proves nothing. So matrices of zeros get small random values, and where the answers to two
    inputs are all but equal, batch norms that get a signal that has faded or grown a hundredfold
    bring it back to one. All others stay as they are: normalising what every one of them gets
    makes deep nets chaotic, so that rounding errors grow as large as the answers.

    Args:
        module: Randomly initialised; changed in place, and left in eval mode.
        seed: Of the random values.
        shape: Of one input, for the batch norms; None leaves them as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() >= 2 and not parameter.any():
                parameter.normal_(0.0, 0.02, generator=generator)
    module.eval()
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if shape is None or not norms:
        return
    inputs = torch.randn(2, *shape, generator=generator)
    if _tells_apart(module, inputs):
        return
    hooks = [norm.register_forward_pre_hook(_take_scale) for norm in norms]
    with torch.no_grad():
        module(inputs)
    for hook in hooks:
        hook.remove()


def _tells_apart(module: nn.Module, inputs: Tensor) -> bool:
    """Whether the answers to two inputs differ by more than a hundredth of the largest."""
    with torch.no_grad():
        answers = module(inputs)
    if not isinstance(answers, Tensor):
        return True
    difference = (answers[0] - answers[1]).abs().max()
    return bool(difference > 1e-2 * answers.abs().max())


def _take_scale(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    square = inputs[0].square().mean().item()
    if isinstance(norm.running_var, Tensor) and square > 0 and not 1e-4 < square < 1e4:
        norm.running_var.fill_(square)
