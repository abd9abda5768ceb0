"""A head of the same architecture that was never trained: what an attacker knows who knows no more.

Modules that can reset themselves do (PyTorch's default initialisation). A head that was cut out of
a traced program holds bare tensors instead, with batch norms folded in: its matrices and kernels
are drawn as He et al. 2015 do, which keeps the scale of what passes through, its shifts are 0 and
its gains 1.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from splitdeploy.attacks.pixel_head import PixelHead

_TRACED_PARAMETER = "p_"
"""How `torch.export` names the placeholder of a parameter."""

_FOLDED = ("__weight", "__bias")
_TOKENS = 0.02
"""Standard deviation of what is neither kernel, shift nor gain: embeddings, tokens."""


def fresh_head(head: PixelHead, seed: int) -> PixelHead:
    """The same layers with random parameters, ready to be trained.

    Args:
        head: Whose architecture is known; its weights leave no trace in the result.
        seed: Of the draw.

    Returns:
        A head in eval mode whose parameters require gradients.
    """
    inner = copy.deepcopy(head.head)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in inner.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            else:
                _draw_bare(module)
    fresh = PixelHead(inner, (0.0,), (1.0,))
    fresh.mean, fresh.std = head.mean.clone(), head.std.clone()
    return fresh.eval().requires_grad_(True)


def _draw_bare(module: nn.Module) -> None:
    """New values for tensors that belong to a module which cannot reset itself."""
    for name, tensor in list(_own_parameters(module)):
        delattr(module, name)
        module.register_parameter(name, nn.Parameter(_drawn(name, tensor)))


def _own_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    for name, tensor in module.named_buffers(recurse=False):
        traced = name.startswith(_TRACED_PARAMETER) or name.endswith(_FOLDED)
        if traced and tensor.is_floating_point():
            yield name, tensor


def _drawn(name: str, like: Tensor) -> Tensor:
    shape, device = like.shape, like.device
    if like.dim() >= 2 and name.endswith("weight"):
        deviation = math.sqrt(2.0 / math.prod(shape[1:]))
    elif like.dim() <= 1:
        return torch.full(shape, 1.0 if name.endswith("weight") else 0.0, device=device)
    else:
        deviation = _TOKENS
    return (deviation * torch.randn(shape, device="cpu")).to(device)
