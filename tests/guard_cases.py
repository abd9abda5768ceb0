"""Heads and tails that are linear, so that every figure of a guard has a closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from splitdeploy.attacks.defences.base import Victim
from splitdeploy.attacks.leakage.prior import ImagePrior, default_prior
from splitdeploy.attacks.pixel_head import PixelHead

SIDE = 4
D = SIDE * SIDE
PRIOR = default_prior((1, SIDE, SIDE))


class TwoTensors(nn.Module):
    """Two linear maps of the picture, the second one's output a hundred times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(D, 7)
        self.second = nn.Linear(D, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.flatten(1)
        return self.first(flat), 100.0 * self.second(flat)


class Joined(nn.Module):
    """A linear classifier of several tensors."""

    def __init__(self, elements: int, classes: int) -> None:
        super().__init__()
        self.last = nn.Linear(elements, classes)

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.last(torch.cat([t.flatten(1) for t in tensors], dim=1))


def on_pixels(module: nn.Module, channels: int = 1) -> PixelHead:
    return PixelHead(module, (0.0,) * channels, (1.0,) * channels).double().eval()


def pictures(n: int, channels: int = 1, side: int = SIDE, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, side, side, generator=generator, dtype=torch.float64)


def linear_victim(k: int, *, classes: int = 4, n: int = 6, seed: int = 0) -> Victim:
    """z = Ax of k elements, logits = Bz + b with columns of B that differ a hundredfold."""
    torch.manual_seed(seed)
    head = on_pixels(nn.Sequential(nn.Flatten(), nn.Linear(D, k)))
    tail = Joined(k, classes).double().eval()
    with torch.no_grad():
        tail.last.weight *= torch.logspace(-1, 1, k, dtype=torch.float64)
    return Victim(head, tail, pictures(n))


def two_tensor_victim(n: int = 6) -> Victim:
    torch.manual_seed(0)
    return Victim(on_pixels(TwoTensors()), Joined(12, 4).double().eval(), pictures(n))


def convolutional_victim(n: int = 6) -> Victim:
    """Channels of a smooth net, twice as many elements as pixels."""
    torch.manual_seed(0)
    head = on_pixels(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh()))
    tail = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4))
    return Victim(head, tail.double().eval(), pictures(n))


def head_matrix(victim: Victim) -> Tensor:
    """A of a linear head, by its answers to unit pictures."""
    unit = torch.eye(D, dtype=torch.float64).view(D, 1, SIDE, SIDE)
    with torch.no_grad():
        zero = victim.head.features(torch.zeros_like(unit[:1]))
        return (victim.head.features(unit) - zero).T


def covariance(prior: ImagePrior = PRIOR) -> Tensor:
    half = prior.apply_half(torch.eye(D, dtype=torch.float64))
    return half @ half


def closed_gain(victim: Victim, sigma: Tensor) -> float:
    """(1/2d)·ln det(1 + Σ^-½ A C Aᵀ Σ^-½): I(X; Z)/d of a linear head and Gaussian pictures."""
    white = head_matrix(victim) / sigma.unsqueeze(1)
    inner = torch.eye(len(sigma)).double() + white @ covariance() @ white.T
    return 0.5 * float(torch.linalg.slogdet(inner).logabsdet) / D


def exact_sensitivity(victim: Victim) -> Tensor:
    """diag(Bᵀ(diag p − ppᵀ)B) of a linear tail, averaged over the pictures: ``[k]``."""
    weight = victim.tail.last.weight
    with torch.no_grad():
        p = victim.tail(*victim.head(victim.images)).softmax(dim=1)
    inner = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    return torch.einsum("ck,ncd,dk->k", weight, inner, weight).detach() / len(p)
