"""Every attack computes where the observation lies.

There may be no GPU here, so each attack runs on the CPU while tensors that are made without a
device go to ``meta``, which holds no numbers: one forgotten device, and the two do not mix.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.generator import Generator
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.registry import attacks_table, find_attack
from splitdeploy.attacks.target import AttackTarget

SHAPE = (3, 16, 16)


class Grow(nn.Module):
    """A stage: twice the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = state[0] if state[0].dim() == 4 else state[0].view(-1, 4, 4, 4)
        return (torch.sigmoid(self.convolution(nn.functional.interpolate(x, scale_factor=2.0))),)


def small_target(linear: bool) -> AttackTarget:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 6, 3, padding=1)]
    if not linear:
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
    head = PixelHead(nn.Sequential(*layers), (0.5,) * 3, (0.25,) * 3).eval().requires_grad_(False)
    size = 6 * (256 if linear else 64)
    tail = nn.Sequential(nn.Flatten(), nn.Linear(size, 4)).eval().requires_grad_(False)
    images = torch.rand(40, *SHAPE)
    return AttackTarget(
        head(images[:2]),
        head,
        SHAPE,
        tail=tail,
        auxiliary=Auxiliary(images[2:], "same distribution", torch.arange(38) % 4),
        generator=Generator([Grow(4, 8), Grow(8, 3)], 64, SHAPE).eval().requires_grad_(False),
        labels=torch.tensor([0, 1]),
    )


@pytest.mark.parametrize("name", [row["name"] for row in attacks_table()])
def test_no_tensor_is_made_without_a_device(name: str) -> None:
    attack = find_attack(name).preset()
    target = next(t for t in map(small_target, (True, False)) if attack.applies(t))
    with torch.device("meta"):
        found = attack(target, deadline_s=0.2)
    assert found.pixels.device.type == "cpu"
    assert found.pixels.shape == (2, *SHAPE)
    assert bool(torch.isfinite(found.pixels).all())
