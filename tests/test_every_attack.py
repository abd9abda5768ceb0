"""What holds for every attack that is registered."""

from __future__ import annotations

import math
from dataclasses import replace

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
    """Every attack computes where the observation lies.

    There may be no GPU here, so each attack runs on the CPU while tensors that are made without a
    device go to ``meta``, which holds no numbers: one forgotten device, and the two do not mix.
    """
    attack = find_attack(name).preset()
    target = next(t for t in map(small_target, (True, False)) if attack.applies(t))
    with torch.device("meta"):
        found = attack(target, deadline_s=0.2)
    assert found.pixels.device.type == "cpu"
    assert found.pixels.shape == (2, *SHAPE)
    assert bool(torch.isfinite(found.pixels).all())


class Constant(nn.Module):
    """Sends the same whatever comes in, and yet depends on it as far as autograd knows."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x[:, :, ::2, ::2] + 1.0


@pytest.mark.parametrize("name", [row["name"] for row in attacks_table()])
def test_a_constant_head_is_beaten_by_none(name: str) -> None:
    """What is observed is independent of the pictures, which are independent in every number.

    So no answer has an expected squared error below that of grey, 1/12; over 4,608 numbers it
    scatters by 1.3 % (one standard deviation, from the fourth moment of a uniform variable), and
    0.25 dB are four of those.
    """
    target = small_target(linear=True)
    head = PixelHead(Constant(), (0.5,) * 3, (0.25,) * 3).eval().requires_grad_(False)
    originals = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1))
    tail = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval().requires_grad_(False)
    constant = replace(
        target, observation=head(originals), pixel_head=head, tail=tail,
        labels=torch.arange(6) % 4,
    )  # fmt: skip
    attack = find_attack(name).preset()
    assert attack.applies(constant)
    found = attack(constant, deadline_s=0.3)
    grey = -10.0 * math.log10(1.0 / 12.0)
    pooled = -10.0 * math.log10(float((found.pixels - originals).square().mean()))
    assert pooled <= grey + 0.25
