"""How decoders are trained: on pictures and what is sent for them, fresh each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from splitdeploy.attacks.augment import Augmentation
from splitdeploy.attacks.checkpoint import Checkpoint
from splitdeploy.attacks.pace import Counted
from splitdeploy.attacks.steps import Run
from splitdeploy.attacks.training import Learner, Schedule, one_cycle, train

Observe = Callable[[Tensor, torch.Generator], Sequence[tuple[Tensor, ...]]]
"""From pixels ``[n, c, h, w]`` and a generator of noise to what each of some cuts sends."""


class Draw(Protocol):
    """A source of training pictures."""

    def __call__(self, done: int, count: int, generator: torch.Generator) -> Tensor:
        """The pictures of one step.

        Args:
            done: Steps of as many pictures before it.
            count: How many.
            generator: Of all that is random in them.

        Returns:
            ``[count, c, h, w]`` on [0, 1].
        """

    def rows(self, done: int, count: int) -> Tensor:
        """Which pictures of the set these are, ``[count]``; variants of one have one number."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a training.

    Attributes:
        batch: Pictures a step.
        learning_rate: Of Adam, the schedule's highest.
        schedule: Of the learning rate.
        weight_decay: Decoupled from the gradient (Loshchilov and Hutter 2019).
        eps: Of Adam.
        amsgrad: Of Adam.
        half: Whether products on the CPU are in bfloat16, which trains as well and twice as fast.
    """

    batch: int = 64
    learning_rate: float = 2e-3
    schedule: Schedule = one_cycle
    weight_decay: float = 0.0
    eps: float = 1e-8
    amsgrad: bool = False
    half: bool = True

    def steps(self, pictures: int, epochs: int) -> int:
        """Steps that pass so often over so many pictures; at least one."""
        return max(1, epochs * pictures // self.batch)


@dataclass(frozen=True)
class Pictures:
    """Drawn from a set, each as often as any other.

    Attributes:
        images: ``[m, c, h, w]`` on [0, 1], or uint8 on 0 to 255.
        augmentation: What is done to them.
        shuffle: Whether each pass is in a new order.
        seed: Of the orders.
    """

    images: Tensor
    augmentation: Augmentation = Augmentation()
    shuffle: bool = True
    seed: int = 0

    def __call__(self, done: int, count: int, generator: torch.Generator) -> Tensor:
        """The pictures of one step.

        Args:
            done: Steps of as many pictures before it.
            count: How many.
            generator: Of the augmentation.

        Returns:
            ``[count, c, h, w]`` on [0, 1].
        """
        rows = self.rows(done, count)
        chosen = self.images[rows.to(self.images.device)]
        pixels = chosen.float() / 255.0 if chosen.dtype == torch.uint8 else chosen.float()
        return self.augmentation(pixels, generator)

    def rows(self, done: int, count: int) -> Tensor:
        """Which they are, ``[count]``: a pass goes on where the step before ended."""
        m = len(self.images)
        places = torch.arange(done * count, (done + 1) * count, device="cpu")
        if not self.shuffle:
            return places % m
        rows = torch.empty_like(places)
        for turn in range(int(places[0]) // m, int(places[-1]) // m + 1):
            order = torch.Generator().manual_seed(self.seed * 1_000_003 + turn)
            mine = places // m == turn
            shuffled = torch.randperm(m, generator=order, device="cpu")
            rows[mine] = shuffled[places[mine] % m]
        return rows


def train_inverses(
    observe: Observe,
    networks: Sequence[nn.Module],
    draw: Draw,
    steps: int,
    run: Run,
    recipe: Recipe | None = None,
    checkpoint: Checkpoint | None = None,
) -> int:
    """Train decoders side by side, each on what its own cut sends; one pass serves them all.

    Mean squared error, Adam, fresh noise with every step.

    Args:
        observe: What each network's cut sends.
        networks: In the order of what ``observe`` returns; each maps boundary tensors to pixels
            and is trained in place.
        draw: The pictures of each step.
        steps: How many.
        run: The clock, the generator of augmentation and noise, and the record of the losses.
        recipe: The settings; the defaults where None.
        checkpoint: Where the state is kept; None for nowhere.

    Returns:
        The steps that were made, those before an interruption included.
    """
    recipe = recipe or Recipe()
    counted = [Counted(network) for network in networks]
    learners = [
        Learner(
            f"network{place}",
            module,
            torch.optim.AdamW(
                module.parameters(), lr=recipe.learning_rate, eps=recipe.eps,
                weight_decay=recipe.weight_decay, amsgrad=recipe.amsgrad,
            ),
            recipe.schedule,
        )
        for place, module in enumerate(counted)
    ]  # fmt: skip

    def step(generator: torch.Generator) -> float:
        pixels = draw(int(counted[0].done), recipe.batch, generator)
        with torch.no_grad():
            observed = observe(pixels, generator)
        total = 0.0
        for module, tensors, learner in zip(counted, observed, learners, strict=True):
            total += _descend(module.inner, tensors, pixels, learner.optimiser, recipe)
            module.done += 1
        return total / len(networks)

    train(learners, step, steps, run, checkpoint)
    return int(counted[0].done)


def standardise_by(observe: Observe, networks: Sequence[nn.Module], pixels: Tensor) -> None:
    """Give networks that standardise the statistics of what is sent for some pictures.

    Args:
        observe: What each network's cut sends.
        networks: Those with a method ``standardise``.
        pixels: ``[n, c, h, w]``; a few hundred.
    """
    with torch.no_grad():
        sent = observe(pixels, torch.Generator().manual_seed(0))
        for network, tensors in zip(networks, sent, strict=True):
            network.standardise(tensors)  # type: ignore[operator]


def _descend(
    network: nn.Module,
    tensors: tuple[Tensor, ...],
    pixels: Tensor,
    optimiser: torch.optim.Optimizer,
    recipe: Recipe,
) -> float:
    kind = pixels.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=recipe.half and kind == "cpu"):
        found = network(tensors)
    # Divided by what the network says is the scale of its pictures.
    loss = ((found - pixels) / getattr(network, "std", 1.0)).square().mean()
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimiser.step()
    return float(loss.detach())
