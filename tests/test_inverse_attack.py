"""Decoders as attacks: what a few queries buy, and what a training that stops leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.base import Attack, run_attack
from splitdeploy.attacks.baselines import best_baseline
from splitdeploy.attacks.inverse_attack import InverseAttack, InverseBlind
from splitdeploy.attacks.linear_decoder import Layout, LinearDecoder
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.published_decoder import PublishedDecoder
from splitdeploy.attacks.target import AttackTarget
from splitdeploy.attacks.textures import clouds, dead_leaves, normal_noise
from splitdeploy.profiles.errors import AttackError

SHAPE = (3, 16, 16)


def pictures(count: int, seed: int) -> Tensor:
    return dead_leaves(count, SHAPE, torch.Generator().manual_seed(seed))


def target(head: nn.Module, *, own: int = 32, seen: int = 6) -> tuple[AttackTarget, Tensor]:
    """A head under attack, and the pictures that were sent."""
    pixel_head = PixelHead(head, (0.5,) * 3, (0.25,) * 3).eval()
    originals = pictures(seen, 1)
    with torch.no_grad():
        observation = pixel_head(originals)
    auxiliary = Auxiliary(pictures(own, 2), "same distribution")
    return AttackTarget(observation, pixel_head, SHAPE, auxiliary=auxiliary), originals


def shallow() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.ReLU())


class Tokens(nn.Module):
    """Patches as attention sends them, behind a class token, and a vector beside them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 24, 4, stride=4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        mean = tokens.mean(1, keepdim=True)
        return torch.cat([mean, tokens], 1).tanh(), mean.flatten(1)


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.0 * x[:, :, :4, :4] + 1.0


def test_a_linear_head_gives_everything_away() -> None:
    torch.manual_seed(0)
    attacked, originals = target(nn.Conv2d(3, 32, 3, padding=1))
    record, found = run_attack(InverseAttack(steps=4, batch=8), attacked, originals)
    # Each pixel is an exact linear function of what is sent for it; rounding is in float32.
    assert record.psnr_db > 80
    assert (found.steps, found.converged) == (4, True)


@pytest.mark.parametrize(
    ("attack", "head"),
    [
        (InverseAttack(steps=40, batch=16, width=8), shallow()),
        (InverseAttack(steps=10, batch=16, width=8), Tokens()),
        (InverseBlind(steps=20, batch=16, width=8), shallow()),
    ],
    ids=repr,
)
def test_beats_the_trivial_reconstructions(attack: Attack, head: nn.Module) -> None:
    attacked, originals = target(head)
    record, found = run_attack(attack, attacked, originals)
    baseline = best_baseline(originals)
    assert record.ssim > baseline.ssim + 0.1
    assert record.psnr_db > baseline.psnr_db + 2
    assert found.pixels.device == originals.device


def test_the_published_attack_beats_them_too() -> None:
    attacked, originals = target(shallow(), own=256)
    record, found = run_attack(InverseAttack("he2019"), attacked, originals)
    assert record.ssim > best_baseline(originals).ssim + 0.05
    assert (found.steps, found.converged) == (400, True)


def test_the_network_improves_on_the_linear_part() -> None:
    attacked, originals = target(shallow(), own=128)
    short, long = (
        run_attack(InverseAttack(steps=n, width=8, batch=16), attacked, originals)[0]
        for n in (1, 150)
    )
    assert long.mse < 0.95 * short.mse


@pytest.mark.parametrize("attack", [InverseAttack(steps=5), InverseBlind(steps=5)], ids=repr)
def test_a_constant_head_is_beaten_by_none(attack: Attack) -> None:
    attacked, originals = target(Constant(), own=16)
    record, _ = run_attack(attack, attacked, originals)
    baseline = best_baseline(originals)
    assert record.ssim <= baseline.ssim + 0.02
    assert record.psnr_db <= baseline.psnr_db + 0.5


def test_an_attack_without_pictures_is_refused() -> None:
    attacked, _ = target(shallow())
    with pytest.raises(AttackError, match=r"needs pictures of the attacker's own \(give a folder"):
        InverseAttack()(replace(attacked, auxiliary=None))


@pytest.mark.parametrize("variant", ["ours", "he2019"])
def test_a_resumed_training_is_one_without_interruption(tmp_path: Path, variant: str) -> None:
    attacked, _ = target(shallow(), own=4)
    attack = InverseAttack(variant, steps=6, width=8, batch=4)
    whole = attack(attacked)
    calls = 0

    def interrupted(pixels: Tensor, seed: int) -> tuple[Tensor, ...]:
        nonlocal calls
        calls += 1
        if calls > limit:
            raise KeyboardInterrupt
        assert attacked.pixel_head is not None
        return attacked.pixel_head(pixels)

    # Queries before the training: one to tell the head by, and those of the closed form.
    limit = 4 if variant == "he2019" else 36
    with pytest.raises(KeyboardInterrupt):
        attack(replace(attacked, query=interrupted), folder=tmp_path)
    resumed = attack(attacked, folder=tmp_path)
    assert 0 < resumed.steps < whole.steps
    assert torch.equal(resumed.pixels, whole.pixels)
    assert attack(attacked, folder=tmp_path).steps == 0
    other = replace(attacked, auxiliary=Auxiliary(pictures(4, 9)))
    with pytest.raises(AttackError, match="expected a checkpoint of inverse-network"):
        attack(other, folder=tmp_path)


def test_a_deadline_leaves_a_picture() -> None:
    attacked, originals = target(shallow())
    record, found = run_attack(InverseAttack(), attacked, originals, deadline_s=1e-3)
    assert found.steps >= 1
    assert not found.converged
    assert record.psnr_db > best_baseline(originals).psnr_db


