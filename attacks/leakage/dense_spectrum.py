"""All eigenvalues of MᵀM, from matrices, where they are small."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch import Tensor

from splitdeploy.attacks.leakage.exact import DENSE_LIMIT
from splitdeploy.attacks.leakage.information import information
from splitdeploy.attacks.leakage.lanczos import rademacher
from splitdeploy.attacks.leakage.sides import Whitened
from splitdeploy.attacks.leakage.spectrum import Response, Rule, Spectrum
from splitdeploy.attacks.leakage.white import image_shares, white_information, white_jacobian


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
    pulled = image_shares(whitened, probe).double()
    parts = (pulled @ vectors) * (probe.double() @ vectors)
    rule = Rule(values.cpu().numpy(), np.full(len(values), 1.0 / len(values)))
    response = Response(values.cpu().numpy(), parts.cpu().numpy())
    return Spectrum(len(values), (rule,), (rule,), exact=True, response=response)
