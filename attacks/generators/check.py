"""Whether a generator is one: stages that chain, pictures of its shape, finite, on [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from splitdeploy.attacks.generator import Generator, State
from splitdeploy.profiles.errors import AttackError


def check_generator(generator: Generator, image_shape: tuple[int, int, int] | None = None) -> None:
    """Refuse a generator that does not fit together, or not the pictures asked for.

    Args:
        generator: In eval mode.
        image_shape: ``(c, h, w)`` that is needed; None for whatever it says.

    Raises:
        AttackError: Its stages do not chain, its pictures are of another shape, not finite or not
            on [0, 1], or one depends on the others of its batch.
    """
    shape = tuple(generator.image_shape)
    if image_shape is not None and shape != tuple(image_shape):
        raise AttackError(
            f"expected a generator of pictures of shape {list(image_shape)}, got one of "
            f"{list(shape)}: train one for this input"
        )
    with torch.no_grad():
        latent = generator.draw(3, torch.Generator().manual_seed(0))
        pixels = _whole(generator, latent)
        if tuple(pixels.shape) != (3, *shape):
            raise AttackError(
                f"expected pictures of shape {[3, *shape]} from the generator, got "
                f"{list(pixels.shape)}"
            )
        if not bool(torch.isfinite(pixels).all()):
            raise AttackError("expected finite pixels from the generator, got NaN or infinity")
        low, high = float(pixels.min()), float(pixels.max())
        if low < -0.05 or high > 1.05:
            raise AttackError(
                f"expected pixels on [0, 1] from the generator, got [{low:.3g}, {high:.3g}]: map "
                "them (from_decoder takes bounds)"
            )
        alone = _whole(generator, latent[:1])
    if not torch.allclose(alone, pixels[:1], atol=1e-3):
        raise AttackError(
            "expected a generator that gives the same picture for a latent every time, got one "
            "whose pictures depend on chance or on the rest of the batch: put it in eval mode"
        )


def _whole(generator: Generator, latent: Tensor) -> Tensor:
    state: State = (latent,)
    for place, stage in enumerate(generator.stages):
        try:
            state = stage(state)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise AttackError(
                f"expected stages of a generator that chain, got an error in stage {place} of "
                f"{len(generator.stages)}: {reason}"
            ) from error
    if not isinstance(state, tuple) or len(state) != 1:
        raise AttackError(
            f"expected (pixels,) from a generator's last stage, got {type(state).__name__}"
        )
    return state[0]
