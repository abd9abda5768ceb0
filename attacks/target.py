"""What is attacked: an observation, and as much of the head as the threat model grants.

The originals are not in here. An attack cannot choose anything by them because it never has them;
`splitdeploy.attacks.base.run_attack` judges afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.profiles.errors import AttackError


@dataclass(frozen=True)
class AttackTarget:
    """Smashed data as it was sent, and the torch head with the same weights.

    Attributes:
        observation: Each boundary tensor, batch first, as the exported head sent it.
        pixel_head: The head from pixels, for attackers who know the weights; None where there is
            only an exported graph.
        image_shape: ``(c, h, w)`` of a picture.
        bounds: The range of pixels.
        noise_sigma: The standard deviation of the noise on the observation, one for each tensor,
            broadcasting to it; None where none is known. A defence is no secret (Kerckhoffs): who
            knows the weights knows it too.

    Raises:
        AttackError: There is no observation, it is not finite, or its batches differ; or a sigma
            is not positive or of another shape.
    """

    observation: tuple[Tensor, ...]
    pixel_head: PixelHead | None
    image_shape: tuple[int, int, int]
    bounds: tuple[float, float] = (0.0, 1.0)
    noise_sigma: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        sizes = {len(t) for t in self.observation}
        if len(sizes) != 1 or 0 in sizes:
            raise AttackError(
                "expected an observation of one or more tensors with one batch size, got shapes "
                f"{[list(t.shape) for t in self.observation]}"
            )
        if not all(bool(torch.isfinite(t).all()) for t in self.observation):
            raise AttackError("expected finite smashed data, got NaN or infinity: verify the head")
        if self.noise_sigma is not None:
            _check_sigma(self.noise_sigma, self.observation)

    @property
    def images(self) -> int:
        """How many pictures were observed."""
        return len(self.observation[0])

    def granted(self, threat: ThreatModel) -> TargetView:
        """What an attacker with this knowledge may use."""
        return TargetView(self, threat)


def _check_sigma(sigmas: tuple[Tensor, ...], observation: tuple[Tensor, ...]) -> None:
    if len(sigmas) != len(observation) or not all(bool((s > 0).all()) for s in sigmas):
        raise AttackError(
            f"expected a positive noise sigma for each of {len(observation)} observed tensors, got "
            f"{[float(s.min()) for s in sigmas]}"
        )
    for sigma, tensor in zip(sigmas, observation, strict=True):
        try:
            sigma.expand_as(tensor)
        except RuntimeError:
            raise AttackError(
                f"expected a noise sigma that broadcasts to {list(tensor.shape)}, got "
                f"{list(sigma.shape)}"
            ) from None


class TargetView:
    """A target as an attack sees it: what its threat model does not declare, it cannot use.

    Args:
        target: The whole target.
        threat: What the attack declares.

    Attributes:
        observation: Each boundary tensor, batch first, in float32 or float64, detached.
        image_shape: ``(c, h, w)`` of a picture.
        bounds: The range of pixels.
        images: How many pictures were observed.
    """

    def __init__(self, target: AttackTarget, threat: ThreatModel) -> None:
        self.observation = tuple(
            t.detach() if t.dtype == torch.float64 else t.detach().float()
            for t in target.observation
        )
        self.image_shape = target.image_shape
        self.bounds = target.bounds
        self.images = target.images
        self._head = target.pixel_head
        self._noise_sigma = target.noise_sigma
        self._threat = threat

    @property
    def noise_sigma(self) -> tuple[Tensor, ...] | None:
        """The standard deviation of the noise on the observation.

        Returns:
            One for each tensor, or None where it is not known or not granted.
        """
        return self._noise_sigma if self._threat.weights else None

    @property
    def pixel_head(self) -> PixelHead:
        """The head from pixels.

        Returns:
            The head, in eval mode.

        Raises:
            AttackError: The threat model does not grant the weights, or there is no torch head, or
                it is in training mode and so changes from pass to pass.
        """
        if not self._threat.weights:
            raise AttackError(
                "the attack asked for the head's weights, but its threat model is "
                f"'{self._threat}': declare weights=True or do without"
            )
        if self._head is None:
            raise AttackError(
                "a white-box attack needs the head in torch for its gradients, got only an "
                "exported graph: give the model as a torchvision name, module:factory or .pt2"
            )
        if self._head.training:
            raise AttackError(
                "expected a head in eval mode, got one in training mode: call .eval()"
            )
        return self._head
