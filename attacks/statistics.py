"""What smashed data look like on average: means, and how channels go together nearby.

An attacker who may not query still sees what is sent. If his own pictures are like the victim's, a
head that he makes up should send the like: with z the boundary tensor at a place p,

    E z(p),    E z(p) z(p + d)ᵀ  for small shifts d,

the second being, for a linear head W, W(f) S(f) W(f)* in the frequency domain: with S known of
pictures in general it holds all of W but a rotation among the picture's channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from splitdeploy.attacks.maps import as_map

_SHIFTS = ((0, 0), (0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (1, 2), (2, 1), (2, 2))
_MOST_CHANNELS = 96
"""Principal components that are compared; more would be noise of the few that were seen."""


@dataclass(frozen=True)
class _OneTensor:
    """One boundary tensor's.

    Attributes:
        mean: ``[c]``, subtracted.
        basis: ``[k, c]``: components of what is seen, of unit variance in all.
        moments: ``[d, k, k]`` of the components, one for each shift.
    """

    mean: Tensor
    basis: Tensor
    moments: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> _OneTensor:
        seen = _places(tensor)
        mean = seen.mean((0, 2, 3))
        centred = seen - mean.view(1, -1, 1, 1)
        rows = centred.transpose(0, 1).flatten(1)
        spread = rows.std(1).clamp_min(1e-6 * float(rows.std()) + 1e-12)
        scaled = rows / spread.unsqueeze(1)
        _, vectors = torch.linalg.eigh((scaled @ scaled.T).double() / rows.shape[1])
        kept = vectors.flip(1)[:, :_MOST_CHANNELS].T.to(seen)
        basis = kept / spread
        return cls(mean, basis, _moments(torch.einsum("kc,nchw->nkhw", basis, centred)))

    def distance(self, tensor: Tensor) -> Tensor:
        centred = _places(tensor) - self.mean.view(1, -1, 1, 1)
        found = torch.einsum("kc,nchw->nkhw", self.basis, centred)
        scale = self.moments[0].diagonal().sum()
        means = found.mean((0, 2, 3)).square().sum() / scale
        second = (_moments(found) - self.moments).square().sum((1, 2))
        return means + second.mean() / self.moments[0].square().sum()


class Statistics:
    """Those of an observation, to compare others with.

    Args:
        observation: Each boundary tensor, ``[n, …]``.
    """

    def __init__(self, observation: tuple[Tensor, ...]) -> None:
        self._tensors = [_OneTensor.of(t) for t in observation]

    def distance(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """How far those of other smashed data are.

        Args:
            tensors: Each ``[m, …]``; differentiable.

        Returns:
            Zero where they agree; 2 or so for a tensor that is constant.
        """
        pairs = zip(self._tensors, tensors, strict=True)
        return torch.stack([own.distance(tensor) for own, tensor in pairs]).mean()


def _places(tensor: Tensor) -> Tensor:
    found = as_map(tensor)
    return found if found.dim() == 4 else found[:, :, None, None]


def _moments(components: Tensor) -> Tensor:
    """``[d, k, k]``: the mean of z(p) z(p + d)ᵀ over pictures and places."""
    n, _, height, width = components.shape
    found = []
    for down, across in _SHIFTS:
        if down >= height or abs(across) >= width:
            continue
        first = components[:, :, : height - down, max(0, -across) : width - max(0, across)]
        second = components[:, :, down:, max(0, across) : width - max(0, -across)]
        places = n * first.shape[2] * first.shape[3]
        found.append(torch.einsum("nkhw,nlhw->kl", first, second) / places)
    return torch.stack(found)
