"""The Jacobian of the smashed data by the pixels, as an operator: never a matrix, unless small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from splitdeploy.attacks.leakage.adjoint import plain_adjoints
from splitdeploy.attacks.leakage.rank import narrowest
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import LeakageError

_MOST_COPIES, _CHUNK_BYTES = 32, 1 << 28
"""Copies of an image in a pass: with more, a pass costs as much more; and the graph's memory."""

_STEP = 0.1
"""How far pixels are moved to see whether a head without a derivative is constant."""

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
        self._build()
        with torch.no_grad():
            self._check_features(head.features(self._pixels))
        self._make_jvp = self._choose_jvp()
        self._jvp = self._make_jvp(self)
        self._many: tuple[int, HeadJacobian] | None = None

    def _build(self) -> None:
        # Callers may sit in no_grad or inference_mode; a graph is needed all the same.
        with torch.inference_mode(False), torch.enable_grad(), _frozen(self._head):
            self._leaf = self._pixels.clone().requires_grad_()
            with plain_adjoints(), _measured() as kept:
                tensors = _run(self._head, self._leaf)
            self._output = torch.cat([t.flatten(1) for t in tensors], dim=1)
        self._graph_bytes = sum(kept.values())
        self.tensors = tuple(t.detach() for t in tensors)
        self.features = self._output.detach()
        self.outputs = self.features.shape[1]

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

    def copies(self, image: int, count: int) -> HeadJacobian:
        """The Jacobian of one image many times: that many products with it in one pass.

        Args:
            image: Which.
            count: How often at least.

        Returns:
            J of a batch of that image alone.
        """
        if self._many is None or self._many[0] != image or self._many[1].images < count:
            # What was checked for the batch holds for its images.
            many = copy(self)
            many._pixels = self._pixels[image].expand(count, *self.shape).contiguous()
            many.images = count
            many._build()
            many._jvp = self._make_jvp(many)
            self._many = (image, many)
        return self._many[1]

    @property
    def chunk(self) -> int:
        """How many copies of an image go through the head at once, within a budget of bytes."""
        per_image = self._graph_bytes // self.images + self._pixels[0].nbytes
        return max(1, min(_MOST_COPIES, _CHUNK_BYTES // per_image))

    def jvps(self, image: int, directions: Tensor) -> Tensor:
        """J of one image times many directions, in passes of `chunk`.

        Args:
            image: Which.
            directions: ``[m, d]``.

        Returns:
            ``[m, k]``.
        """
        return self._chunked(image, directions, self.outputs, HeadJacobian.jvp)

    def vjps(self, image: int, cotangents: Tensor) -> Tensor:
        """Jᵀ of one image times many cotangents, in passes of `chunk`.

        Args:
            image: Which.
            cotangents: ``[m, k]``.

        Returns:
            ``[m, d]``.
        """
        return self._chunked(image, cotangents, self.inputs, HeadJacobian.vjp)

    def dense(self) -> Tensor:
        """The Jacobian as a matrix, from min(k, d) products an image; for small heads.

        Returns:
            ``[n, k, d]``.
        """
        n, d, k = self.images, self.inputs, self.outputs
        jacobian = self._pixels.new_empty(n, k, d)
        units = torch.eye(min(k, d)).to(self._pixels)
        for i in range(n):
            jacobian[i] = self.vjps(i, units) if k <= d else self.jvps(i, units).T
        return jacobian

    def _chunked(
        self,
        image: int,
        given: Tensor,
        size: int,
        product: Callable[[HeadJacobian, Tensor], Tensor],
    ) -> Tensor:
        out = given.new_empty(len(given), size)
        copies = self.copies(image, min(self.chunk, len(given)))
        count = copies.images
        for start in range(0, len(given), count):
            part = given[start : start + count]
            # The last pass is filled up: the graph has room for so many, no more and no fewer.
            full = torch.cat([part, given.new_zeros(count - len(part), given.shape[1])])
            out[start : start + count] = product(copies, full)[: len(part)]
        return out

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

    def _check_flat(self, v: Tensor) -> None:
        """A derivative of zero is believed where the smashed data does not change either."""
        with torch.no_grad():
            moved = self._head.features((self._pixels + _STEP * v.sign()).clamp(0, 1))
        if not torch.equal(moved, self.features):
            raise LeakageError(
                "expected a differentiable head, got one whose output changes with the picture "
                "though its derivative is zero, as by rounding or argmax: its Fisher information "
                "says nothing; measure the head before that step, and take the step as noise "
                "(int8, sigma:VALUE)"
            )

    def _choose_jvp(self) -> Callable[[HeadJacobian], Callable[[Tensor], Tensor]]:
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
        if not bool((pulled != 0).any()):
            self._check_flat(v)
        expected = float((pulled[0].double() * v[0].flatten().double()).sum())
        problem = ""
        for candidate in (HeadJacobian._double_backward, HeadJacobian._forward_mode):
            try:
                pushed = candidate(self)(v)
            except (RuntimeError, NotImplementedError) as error:
                problem = str(error).splitlines()[0]
                continue
            got = float((u[0].double() * pushed[0].double()).sum())
            size = float(u[0].double().norm() * pushed[0].double().norm())
            if abs(got - expected) <= 1e4 * torch.finfo(u.dtype).eps * max(size, abs(expected)):
                return candidate
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


def _run(head: PixelHead, pixels: Tensor) -> tuple[Tensor, ...]:
    try:
        return head(pixels)  # type: ignore[no-any-return]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise LeakageError(
            f"expected images of the size that the head was cut at, got {tuple(pixels.shape[1:])}: "
            f"{' '.join(str(error).split())[:200]}; resize them, or cut the model at that size"
        ) from error


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


@contextmanager
def _measured() -> Iterator[dict[int, int]]:
    """Bytes of each storage that the graph built within keeps, parameters among them.

    Yields:
        By address; filled while the graph is built.
    """
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield kept
