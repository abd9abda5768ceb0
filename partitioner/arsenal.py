"""What the attacker has of his own, loaded: pictures, a generator of pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.checkpoint import digest
from splitdeploy.attacks.generator import Generator
from splitdeploy.attacks.images import load_photographs
from splitdeploy.partitioner.attack_target import Arsenal
from splitdeploy.partitioner.lent import KINSHIPS, Lent
from splitdeploy.profiles.errors import AttackError

_MOST_BYTES = 1 << 29
"""Of decoded pictures at once: 896 of 224 pixels, 43,690 of 32."""


def load_arsenal(
    lent: Lent, attacked: Tensor, *, seed: int, labels: Tensor | None = None
) -> tuple[Arsenal, tuple[str, ...]]:
    """Load what the attacker has.

    Args:
        lent: Where it comes from.
        attacked: The pictures that are attacked, ``[n, c, h, w]`` on [0, 1]; none of them may be
            the attacker's.
        seed: Of the order of classes.
        labels: The true classes of the attacked pictures, or None.

    Returns:
        What he has, and what was left out.

    Raises:
        AttackError: All of his pictures are among those attacked, or the generator is for pictures
            of another size.
    """
    channels, height, width = attacked.shape[1:]
    shape = (channels, height, width)
    auxiliary: Auxiliary | None = None
    notes: tuple[str, ...] = ()
    if lent.images is not None:
        auxiliary, notes = _pictures(lent, attacked, shape, seed)
    generator = None if lent.prior is None else _generator(lent.prior, shape)
    return Arsenal(auxiliary, generator, labels), notes


def arsenal_digest(arsenal: Arsenal) -> dict[str, str | None]:
    """What tells one arsenal from another, for the state of an interrupted run.

    Args:
        arsenal: What the attacker has.

    Returns:
        Short texts by name.
    """
    own, prior = arsenal.auxiliary, arsenal.generator
    tensors = [] if own is None else [own.images, *([] if own.labels is None else [own.labels])]
    return {
        "auxiliary": None if own is None else f"{own} {digest(tensors)}",
        "prior": None if prior is None else digest(prior.state_dict().values()),
    }


def _pictures(
    lent: Lent, attacked: Tensor, shape: tuple[int, int, int], seed: int
) -> tuple[Auxiliary, tuple[str, ...]]:
    if lent.images is None:
        raise AttackError("expected a folder of the attacker's pictures, got none")
    most = max(1, _MOST_BYTES // (4 * attacked[0].numel()))
    found = load_photographs(lent.images, shape=shape, count=most, seed=seed, labels=lent.labels)
    # They come from files of 8 bits, so nothing is lost.
    images = _bytes(torch.from_numpy(found.pixels))
    known = {picture.numpy().tobytes() for picture in _bytes(attacked)}
    kept = [i for i, picture in enumerate(images) if picture.numpy().tobytes() not in known]
    if not kept:
        raise AttackError(
            f"expected pictures of the attacker's own in {lent.images}, got only those that are "
            "attacked: give others with --aux-images"
        )
    notes = []
    if len(kept) < len(images):
        notes.append(f"{len(images) - len(kept)} of --aux-images are attacked: left out")
    if len(found) == most:
        notes.append(f"the first {most} pictures of --aux-images were taken, for memory's sake")
    labels = None if found.labels is None else torch.from_numpy(found.labels)[kept]
    return Auxiliary(images[kept], KINSHIPS[lent.kinship], labels), tuple(notes)


def _bytes(pixels: Tensor) -> Tensor:
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()


def _generator(prior: str, shape: tuple[int, int, int]) -> Generator:
    from splitdeploy.attacks.generators.file import load_generator

    generator = load_generator(prior)
    if generator.image_shape != shape:
        raise AttackError(
            f"expected a generator of pictures of shape {list(shape)}, got {prior} of "
            f"{list(generator.image_shape)}: train one on pictures of that size (splitdeploy prior "
            "train)"
        )
    return generator
