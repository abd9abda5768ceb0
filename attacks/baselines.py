"""Reconstructions that need no smashed data. An attack that does not beat them recovered nothing.

None of them peeks at the picture that it stands for: the mean colour and the mean picture are taken
over the *other* pictures, as an attacker could take them from pictures of his own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from splitdeploy.attacks.quality import judge
from splitdeploy.profiles.report import Baseline


def trivial_reconstructions(pixels: Tensor) -> dict[str, Tensor]:
    """What an attacker could answer who saw nothing.

    Args:
        pixels: The originals, ``[n, c, h, w]`` on [0, 1].

    Returns:
        By name, each ``[n, c, h, w]``: ``grey`` (0.5 everywhere) and, where there are at least two
        pictures, ``mean colour`` (flat) and ``mean picture`` of all the others.
    """
    answers = {"grey": torch.full_like(pixels, 0.5)}
    n = len(pixels)
    if n >= 2:
        others = (pixels.sum(0, keepdim=True) - pixels) / (n - 1)
        answers["mean colour"] = others.mean((2, 3), keepdim=True).expand_as(pixels)
        answers["mean picture"] = others
    return answers


def best_guess(pixels: Tensor) -> tuple[str, Tensor]:
    """The trivial reconstruction of the highest SSIM, to be shown beside an attack's.

    Args:
        pixels: The originals, ``[n, c, h, w]`` on [0, 1].

    Returns:
        Its name and its pictures ``[n, c, h, w]``.
    """
    answers = trivial_reconstructions(pixels)
    return max(answers.items(), key=lambda item: judge(item[1], pixels).ssim)


def best_baseline(pixels: Tensor) -> Baseline:
    """The best that a trivial reconstruction reaches, each metric on its own.

    The three figures may belong to different reconstructions: an attack has to beat the largest
    PSNR, the largest SSIM and the smallest MSE that come for nothing.

    Args:
        pixels: The originals, ``[n, c, h, w]`` on [0, 1].

    Returns:
        The best PSNR, SSIM and MSE, each a mean over the pictures.
    """
    scores = [judge(answer, pixels) for answer in trivial_reconstructions(pixels).values()]
    return Baseline(
        psnr_db=max(s.psnr_db for s in scores),
        ssim=max(s.ssim for s in scores),
        mse=min(s.mse for s in scores),
    )
