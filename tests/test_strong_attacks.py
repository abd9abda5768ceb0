"""Restarts, coarse to fine, and the deep image prior: what they add, and what they may not do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.base import run_attack
from splitdeploy.attacks.baselines import best_baseline
from splitdeploy.attacks.deep_image_prior import Decoders, DeepImagePrior
from splitdeploy.attacks.images import load_photographs
from splitdeploy.attacks.inverse_attack import InverseAttack
from splitdeploy.attacks.inverse_refined import InverseRefined
from splitdeploy.attacks.linear_queries import LinearByQueries
from splitdeploy.attacks.noise_aware import NoiseAware
from splitdeploy.attacks.objective import FeatureDistance
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.rmle import Rmle
from splitdeploy.attacks.spectral import SpectralImage
from splitdeploy.attacks.target import AttackTarget
from splitdeploy.attacks.threat import WHITE_BOX
from splitdeploy.profiles.errors import AttackError

SHAPE = (3, 24, 20)


def photographs(count: int) -> Tensor:
    return torch.from_numpy(load_photographs("photos", shape=SHAPE, count=count).pixels)


def deep_target(pixels: Tensor) -> AttackTarget:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
    )  # fmt: skip
    head = PixelHead(layers, (0.5,) * 3, (0.25,) * 3).eval()
    with torch.no_grad():
        return AttackTarget(head(pixels), head, SHAPE)


def test_restarts_never_end_at_a_higher_loss() -> None:
    """The first restart is the run without restarts, so the kept loss can only be lower."""
    pixels = photographs(2)
    target = deep_target(pixels)
    view = target.granted(WHITE_BOX)
    attack = Rmle(passes=40, restarts=3, tv_weight=0.0, prior_weight=0.0, colour_weight=0.0)
    one = Rmle(passes=40, tv_weight=0.0, prior_weight=0.0, colour_weight=0.0)
    many, single = attack(target), one(target)
    assert many.pixels.shape == pixels.shape
    with torch.no_grad():
        distance = FeatureDistance.relative(view)
        # Clamping comes after the loss, hence the slack of a hundredth.
        assert bool((distance(many.pixels) <= 1.01 * distance(single.pixels)).all())
    again = attack(target)
    assert torch.equal(many.pixels, again.pixels)


def test_copies_of_an_observation_lie_side_by_side() -> None:
    pixels = photographs(2)
    distance = FeatureDistance.relative(deep_target(pixels).granted(WHITE_BOX))
    twice = distance.repeated(2)
    both = torch.stack([pixels[0], 1 - pixels[0], pixels[1], 1 - pixels[1]])
    with torch.no_grad():
        apart = torch.stack([distance(pixels), distance(1 - pixels)], dim=1).flatten()
        assert torch.allclose(twice(both), apart, rtol=1e-4, atol=1e-7)


class Coarse(Rmle):
    """Keeps what each scale found."""

    name = "coarse"

    def _searched(self, *given: Any) -> tuple[Tensor, Tensor]:
        found = super()._searched(*given)
        self.kept = [*getattr(self, "kept", []), found[0]]
        return found


def test_coarse_to_fine_begins_with_the_coarse() -> None:
    image = SpectralImage(SHAPE)
    band = image.band(0.25)
    assert band.shape == SHAPE[1:]
    assert float(band[0, 0]) == 1.0
    assert float(band[-1, -1]) == 0.0
    assert float(image.band(1.0).min()) == 1.0
    pixels = photographs(2)
    target = deep_target(pixels)
    coarse = Coarse(passes=60, scales=(0.25, 1.0))
    record, found = run_attack(coarse, target, pixels)
    assert record.psnr_db > best_baseline(pixels).psnr_db + 3.0
    first, last = coarse.kept
    assert float((first * (1 - band)).abs().max()) == 0.0
    assert float((last * (1 - band)).abs().max()) > 0.0
    assert found.steps > 30


def test_the_deep_image_prior_recovers_a_picture() -> None:
    pixels = photographs(2)
    record, found = run_attack(DeepImagePrior(steps=250), deep_target(pixels), pixels)
    baseline = best_baseline(pixels)
    assert record.psnr_db > baseline.psnr_db + 4.0
    assert record.ssim > baseline.ssim + 0.2
    assert found.losses[-1] < 0.1 * found.losses[0]


def test_decoders_side_by_side_know_nothing_of_each_other() -> None:
    torch.manual_seed(0)
    decoders = Decoders(3, SHAPE, 8, 2)
    generator = torch.Generator().manual_seed(0)
    pixels = decoders(0.0, generator)
    assert pixels.shape == (3, *SHAPE)
    assert 0.0 < float(pixels.min().detach()) <= float(pixels.max().detach()) < 1.0
    pixels[1].sum().backward()
    gradient = decoders.convolutions[0].weight.grad
    assert isinstance(gradient, Tensor)
    by_image = gradient.view(3, -1).abs().sum(1)
    assert float(by_image[1]) > 0
    assert float(by_image[0]) == float(by_image[2]) == 0.0


def test_a_constant_head_gives_the_deep_image_prior_nothing() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.0 * x[:, :, :4, :4] + 1.0

    pixels = photographs(3)
    head = PixelHead(Constant(), (0.5,) * 3, (0.25,) * 3).eval()
    with torch.no_grad():
        target = AttackTarget(head(pixels), head, SHAPE)
    record, _ = run_attack(DeepImagePrior(steps=10), target, pixels)
    baseline = best_baseline(pixels)
    assert record.psnr_db <= baseline.psnr_db + 0.5
    assert record.ssim <= baseline.ssim + 0.02


def test_settings_that_cannot_be_meant() -> None:
    with pytest.raises(AttackError, match="at least 1 step and channel"):
        DeepImagePrior(steps=0)
    with pytest.raises(AttackError, match="scales that rise from above 0 to 1, got 1, 0.5 and"):
        Rmle(scales=(0.5, 0.25))
    with pytest.raises(AttackError, match="at least 1 restart"):
        Rmle(restarts=0)


def test_an_affine_head_is_solved_by_queries_alone() -> None:
    """To what float32 answers allow: rounding of 1e-7 at a condition number below 10."""
    torch.manual_seed(0)
    head = PixelHead(nn.Conv2d(3, 16, 3, padding=1), (0.5,) * 3, (0.25,) * 3).eval()
    pixels = photographs(2)
    with torch.no_grad():
        target = AttackTarget(head(pixels), None, SHAPE, query=lambda x, _: head(x))
    attack = LinearByQueries()
    assert attack.applies(target)
    record, found = run_attack(attack, target, pixels)
    assert record.psnr_db > 90.0
    assert found.converged
    bent = deep_target(pixels)
    assert not attack.applies(bent)
    with pytest.raises(AttackError, match="needs an affine head, and what this one answers is not"):
        attack(bent)


def test_an_affine_head_that_loses_half_is_solved_as_far_as_it_tells() -> None:
    """Every other row is never sent; what is sent is matched, and the rest stays near grey."""

    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, ::2]

    head = PixelHead(Half(), (0.5,) * 3, (0.25,) * 3).eval()
    pixels = photographs(1)
    found = LinearByQueries()(AttackTarget(head(pixels), head, SHAPE))
    assert torch.allclose(found.pixels[:, :, ::2], pixels[:, :, ::2], atol=1e-5)
    assert torch.allclose(found.pixels[:, :, 1::2], torch.full((1,), 0.5), atol=1e-3)


def test_queries_for_every_number_of_a_large_picture_are_too_many() -> None:
    head = PixelHead(nn.Identity(), (0.5,) * 3, (0.25,) * 3).eval()
    target = AttackTarget(head(torch.rand(1, 3, 64, 64)), head, (3, 64, 64))
    assert not LinearByQueries().applies(target)
    with pytest.raises(AttackError, match="at most 4096 numbers, got 12288"):
        LinearByQueries()(target)


def test_a_search_around_a_decoder_beats_both_alone() -> None:
    """On a head that loses much, with few pictures: the decoder errs, the search knows little."""
    pixels = photographs(3)
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 12, 5, stride=2), nn.ReLU(), nn.Conv2d(12, 16, 3))
    head = PixelHead(layers, (0.5,) * 3, (0.25,) * 3).eval()
    own = photographs(40)[8:]
    with torch.no_grad():
        target = AttackTarget(head(pixels), head, SHAPE, auxiliary=Auxiliary(own, "same set"))
    both, _ = run_attack(InverseRefined(steps=60, width=8, passes=150), target, pixels)
    decoder, _ = run_attack(InverseAttack(steps=60, width=8), target, pixels)
    search, _ = run_attack(NoiseAware(passes=150), target, pixels)
    assert both.psnr_db > decoder.psnr_db + 1.0
    assert both.psnr_db > search.psnr_db
    with pytest.raises(AttackError, match="needs 8 pictures of the attacker's own or more"):
        InverseRefined()(replace(target, auxiliary=Auxiliary(own[:4])))
    with pytest.raises(AttackError, match="a share between 0 and 1"):
        InverseRefined(aside=1.0)


def test_coordinates_about_a_picture_are_white_for_its_errors() -> None:
    generator = torch.Generator().manual_seed(0)
    image = SpectralImage(SHAPE)
    errors = 0.1 * torch.randn(64, *SHAPE, generator=generator)
    centre = photographs(2)
    near = image.around(centre, errors)
    assert torch.allclose(near.pixels(near.origin(2)), centre, atol=1e-6)
    assert torch.allclose(near.pixels(near.white(centre + 0.01)), centre + 0.01, atol=1e-5)
    # White noise of deviation 0.1 has that deviation in every orthonormal coordinate.
    assert torch.allclose(near.deviation, torch.full(SHAPE, 0.1), rtol=0.1)
    assert torch.equal(image.pixels(image.origin(1)), torch.full((1, *SHAPE), 0.5))
