"""The spectrum of MᵀM by quadrature, from products alone."""

from __future__ import annotations

import time

import numpy as np
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from splitdeploy.attacks.leakage.gain import KEPT_ELEMENTS
from splitdeploy.attacks.leakage.lanczos import Bidiagonal, bidiagonalise, rademacher
from splitdeploy.attacks.leakage.sides import Whitened
from splitdeploy.attacks.leakage.spectrum import Array, Response, Rule, Spectrum
from splitdeploy.attacks.leakage.white import image_shares

_BOTH_ELEMENTS = 1 << 23
"""Up to so many elements both bases are kept and reorthogonalised; beyond, one of them."""

_TIGHT = 0.1
"""A bracket narrower than this share of the probes' error needs no further steps."""

_LOOKED_AT = 10
"""Every so many steps."""


def lanczos_spectra(
    whitened: Whitened,
    *,
    mean: bool,
    steps: int,
    probes: int,
    seed: int,
    deadline_s: float | None,
    weakest: float | None,
) -> list[Spectrum]:
    """By Golub-Kahan bidiagonalisation of M itself, from products alone.

    Args:
        whitened: The operator.
        mean: Whether it is the mean information's.
        steps: At most so many a probe.
        probes: How many.
        seed: Of the probes.
        deadline_s: Seconds after which no further step begins; one is made in any case.
        weakest: The factor at which the bracket is looked at to end early; None for never.

    Returns:
        One spectrum, or one an image.
    """
    ends = None if deadline_s is None else time.perf_counter() + deadline_s
    d, half = whitened.jacobian.inputs, whitened.half
    rules: list[list[tuple[Rule, Rule]]] = []
    response = None
    for i in range(probes):
        started = time.perf_counter()
        probe = rademacher(whitened.blocks, d, seed=seed + i, like=half)
        recorder = _Recorder(whitened, probe) if mean and i == 0 else None
        found = _bidiagonals(whitened, probe, recorder, steps=steps, ends=ends, weakest=weakest)
        rules.append([(_gauss(b), _radau(b)) for b in found])
        if recorder is not None:
            response = recorder.response(found[0])
        now = time.perf_counter()
        if ends is not None and now + (now - started) > ends:
            break
    return [
        Spectrum(
            d,
            tuple(upper for upper, _ in each),
            tuple(lower for _, lower in each),
            exact=False,
            response=response,
        )
        for each in zip(*rules, strict=True)
    ]


class _Recorder:
    """Products of the right basis with every image's G_x z, while the basis goes by.

    (f² + G)⁻¹z = ‖z‖·V(f² + T)⁻¹e_1 in the Krylov space, for every f (the shifted systems of
    conjugate gradients), so that zᵀ(f² + G)⁻¹G_x z needs Vᵀ(G_x z) alone.
    """

    def __init__(self, whitened: Whitened, probe: Tensor) -> None:
        self._pulled = image_shares(whitened, probe)
        self._norm = float(probe.norm())
        self._columns: list[Array] = []

    def see(self, v: Tensor) -> None:
        """The next vector of the basis, ``[1, d]``."""
        products = (self._pulled.double() @ v[0].double()).cpu().numpy()
        self._columns.append(products)

    def response(self, bidiagonal: Bidiagonal) -> Response:
        """In the basis of Ritz vectors."""
        alpha, beta = bidiagonal.tridiagonal()
        values, vectors = eigh_tridiagonal(alpha, beta)
        columns = np.stack(self._columns[: len(alpha)], axis=1)
        return Response(np.maximum(values, 0.0), self._norm * (columns @ vectors) * vectors[0])


def _bidiagonals(
    whitened: Whitened,
    probe: Tensor,
    recorder: _Recorder | None,
    *,
    steps: int,
    ends: float | None,
    weakest: float | None,
) -> tuple[Bidiagonal, ...]:
    half = whitened.half

    def forward(v: Tensor) -> Tensor:
        if recorder is not None:
            recorder.see(v)
        return whitened.push(v * half)

    found: tuple[Bidiagonal, ...] = ()
    started = time.perf_counter()
    steps_made = bidiagonalise(
        forward,
        lambda u: whitened.pull(u) * half,
        probe,
        reorthogonalise=steps * probe.numel() <= _BOTH_ELEMENTS,
        kept=KEPT_ELEMENTS // probe.numel(),
    )
    for made, found in enumerate(steps_made, start=1):
        now = time.perf_counter()
        late = ends is not None and now + (now - started) / made > ends
        if made >= steps or late:
            break
        if weakest is None or made % _LOOKED_AT:
            continue
        if _settled(found, probe.shape[1], weakest):
            break
    return found


def _settled(bidiagonals: tuple[Bidiagonal, ...], d: int, weakest: float) -> bool:
    found = [
        Spectrum(d, (_gauss(b),), (_radau(b),), exact=False).nats(weakest) for b in bidiagonals
    ]
    return all(nats.half_width <= _TIGHT * nats.probe_error for nats in found)


def _gauss(bidiagonal: Bidiagonal) -> Rule:
    return _rule(*bidiagonal.tridiagonal())


def _radau(bidiagonal: Bidiagonal) -> Rule:
    return _rule(*bidiagonal.with_node(0.0))


def _rule(alpha: Array, beta: Array) -> Rule:
    values, vectors = eigh_tridiagonal(alpha, beta)
    # Rounding alone puts a node below zero.
    return Rule(np.maximum(values, 0.0), vectors[0] ** 2)
