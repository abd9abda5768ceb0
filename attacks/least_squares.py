"""The closed form: where the head is affine, its smashed data are linear equations for the pixels.

    f(x) = A·x + b    ⇒    x* = argmin_x ‖A·x − (z − b)‖²

by LSQR (Paige and Saunders 1982) from grey, in float64, with products Av and Aᵀu from automatic
differentiation. From grey it finds the solution nearest to grey where the equations leave some
freedom. He et al. attack such a cut (CIFAR-10's conv11) by gradient descent, and report 37.6 dB;
its condition number is about 2 at PyTorch's initialisation, and nothing is lost at all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.steps import Run
from splitdeploy.attacks.target import AttackTarget, TargetView
from splitdeploy.attacks.threat import WHITE_BOX
from splitdeploy.profiles.errors import AttackError

_CLEAR_BEND = 1e-2
_AFFINE_TOLERANCE = 1e-4
_PROBES = 3


class LeastSquares(Attack):
    """Solve an affine head for its input.

    Args:
        iterations: Of LSQR, at most; two passes through the head each.
        tolerance: It has converged when ‖Aᵀr‖ ≤ tolerance·‖A‖·‖r‖ or ‖r‖ ≤ tolerance·‖z − b‖.
    """

    name = "least-squares"
    threat = WHITE_BOX
    cost = "up to 500 iterations of two passes; an affine head alone"
    paper = "Paige, Saunders: LSQR, ACM TOMS 8 (1982)"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"exact": {}}

    def __init__(self, iterations: int = 500, tolerance: float = 1e-10) -> None:
        if iterations < 1 or not tolerance > 0:
            raise AttackError(
                "expected at least 1 iteration and a positive tolerance in least-squares, got "
                f"{iterations} and {tolerance}"
            )
        self.iterations = iterations
        self.tolerance = tolerance

    def applies(self, target: AttackTarget) -> bool:
        """Whether the head is affine, found out by probing it."""
        if target.pixel_head is None or target.pixel_head.training:
            return False
        return is_affine(target.pixel_head, target.image_shape)

    def _run(self, target: TargetView, run: Run) -> Tensor:
        if not is_affine(target.pixel_head, target.image_shape, run.generator):
            raise AttackError(
                "least-squares needs an affine head, and this one is not (it has an activation or "
                "a max pool): use rmle"
            )
        head = _double(target.pixel_head)
        shape = (target.images, *target.image_shape)
        grey = sum(target.bounds) / 2
        start = torch.full(shape, grey, dtype=torch.float64, device=target.device)
        forward, adjoint, base = _linear_map(head, start)
        observed = torch.cat([t.double().flatten(1) for t in target.observation], dim=1)
        if observed.shape != base.shape:
            raise AttackError(
                f"the torch head gives {base.shape[1]} numbers an image, observed were "
                f"{observed.shape[1]}: head and observation are of different cuts"
            )
        solution = _Lsqr(forward, adjoint, observed - base, self.tolerance)
        for step in range(1, self.iterations + 1):
            solution.advance()
            run.converged = solution.done
            share = 1.0 if solution.done else step / self.iterations
            if not run.step(solution.residual, start + solution.x.view(shape), share):
                break
        return start + solution.x.view(shape)


def is_affine(
    head: PixelHead,
    image_shape: tuple[int, int, int],
    generator: torch.Generator | None = None,
) -> bool:
    """Whether f(a·x + (1 − a)·y) = a·f(x) + (1 − a)·f(y) on random probes, for every tensor.

    The probes are noise with values well beyond [0, 1] and a outside [0, 1], so that an activation
    that happens to stay on one side for pictures does not pass. In float64, to 1e-4 of the
    largest value: rounding in the weights is not a bend.

    Args:
        head: The head from pixels, in eval mode.
        image_shape: ``(c, h, w)``.
        generator: Of the probes; seeded with 0 where None.

    Returns:
        Whether all of `_PROBES` probes agree.
    """
    draw = generator or torch.Generator().manual_seed(0)
    # A clear bend shows in float32 on one probe, at a fraction of the cost.
    if _bend(head, (1, *image_shape), draw, torch.float32) > _CLEAR_BEND:
        return False
    exact = _double(head)
    return _bend(exact, (_PROBES, *image_shape), draw, torch.float64) <= _AFFINE_TOLERANCE


def _bend(
    head: PixelHead, shape: tuple[int, ...], draw: torch.Generator, dtype: torch.dtype
) -> float:
    """How far the head is from affine on random probes, over its largest value there."""
    share = -1.7
    with torch.no_grad():
        x, y = (
            3.0
            * torch.randn(shape, generator=draw, dtype=torch.float64, device="cpu").to(
                head.mean.device
            )
            for _ in range(2)
        )
        at_x, at_y = head(x.to(dtype)), head(y.to(dtype))
        at_both = head((share * x + (1 - share) * y).to(dtype))
    worst = 0.0
    for fx, fy, both in zip(at_x, at_y, at_both, strict=True):
        if not (fx.is_floating_point() and bool(torch.isfinite(both).all())):
            return float("inf")
        error = float((share * fx + (1 - share) * fy - both).abs().max())
        largest = float(both.abs().max())
        if error > 0.0:
            worst = max(worst, error / largest if largest else float("inf"))
    return worst


def _double(head: PixelHead) -> PixelHead:
    """A copy in float64, so that the solution is as exact as the observation."""
    twin: nn.Module = copy.deepcopy(head)
    exact = twin.double().requires_grad_(False)
    if not isinstance(exact, PixelHead):
        raise AttackError(f"expected a PixelHead, got {type(exact).__name__}")
    return exact


_Product = Callable[[Tensor], Tensor]


def _linear_map(head: PixelHead, at: Tensor) -> tuple[_Product, _Product, Tensor]:
    """A·v, Aᵀ·u on flattened batches, and f(at)."""
    with torch.no_grad():
        base = head.features(at)
        origin = head.features(torch.zeros_like(at))

    def forward(v: Tensor) -> Tensor:
        # The head is affine: its value less its value at zero is the product itself.
        with torch.no_grad():
            return head.features(v.view_as(at)) - origin

    point = at.clone().requires_grad_()
    sent = head.features(point)

    def adjoint(u: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(sent, point, u, retain_graph=True, materialize_grads=True)
        return product.flatten(1)

    return forward, adjoint, base


class _Lsqr:
    """LSQR on every image of a batch at once; the maps are block-diagonal over the images."""

    def __init__(
        self, forward: _Product, adjoint: _Product, right: Tensor, tolerance: float
    ) -> None:
        self._forward, self._adjoint, self._tolerance = forward, adjoint, tolerance
        self._size = right.norm(dim=1, keepdim=True)
        self._u, beta = _unit(right)
        self._v, self._alpha = _unit(adjoint(self._u))
        self._w = self._v
        self._phi, self._rho = beta, self._alpha
        self._norm_square = self._alpha**2
        self.x = torch.zeros_like(self._v)

    def advance(self) -> None:
        """One iteration: Golub-Kahan bidiagonalisation and a plane rotation."""
        self._u, beta = _unit(self._forward(self._v) - self._alpha * self._u)
        self._v, alpha = _unit(self._adjoint(self._u) - beta * self._v)
        radius = torch.sqrt(self._rho**2 + beta**2).clamp_min(1e-300)
        cosine, sine = self._rho / radius, beta / radius
        # A solved image has w = 0 or phi = 0 and stays where it is.
        self.x = self.x + (cosine * self._phi / radius) * self._w
        self._w = self._v - (sine * alpha / radius) * self._w
        self._rho, self._phi = -cosine * alpha, sine * self._phi
        self._norm_square = self._norm_square + alpha**2 + beta**2
        self._alpha, self._cosine = alpha, cosine

    @property
    def residual(self) -> float:
        """Mean over the images of ‖A·x − z‖/‖z‖."""
        return float((self._phi / self._size.clamp_min(1e-300)).abs().mean())

    @property
    def done(self) -> bool:
        """Whether every image satisfies one of the two stopping rules."""
        exact = self._phi.abs() <= self._tolerance * self._size
        gradient = self._alpha * self._cosine.abs()  # ‖Aᵀr‖/‖r‖
        optimal = gradient <= self._tolerance * self._norm_square.sqrt()
        return bool((exact | optimal).all())


def _unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length 1 and their lengths ``[n, 1]``; a row of zeros stays."""
    length = rows.norm(dim=1, keepdim=True)
    return rows / length.clamp_min(1e-300), length
