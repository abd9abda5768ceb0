"""Convolutions and batch norms whose second derivatives cost what the linear map costs.

A Jacobian-vector product by double backward goes through the derivative of the backward pass.
PyTorch's derivative of a convolution's backward also computes the gradient of the weights, wanted
or not, and that of an evaluated batch norm is a dozen element-wise passes. Both are affine maps of
their input: while `plain_adjoints` is active, calls of them are replaced by that map and its
adjoint, which makes the product about twice as fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

_Geometry = tuple[list[int], list[int], list[int], int]  # stride, padding, dilation, groups

_CONVOLUTIONS: dict[object, int] = {
    torch.conv1d: 1,
    torch.conv2d: 2,
    torch.conv3d: 3,
    torch.ops.aten.conv1d.default: 1,
    torch.ops.aten.conv2d.default: 2,
    torch.ops.aten.conv3d.default: 3,
}
_BATCH_NORMS: dict[object, tuple[str, ...]] = {
    torch.nn.functional.batch_norm: (
        "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
    ),
    torch.batch_norm: (
        "input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps",
    ),
    torch.ops.aten.batch_norm.default: (
        "input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps",
    ),
}  # fmt: skip
_CONVOLUTION_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class _Convolution(Function):
    """The convolution; its backward is `_Adjoint`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.geometry = x.shape, geometry
        stride, padding, dilation, groups = geometry
        zeros = [0] * len(stride)
        return torch.convolution(
            x, weight, bias, stride, padding, dilation, False, zeros, groups
        )  # fmt: skip

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        adjoint = cast("Tensor", _Adjoint.apply(grads[0], weight, ctx.shape, ctx.geometry))
        return adjoint, None, None, None


class _Adjoint(Function):
    """The transpose of the convolution's linear part; its backward is the linear part."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, weight: Tensor, shape: torch.Size, geometry: _Geometry
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.geometry = geometry
        stride, padding, dilation, groups = geometry
        zeros = [0] * len(stride)
        # The input's values do not enter its own gradient; only its shape is asked for.
        out = torch.ops.aten.convolution_backward(
            g, g.new_empty(shape), weight, None, stride, padding, dilation, False, zeros, groups,
            [True, False, False],
        )  # fmt: skip
        return cast("Tensor", out[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        linear = cast("Tensor", _Convolution.apply(grads[0], weight, None, ctx.geometry))
        return linear, None, None, None


def _bind(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _spread(value: int | Sequence[int], rank: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values


def _convolve(call: Mapping[str, Any], rank: int) -> Tensor | None:
    x, padding = call["input"], call.get("padding", 0)
    if isinstance(padding, str) or x.dim() != rank + 2 or not x.requires_grad:
        return None
    geometry: _Geometry = (
        _spread(call.get("stride", 1), rank),
        _spread(padding, rank),
        _spread(call.get("dilation", 1), rank),
        call.get("groups", 1),
    )
    return cast("Tensor", _Convolution.apply(x, call["weight"], call.get("bias"), geometry))


def _normalise(call: Mapping[str, Any]) -> Tensor | None:
    mean, var, x = call.get("running_mean"), call.get("running_var"), call["input"]
    if call.get("training", False) or mean is None or var is None:
        return None
    scale = torch.rsqrt(var + call.get("eps", 1e-5))
    if call.get("weight") is not None:
        scale = scale * call["weight"]
    shift = -mean * scale
    if call.get("bias") is not None:
        shift = shift + call["bias"]
    shape = (1, -1) + (1,) * (x.dim() - 2)
    return cast("Tensor", x * scale.view(shape) + shift.view(shape))


class _PlainAdjoints(TorchFunctionMode):
    """Replaces the calls; anything that it does not know passes through untouched."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        out: Tensor | None = None
        if func in _CONVOLUTIONS:
            out = _convolve(_bind(_CONVOLUTION_NAMES, args, kwargs), _CONVOLUTIONS[func])
        elif func in _BATCH_NORMS:
            out = _normalise(_bind(_BATCH_NORMS[func], args, kwargs))
        return func(*args, **kwargs) if out is None else out


@contextmanager
def plain_adjoints() -> Iterator[None]:
    """Within it, convolutions and evaluated batch norms are affine maps with plain adjoints.

    The parameters must not require gradients: none flow to them.

    Yields:
        Nothing.
    """
    with _PlainAdjoints():
        yield
