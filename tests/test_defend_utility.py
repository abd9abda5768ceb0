"""What a defence costs: intervals against scipy's and against their own coverage."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from splitdeploy.attacks.defences.base import Defended, Perturbation, Victim, additive
from splitdeploy.attacks.defences.utility import paired_interval, utility
from splitdeploy.attacks.intervals import wilson95
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import DefenceError


class Mean(nn.Module):
    """Class 1 where the mean of a picture is above a half."""

    def forward(self, z: Tensor) -> Tensor:
        bright = z.flatten(1).mean(1) - 0.5
        return torch.stack([-bright, bright], dim=1)


def cut(images: Tensor) -> Victim:
    return Victim(PixelHead(nn.Identity(), (0.0,) * 3, (1.0,) * 3).eval(), Mean().eval(), images)


IMAGES = torch.rand(60, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (77, 200)])
def test_wilsons_interval_is_scipys(successes: int, trials: int) -> None:
    found = stats.binomtest(successes, trials).proportion_ci(0.95, "wilson")
    assert wilson95(successes, trials) == pytest.approx((found.low, found.high), abs=1e-9)


def test_the_paired_interval_covers_the_truth() -> None:
    # Gains with 5 %, losses with 15 %: the truth is -0.1; 95 % of intervals shall hold it, and of
    # 400 runs at least 92 % do but once in 10^3.
    generator = torch.Generator().manual_seed(3)
    draws = torch.rand(400, 80, generator=generator)
    held = 0
    for run in draws:
        low, high = paired_interval(float((run < 0.05).sum()), float((run > 0.85).sum()), 80)
        held += low <= -0.1 <= high
    assert held / 400 >= 0.92
    assert paired_interval(0, 0, 10)[1] > 0.1


def test_nothing_costs_nothing() -> None:
    victim = cut(IMAGES)
    still = Perturbation("none", torch.ones(()), torch.zeros(()), torch.zeros(()))
    found = utility(Defended(victim.head, victim.tail, (still,), "nothing"), victim, IMAGES)
    assert (found.measure, found.change, found.after.value) == ("agreement", 0.0, 1.0)
    assert found.change_ci95[0] < 0 < found.change_ci95[1]


def test_accuracy_is_counted_by_hand() -> None:
    victim = cut(IMAGES)
    labels = torch.arange(60) % 2
    dark = Perturbation("none", torch.ones(()), torch.tensor(-1.0), torch.zeros(()))
    found = utility(Defended(victim.head, victim.tail, (dark,), "dark"), victim, IMAGES, labels)
    answers = IMAGES.flatten(1).mean(1) > 0.5
    assert found.measure == "accuracy"
    assert found.before.value == pytest.approx(float((answers == labels.bool()).double().mean()))
    assert found.after.value == 0.5  # every answer is 0
    assert found.change == pytest.approx(found.after.value - found.before.value)
    assert found.after.ci95 == wilson95(30, 60)


def test_overwhelming_noise_leaves_chance() -> None:
    victim = cut(IMAGES)
    loud = Defended(victim.head, victim.tail, (additive("gaussian", 1e3),), "loud")
    found = utility(loud, victim, IMAGES, draws=20, seed=1)
    # 1,200 fair coins: within 4 standard deviations.
    assert found.after.value == pytest.approx(0.5, abs=4 * 0.5 / 1200**0.5)
    again = utility(loud, victim, IMAGES, draws=20, seed=1)
    assert again == found != utility(loud, victim, IMAGES, draws=20, seed=2)


def test_refusals() -> None:
    victim = cut(IMAGES)
    nothing = Defended(victim.head, victim.tail, (additive("gaussian", 0.1),), "x")
    with pytest.raises(DefenceError, match="as many labels and at least 1 draw, got 60, 3 and 3"):
        utility(nothing, victim, IMAGES, torch.zeros(3))
    flat = Defended(victim.head, nn.Flatten(0), (additive("gaussian", 0.1),), "x")
    with pytest.raises(DefenceError, match=r"expected a model that answers \[n, classes\], got"):
        utility(flat, victim, IMAGES)
