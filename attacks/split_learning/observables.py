"""What a client's last layers let out of a sample's label: one gradient of two.

UnSplit's label inference reads ∂L/∂W of the last weight, which is the client's own: a server has it
only where the client shows it, as the paper and its code take for granted. A protocol that follows
figure 1 sends the *boundary* gradient ∂L/∂h alone, with respect to what the server sent; as it is
one row a sample, batches do not hide it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from splitdeploy.attacks.split_learning.parts import check_labels
from splitdeploy.profiles.errors import AttackError

Observable = Literal["weight", "boundary"]
"""∂L/∂W of the last layer's weight, or ∂L/∂h of the client's input."""

_CHUNK = 64
"""Samples at once where a gradient of the size of a weight is held for each."""


@dataclass(frozen=True)
class Observed:
    """What the server knows of some samples, each as if it were a batch of its own.

    Attributes:
        features: ``[n, …]``: what the server sent.
        gradients: ``[n, …]``: of each sample's own cross entropy, with respect to the last weight
            (``[n, classes, k]``) or to the features (of their shape).
        of: Which of the two.

    Raises:
        AttackError: There are no samples, not a gradient for each, or one is not finite.
    """

    features: Tensor
    gradients: Tensor
    of: Observable

    def __post_init__(self) -> None:
        if self.of not in {"weight", "boundary"}:
            raise AttackError(
                f"expected gradients of the 'weight' or the 'boundary', got {self.of!r}"
            )
        n = len(self.features)
        fits = len(self.gradients) == n and (
            self.gradients.dim() == 3
            if self.of == "weight"
            else self.gradients.shape == self.features.shape
        )
        if not n or not fits:
            raise AttackError(
                f"expected at least one sample with a gradient of its {self.of}, got features "
                f"{list(self.features.shape)} and gradients {list(self.gradients.shape)}"
            )
        for tensor in (self.features, self.gradients):
            if not bool(torch.isfinite(tensor).all()):
                raise AttackError(
                    "expected finite features and gradients, got NaN or infinity: the training "
                    "that was observed diverged"
                )

    def __len__(self) -> int:
        """How many samples."""
        return len(self.features)


def observe_gradients(
    layers: nn.Module, features: Tensor, labels: Tensor, of: Observable
) -> Observed:
    """What a client with these last layers would let out, sample by sample.

    Args:
        layers: From the features to the logits; no layer may mix the samples of a batch.
        features: ``[n, …]``: what the server sends.
        labels: ``[n]`` int64, the client's secret.
        of: Which gradient is shown.

    Returns:
        The observation; without a trace of the labels but the gradients.
    """
    logits = logits_of(layers, features)
    check_labels(labels, logits.shape[1])
    if of == "boundary":
        gradients = boundary_gradients(layers, features, labels).detach()
    else:
        gradients = torch.cat(list(_chunks(weight_gradients(layers), features, labels)))
    return Observed(features.detach(), gradients, of)


def logits_of(layers: nn.Module, features: Tensor) -> Tensor:
    """The logits, as far as the layers give some.

    Args:
        layers: From the features to the logits.
        features: ``[n, …]``.

    Returns:
        ``[n, classes]``.

    Raises:
        AttackError: The layers do not take the features, or give no logits.
    """
    try:
        out = layers(features)
    except (RuntimeError, ValueError) as error:
        raise AttackError(
            f"the client's last layers do not take features {list(features.shape)} "
            f"({str(error).splitlines()[0]})"
        ) from error
    if not isinstance(out, Tensor) or out.dim() != 2 or len(out) != len(features):
        raise AttackError(
            "expected last layers that give logits [n, classes], got "
            f"{list(out.shape) if isinstance(out, Tensor) else type(out).__name__}"
        )
    return out


def boundary_gradients(
    layers: nn.Module, features: Tensor, labels: Tensor, *, differentiable: bool = False
) -> Tensor:
    """∂L/∂h of each sample's own loss.

    Args:
        layers: From the features to the logits.
        features: ``[n, …]``.
        labels: ``[n]`` int64.
        differentiable: Whether the gradients are to be differentiated by the parameters.

    Returns:
        ``[n, …]``.
    """
    entered = features.detach().requires_grad_()
    loss = functional.cross_entropy(layers(entered), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, entered, create_graph=differentiable)
    return gradient


def weight_gradients(layers: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """∂L/∂W of the last linear layer's weight, of each sample's own loss.

    Args:
        layers: From the features to the logits.

    Returns:
        A function of features ``[n, …]`` and labels ``[n]``, to ``[n, classes, k]``.
    """
    name = last_weight(layers)
    held = {k: v.detach() for k, v in (*layers.named_parameters(), *layers.named_buffers())}

    def loss(weight: Tensor, feature: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(layers, {**held, name: weight}, (feature.unsqueeze(0),))
        return functional.cross_entropy(logits, label.unsqueeze(0))

    each = vmap(grad(loss), in_dims=(None, 0, 0))
    return lambda features, labels: each(held[name], features.detach(), labels)


def last_weight(layers: nn.Module) -> str:
    """The name of the last linear layer's weight.

    Args:
        layers: A client's last layers.

    Returns:
        The parameter's name.

    Raises:
        AttackError: There is no linear layer.
    """
    names = [name for name, module in layers.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise AttackError(
            "expected last layers with a linear layer, whose weight gradient tells of labels, got "
            f"{type(layers).__name__} without one"
        )
    return f"{names[-1]}.weight".lstrip(".")


def candidate_errors(layers: nn.Module, seen: Observed) -> Tensor:
    """How far each label's gradient through these layers is from the one that was observed.

    Args:
        layers: From the features to the logits: a clone of the client's.
        seen: What was observed.

    Returns:
        ``[n, classes]``: the mean squared error.

    Raises:
        AttackError: The layers' gradient is of another shape.
    """
    classes = logits_of(layers, seen.features).shape[1]
    errors = []
    for label in range(classes):
        labels = torch.full((len(seen),), label, device=seen.features.device)
        if seen.of == "boundary":
            errors.append(_error(boundary_gradients(layers, seen.features, labels), seen.gradients))
            continue
        found = _chunks(weight_gradients(layers), seen.features, labels)
        parts = zip(found, torch.split(seen.gradients, _CHUNK), strict=True)
        errors.append(torch.cat([_error(ours, theirs) for ours, theirs in parts]))
    return torch.stack(errors, 1)


def _error(ours: Tensor, theirs: Tensor) -> Tensor:
    if ours.shape != theirs.shape:
        raise AttackError(
            f"expected gradients of shape {list(ours.shape[1:])} from a client of this "
            f"architecture, got {list(theirs.shape[1:])}"
        )
    return (ours.detach() - theirs).square().flatten(1).mean(1)


def _chunks(
    gradients: Callable[[Tensor, Tensor], Tensor], features: Tensor, labels: Tensor
) -> list[Tensor]:
    pairs = zip(torch.split(features, _CHUNK), torch.split(labels, _CHUNK), strict=True)
    return [gradients(f, y) for f, y in pairs]