def test_a_training_that_diverges_is_told() -> None:
    attacked, _ = target(shallow(), own=8)
    calls = 0

    def failing(pixels: Tensor, seed: int) -> tuple[Tensor, ...]:
        nonlocal calls
        calls += 1
        assert attacked.pixel_head is not None
        sent = attacked.pixel_head(pixels)
        return tuple(t * torch.nan for t in sent) if calls > 40 else sent

    found = InverseAttack(steps=30, batch=4, width=8)(replace(attacked, query=failing))
    assert any("training diverged at step" in note for note in found.notes)
    assert bool(torch.isfinite(found.pixels).all())
    assert not found.converged


def test_what_noise_a_defence_adds_is_learned() -> None:
    """Against an attack on the same head that was trained without it."""
    attacked, originals = target(shallow(), own=64)
    head = attacked.pixel_head
    assert head is not None

    def noisy(pixels: Tensor, seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        return tuple(t + 0.5 * torch.randn(t.shape, generator=generator) for t in head(pixels))

    with torch.no_grad():
        sent = noisy(originals, 5)
    attack = InverseAttack(steps=30, width=8, batch=16)
    aware = replace(attacked, observation=sent, query=noisy)
    unaware = replace(attacked, observation=sent)
    assert run_attack(attack, aware, originals)[0].mse < (
        0.7 * run_attack(attack, unaware, originals)[0].mse
    )


@pytest.mark.parametrize(
    ("shape", "size", "halvings"),
    [((64, 32, 32), 32, 0), ((128, 16, 16), 32, 1), ((128, 8, 8), 32, 2), ((9, 7, 7), 224, 5)],
)
def test_the_published_decoders(shape: tuple[int, int, int], size: int, halvings: int) -> None:
    network = PublishedDecoder([shape], (3, size, size))
    layers = [m for m in network.stack if isinstance(m, nn.ConvTranspose2d)]
    assert [m.stride for m in layers] == [(2, 2)] * halvings + [(1, 1)]
    assert layers[-1].in_channels == (64 if halvings else shape[0])
    assert network((torch.zeros(2, *shape),)).shape == (2, 3, size, size)


@pytest.mark.parametrize("shape", [(8, 24, 24), (16, 8, 8)])
def test_the_published_decoders_of_lenet(shape: tuple[int, int, int]) -> None:
    network = PublishedDecoder([shape], (1, 28, 28))
    assert network.stack(torch.zeros(2, *shape)).shape == (2, 1, 28, 28)


@pytest.mark.parametrize(
    ("shape", "image"),
    [
        ((4, 6, 6), (3, 16, 16)),
        ((4, 15, 15), (1, 32, 32)),
        ((16, 8, 8), (1, 28, 28)),
        ((9,), (3, 40, 36)),
    ],
)
def test_blocks_are_put_together_as_they_were_taken_apart(
    shape: tuple[int, ...], image: tuple[int, int, int]
) -> None:
    layout = Layout.of([shape], image)
    smooth = torch.linspace(0, 1, image[1]).view(1, 1, -1, 1).expand(2, *image).clone()
    again = layout.pixels(layout.blocks(smooth), image)
    assert again.shape == smooth.shape
    # Blocks above 32 pixels come out enlarged: a ramp bends at its ends alone.
    assert torch.allclose(again, smooth, atol=0.02)


def test_the_linear_decoder_is_the_ridge_regression_of_a_vector() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(400, 1, 4, 4, generator=generator)
    mixing = torch.randn(16, 12, generator=generator)
    sent = pixels.flatten(1) @ mixing + 0.1 * torch.randn(400, 12, generator=generator)
    decoder = LinearDecoder([(12,)], (1, 4, 4))
    aside = torch.arange(400) % 4 == 0
    decoder.fit((sent,), pixels, aside, generator)
    ones = torch.cat([sent, torch.ones(400, 1)], 1).double()
    expected = ones @ torch.linalg.lstsq(ones, pixels.flatten(1).double()).solution
    # With 400 samples of 12 numbers the ridge that is chosen hardly bites.
    assert torch.allclose(decoder((sent,)).flatten(1).double(), expected, atol=5e-3)


def test_made_pictures() -> None:
    leaves = dead_leaves(8, (3, 24, 20), torch.Generator().manual_seed(0))
    assert leaves.shape == (8, 3, 24, 20)
    assert 0.0 <= float(leaves.min()) < 0.2 and 0.8 < float(leaves.max()) <= 1.0
    # Neighbours are alike, as in photographs: noise has a ratio of 2.
    step = leaves.diff(dim=3).square().mean() / leaves.var()
    assert float(step) < 1.0
    grain = clouds(64, (1, 16, 16), torch.Generator().manual_seed(0))
    assert float(grain.square().mean()) == pytest.approx(1.0, abs=0.1)
    assert float(grain.mean()) == pytest.approx(0.0, abs=1e-6)
    white = normal_noise(4, SHAPE, torch.Generator().manual_seed(0))
    assert float(white.std()) == pytest.approx(0.25, abs=0.02)


def test_settings_that_cannot_be_meant() -> None:
    with pytest.raises(AttackError, match="variant 'ours' or 'he2019' and at least 1 step"):
        InverseAttack("theirs")
    with pytest.raises(AttackError, match="positive learning rate and a non-negative weight decay"):
        InverseAttack(learning_rate=0)
    with pytest.raises(AttackError, match="kind leaves or noise, got 'cats'"):
        InverseBlind(kind="cats")
