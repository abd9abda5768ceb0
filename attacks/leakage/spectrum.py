"""The spectrum of MᵀM, whole or by quadrature, from which the leakage at every noise follows."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from splitdeploy.attacks.leakage.exact import DENSE_LIMIT
from splitdeploy.attacks.leakage.information import information
from splitdeploy.attacks.leakage.lanczos import Bidiagonal, bidiagonalise, rademacher
from splitdeploy.attacks.leakage.sides import Whitened
from splitdeploy.attacks.leakage.white import white_information, white_jacobian

Array = NDArray[np.float64]

_KEPT_ELEMENTS = 1 << 23
"""Up to so many elements of both bases are kept and reorthogonalised."""

_ENOUGH = 1e-6
"""Steps end where the bracket at factor 1 is narrower than this share of its middle."""

_LOOKED_AT = 10
"""Every so many steps."""


@dataclass(frozen=True)
class Nats:
    """½·ln det(1 + MᵀM/factor²) of one operator.

    Attributes:
        value: In the middle of the quadrature's bracket.
        half_width: Half of it; 0 where the eigenvalues are known.
        probe_error: A bound on the standard error that comes from random probes.
    """

    value: float
    half_width: float
    probe_error: float


@dataclass(frozen=True)
class Rule:
    """A quadrature of the spectral density at one probe.

    Attributes:
        values: ``[m]``: eigenvalues, not negative.
        weights: ``[m]``: their sum is 1.
    """

    values: Array
    weights: Array

    def moments(self, factor: float) -> tuple[float, float]:
        """Mean and mean square of ln(1 + θ/factor²)."""
        logs = np.log1p(self.values / factor**2)
        return float(self.weights @ logs), float(self.weights @ logs**2)


@dataclass(frozen=True)
class Response:
    """How ln det of the mean information answers to the weight of each image.

    The derivative is tr((factor² + G)⁻¹ G_x); in the basis of G's eigenvectors or, from a probe, of
    its Ritz vectors, it is Σ_i c_xi/(factor² + θ_i), which serves every factor.

    Attributes:
        values: ``[m]``: θ.
        parts: ``[n, m]``: c for each image.
    """

    values: Array
    parts: Array

    def error(self, factor: float) -> float:
        """The standard error of ½·ln det that comes from which images were taken (delta method)."""
        n = len(self.parts)
        if n == 1:
            return 0.0
        traces = self.parts @ (1.0 / (factor**2 + self.values))
        return float(traces.std(ddof=1)) / 2 / math.sqrt(n)


@dataclass(frozen=True)
class Spectrum:
    """The eigenvalues of one operator MᵀM, whole or by quadrature.

    Attributes:
        size: How many directions the weights stand for together.
        upper: A rule for each probe whose value is an upper bound for that probe.
        lower: Likewise; the same where the eigenvalues are known.
        exact: Whether they are.
        response: Of the mean information of several images.
    """

    size: int
    upper: tuple[Rule, ...]
    lower: tuple[Rule, ...]
    exact: bool
    response: Response | None = None

    @property
    def largest(self) -> float:
        """The largest eigenvalue that was seen."""
        return max(float(rule.values.max(initial=0.0)) for rule in self.upper)

    def nats(self, factor: float) -> Nats:
        """½·ln det(1 + MᵀM/factor²)."""
        high = [rule.moments(factor) for rule in self.upper]
        low = [rule.moments(factor) for rule in self.lower]
        top, bottom = np.mean([m for m, _ in high]), np.mean([m for m, _ in low])
        # Rounding alone puts the lower bound above the other.
        bottom = min(bottom, top)
        variance = max(square - mean**2 for mean, square in high + low)
        error = 0.0 if self.exact else math.sqrt(2 * max(0.0, variance) / self.size / len(high))
        half = self.size / 2
        return Nats(
            float(half * (top + bottom) / 2), float(half * (top - bottom) / 2), half * error
        )

    def image_error(self, factor: float) -> float:
        """The standard error of ½·ln det that comes from which images were taken."""
        return 0.0 if self.response is None else self.response.error(factor)


def dense_spectra(
    whitened: Whitened, *, mean: bool, seed: int, deadline_s: float | None
) -> list[Spectrum] | None:
    """All eigenvalues, where the matrices are small.

    Args:
        whitened: The operator.
        mean: Of the mean information, or of each image's.
        seed: Of the probe for the images' own shares.
        deadline_s: Seconds that the matrices may take, judged by the first image.

    Returns:
        One spectrum, or one an image; None where they are too large, or would be late.
    """
    jacobian, prior, sigma = whitened.jacobian, whitened.prior, whitened.sigma
    n, d, k = jacobian.images, jacobian.inputs, jacobian.outputs
    rows = n * k if mean else k
    if min(rows, d) > DENSE_LIMIT:
        return None
    by_rows = rows < d
    started = time.perf_counter()
    total: Tensor | None = None
    stacked: list[Tensor] = []
    found: list[Spectrum] = []
    for image in range(n):
        part = (
            white_jacobian(jacobian, image, prior, sigma)
            if by_rows
            else information(jacobian, image, sigma)
        )
        if mean and by_rows:
            stacked.append(part / math.sqrt(n))
        elif mean:
            total = part / n if total is None else total + part / n
        else:
            gram = part @ part.T if by_rows else white_information(part, prior)
            found.append(_whole(gram))
        spent = time.perf_counter() - started
        if deadline_s is not None and spent / (image + 1) * n > deadline_s:
            return None
    if not mean:
        return found
    if total is None:
        joined = torch.cat(stacked)
        return [_whole_of_rows(joined @ joined.T, n)]
    return [_whole_of_mean(white_information(total, prior), whitened, seed)]


def lanczos_spectra(
    whitened: Whitened,
    *,
    mean: bool,
    steps: int,
    probes: int,
    seed: int,
    deadline_s: float | None,
) -> list[Spectrum]:
    """By Golub-Kahan bidiagonalisation of M itself, from products alone.

    Args:
        whitened: The operator.
        mean: Whether it is the mean information's.
        steps: At most so many a probe.
        probes: How many.
        seed: Of the probes.
        deadline_s: Seconds after which no further step begins; one is made in any case.

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
        found = _bidiagonals(whitened, probe, recorder, steps=steps, ends=ends)
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


