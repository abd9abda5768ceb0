"""UnSplit: pictures and a clone from smashed data alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from splitdeploy.attacks.base import run_attack
from splitdeploy.attacks.baselines import best_baseline
from splitdeploy.attacks.fresh import fresh_head
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.target import AttackTarget
from splitdeploy.attacks.textures import dead_leaves
from splitdeploy.attacks.unsplit import UnSplit, clone_accuracy, unsplit
from splitdeploy.attacks.unsplit_start import bright, stretch
from splitdeploy.profiles.errors import AttackError

SHAPE = (3, 16, 16)


def pictures(count: int, seed: int) -> Tensor:
    return dead_leaves(count, SHAPE, torch.Generator().manual_seed(seed))


def target(count: int = 16) -> tuple[AttackTarget, Tensor]:
    torch.manual_seed(4)
    head = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    pixel_head = PixelHead(head, (0.5,) * 3, (0.25,) * 3).eval()
    originals = pictures(count, 1)
    with torch.no_grad():
        return AttackTarget(pixel_head(originals), pixel_head, SHAPE), originals


def test_together_they_are_found_out() -> None:
    attacked, originals = target()
    record, found = run_attack(UnSplit(rounds=10, start_steps=100, restarts=1), attacked, originals)
    assert record.ssim > best_baseline(originals).ssim + 0.1
    assert found.losses[-1] < 0.7 * found.losses[100]


def test_the_clone_sends_what_the_client_sends() -> None:
    attacked, originals = target()
    found = unsplit(attacked, UnSplit(rounds=10, start_steps=100, restarts=1))
    assert found.pixels.shape == originals.shape
    assert 0.0 <= float(found.pixels.min()) <= float(found.pixels.max()) <= 1.0
    assert attacked.pixel_head is not None
    before = fresh_head(attacked.pixel_head, 0)
    fresh = pictures(32, 7)
    with torch.no_grad():
        sent, cloned, random = (h(fresh)[0] for h in (attacked.pixel_head, found.clone, before))
    assert float((cloned - sent).square().mean()) < 0.7 * float((random - sent).square().mean())


def test_as_published_the_clone_goes_from_picture_to_picture() -> None:
    attacked, _ = target(2)
    attack = UnSplit("code", rounds=3, input_steps=4, model_steps=4, tv_weight=0.1, square_weight=1)
    both = unsplit(attacked, attack)
    first = unsplit(
        AttackTarget((attacked.observation[0][:1],), attacked.pixel_head, SHAPE), attack
    )
    second = unsplit(
        AttackTarget((attacked.observation[0][1:],), attacked.pixel_head, SHAPE), attack
    )
    assert torch.equal(both.pixels[:1], first.pixels)
    assert not torch.equal(both.pixels[1:], second.pixels)
    # Adam's steps are of 1e-3 at most: 12 of them from 0.5.
    assert float((both.pixels - 0.5).abs().max()) <= 0.013
    assert attack(attacked).steps == 48


def test_a_turn_moves_the_pictures_or_the_clone() -> None:
    attacked, _ = target(1)
    assert attacked.pixel_head is not None
    seen = []

    class Watched(UnSplit):
        def _prior(self, pixels: Tensor) -> Tensor:
            seen.append(pixels.detach().clone())
            return super()._prior(pixels)

    Watched("paper", rounds=2, input_steps=2, model_steps=3, tv_weight=1e-4)(attacked)
    # Two turns of two: pictures move within a turn and stand still in the model's.
    assert len(seen) == 4
    assert not torch.equal(seen[0], seen[1])
    assert float((seen[2] - seen[1]).abs().max()) <= 1.01e-3


@pytest.mark.parametrize("preset", ["fast", "code", "paper"])
def test_a_deadline_ends_it(preset: str) -> None:
    attacked, _ = target(2)
    found = UnSplit.preset(preset)(attacked, deadline_s=1e-3)
    assert 1 <= found.steps < 20
    assert not found.converged


def test_a_constant_head_is_beaten_by_none() -> None:
    attacked, originals = target(4)

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.level = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return 0.0 * x[:, :, :4, :4] + self.level

    head = PixelHead(Constant(), (0.5,) * 3, (0.25,) * 3).eval()
    with torch.no_grad():
        attacked = AttackTarget(head(originals), head, SHAPE)
    record, _ = run_attack(UnSplit(rounds=2, start_steps=3), attacked, originals)
    assert record.ssim <= best_baseline(originals).ssim + 0.02


def test_the_restart_of_the_lowest_loss_is_kept() -> None:
    attacked, _ = target(4)
    both = UnSplit(rounds=2, start_steps=2)
    found = both(attacked)
    one = 2 * (both.input_steps + both.model_steps)
    first, second = found.losses[one + 1], found.losses[-1]
    guessed = UnSplit(rounds=2, start_steps=2, restarts=1)(attacked)
    assert found.losses[: one + 2] == guessed.losses
    assert torch.equal(found.pixels, guessed.pixels) == (first <= second)


def test_what_smashed_data_do_not_tell_is_changed_in_the_clone_too() -> None:
    attacked, originals = target(4)
    assert attacked.pixel_head is not None
    clone = fresh_head(attacked.pixel_head, 0)
    negative = 1 - 0.5 * originals.pow(2)
    with torch.no_grad():
        before = clone(negative)[0]
        turned = bright(negative, clone, (0.0, 1.0))
        found = stretch(turned, clone, (0.0, 1.0))
        after = clone(found)[0]
    assert torch.allclose(before, after, atol=1e-4)
    assert not torch.equal(turned, negative)
    values = found.flatten()
    assert float((values < 0.05).float().mean()) == pytest.approx(0.05, abs=0.01)
    assert float((values > 0.95).float().mean()) == pytest.approx(0.05, abs=0.01)


def test_clone_accuracy_is_that_of_clone_and_tail() -> None:
    attacked, _ = target(1)
    assert attacked.pixel_head is not None
    tail = nn.Sequential(nn.Flatten(), nn.Linear(8 * 256, 3))
    pixels = pictures(300, 2)
    with torch.no_grad():
        labels = tail(*attacked.pixel_head(pixels)).argmax(1)
    assert clone_accuracy(attacked.pixel_head, tail, pixels, labels) == 1.0
    assert clone_accuracy(attacked.pixel_head, tail, pixels, (labels + 1) % 3) == 0.0


def test_what_it_needs_is_told() -> None:
    attacked, _ = target(1)
    with pytest.raises(AttackError, match="unsplit needs the head's architecture in torch"):
        UnSplit()(AttackTarget(attacked.observation, None, SHAPE))
    with pytest.raises(AttackError, match="variant 'ours', 'code' or 'paper' and at least 1 round"):
        UnSplit("theirs")
    with pytest.raises(AttackError, match="start_steps of zero or more and at least 1 restart"):
        UnSplit(tv_weight=-1)
