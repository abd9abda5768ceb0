"""Attacks with a generator: a target in its range is recovered, and the ball does what it says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from splitdeploy.attacks.base import run_attack
from splitdeploy.attacks.generators.small import Architecture, SmallGenerator
from splitdeploy.attacks.images import load_photographs
from splitdeploy.attacks.latent_search import LatentSearch
from splitdeploy.attacks.pfo import Pfo
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.target import AttackTarget
from splitdeploy.profiles.errors import AttackError

SHAPE = (3, 16, 16)


def generator() -> SmallGenerator:
    """Random, with a style that counts and pictures that differ from each other."""
    torch.manual_seed(3)
    made = SmallGenerator(Architecture(SHAPE, 8, 6)).eval().requires_grad_(False)
    for module in made.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            module.weight.normal_(0.0, 1.4 / math.sqrt(module.weight[0].numel()))
    return made


def head() -> PixelHead:
    torch.manual_seed(1)
    inner = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(),
    )  # fmt: skip
    return PixelHead(inner, (0.5,) * 3, (0.25,) * 3).eval()


def target_of(pixels: Tensor) -> AttackTarget:
    sender = head()
    with torch.no_grad():
        return AttackTarget(sender(pixels), sender, SHAPE, generator=generator())


def in_range(count: int = 3) -> Tensor:
    made = generator()
    return made(made.draw(count, torch.Generator().manual_seed(11)))


def photographs(count: int = 2) -> Tensor:
    return torch.from_numpy(load_photographs("photos", shape=SHAPE, count=count).pixels)


def test_a_target_in_the_generators_range_is_recovered() -> None:
    pixels = in_range()
    attack = Pfo(
        samples=256, restarts=6, latent_steps=120, stage_steps=10, weights=(0.0,), residual=0.0
    )
    record, found = run_attack(attack, target_of(pixels), pixels)
    assert record.psnr_db > 40.0
    assert found.steps <= 120 + 3 * 10


def test_a_radius_of_zero_keeps_the_picture_of_the_latent() -> None:
    target = target_of(photographs())
    still = Pfo(samples=8, latent_steps=6, stage_steps=3, radius=0.0, weights=(0.1,))(target)
    # Nothing moves after the latent, however long; and where a stage restarts nothing changes.
    longer = Pfo(samples=8, latent_steps=6, stage_steps=9, radius=0.0, weights=(0.1,))(target)
    assert torch.equal(still.pixels, longer.pixels)
    assert any("stage 1: the l1 ball of radius 0 bound 100%" in n for n in still.notes)


def test_an_infinite_radius_is_no_constraint_and_a_small_one_binds() -> None:
    pixels = photographs()
    ends = {}
    for radius in (0.0, 0.01, 1e6, math.inf):
        attack = Pfo(samples=8, latent_steps=10, stage_steps=10, radius=radius, weights=(0.01,))
        found = attack(target_of(pixels))
        ends[radius] = (found.losses[-1], found)
    assert torch.equal(ends[1e6][1].pixels, ends[math.inf][1].pixels)
    assert any("inf bound 0% of moves" in note for note in ends[math.inf][1].notes)
    assert ends[math.inf][0] < ends[0.01][0] < ends[0.0][0]


def test_latent_search_recovers_a_target_in_range() -> None:
    pixels = in_range()
    attack = LatentSearch(
        starts=8, start_steps=20, start_rate=0.1, steps=160, relative=True, tv_weight=0.0,
        square_weight=0.0, latent_weight=0.0,
    )  # fmt: skip
    record, found = run_attack(attack, target_of(pixels), pixels)
    assert record.psnr_db > 25.0
    assert found.steps == 20 + 160


def test_published_settings_of_latent_search() -> None:
    attack = LatentSearch.preset("published")
    assert (attack.starts, attack.start_steps, attack.steps) == (200, 100, 20_000)
    assert (attack.tv_weight, attack.square_weight, attack.latent_weight) == (0.01, 0.01, 1.0)


@pytest.mark.parametrize("attack", [Pfo(), Pfo(residual=0.0), LatentSearch()], ids=repr)
def test_a_deadline_leaves_each_part_a_step(attack: Pfo | LatentSearch) -> None:
    found = attack(target_of(photographs()), deadline_s=1e-9)
    assert 2 <= found.steps <= 60
    assert not found.converged
    assert bool(torch.isfinite(found.pixels).all())


class Leaky(nn.Module):
    """A head that gives NaN once pixels have left where they began by more than a little."""

    def __init__(self, begin: Tensor) -> None:
        super().__init__()
        self.begin = begin

    def forward(self, x: Tensor) -> Tensor:
        far = (x - self.begin).abs().flatten(1).amax(1) > 0.02
        return torch.where(far.view(-1, 1, 1, 1), x * torch.nan, x)


def test_a_head_that_gives_nan_leaves_a_finite_picture() -> None:
    made = generator()
    plain = made(torch.zeros(1, 8))
    sender = PixelHead(Leaky(plain), (0.0,) * 3, (1.0,) * 3).eval()
    target = AttackTarget((plain + 0.2,), sender, SHAPE, generator=made)
    found = Pfo(samples=4, latent_steps=10, stage_steps=5)(target)
    assert float((found.pixels - plain).abs().max()) <= 0.02 + 1e-6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"restarts": 0}, "expected 1 to samples restarts, and a step at least for each stage"),
        ({"stage_steps": 0}, "stage_steps=0"),
        ({"latent_steps": 2}, "latent_steps=2, stage_steps=20 and 5 weights"),
        ({"radius": -1.0}, "expected a radius, a residual and one or more weights of zero or more"),
        ({"radius": math.nan}, "expected a radius, a residual and one or more weights"),
        ({"weights": ()}, "one or more weights of zero or more"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(AttackError, match=message):
        Pfo(**settings)  # type: ignore[arg-type]


def test_settings_of_latent_search_out_of_range_are_refused() -> None:
    with pytest.raises(AttackError, match="expected at least 1 start and 1 step"):
        LatentSearch(starts=0)
    with pytest.raises(AttackError, match="weights and noise of zero or more"):
        LatentSearch(noise=-1.0)


def test_a_generator_is_needed_and_must_give_such_pictures() -> None:
    target = target_of(photographs(1))
    without = AttackTarget(target.observation, target.pixel_head, SHAPE)
    with pytest.raises(AttackError, match="pfo needs a generator of pictures .splitdeploy prior"):
        Pfo()(without)
    with pytest.raises(AttackError, match=r"generator of pictures of shape \[1, 8, 8\], got"):
        AttackTarget(target.observation, None, (1, 8, 8), generator=generator())
