"""What is attacked: an observation, and as much of the head as the threat model grants.

The originals are not in here. An attack cannot choose anything by them because it never has them;
`splitdeploy.attacks.base.run_attack` judges afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.fresh import fresh_head
from splitdeploy.attacks.generator import Generator
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.profiles.errors import AttackError

_Held = TypeVar("_Held")

Query = Callable[[Tensor, int], tuple[Tensor, ...]]
"""From pixels ``[n, c, h, w]`` on [0, 1] and the seed of noise to what is sent for them."""


@dataclass(frozen=True)
class AttackTarget:
    """Smashed data as it was sent, and everything that some attacker may know besides.

    Attributes:
        observation: Each boundary tensor, batch first, as the exported head sent it.
        pixel_head: The head from pixels, for attackers who know the weights; None where there is
            only an exported graph.
        image_shape: ``(c, h, w)`` of a picture.
        bounds: The range of pixels.
        noise_sigma: The standard deviation of the noise on the observation, one for each tensor,
            broadcasting to it; None where none is known. A defence is no secret (Kerckhoffs): who
            knows the weights knows it too.
        query: Runs the head as deployed, noise and codec included, for attackers who may; None
            where that is what ``pixel_head`` gives.
        tail: From the boundary tensors, as arguments, to the logits.
        auxiliary: Pictures of the attacker's own.
        generator: The attacker's generator of pictures.
        labels: ``[n]`` int64: the true classes of the pictures behind the observation.

    Raises:
        AttackError: There is no observation, it is not finite, or its batches differ; or a sigma
            is not positive or of another shape; or the attacker's pictures are of another shape.
    """

    observation: tuple[Tensor, ...]
    pixel_head: PixelHead | None
    image_shape: tuple[int, int, int]
    bounds: tuple[float, float] = (0.0, 1.0)
    noise_sigma: tuple[Tensor, ...] | None = None
    query: Query | None = None
    tail: nn.Module | None = None
    auxiliary: Auxiliary | None = None
    generator: Generator | None = None
    labels: Tensor | None = None

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
        if self.auxiliary is not None:
            shape = tuple(self.auxiliary.images.shape[1:])
            self._check_shape("pictures of the attacker's own", shape)
        if self.generator is not None:
            self._check_shape("a generator of pictures", self.generator.image_shape)

    def _check_shape(self, what: str, shape: tuple[int, ...]) -> None:
        if shape != self.image_shape:
            raise AttackError(
                f"expected {what} of shape {list(self.image_shape)}, got {list(shape)}: the head "
                "takes no others"
            )

    @property
    def images(self) -> int:
        """How many pictures were observed."""
        return len(self.observation[0])

    def granted(self, threat: ThreatModel) -> TargetView:
        """What an attacker with this knowledge may use."""
        return TargetView(self, threat)

    def lacks(self, threat: ThreatModel) -> list[str]:
        """What an attacker with this knowledge would have, and this target does not hold.

        Args:
            threat: What the attacker knows.

        Returns:
            In words, each with what to do; empty where nothing is missing.
        """
        held = self.auxiliary
        no_head = self.pixel_head is None
        return [
            words
            for missing, words in (
                (
                    threat.weights and no_head,
                    "the head in torch (give the model as a torchvision name, module:factory or "
                    ".pt2)",
                ),
                (
                    threat.architecture and not threat.weights and no_head,
                    "the head's architecture in torch (give the model as a torchvision name, "
                    "module:factory or .pt2)",
                ),
                (threat.queries and no_head and self.query is None, "a head that answers queries"),
                (
                    threat.auxiliary_data and held is None,
                    "pictures of the attacker's own (give a folder with --aux-images)",
                ),
                (
                    threat.auxiliary_labels and held is not None and held.labels is None,
                    "labels of the attacker's own pictures (one sub-folder a class)",
                ),
                (
                    threat.generator and self.generator is None,
                    "a generator of pictures (splitdeploy prior train, then --prior FILE)",
                ),
                (threat.tail and self.tail is None, "the tail in torch"),
                (threat.labels and self.labels is None, "the true labels of the pictures"),
            )
            if missing
        ]


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
        device: Where the observation lies, and so where the attack computes.
    """

    def __init__(self, target: AttackTarget, threat: ThreatModel) -> None:
        self.observation = tuple(
            t.detach() if t.dtype == torch.float64 else t.detach().float()
            for t in target.observation
        )
        self.image_shape = target.image_shape
        self.bounds = target.bounds
        self.images = target.images
        self.device = self.observation[0].device
        self._target = target
        self._threat = threat

    @property
    def noise_sigma(self) -> tuple[Tensor, ...] | None:
        """The standard deviation of the noise on the observation.

        Returns:
            One for each tensor, or None where it is not known or not granted.
        """
        return self._target.noise_sigma if self._threat.weights else None

    @property
    def pixel_head(self) -> PixelHead:
        """The head from pixels.

        Returns:
            The head, in eval mode.

        Raises:
            AttackError: The threat model does not grant the weights, or there is no torch head, or
                it is in training mode and so changes from pass to pass.
        """
        self._demand(self._threat.weights, "the head's weights", "weights")
        return self._head()

    def fresh_head(self, seed: int) -> PixelHead:
        """A head of the same architecture with random parameters.

        Args:
            seed: Of the draw.

        Returns:
            The head, in eval mode; its parameters require gradients.

        Raises:
            AttackError: The threat model does not grant the architecture, or there is no torch
                head.
        """
        granted = self._threat.architecture or self._threat.weights
        self._demand(granted, "the head's architecture", "architecture")
        return fresh_head(self._head(), seed)

    def query(self, pixels: Tensor, seed: int) -> tuple[Tensor, ...]:
        """What is sent for pictures of the attacker's choice.

        Args:
            pixels: ``[m, c, h, w]`` on [0, 1].
            seed: Of the noise that a defence adds.

        Returns:
            Each boundary tensor ``[m, …]``, without gradients.

        Raises:
            AttackError: The threat model grants neither queries nor weights, or nothing answers.
        """
        self._demand(self._threat.queries or self._threat.weights, "queries", "queries")
        with torch.no_grad():
            if self._target.query is not None:
                return self._target.query(pixels, seed)
            tensors: tuple[Tensor, ...] = self._head()(pixels)
            return tensors

    @property
    def tail(self) -> nn.Module:
        """The tail, from the boundary tensors as arguments to the logits.

        Returns:
            The module, in eval mode.

        Raises:
            AttackError: The threat model does not grant it, or the target has none.
        """
        self._demand(self._threat.tail, "the tail", "tail")
        return _held(self._target.tail, "a tail in torch")

    @property
    def auxiliary(self) -> Auxiliary:
        """Pictures of the attacker's own; without labels where these are not granted.

        Returns:
            The pictures.

        Raises:
            AttackError: The threat model does not grant them, or the target has none.
        """
        self._demand(self._threat.auxiliary_data, "pictures of its own", "auxiliary_data")
        held = _held(self._target.auxiliary, "pictures of the attacker's own")
        return held if self._threat.auxiliary_labels else replace(held, labels=None)

    @property
    def generator(self) -> Generator:
        """The attacker's generator of pictures.

        Returns:
            The generator, in eval mode.

        Raises:
            AttackError: The threat model does not grant one, or the target has none.
        """
        self._demand(self._threat.generator, "a generator of pictures", "generator")
        return _held(self._target.generator, "a generator of pictures")

    @property
    def labels(self) -> Tensor:
        """The true classes of the pictures behind the observation.

        Returns:
            ``[n]`` int64.

        Raises:
            AttackError: The threat model does not grant them, or the target has none.
        """
        self._demand(self._threat.labels, "the true labels", "labels")
        return _held(self._target.labels, "the true labels of the pictures")

    def _demand(self, granted: bool, what: str, field: str) -> None:
        if not granted:
            raise AttackError(
                f"the attack asked for {what}, but its threat model is '{self._threat}': declare "
                f"{field}=True or do without"
            )

    def _head(self) -> PixelHead:
        head = self._target.pixel_head
        if head is None:
            raise AttackError(
                "a white-box attack needs the head in torch for its gradients, got only an "
                "exported graph: give the model as a torchvision name, module:factory or .pt2"
            )
        if head.training:
            raise AttackError(
                "expected a head in eval mode, got one in training mode: call .eval()"
            )
        return head


def _held(value: _Held | None, what: str) -> _Held:
    if value is None:
        raise AttackError(f"the attack needs {what}, and the target has none")
    return value
