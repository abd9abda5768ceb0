"""What is attacked at a cut: the exported head as it is deployed, and what an attacker has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.generator import Generator
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.target import AttackTarget
from splitdeploy.partitioner.codec import QuantisationRange
from splitdeploy.partitioner.deployed import (
    LEAST_STEP,
    TWIN_TOLERANCE,
    DeployedHead,
    deployed_halves,
    saturated,
    twin_error,
)
from splitdeploy.partitioner.head_module import OneByOne, torch_tail
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.slicing import write_slice
from splitdeploy.profiles.errors import AttackError, CutError

_BATCH = 32
"""Pictures that a head is queried with at once."""


@dataclass(frozen=True)
class Arsenal:
    """What an attacker has beside the smashed data and the model.

    Attributes:
        auxiliary: Pictures of his own.
        generator: A generator of pictures.
        labels: ``[n]`` int64: the true classes of the pictures that are attacked.
    """

    auxiliary: Auxiliary | None = None
    generator: Generator | None = None
    labels: Tensor | None = None


@contextmanager
def deployed_target(
    plan: Plan, place: int, precision: str, pixels: Tensor, arsenal: Arsenal
) -> Iterator[AttackTarget]:
    """A cut to attack: what its exported head sent, and everything that an attacker may know.

    Args:
        plan: The model, its cuts and its export.
        place: The cut's place among them.
        precision: Of the payload.
        pixels: The pictures that are sent, ``[n, c, h, w]`` on [0, 1].
        arsenal: What the attacker has besides.

    Yields:
        The target; the exported head answers queries for as long as this lasts.

    Raises:
        AttackError: The torch head does not give what the exported head sends.
    """  # noqa: DOC502
    cut, sent = plan.cuts[place], plan.sent[place]
    halves, ranges = deployed_halves(plan, cut, sent, precision)
    path = write_slice(halves.head, plan.exported.path, "attacked.head.onnx")
    with DeployedHead(path, sent.tensors, plan.model.input, ranges) as deployed:

        def query(pictures: Tensor, _seed: int) -> tuple[Tensor, ...]:
            batches = torch.split(pictures.detach().cpu(), _BATCH)
            parts = zip(*(deployed.send(batch) for batch in batches), strict=True)
            return tuple(torch.cat(part).to(pictures.device) for part in parts)

        observation = query(pixels, 0)
        head = plan.pixel_head(cut)
        if head is not None:
            check_twin(head, pixels, observation, precision, ranges)
        channels, height, width = pixels.shape[1:]
        yield AttackTarget(
            observation,
            head,
            (channels, height, width),
            query=query,
            tail=_tail(plan, place),
            auxiliary=arsenal.auxiliary,
            generator=arsenal.generator,
            labels=arsenal.labels,
        )


def check_twin(
    head: PixelHead,
    pixels: Tensor,
    sent: Sequence[Tensor],
    precision: str,
    ranges: Mapping[str, QuantisationRange],
) -> None:
    """Refuse to take gradients of a torch head that is not the one that was exported.

    Args:
        head: In torch.
        pixels: ``[n, c, h, w]`` on [0, 1].
        sent: What the exported head sent for them, decoded.
        precision: Of the payload.
        ranges: For ``int8`` the range of every tensor, beyond which it was clipped.

    Raises:
        AttackError: They differ by more than rounding.
    """
    with torch.no_grad():
        own = saturated(head(pixels), ranges)
    error = twin_error(own, sent, LEAST_STEP[precision])
    if error > TWIN_TOLERANCE[precision]:
        raise AttackError(
            f"expected the torch head to give what the exported head sends, they differ by "
            f"{error:.1e} of the largest value: its gradients would be another head's"
        )


def _tail(plan: Plan, place: int) -> nn.Module | None:
    """The tail in torch; None without a torch graph, or where the input itself is sent."""
    if plan.model.onnx_path is not None:
        return None
    names = [tensor.name for tensor in plan.cuts[place].tensors]
    try:
        tail = torch_tail(plan.model.trace.program, names)
    except CutError:
        return None
    return tail if plan.exported.dynamic_batch else OneByOne(tail).eval()
