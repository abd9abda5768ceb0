"""How far a training goes within its time, and where it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from splitdeploy.attacks.checkpoint import Checkpoint
from splitdeploy.attacks.steps import Run

_TIMED_STEPS = 3
_USED = 0.9
"""Of the time that is left, what steps are planned for."""


class Counted(nn.Module):
    """A module, and how many steps it has made: a resumed training draws what comes next."""

    done: Tensor

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("done", torch.zeros((), dtype=torch.int64, device="cpu"))


def affordable(
    rehearse: Callable[[int, Run], object],
    most: int,
    run: Run,
    checkpoint: Checkpoint | None = None,
) -> int:
    """The steps that there is time for, so that the learning rate comes down within it.

    Args:
        rehearse: Makes so many steps on a copy of what is trained, to be timed.
        most: No more than these.
        run: The clock.
        checkpoint: Of the training: steps that it holds come on top.

    Returns:
        Steps, those before an interruption included; at least 1; ``most`` without a deadline.
    """
    if math.isinf(run.remaining_s):
        return most
    held = None if checkpoint is None else checkpoint.load()
    before = 0 if held is None else int(held["step"])
    rehearse(1, Run(run.seed, None, None))
    began = time.perf_counter()
    rehearse(_TIMED_STEPS, Run(run.seed, None, None))
    step_s = (time.perf_counter() - began) / _TIMED_STEPS
    return max(1, min(most, before + int(_USED * run.remaining_s / step_s)))
