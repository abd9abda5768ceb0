"""How heads are trained that stand in for a victim's."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from splitdeploy.attacks.inverse_training import Pictures, Recipe
from splitdeploy.attacks.pace import Counted, affordable
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.steps import Run
from splitdeploy.attacks.training import Learner, halved, train
from splitdeploy.profiles.errors import AttackError

Loss = Callable[[tuple[Tensor, ...], Tensor, Tensor], Tensor]
"""Of what the head sends for pictures, these pictures ``[b, c, h, w]`` and their rows ``[b]``."""

PUBLISHED = Recipe(
    batch=32, learning_rate=1e-3, schedule=halved(4), eps=1e-3, amsgrad=True, half=False
)
"""Of He et al.'s code: the learning rate is halved every 10 of 50 passes."""

PUBLISHED_EPOCHS = 50


def check_settings(variant: str, steps: int, batch: int, learning_rate: float) -> None:
    """Refuse settings that no shadow can be trained with.

    Args:
        variant: ``ours`` or ``he2019``.
        steps: At least 1.
        batch: Pictures a step, at least 1.
        learning_rate: Above 0.

    Raises:
        AttackError: One of them is not so.
    """
    if variant not in {"ours", "he2019"} or min(steps, batch) < 1 or learning_rate <= 0:
        raise AttackError(
            "expected variant 'ours' or 'he2019', at least 1 step and 1 picture a batch and a "
            f"positive learning rate, got {variant!r}, {steps}, {batch} and {learning_rate:g}"
        )


def fit_head(
    head: PixelHead,
    loss: Loss,
    source: Pictures,
    recipe: Recipe,
    steps: int | None,
    run: Run,
    identity: str,
) -> int:
    """Train a head in place.

    Args:
        head: In eval mode, where it stays: its running statistics are not touched.
        loss: What is minimised.
        source: Of the pictures.
        recipe: The settings.
        steps: At most; a deadline lessens them. None for the published 50 passes.
        run: The clock, and where the state is kept.
        identity: What is trained on what, for the checkpoint.

    Returns:
        The steps that were made, those before an interruption included.
    """
    device = next(head.parameters()).device
    checkpoint = run.checkpoint("head", identity)

    def train_it(module: Counted, count: int, trial: Run, kept: bool) -> None:
        optimiser = torch.optim.AdamW(
            module.parameters(), lr=recipe.learning_rate, eps=recipe.eps,
            weight_decay=recipe.weight_decay, amsgrad=recipe.amsgrad,
        )  # fmt: skip

        def step(generator: torch.Generator) -> float:
            done = int(module.done)
            pixels = source(done, recipe.batch, generator).to(device)
            # Products in bfloat16 train as well on a CPU, and in half the time.
            half = recipe.half and device.type == "cpu"
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                sent = module.inner(pixels.contiguous(memory_format=torch.channels_last))
            floats = tuple(t.float() for t in sent)
            value = loss(floats, pixels, source.rows(done, recipe.batch))
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(value)
            optimiser.step()
            module.done += 1
            return float(value.detach())

        learner = Learner("head", module, optimiser, recipe.schedule)
        train([learner], step, count, trial, checkpoint if kept else None)

    counted = Counted(head)
    if steps is None:
        most = recipe.steps(len(source.images), PUBLISHED_EPOCHS)
    else:
        most = affordable(
            lambda count, trial: train_it(copy.deepcopy(counted), count, trial, False),
            steps, run, checkpoint,
        )  # fmt: skip
    train_it(counted, most, run, True)
    return int(counted.done)
