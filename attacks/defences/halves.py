"""What every defence asks of a cut model: its smashed data, its answers, and pictures in turns."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from splitdeploy.attacks.defences.base import Victim
from splitdeploy.profiles.errors import DefenceError

_CHUNK = 250  # pictures that go through a half at once where no gradient is kept


def check_number(
    of: str, value: float, low: float, high: float = math.inf, *, above: bool = False
) -> float:
    """A constructor's argument, refused where it lies outside its range.

    Args:
        of: What it is, in words.
        value: What came.
        low: The least that is allowed.
        high: What it must stay below.
        above: Whether ``low`` itself is refused too.

    Returns:
        The value.

    Raises:
        DefenceError: It is outside, or not a number.
    """
    if not (low < value if above else low <= value) or not value < high:
        bounds = f"{'(' if above else '['}{low:g}, {high:g})"
        raise DefenceError(f"expected {of} on {bounds}, got {value:g}")
    return value


def check_victim(victim: Victim) -> None:
    """Refuse what no defence can be set up on.

    Args:
        victim: The cut model and its pictures.

    Raises:
        DefenceError: There are no pictures, not as many labels, or a half is in training mode.
    """
    if victim.images.ndim != 4 or len(victim.images) == 0:
        raise DefenceError(
            f"expected pictures [n, c, h, w] to set the defence up by, got "
            f"{list(victim.images.shape)}: give at least one"
        )
    if victim.labels is not None and victim.labels.shape != (len(victim.images),):
        raise DefenceError(
            f"expected a label for each of {len(victim.images)} pictures, got "
            f"{list(victim.labels.shape)}: give as many, or None for the model's own answers"
        )
    for name, half in (("head", victim.head), ("tail", victim.tail)):
        if any(module.training for module in half.modules()):
            raise DefenceError(
                f"expected a {name} in eval mode, got one that is training: call {name}.eval()"
            )


@torch.no_grad()
def smashed_data(victim: Victim, images: Tensor) -> tuple[Tensor, ...]:
    """The boundary tensors of pictures, chunk by chunk.

    Args:
        victim: The cut model.
        images: ``[n, c, h, w]`` on [0, 1].

    Returns:
        Each tensor of the boundary, ``[n, …]``.

    Raises:
        DefenceError: A boundary tensor holds no floating-point numbers, or not finite ones.
    """
    parts = [victim.head(chunk) for chunk in torch.split(images, _CHUNK)]
    tensors = tuple(torch.cat(each) for each in zip(*parts, strict=True))
    for place, tensor in enumerate(tensors):
        if not tensor.is_floating_point():
            raise DefenceError(
                f"expected smashed data of floating-point numbers, got {tensor.dtype} in boundary "
                f"tensor {place}: choose another cut"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise DefenceError(f"the head gives NaN or infinity in boundary tensor {place}")
    return tensors


def root_mean_squares(victim: Victim) -> tuple[float, ...]:
    """The root mean square of each boundary tensor, over all pictures and elements.

    Args:
        victim: The cut model and its pictures.

    Returns:
        A number above 0 for each boundary tensor.

    Raises:
        DefenceError: The victim cannot be defended, or a boundary tensor is zero throughout.
    """
    check_victim(victim)
    squares = [
        [float(tensor.double().square().mean()) * len(chunk) for tensor in tensors]
        for chunk in torch.split(victim.images, _CHUNK)
        for tensors in [smashed_data(victim, chunk)]
    ]
    means = [sum(each) / len(victim.images) for each in zip(*squares, strict=True)]
    for place, mean in enumerate(means):
        if not mean > 0:
            raise DefenceError(
                f"expected smashed data to measure noise by, got zeros throughout boundary tensor "
                f"{place}: give other pictures or choose another cut"
            )
    return tuple(math.sqrt(mean) for mean in means)


@torch.no_grad()
def answers(victim: Victim) -> Tensor:
    """The class of each picture: its label, or else what the undefended model says.

    Args:
        victim: The cut model and its pictures.

    Returns:
        ``[n]`` int64.

    Raises:
        DefenceError: The tail gives no ``[n, classes]``, or a label is none of its classes.
    """
    first = victim.images[:1] if victim.labels is not None else victim.images
    scores = [victim.tail(*victim.head(chunk)) for chunk in torch.split(first, _CHUNK)]
    if scores[0].ndim != 2:
        raise DefenceError(
            f"expected a tail that gives [n, classes], got {list(scores[0].shape)}: this defence "
            "is for classifiers"
        )
    if victim.labels is None:
        return torch.cat([score.argmax(dim=1) for score in scores])
    classes = scores[0].shape[1]
    low, high = int(victim.labels.min()), int(victim.labels.max())
    if low < 0 or high >= classes:
        raise DefenceError(f"expected labels from 0 to {classes - 1}, got {low} to {high}")
    return victim.labels.long()


def minibatches(
    count: int, size: int, epochs: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, float]]:
    """Indices of random minibatches, every picture once an epoch but for an incomplete last batch.

    Args:
        count: How many pictures there are.
        size: Of a minibatch; all pictures where there are fewer.
        epochs: How often to go through them.
        generator: Of the order.

    Yields:
        The indices, and the share of all minibatches that is done once this one is.
    """
    size = min(size, count)
    whole = count // size
    for epoch in range(epochs):
        order = torch.randperm(count, generator=generator)
        for turn in range(whole):
            share = (epoch * whole + turn + 1) / (epochs * whole)
            yield order[turn * size : (turn + 1) * size], share
