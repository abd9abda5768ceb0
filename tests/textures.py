"""Four classes of textures and a small net that tells them apart, trained in seconds."""

from __future__ import annotations

import functools
import hashlib
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.defences.base import Defended, Victim
from splitdeploy.attacks.pixel_head import PixelHead

SIZE = 16


def textures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Gratings of four directions on clouds of colour: ``[n, 3, 16, 16]`` on [0, 1], and classes.

    Phase, wavelength and colour say nothing of the class, so that a net has to leave them out.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    classes = torch.randint(4, (count,), generator=generator)
    angle = (classes * math.pi / 4 + uniform(-0.15, 0.15)).view(-1, 1, 1)
    down, right = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    along = angle.cos() * right + angle.sin() * down
    waves = torch.sin(along * uniform(1.2, 1.9, 1, 1) + uniform(0, 2 * math.pi, 1, 1))
    coarse = torch.randn(count, 3, 4, 4, generator=generator)
    clouds = functional.interpolate(coarse, size=SIZE, mode="bicubic")
    tint = uniform(0.4, 1.0, 3, 1, 1)
    grain = 0.1 * torch.randn(count, 3, SIZE, SIZE, generator=generator)
    pictures = 0.5 + 0.12 * tint * waves.unsqueeze(1) + 0.12 * clouds + grain
    return pictures.clamp(0, 1), classes


@functools.cache
def trained_victim() -> Victim:
    """A net cut behind its first convolution, with 800 pictures that it was trained on."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        tail = nn.Sequential(
            nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4),
        )  # fmt: skip
    whole = nn.Sequential(PixelHead(head, [0.5] * 3, [0.25] * 3), _First(tail))
    images, classes = textures(800, seed=1)
    optimiser = torch.optim.Adam(whole.parameters())
    generator = torch.Generator().manual_seed(2)
    for epoch in range(8):
        # Falling, so that it ends where it ends whichever way a processor rounds.
        optimiser.param_groups[0]["lr"] = 0.01 * (1 - epoch / 8)
        for chosen in torch.randperm(len(images), generator=generator).view(-1, 50):
            optimiser.zero_grad()
            functional.cross_entropy(whole(images[chosen]), classes[chosen]).backward()
            optimiser.step()
    whole.eval().requires_grad_(False)
    return Victim(whole[0], tail, images, classes)  # type: ignore[arg-type]


class _First(nn.Module):
    """A tail on a boundary of one tensor."""

    def __init__(self, tail: nn.Module) -> None:
        super().__init__()
        self.tail = tail

    def forward(self, tensors: tuple[Tensor, ...]) -> Tensor:
        return self.tail(*tensors)


@torch.no_grad()
def accuracy(defended: Defended, images: Tensor, classes: Tensor, draws: int = 5) -> float:
    """The share that is answered rightly, over several draws of the noise."""
    generator = torch.Generator().manual_seed(0)
    tensors = defended.head(images)
    right = [
        (defended.tail(*defended.perturb(tensors, generator)).argmax(1) == classes).float().mean()
        for _ in range(draws)
    ]
    return float(torch.stack(right).mean())


def fingerprint(*halves: nn.Module) -> str:
    """Of all parameters and buffers, of what trains, and of the mode."""
    found = hashlib.sha256()
    for half in halves:
        for name, tensor in sorted(half.state_dict().items()):
            found.update(name.encode() + tensor.numpy().tobytes() + bytes([tensor.requires_grad]))
        found.update(bytes(module.training for module in half.modules()))
        found.update(bytes(p.requires_grad for p in half.parameters()))
        found.update(bytes(p.grad is None for p in half.parameters()))
    return found.hexdigest()
