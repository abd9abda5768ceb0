"""What the smashed data of one cut gives away: its leakage, and an attack on the exported head."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitdeploy.attacks.base import Progress, Reconstruction, run_attack
from splitdeploy.attacks.judging import Judges
from splitdeploy.attacks.leakage.fsinfo import fsinfo
from splitdeploy.attacks.leakage.measure import measure_leakage
from splitdeploy.attacks.leakage.noise import Noise
from splitdeploy.attacks.leakage.prior import ImagePrior
from splitdeploy.attacks.least_squares import LeastSquares
from splitdeploy.attacks.pictures import save_comparison
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.rmle import Rmle
from splitdeploy.attacks.target import AttackTarget
from splitdeploy.profiles.report import AttackRecord, Estimate, LeakageRecord

CUT_SHORT = "ended by its deadline"
"""The note of an attack that more time would change."""

_BAYESIAN_ERROR = 0.1
"""Standard error over the gain beyond which the bayesian FSInfo would say too little."""

_BAYESIAN_TIMES = 8.0
"""So many times as long as the other figures together it takes to narrow that error."""

_NO_BAYESIAN = "no bayesian FSInfo for lack of time"


def leakage(
    head: PixelHead,
    pixels: Tensor,
    *,
    noise: Noise,
    prior: ImagePrior,
    deadline_s: float | None,
    seed: int,
    bayesian: bool = True,
) -> LeakageRecord:
    """The Fisher-information leakage of a head, on these pictures.

    The bayesian FSInfo comes last, where several times as much time is left as the rest took; it is
    left out where its error would be large.

    Args:
        head: From pixels to the boundary tensors.
        pixels: ``[n, c, h, w]`` on [0, 1].
        noise: What the smashed data carries.
        prior: What is taken as known of pictures.
        deadline_s: Seconds that it may take; the error tells what that costs.
        seed: Of the probes.
        bayesian: Whether the bayesian FSInfo is wanted; of one picture it says nothing new.

    Returns:
        The record.
    """
    started = time.perf_counter()
    record = measure_leakage(
        head, pixels, noise=noise, prior=prior, deadline_s=deadline_s, seed=seed
    )  # fmt: skip
    taken_s = time.perf_counter() - started
    left_s = math.inf if deadline_s is None else deadline_s - taken_s
    if not bayesian or left_s < _BAYESIAN_TIMES * taken_s:
        return replace(record, notes=(*record.notes, f"{_NO_BAYESIAN}: a longer budget gives it"))
    found = fsinfo(
        head, pixels, noise_sigma=noise, kind="bayesian", prior=prior,
        relative_error=_BAYESIAN_ERROR / 2, deadline_s=None if deadline_s is None else left_s,
        seed=seed,
    )  # fmt: skip
    gain = found.value - (record.fsinfo.value - record.gain.value)
    if not found.standard_error <= _BAYESIAN_ERROR * gain:
        error = found.standard_error / gain if gain > 0 else math.inf
        note = f"{_NO_BAYESIAN}: {left_s:.0f} s left an error of {error:.0%}"
        return replace(record, notes=(*record.notes, note))
    return replace(record, bayesian_fsinfo=Estimate(found.value, found.standard_error))


def attack(
    head: PixelHead,
    observation: Sequence[NDArray[np.float32]],
    pixels: Tensor,
    *,
    deadline_s: float | None,
    seed: int,
    progress: Progress | None = None,
    judges: Judges | None = None,
) -> tuple[AttackRecord, Tensor]:
    """The quick attack that fits the head: least squares where it is linear, rMLE elsewhere.

    Args:
        head: From pixels to the boundary tensors, which the attacker knows.
        observation: What the exported head sent, decoded, in the order of the boundary.
        pixels: The pictures behind it, to judge by.
        deadline_s: Seconds that it may take.
        seed: Of the attack.
        progress: Told the share that is done.
        judges: What to judge by beside the pictures.

    Returns:
        The row for the report, and the reconstructions ``[n, c, h, w]``.
    """
    tensors = tuple(torch.from_numpy(np.ascontiguousarray(z, np.float32)) for z in observation)
    channels, height, width = pixels.shape[1:]
    target = AttackTarget(tensors, head, (channels, height, width))
    linear = LeastSquares.preset(seed=seed)
    chosen = linear if linear.applies(target) else Rmle.preset(seed=seed)
    record, found = run_attack(
        chosen, target, pixels, deadline_s=deadline_s, progress=progress, judges=judges
    )
    return noted(record, found), found.pixels


def noted(record: AttackRecord, found: Reconstruction) -> AttackRecord:
    """The row of an attack, with a note where its deadline ended it.

    Args:
        record: The row.
        found: What the attack returned.

    Returns:
        The row.
    """
    return replace(record, notes=(*record.notes, CUT_SHORT)) if found.stopped_early else record


def write_picture(run: Path, cut: str, attack_name: str, originals: Tensor, found: Tensor) -> str:
    """Write the originals above their reconstructions.

    Args:
        run: The run folder.
        cut: The cut's name.
        attack_name: The attack's name.
        originals: ``[n, c, h, w]`` on [0, 1].
        found: Likewise.

    Returns:
        The picture's path, relative to the run folder.
    """
    relative = Path("reconstructions") / cut.replace("/", "_") / f"{attack_name}.png"
    (run / relative).parent.mkdir(parents=True, exist_ok=True)
    save_comparison(run / relative, originals, found)
    return relative.as_posix()
