"""What attacks with a generator share: which latents to begin with, and the distance of restarts.

The state of a search is a tuple of tensors ``[r·n, …]``: restart after restart, each over all
pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from splitdeploy.attacks.generator import Generator, State
from splitdeploy.attacks.objective import FeatureDistance
from splitdeploy.attacks.target import TargetView

_AT_ONCE = 64


def first_latents(
    target: TargetView,
    generator: Generator,
    distance: FeatureDistance,
    *,
    samples: int,
    keep: int,
    random: torch.Generator,
) -> Tensor:
    """Of many latents, those whose pictures' smashed data come closest, picture by picture.

    The mean latent is one of them (ours): smooth decoders put a plain, likely picture there.

    Args:
        target: What was observed, and the head.
        generator: Of pictures.
        distance: To the observation.
        samples: How many latents to try; the same ones for every picture.
        keep: How many of them to keep for each, at most ``samples``.
        random: Of the draw.

    Returns:
        ``[keep·n, k]``, nearest first.
    """
    drawn = generator.draw(samples, random).to(target.device)
    drawn[0] = 0.0
    parts = []
    with torch.no_grad():
        for at in range(0, samples, _AT_ONCE):
            sent = target.pixel_head(generator(drawn[at : at + _AT_ONCE]))
            parts.append(_between(target, distance, sent))
    nearest = torch.cat(parts, dim=1).topk(keep, dim=1, largest=False).indices
    return drawn[nearest.T.flatten()]


def _between(target: TargetView, distance: FeatureDistance, sent: tuple[Tensor, ...]) -> Tensor:
    """The distance of each observation to each of m candidates, ``[n, m]``."""
    found = torch.zeros(target.images, len(sent[0]), device=target.device)
    for tensor, observed, scale in zip(sent, target.observation, distance.scales, strict=True):
        far = torch.cdist(observed.flatten(1).float(), tensor.flatten(1).float())
        found = found + far.square() * scale.to(far)[:, None]
    return found


def restart_distances(distance: FeatureDistance, pixels: Tensor) -> Tensor:
    """The distance ``[r·n]`` of restarts' pictures ``[r·n, c, h, w]``; differentiable.

    Args:
        distance: To the observation of n pictures.
        pixels: Restart after restart.

    Returns:
        One value a picture and restart.
    """
    images = distance.target.images
    return torch.cat([distance(part) for part in pixels.split(images)])  # type: ignore[no-untyped-call]


def better(improved: Tensor, new: State, old: State) -> State:
    """Each sample's state from the new where it improved, else from the old.

    Args:
        improved: ``[m]``, of bool.
        new: Tensors ``[m, …]``.
        old: Tensors of the same shapes.

    Returns:
        Tensors of the same shapes.
    """
    return tuple(
        torch.where(improved.view(-1, *(1,) * (a.dim() - 1)), a, b)
        for a, b in zip(new, old, strict=True)
    )


def choose_restart(distances: Tensor, pixels: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """The nearest restart of each picture.

    Args:
        distances: ``[r·n]``.
        pixels: ``[r·n, c, h, w]``.
        images: n.

    Returns:
        Distances ``[n]`` and pixels ``[n, c, h, w]``.
    """
    lowest, place = distances.view(-1, images).min(0)
    rows = place * images + torch.arange(images, device=place.device)
    return lowest, pixels[rows].contiguous()