def _whole(gram: Tensor) -> Spectrum:
    values = torch.linalg.eigvalsh(gram).clamp_min(0).cpu().numpy()
    rule = Rule(values, np.full(len(values), 1.0 / len(values)))
    return Spectrum(len(values), (rule,), (rule,), exact=True)


def _whole_of_rows(gram: Tensor, n: int) -> Spectrum:
    """Of MMᵀ, the rows of M image by image: v_iᵀG_x v_i = n·θ_i·(weight of u_i in x's rows)."""
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0)
    shares = vectors.view(n, -1, len(values)).square().sum(dim=1)
    response = Response(values.cpu().numpy(), (n * values * shares).cpu().numpy())
    rule = Rule(values.cpu().numpy(), np.full(len(values), 1.0 / len(values)))
    return Spectrum(len(values), (rule,), (rule,), exact=True, response=response)


def _whole_of_mean(gram: Tensor, whitened: Whitened, seed: int) -> Spectrum:
    """Of MᵀM; the images' own shares tr((f² + G)⁻¹G_x) by a probe: zᵀ(f² + G)⁻¹G_x z."""
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0)
    probe = rademacher(1, len(values), seed=seed, like=whitened.half)
    pulled = _shares(whitened, probe).double()
    parts = (pulled @ vectors) * (probe.double() @ vectors)
    rule = Rule(values.cpu().numpy(), np.full(len(values), 1.0 / len(values)))
    response = Response(values.cpu().numpy(), parts.cpu().numpy())
    return Spectrum(len(values), (rule,), (rule,), exact=True, response=response)


def _shares(whitened: Whitened, probe: Tensor) -> Tensor:
    """G_x z for each image x: ``[n, d]``."""
    half = whitened.half
    every = probe.expand(whitened.jacobian.images, -1)
    return Whitened.pull(whitened, Whitened.push(whitened, every * half)) * half


class _Recorder:
    """Products of the right basis with every image's G_x z, while the basis goes by.

    (f² + G)⁻¹z = ‖z‖·V(f² + T)⁻¹e_1 in the Krylov space, for every f (the shifted systems of
    conjugate gradients), so that zᵀ(f² + G)⁻¹G_x z needs Vᵀ(G_x z) alone.
    """

    def __init__(self, whitened: Whitened, probe: Tensor) -> None:
        self._pulled = _shares(whitened, probe)
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
) -> tuple[Bidiagonal, ...]:
    half = whitened.half

    def forward(v: Tensor) -> Tensor:
        if recorder is not None:
            recorder.see(v)
        return whitened.push(v * half)

    found: tuple[Bidiagonal, ...] = ()
    started = time.perf_counter()
    keep = steps * probe.numel() <= _KEPT_ELEMENTS
    adjoint_of = bidiagonalise(
        forward, lambda u: whitened.pull(u) * half, probe, reorthogonalise=keep
    )
    for made, found in enumerate(adjoint_of, start=1):
        now = time.perf_counter()
        late = ends is not None and now + (now - started) / made > ends
        if made >= steps or late or (made % _LOOKED_AT == 0 and _settled(found)):
            break
    return found


def _settled(bidiagonals: tuple[Bidiagonal, ...]) -> bool:
    brackets = [(_gauss(b).moments(1.0)[0], _radau(b).moments(1.0)[0]) for b in bidiagonals]
    return all(high - low <= _ENOUGH * (high + low) / 2 for high, low in brackets)


def _gauss(bidiagonal: Bidiagonal) -> Rule:
    return _rule(*bidiagonal.tridiagonal())


def _radau(bidiagonal: Bidiagonal) -> Rule:
    return _rule(*bidiagonal.with_node(0.0))


def _rule(alpha: Array, beta: Array) -> Rule:
    values, vectors = eigh_tridiagonal(alpha, beta)
    # Rounding alone puts a node below zero.
    return Rule(np.maximum(values, 0.0), vectors[0] ** 2)
