"""What a reconstruction minimises: the distance to the smashed data, and what pictures are like."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from splitdeploy.attacks.target import TargetView
from splitdeploy.profiles.errors import AttackError

_TINY = 1e-12


@dataclass(frozen=True)
class FeatureDistance:
    """The squared distance of a picture's smashed data to the observed, image by image.

    Attributes:
        target: The head, and the bounds of pixels.
        observed: Each boundary tensor ``[n, …]`` that pictures are compared with.
        scales: For each boundary tensor ``[n]``: what its squared distance is multiplied by.
    """

    target: TargetView
    observed: tuple[Tensor, ...]
    scales: tuple[Tensor, ...]

    @classmethod
    def relative(cls, target: TargetView) -> FeatureDistance:
        """Each tensor by its own energy, averaged over the tensors: 1 for smashed data of zero.

        So tensors of different size and scale count alike, and one weight of a prior fits every
        head.

        Args:
            target: What was observed, and the head.

        Returns:
            The distance.
        """
        seen = target.observation
        energies = (t.double().square().flatten(1).sum(1) for t in seen)
        scales = tuple((1.0 / (len(seen) * e.clamp_min(_TINY))).float() for e in energies)
        return cls(target, seen, scales)

    @classmethod
    def summed(cls, target: TargetView) -> FeatureDistance:
        """The plain sum of squares over all tensors."""
        return cls._weighed(target, 1.0)

    @classmethod
    def averaged(cls, target: TargetView) -> FeatureDistance:
        """The mean square over the elements of all tensors."""
        return cls._weighed(target, 1.0 / sum(t[0].numel() for t in target.observation))

    @classmethod
    def _weighed(cls, target: TargetView, weight: float) -> FeatureDistance:
        seen = target.observation
        return cls(target, seen, tuple(t.new_full((target.images,), weight) for t in seen))

    def repeated(self, copies: int) -> FeatureDistance:
        """The same with every observation several times in a row, for restarts side by side.

        Args:
            copies: How often, at least 1.

        Returns:
            The distance of ``n·copies`` pictures: those of the first observation come first.
        """
        return FeatureDistance(
            self.target,
            tuple(t.repeat_interleave(copies, 0) for t in self.observed),
            tuple(s.repeat_interleave(copies, 0) for s in self.scales),
        )

    def __call__(self, pixels: Tensor) -> Tensor:
        """The distance ``[n]`` at pixels ``[n, c, h, w]``; differentiable.

        Args:
            pixels: Where.

        Returns:
            One value an image.

        Raises:
            AttackError: The head's tensors have other shapes than the observed ones.
        """
        sent = self.target.pixel_head(pixels)
        if [t.shape for t in sent] != [t.shape for t in self.observed]:
            raise AttackError(
                f"the torch head gives tensors of shapes {[list(t.shape) for t in sent]}, observed "
                f"were {[list(t.shape) for t in self.observed]}: head and observation are of "
                "different cuts"
            )
        parts = [
            (tensor - observed).square().flatten(1).sum(1) * scale
            for tensor, observed, scale in zip(sent, self.observed, self.scales, strict=True)
        ]
        return torch.stack(parts).sum(0)


def total_variation(pixels: Tensor, beta: float) -> Tensor:
    """Σ (Δh² + Δv²)^(β/2) over the pixels of each channel (He et al. 2019, eq. 3b).

    Args:
        pixels: ``[n, c, h, w]``.
        beta: 1 favours flat regions with sharp edges, 2 smooth ones.

    Returns:
        ``[n]``; differentiable, at flat places too.
    """
    across, down = _differences(pixels)
    square = across.square() + down.square()
    if beta == 2.0:
        return square.flatten(1).sum(1)
    return (square + _TINY).pow(beta / 2.0).flatten(1).sum(1)


def mean_square_variation(pixels: Tensor) -> Tensor:
    """Mean Δh² plus mean Δv², each summed over the channels: the TV of He et al.'s published code.

    Args:
        pixels: ``[n, c, h, w]``.

    Returns:
        ``[n]``; their code's sums over the batch, divided by places and batch, are its mean.
    """
    across = (pixels[..., :, 1:] - pixels[..., :, :-1]).square()
    down = (pixels[..., 1:, :] - pixels[..., :-1, :]).square()
    places_across, places_down = across[0, 0].numel(), down[0, 0].numel()
    horizontal = across.flatten(1).sum(1) / max(1, places_across)
    vertical = down.flatten(1).sum(1) / max(1, places_down)
    return horizontal + vertical


def outside(pixels: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Mean squared excess over the bounds.

    Args:
        pixels: ``[n, c, h, w]``.
        bounds: The range of pixels.

    Returns:
        ``[n]``; differentiable.
    """
    return (pixels - pixels.clamp(*bounds)).square().flatten(1).mean(1)


def _differences(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Forward differences to the right and down, 0 beyond the last column and row."""
    across = torch.diff(pixels, dim=-1, append=pixels[..., -1:])
    down = torch.diff(pixels, dim=-2, append=pixels[..., -1:, :])
    return across, down
