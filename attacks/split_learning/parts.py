"""Layers that one party of split learning holds, and how they learn from a gradient alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.split_learning.messages import HandOver
from splitdeploy.attacks.training import Learner
from splitdeploy.profiles.errors import AttackError

Optimise = Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]
"""Makes a party's optimiser: ``lambda p: torch.optim.Adam(p, lr=1e-3)``."""


class Part(nn.Module):
    """Consecutive layers of the joint model, with the optimiser of their parameters.

    A pass forward is kept until the pass back through it; what goes in and out is detached, so that
    a party has no more of the joint graph than it is sent.

    Args:
        layers: From a batch to a tensor, or to a tuple of one; trained in place.
        optimise: Makes the optimiser of their parameters.
        owner: Whose they are, in messages: ``the server``.

    Raises:
        AttackError: There is nothing to train in the layers.
    """

    steps: Tensor

    def __init__(self, layers: nn.Module, optimise: Optimise, owner: str) -> None:
        super().__init__()
        parameters = [p for p in layers.parameters() if p.requires_grad]
        if not parameters:
            raise AttackError(
                f"expected layers of {owner} with parameters to train, got none in "
                f"{type(layers).__name__}: move the cut, or call requires_grad_()"
            )
        self.layers = layers
        self.optimiser = optimise(parameters)
        self.owner = owner
        self.register_buffer("steps", torch.tensor(0, device="cpu"))
        self._passed: tuple[Tensor, Tensor] | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """The layers' output for a batch, detached.

        Args:
            inputs: ``[b, …]``.

        Returns:
            ``[b, …]``.

        Raises:
            AttackError: The layers do not take such a batch, or give more than one tensor.
        """
        entered, left = self._run(inputs)
        self._passed = (entered, left)
        return left.detach()

    def backward(self, gradient: Tensor) -> Tensor:
        """Pass back through the last pass forward, and make a step of the optimiser.

        Args:
            gradient: ∂L/∂output, of the output's shape.

        Returns:
            ∂L/∂input, taken before the step; zero for an input of integers.

        Raises:
            AttackError: There was no pass forward, or its output has another shape.
        """
        if self._passed is None:
            raise AttackError(f"expected a pass forward of {self.owner} before the pass back")
        entered, left = self._passed
        if gradient.shape != left.shape:
            raise AttackError(
                f"expected a gradient of shape {list(left.shape)} for what {self.owner} sent, got "
                f"{list(gradient.shape)}"
            )
        self._passed = None
        return self._learn(entered, left, gradient)

    def finish(self, inputs: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        """Where these layers are the last: the loss, and a step by it.

        Args:
            inputs: ``[b, …]``.
            labels: ``[b]`` int64.

        Returns:
            The mean cross entropy, and ∂L/∂input, taken before the step.

        Raises:
            AttackError: The layers give no logits, or a label has none.
        """
        entered, logits = self._run(inputs)
        loss = cross_entropy(logits, labels)
        return float(loss.detach()), self._learn(entered, loss, None)

    def hand_over(self) -> HandOver:
        """What the next client goes on from: copies of the weights and the optimiser's state."""
        weights = {k: v.detach().clone() for k, v in self.layers.state_dict().items()}
        optimiser = self.optimiser.state_dict()
        states = {
            place: {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}
            for place, state in optimiser["state"].items()
        }
        return HandOver(weights, {**optimiser, "state": states})

    def take_over(self, given: HandOver) -> None:
        """Go on from what another client handed over."""
        self.layers.load_state_dict(given.weights)
        self.optimiser.load_state_dict(dict(given.optimiser))

    def learner(self, name: str) -> Learner:
        """For `splitdeploy.attacks.training.train`."""
        return Learner(name, self, self.optimiser)

    def _run(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        floating = inputs.is_floating_point()
        entered = inputs.detach().requires_grad_() if floating else inputs
        try:
            left = self.layers(entered)
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise AttackError(
                f"the layers of {self.owner} do not take {list(inputs.shape)} ({reason}): cut the "
                "model so that each part takes what the one before it gives"
            ) from error
        return entered, single(left, self.owner)

    def _learn(self, entered: Tensor, left: Tensor, gradient: Tensor | None) -> Tensor:
        self.optimiser.zero_grad()
        torch.autograd.backward([left], None if gradient is None else [gradient])
        self.optimiser.step()
        self.steps += 1
        return torch.zeros_like(entered) if entered.grad is None else entered.grad.detach()


def single(out: Tensor | Sequence[Tensor], owner: str) -> Tensor:
    """The one tensor that crosses a cut of split learning.

    Args:
        out: What layers gave.
        owner: Whose layers, for the message.

    Returns:
        It.

    Raises:
        AttackError: They gave several.
    """
    if isinstance(out, Tensor):
        return out
    if len(out) != 1:
        raise AttackError(
            f"expected one tensor from the layers of {owner}, got {len(out)}: choose a cut that a "
            "single tensor crosses"
        )
    return out[0]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean cross entropy of a batch.

    Args:
        logits: ``[b, classes]``.
        labels: ``[b]`` int64 on [0, classes).

    Returns:
        A scalar.

    Raises:
        AttackError: The shapes do not fit, or a label has no logit.
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise AttackError(
            f"expected logits [b, classes] and a label for each, got {list(logits.shape)} and "
            f"{list(labels.shape)}"
        )
    check_labels(labels, logits.shape[1])
    return functional.cross_entropy(logits, labels)


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse labels that no class has.

    Args:
        labels: ``[n]`` int64.
        classes: How many there are.

    Raises:
        AttackError: A label is negative or too large.
    """
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise AttackError(
            f"expected labels from 0 to {classes - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}: the last layers give {classes} logits"
        )
