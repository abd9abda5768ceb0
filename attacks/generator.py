"""A generator of pictures: what an attacker believes that pictures look like.

It is a chain of stages, so that an attack can restart in the middle (progressive feature
optimisation): the first takes a latent vector, each next what the one before it gave. Between two
stages lies a tuple of tensors, each with the batch first; a generator with an RGB skip carries the
picture that has accumulated in that tuple, and nothing is lost where a stage restarts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from splitdeploy.profiles.errors import AttackError

State = tuple[Tensor, ...]
"""What passes from stage to stage."""


class Generator(nn.Module):
    """From a latent vector to a picture, stage by stage.

    Args:
        stages: Each maps a state to the next; the first gets ``(latent,)``, the last gives
            ``(pixels,)`` on the bounds of pixels.
        latent_size: Elements of the latent vector, which is N(0, 1) in each.
        image_shape: ``(c, h, w)`` of what comes out.

    Attributes:
        residual: ``[c, h, w]``: the spectrum of what pictures are beside the generator's range
            (`splitdeploy.attacks.generators.residual`); None where it was not measured.

    Raises:
        AttackError: There are no stages, or they give no such pictures.
    """

    residual: Tensor | None = None

    def __init__(
        self, stages: Sequence[nn.Module], latent_size: int, image_shape: tuple[int, int, int]
    ) -> None:
        super().__init__()
        if not stages or latent_size < 1:
            raise AttackError(
                f"expected a generator of at least one stage and one latent element, got "
                f"{len(stages)} and {latent_size}"
            )
        self.stages = nn.ModuleList(stages)
        self.latent_size = latent_size
        self.image_shape = image_shape

    def forward(self, latent: Tensor) -> Tensor:
        """Pictures ``[n, c, h, w]`` of latent vectors ``[n, k]``."""
        return self.from_stage(0, (latent,))

    def from_stage(self, stage: int, state: State) -> Tensor:
        """The picture from the state that a stage would receive.

        Args:
            stage: The first stage to run: 0 takes ``(latent,)``.
            state: What the stage before it gave.

        Returns:
            Pixels ``[n, c, h, w]``.
        """
        for module in list(self.stages)[stage:]:
            state = module(state)
        (pixels,) = state
        return pixels

    def to_stage(self, stage: int, state: State, *, start: int = 0) -> State:
        """The state that a stage receives.

        Args:
            stage: Up to which, not included.
            state: What stage ``start`` receives.
            start: The first to run.

        Returns:
            The state before ``stage``.
        """
        for module in list(self.stages)[start:stage]:
            state = module(state)
        return state

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Latent vectors from their distribution.

        Args:
            count: How many.
            generator: On the CPU, so that every device draws the same.

        Returns:
            ``[count, k]``, on the device of the parameters.
        """
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        latent = torch.randn(count, self.latent_size, generator=generator, device="cpu")
        return latent.to(device)
