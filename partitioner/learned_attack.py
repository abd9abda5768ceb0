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
_MOST_EPOCHS = 30
_BATCH = 64
_TIMED_STEPS = 3
"""Steps that tell how many there is time for, so that the learning rate comes down in it."""

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

    It is trained on what the defence sends, and so knows its noise by itself. As many passes are
    made as there is time for, or one over a part of the pictures.

    Args:
        seen: What is sent for pictures of the attacker's own, with fresh noise.
        target: What was observed.
        auxiliary: The attacker's pictures, ``[m, c, h, w]`` on [0, 1]; none of the originals.
        originals: To judge by.
        deadline_s: Seconds of training, about.
        seed: Of order and noise.

    Returns:
        The row for the report; converged where the most passes were made.
    """
    started = time.perf_counter()
    batch = min(_BATCH, len(auxiliary))
    few = auxiliary[: _TIMED_STEPS * batch]
    _trained(seen, target, few, epochs=1, batch=batch, seed=seed)
    step_s = (time.perf_counter() - started) / max(1, len(few) // batch)
    steps = max(1, int((deadline_s - (time.perf_counter() - started)) / step_s))
    kept = auxiliary[: min(len(auxiliary), steps * batch)]
    epochs = max(1, min(_MOST_EPOCHS, steps // (len(kept) // batch)))
    network = _trained(seen, target, kept, epochs=epochs, batch=batch, seed=seed)
    quality = judge(invert(network, target.observation), originals)
    return AttackRecord(
        name="inverse-network",
        preset=f"{len(kept)} pictures",
        threat_model=str(_THREAT),
        psnr_db=quality.psnr_db,
        ssim=quality.ssim,
        mse=quality.mse,
        ssim_ci95=quality.ssim_ci95,
        images=quality.images,
        seconds=time.perf_counter() - started,
        converged=epochs == _MOST_EPOCHS,
        steps=epochs * (len(kept) // batch),
    )


def _trained(
    seen: Seen, target: AttackTarget, pictures: Tensor, *, epochs: int, batch: int, seed: int
) -> InverseNetwork:
    shapes = [tuple(t.shape[1:]) for t in target.observation]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = InverseNetwork(shapes, target.image_shape, width=_WIDTH)
    train_inverses(
        lambda images, draw: [seen(images, int(torch.randint(1 << 31, (), generator=draw)))],
        [network],
        pictures,
        epochs=epochs,
        batch=batch,
        seed=seed,
    )
    return network.eval()
