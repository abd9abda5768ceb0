"""The Jacobian of the smashed data by the pixels, as an operator: never a matrix, unless small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from splitdeploy.attacks.leakage.adjoint import plain_adjoints
from splitdeploy.attacks.leakage.rank import narrowest
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import LeakageError

_STOCHASTIC = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)


class HeadJacobian:
    """J(x) = ∂features/∂pixels at each image of a batch, block-diagonal over the images.

    The graph is built once; then a product with Jᵀ is one backward pass, and a product with J one
    backward pass through the backward pass, which is linear in its cotangent (double backward;
    Townsend 2017). Where an operator has no derivative of its backward, products with J fall back
    to forward-mode differentiation, a pass through the head each.

    Args:
        head: The head from pixels; in eval mode.
        pixels: Where to differentiate, ``[n, c, h, w]`` on [0, 1].

    Attributes:
        features: The smashed data ``[n, k]`` at the pixels, detached.
        tensors: The same, a tensor for each tensor that crosses the cut.
        images: How many images, n.
        inputs: Input elements of an image, d.
        outputs: Smashed-data elements of an image, k.
        shape: ``(c, h, w)``.

    Raises:
        LeakageError: The head is random, in training mode, mixes the images of a batch, or is not
            differentiable.
    """

    def __init__(self, head: PixelHead, pixels: Tensor) -> None:
        if pixels.dim() != 4 or not pixels.is_floating_point():
            raise LeakageError(
                "expected floating-point pixels [n, c, h, w], got "
                f"{pixels.dtype} of shape {tuple(pixels.shape)}"
            )
        _check_mode(head)
        self._head = head
        self._pixels = pixels.detach().clone()
        self.images, self.inputs = pixels.shape[0], pixels[0].numel()
        self.shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
        # Callers may sit in no_grad or inference_mode; a graph is needed all the same.
        with torch.inference_mode(False), torch.enable_grad(), _frozen(head):
            self._leaf = self._pixels.clone().requires_grad_()
            with plain_adjoints():
                tensors = head(self._leaf)
            self._output = torch.cat([t.flatten(1) for t in tensors], dim=1)
            with torch.no_grad():
                again = head.features(self._pixels)
        self.tensors = tuple(t.detach() for t in tensors)
        self.features = self._output.detach()
        self.outputs = self.features.shape[1]
        self._check_features(again)
        self._jvp = self._choose_jvp()

    def vjp(self, u: Tensor) -> Tensor:
        """Jᵀu, image by image.

        Args:
            u: Cotangents of the smashed data, ``[n, k]``.

        Returns:
            ``[n, d]``.
        """
        (g,) = torch.autograd.grad(self._output, self._leaf, u, retain_graph=True)
        return g.flatten(1)

    def jvp(self, v: Tensor) -> Tensor:
        """Jv, image by image.

        Args:
            v: Directions in pixel space, ``[n, d]``.

        Returns:
            ``[n, k]``.
        """
        return self._jvp(v.view_as(self._pixels))

    def dense(self) -> Tensor:
        """The Jacobian as a matrix, from min(k, d) products; for small heads.

        Returns:
            ``[n, k, d]``.
        """
        n, d, k = self.images, self.inputs, self.outputs
        jacobian = self._pixels.new_empty(n, k, d)
        for i in range(min(k, d)):
            unit = self._pixels.new_zeros(n, k if k <= d else d)
            unit[:, i] = 1.0
            if k <= d:
                jacobian[:, i] = self.vjp(unit)
            else:
                jacobian[:, :, i] = self.jvp(unit)
        return jacobian

    def rank_bound(self, u: Tensor) -> Tensor:
        """An upper bound on the rank of each image's Jacobian.

        The rank is at most the number of elements with a gradient of any tensor that every path
        from pixels to smashed data goes through: a bottleneck, or the pre-activations of a ReLU
        that are positive.

        Args:
            u: Cotangents without zeros, in general position (random), ``[n, k]``.

        Returns:
            ``[n]``, int64.
        """
        return narrowest(self._output, self._leaf, u)

    def _check_features(self, again: Tensor) -> None:
        if self._output.grad_fn is None:
            raise LeakageError(
                "expected a differentiable head, got one whose output does not depend on the "
                "pixels by differentiable operations; quantised and detached heads have no "
                "Fisher information: measure their float head with the quantiser as noise"
            )
        if not bool(torch.isfinite(self.features).all()):
            raise LeakageError("expected finite smashed data, got NaN or Inf from the head")
        scale = self.features.abs().amax().clamp_min(torch.finfo(self.features.dtype).tiny)
        # The plain adjoints re-associate sums: rounding may differ, and nothing else.
        tolerance = 1e3 * torch.finfo(self.features.dtype).eps
        if float((again - self.features).abs().amax() / scale) > tolerance:
            raise LeakageError(
                "expected a deterministic head, got two passes that differ: call eval() on the "
                "model before it is split, and remove noise from the head"
            )

    def _choose_jvp(self) -> Callable[[Tensor], Tensor]:
        generator = torch.Generator().manual_seed(0)
        # Cotangents of one image alone: what they bring to another image is mixing in the batch.
        u = torch.zeros_like(self.features)
        u[0] = torch.randn(self.outputs, generator=generator).to(u)
        v = torch.randn(self._pixels.shape, generator=generator).to(self._pixels)
        pulled = self.vjp(u)
        if self.images > 1 and bool((pulled[1:] != 0).any()):
            raise LeakageError(
                "expected a head that treats every image by itself, got one that mixes the images "
                "of a batch: put its batch norms in eval mode"
            )
        expected = float((pulled[0].double() * v[0].flatten().double()).sum())
        problem = ""
        for candidate in (self._double_backward, self._forward_mode):
            try:
                jvp = candidate()
                pushed = jvp(v)
            except (RuntimeError, NotImplementedError) as error:
                problem = str(error).splitlines()[0]
                continue
            got = float((u[0].double() * pushed[0].double()).sum())
            size = float(u[0].double().norm() * pushed[0].double().norm())
            if abs(got - expected) <= 1e4 * torch.finfo(u.dtype).eps * max(size, abs(expected)):
                return jvp
            problem = f"<u, Jv> = {got:.6g} but <Jᵀu, v> = {expected:.6g}"
        raise LeakageError(
            "expected a head with Jacobian-vector products, got none by double backward or by "
            f"forward mode: {problem}"
        )

    def _double_backward(self) -> Callable[[Tensor], Tensor]:
        cotangent = torch.zeros_like(self.features, requires_grad=True)
        with torch.inference_mode(False), torch.enable_grad():
            (pulled,) = torch.autograd.grad(
                self._output, self._leaf, cotangent, create_graph=True, retain_graph=True
            )

        def jvp(v: Tensor) -> Tensor:
            (pushed,) = torch.autograd.grad(pulled, cotangent, v, retain_graph=True)
            return pushed

        return jvp

    def _forward_mode(self) -> Callable[[Tensor], Tensor]:
        def jvp(v: Tensor) -> Tensor:
            with torch.inference_mode(False), torch.no_grad(), forward_ad.dual_level():
                dual = forward_ad.make_dual(self._pixels, v)  # type: ignore[no-untyped-call]
                out = forward_ad.unpack_dual(self._head.features(dual))  # type: ignore[no-untyped-call]
            tangent: Tensor | None = out.tangent
            return torch.zeros_like(self.features) if tangent is None else tangent

        return jvp


def _check_mode(head: PixelHead) -> None:
    for name, module in head.named_modules():
        if module.training and isinstance(module, _STOCHASTIC):
            raise LeakageError(
                f"expected a head in eval mode, got {type(module).__name__} {name!r} in training "
                "mode: call eval() on the model"
            )


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Parameters take no gradients while the graph is built."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)
