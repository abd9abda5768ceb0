"""The loop of every attack that trains something: resumable, on a clock, safe from divergence."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from splitdeploy.attacks.checkpoint import Checkpoint
from splitdeploy.attacks.steps import Run
from splitdeploy.profiles.errors import AttackError

Schedule = Callable[[float], float]
"""From the share of the steps that is done, on [0, 1], to what the learning rate is times."""

_SAVED_EVERY_S = 30.0
_KEPT_EVERY = 50
"""Steps between the states to which a diverged training falls back."""


def constant(_share: float) -> float:
    """The learning rate as it is."""
    return 1.0


def one_cycle(share: float) -> float:
    """Up from a 25th over the first 30 %, then down to almost nothing, both as a cosine.

    Smith and Topin 2018, "Super-convergence".

    Args:
        share: Of the steps that is done.

    Returns:
        The factor, on (0, 1].
    """
    warm = 0.3
    if share < warm:
        return 1.0 / 25 + (1.0 - 1.0 / 25) * (0.5 - 0.5 * math.cos(math.pi * share / warm))
    return 1e-5 + (1.0 - 1e-5) * (0.5 + 0.5 * math.cos(math.pi * (share - warm) / (1.0 - warm)))


def halved(times: int) -> Schedule:
    """Halved so many times, in equal parts of the training.

    Args:
        times: How often.

    Returns:
        The schedule.
    """
    return lambda share: 0.5 ** min(times, int(share * (times + 1)))


@dataclass(frozen=True)
class Learner:
    """A module and what trains it.

    Attributes:
        name: In the checkpoint.
        module: Changed in place.
        optimiser: Over the module's parameters.
        schedule: Of the learning rates, over all steps.
    """

    name: str
    module: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: Schedule = constant


def train(
    learners: Sequence[Learner],
    step: Callable[[torch.Generator], float],
    steps: int,
    run: Run,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Make steps until they are done or the clock says so.

    With a checkpoint, the state is written every half minute and at the end, whatever ends it; a
    training that is called again goes on from there, with the same random numbers.

    Where a loss is not a finite number, the modules fall back to a state before it, training ends,
    and ``run`` has a note of it.

    Args:
        learners: What is trained. Learning rates are set from their schedules before each step.
        step: Makes one step, with the generator for all that is random, and returns its loss.
        steps: How many.
        run: The clock, the generator, the record of the losses.
        checkpoint: Where the state is kept; None for nowhere.

    Raises:
        AttackError: The checkpoint is of another training.
    """
    rates = [[float(g["lr"]) for g in learner.optimiser.param_groups] for learner in learners]
    done = _resumed(learners, run, checkpoint)
    if done >= steps:
        return
    kept, candidate = None, _states(learners)
    # Of the generator before a step: one that is interrupted midway is made again with its numbers.
    drawn, saved_s = run.generator.get_state(), time.perf_counter()
    try:
        while done < steps:
            _set_rates(learners, rates, done / steps)
            loss = step(run.generator)
            if not math.isfinite(loss):
                _fall_back(learners, kept or candidate)
                run.note(f"training diverged at step {done + 1} of {steps}: went back before it")
                return
            if done % _KEPT_EVERY == 0:
                kept, candidate = candidate, _states(learners)
            done, drawn = done + 1, run.generator.get_state()
            go_on = run.learned(loss, done / steps)
            if checkpoint is not None and time.perf_counter() - saved_s > _SAVED_EVERY_S:
                _save(learners, drawn, checkpoint, done)
                saved_s = time.perf_counter()
            if not go_on:
                if done < steps:
                    run.note(f"training ended at step {done} of {steps} for lack of time")
                return
    finally:
        if checkpoint is not None:
            _save(learners, drawn, checkpoint, done)


def _set_rates(learners: Sequence[Learner], rates: list[list[float]], share: float) -> None:
    for learner, own in zip(learners, rates, strict=True):
        factor = learner.schedule(share)
        for group, rate in zip(learner.optimiser.param_groups, own, strict=True):
            group["lr"] = rate * factor


def _states(learners: Sequence[Learner]) -> list[dict[str, Tensor]]:
    return [{k: v.detach().clone() for k, v in x.module.state_dict().items()} for x in learners]


def _fall_back(learners: Sequence[Learner], states: list[dict[str, Tensor]]) -> None:
    for learner, state in zip(learners, states, strict=True):
        learner.module.load_state_dict(state)


def _save(learners: Sequence[Learner], drawn: Tensor, checkpoint: Checkpoint, done: int) -> None:
    tensors = {"step": torch.tensor(done, device="cpu"), "generator": drawn}
    for learner in learners:
        for name, tensor in learner.module.state_dict().items():
            tensors[f"{learner.name}/module/{name}"] = tensor
        for place, state in learner.optimiser.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"{learner.name}/optimiser/{place}/{name}"] = torch.as_tensor(value)
    checkpoint.save(tensors)


def _resumed(learners: Sequence[Learner], run: Run, checkpoint: Checkpoint | None) -> int:
    """Load what a checkpoint holds; how many steps it had done."""
    held = None if checkpoint is None else checkpoint.load()
    if held is None or checkpoint is None:
        return 0
    try:
        for learner in learners:
            learner.module.load_state_dict(_under(held, f"{learner.name}/module/"))
            _load_optimiser(learner.optimiser, _under(held, f"{learner.name}/optimiser/"))
        run.generator.set_state(held["generator"])
        return int(held["step"])
    except (RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise AttackError(
            f"the checkpoint {checkpoint.path} does not fit what is trained ({reason}): delete it"
        ) from error


def _under(held: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: t for name, t in held.items() if name.startswith(prefix)}


def _load_optimiser(optimiser: torch.optim.Optimizer, held: dict[str, Tensor]) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in held.items():
        place, _, key = name.partition("/")
        states.setdefault(int(place), {})[key] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": states})
