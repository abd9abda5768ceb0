"""The inverse network as an attack on a defended cut: trained on pictures of the attacker's own."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from splitdeploy.attacks.inverse_network import InverseNetwork, invert, train_inverses
from splitdeploy.attacks.quality import judge
from splitdeploy.attacks.target import AttackTarget
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.profiles.report import AttackRecord

_THREAT = ThreatModel(weights=False, auxiliary_data=True, queries=True)
_WIDTH = 32
_EPOCHS = 30
_BATCH = 64

Seen = Callable[[Tensor, int], tuple[Tensor, ...]]
"""From pixels and the seed of noise to what the attacker makes of what is sent."""


def attack_by_network(
    seen: Seen,
    target: AttackTarget,
    auxiliary: Tensor,
    originals: Tensor,
    *,
    deadline_s: float,
    seed: int,
) -> AttackRecord:
    """Train a decoder on pairs of sent data and pictures, and let it decode the observation.

    It is trained on what the defence sends, and so knows its noise by itself.

    Args:
        seen: What is sent for pictures of the attacker's own, with fresh noise.
        target: What was observed.
        auxiliary: The attacker's pictures, ``[m, c, h, w]`` on [0, 1]; none of the originals.
        originals: To judge by.
        deadline_s: Seconds of training.
        seed: Of order and noise.

    Returns:
        The row for the report; converged where all epochs were made.
    """
    started = time.perf_counter()
    shapes = [tuple(t.shape[1:]) for t in target.observation]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = InverseNetwork(shapes, target.image_shape, width=_WIDTH)
    done = [0.0]
    train_inverses(
        lambda images, draw: [seen(images, int(torch.randint(1 << 31, (), generator=draw)))],
        [network],
        auxiliary,
        epochs=_EPOCHS,
        batch=min(_BATCH, len(auxiliary)),
        seed=seed,
        progress=lambda share: done.__setitem__(0, share),
        deadline=lambda: time.perf_counter() - started > deadline_s,
    )
    quality = judge(invert(network.eval(), target.observation), originals)
    return AttackRecord(
        name="inverse-network",
        preset=f"{len(auxiliary)} pictures",
        threat_model=str(_THREAT),
        psnr_db=quality.psnr_db,
        ssim=quality.ssim,
        mse=quality.mse,
        ssim_ci95=quality.ssim_ci95,
        images=quality.images,
        seconds=time.perf_counter() - started,
        converged=done[0] >= 1.0,
        steps=round(done[0] * _EPOCHS * (len(auxiliary) // min(_BATCH, len(auxiliary)))),
    )
