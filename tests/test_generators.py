"""Generators: what they give, what they learn, their files, and those that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.generator import Generator
from splitdeploy.attacks.generators.adversarial import train_adversarial
from splitdeploy.attacks.generators.autoencoding import train_autoencoding
from splitdeploy.attacks.generators.check import check_generator
from splitdeploy.attacks.generators.decoder import from_decoder, wrap_generator
from splitdeploy.attacks.generators.file import load_generator, save_generator
from splitdeploy.attacks.generators.nearest import nearest_latents
from splitdeploy.attacks.generators.residual import Residual, measure_residual
from splitdeploy.attacks.generators.small import Architecture, SmallGenerator
from splitdeploy.attacks.quality import psnr_db
from splitdeploy.attacks.steps import Run
from splitdeploy.profiles.errors import AttackError, OutputError


def small(shape: tuple[int, int, int] = (3, 16, 16), latent: int = 8) -> SmallGenerator:
    torch.manual_seed(0)
    return SmallGenerator(Architecture(shape, latent, 4)).eval()


def blobs(count: int = 96, side: int = 16) -> Auxiliary:
    """Pictures with few degrees of freedom: smooth, from 2x2 colours."""
    coarse = torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    smooth = functional.interpolate(coarse, size=side, mode="bicubic").clamp(0, 1)
    return Auxiliary((255 * smooth).round().to(torch.uint8), "same distribution")


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 20, 33), (1, 8, 8)])
def test_pictures_of_any_shape_that_go_on_from_any_stage(shape: tuple[int, int, int]) -> None:
    generator = small(shape)
    latent = generator.draw(2, torch.Generator().manual_seed(0))
    whole = generator(latent).detach()
    assert whole.shape == (2, *shape)
    assert 0.0 <= float(whole.min()) < float(whole.max()) <= 1.0
    for stage in range(1, len(generator.stages)):
        state = generator.to_stage(stage, (latent,))
        # The picture so far and the style travel along: nothing is lost where a stage restarts.
        assert len(state) == 3
        assert torch.equal(generator.from_stage(stage, state), whole)


def train_some(
    folder: Path | None = None, deadline_s: float | None = None, steps: int = 12
) -> SmallGenerator:
    run = Run(0, deadline_s, None, folder)
    return train_autoencoding(
        blobs(), steps=steps, run=run, latent_size=12, width=4, batch=16, learning_rate=4e-3,
        passes=2,
    )  # fmt: skip


def test_training_brings_unseen_pictures_near_and_whitens_the_latents() -> None:
    generator = train_some(steps=100)
    origin = generator.origin
    assert origin is not None
    assert (origin.pictures, origin.held_out, origin.method) == (92, 4, "autoencoding")
    fresh = blobs(160).pixels(slice(144, 160))
    untrained = SmallGenerator(generator.architecture).eval()
    near, nearer = (nearest_latents(g, fresh, passes=25) for g in (untrained, generator))
    with torch.no_grad():
        before, after = psnr_db(untrained(near), fresh), psnr_db(generator(nearer), fresh)
        flat = psnr_db(fresh.mean((2, 3), keepdim=True).expand_as(fresh), fresh)
        drawn = generator(generator.draw(400, torch.Generator().manual_seed(0)))
    # 12 numbers describe these pictures exactly, so they come nearer than a flat colour.
    assert float(after.mean()) > float(flat.mean()) + 4.0
    assert float(after.mean()) > float(before.mean())
    # The latents of pictures are N(0, 1): so samples have the mean and the spread of pictures.
    pictures = blobs().pixels()
    assert torch.allclose(drawn.mean(), pictures.mean(), atol=0.05)
    assert 0.66 < float(drawn.std(0).mean() / pictures.std(0).mean()) < 1.5


def test_whitening_is_exact() -> None:
    """Latents as trained were centre + mixing·z; the picture of z is the one they had."""
    generator = small(latent=4)
    latent, centre, mixing = torch.randn(5, 4), torch.randn(4), torch.randn(4, 4)
    with torch.no_grad():
        before = generator(centre + latent @ mixing.T)
        generator.whiten(centre, mixing)
        assert torch.allclose(generator(latent), before, atol=1e-6)


def test_a_training_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    once = train_some()
    partly = train_some(tmp_path, deadline_s=1e-9)
    again = train_some(tmp_path)
    name = "stages.0.map.weight"
    assert not torch.equal(once.state_dict()[name], partly.state_dict()[name])
    for name, tensor in once.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_adversarial_training_goes_on_from_another_and_after_an_interruption(
    tmp_path: Path,
) -> None:
    start = train_some(steps=1)

    def trained(folder: Path | None, deadline_s: float | None = None) -> SmallGenerator:
        run = Run(3, deadline_s, None, folder)
        return train_adversarial(blobs(), steps=10, run=run, batch=4, start=start, passes=2)

    once = trained(None)
    trained(tmp_path, deadline_s=1e-9)
    again = trained(tmp_path)
    assert once.origin == again.origin
    assert once.origin is not None and once.origin.method == "adversarial"
    assert once.architecture == start.architecture
    for name, tensor in once.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    # The average moves from where it began, and not far in ten steps.
    moved = once.state_dict()["stages.0.map.weight"] - start.state_dict()["stages.0.map.weight"]
    assert 0.0 < float(moved.abs().max()) < 0.01


def test_a_residual_has_the_spectrum_of_what_the_range_leaves() -> None:
    """A generator of flat pictures leaves all but the mean: its spectrum is that of the rest."""

    class Flat(nn.Module):
        def forward(self, latent: Tensor) -> Tensor:
            return latent.sigmoid()[:, :, None, None].expand(-1, 3, 16, 16)

    generator = wrap_generator(Flat(), 3, (3, 16, 16))
    pictures = blobs(32).pixels()
    generator.residual = measure_residual(generator, pictures, passes=20)
    rest = pictures - pictures.mean((2, 3), keepdim=True)
    # The basis is orthonormal: energies agree.
    energy = rest.square().flatten(1).sum(1).mean()
    assert torch.allclose(generator.residual.square().sum(), energy, rtol=1e-2)
    drawn = Residual(generator, 1.0, torch.device("cpu")).pixels(torch.randn(500, 3 * 16 * 16))
    assert torch.allclose(drawn.square().flatten(1).sum(1).mean(), energy, rtol=0.1)
    assert float(drawn.mean((2, 3)).abs().max()) < 0.02
    # Where nothing was measured, a share of the spectrum of pictures stands for it.
    generator.residual = None
    unknown = Residual(generator, 1.0, torch.device("cpu")).pixels(torch.randn(9, 3 * 16 * 16))
    assert 0.01 < float(unknown.std()) < 0.3


def test_files_hold_everything(tmp_path: Path) -> None:
    generator = train_some(steps=2)
    path = tmp_path / "new" / "generator.npz"
    save_generator(generator, path)
    again = load_generator(path)
    assert isinstance(again, SmallGenerator)
    assert again.origin == generator.origin
    assert again.architecture == generator.architecture
    assert again.residual is not None and generator.residual is not None
    assert torch.equal(again.residual, generator.residual)
    latent = torch.randn(2, 12)
    assert torch.equal(again(latent), generator(latent))
    assert not any(p.requires_grad for p in again.parameters())


def spoiled(path: Path, **changed: Any) -> Path:
    """A file with some of its arrays changed; None takes one away."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays = {k: v for k, v in {**arrays, **changed}.items() if v is not None}
    other = path.with_name("spoiled.npz")
    np.savez(other, **arrays)
    return other


def test_broken_and_foreign_files_are_refused_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "generator.npz"
    save_generator(small(), path)
    with np.load(path) as file:
        header = json.loads(str(file["splitdeploy_generator"]))
    nan = np.full((3,), np.nan, np.float32)
    wrong = {**header, "architecture": {**header["architecture"], "width": -1}}
    newer = {**header, "version": 9}
    told = "splitdeploy_generator"
    changes: list[dict[str, Any]] = [
        {told: None},
        {told: np.array("{")},
        {told: np.array("[]")},
        {told: np.array(json.dumps(newer))},
        {told: np.array(json.dumps(wrong))},
        {"stages.0.centre": None},
        {"stages.0.centre": np.zeros(3, np.float32)},
        {"stages.0.centre": np.array([object()])},
        {"residual": np.zeros(2, np.float32)},
    ]
    cut, text = tmp_path / "cut.npz", tmp_path / "text.npz"
    cut.write_bytes(path.read_bytes()[:-300])
    text.write_text("pictures")
    for case in [cut, text, *changes]:
        broken = spoiled(path, **case) if isinstance(case, dict) else case
        with pytest.raises(AttackError, match="expected a generator as splitdeploy prior train"):
            load_generator(broken)
    with pytest.raises(AttackError, match="which does not exist: train one with splitdeploy prior"):
        load_generator(tmp_path / "none.npz")
    with pytest.raises(AttackError, match="which is no file"):
        load_generator(tmp_path)
    bias = "stages.2.block.to_rgb.bias"
    with pytest.raises(AttackError, match="expected finite pixels from the generator, got NaN"):
        load_generator(spoiled(path, **{bias: nan}))
    with pytest.raises(OutputError, match="cannot write the generator"):
        save_generator(small(), path / "below.npz")


class Halves(nn.Module):
    """A user's own: 4 numbers to a picture of 8 by 8, once on [0, 1]."""

    latent_size, image_shape = 4, (1, 8, 8)

    def __init__(self, scale: float = 0.1, side: int = 8) -> None:
        super().__init__()
        self.scale, self.side = scale, side

    def forward(self, latent: Tensor) -> Tensor:
        grey = 0.5 + self.scale * latent.mean(1).clamp(-2, 2)
        return grey.view(-1, 1, 1, 1).expand(-1, 1, self.side, self.side)


class Chancy(Halves):
    def forward(self, latent: Tensor) -> Tensor:
        return super().forward(latent) + 0.1 * torch.rand(())


def own_generator() -> Generator:
    return Generator([HalvesStage()], 4, (1, 8, 8))


class HalvesStage(nn.Module):
    def forward(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (Halves()(state[0]),)


def test_a_users_own_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("test_generators:Halves", "test_generators:own_generator"):
        generator = load_generator(name)
        assert generator(torch.zeros(2, 4)).shape == (2, 1, 8, 8)
        assert len(generator.stages) == 1
    for name, message in [
        (
            "nowhere:factory",
            "expected a generator as package.module:factory, got 'nowhere:factory'",
        ),
        ("test_generators:nothing", "has no attribute 'nothing'"),
        ("test_generators:blobs", "with latent_size and image_shape, got Auxiliary"),
    ]:
        with pytest.raises(AttackError, match=message):
            load_generator(name)
    monkeypatch.setattr(Halves, "image_shape", "wide")
    with pytest.raises(AttackError, match=r"expected an image_shape \(c, h, w\), got 'wide'"):
        load_generator("test_generators:Halves")


def test_generators_that_do_not_fit_are_refused() -> None:
    with pytest.raises(AttackError, match=r"pictures of shape \[3, 1, 8, 8\] from the generator"):
        wrap_generator(Halves(side=9), 4, (1, 8, 8))
    with pytest.raises(AttackError, match=r"expected pixels on \[0, 1\] from the generator"):
        wrap_generator(Halves(scale=9.0), 4, (1, 8, 8))
    with pytest.raises(AttackError, match="whose pictures depend on chance"):
        wrap_generator(Chancy(), 4, (1, 8, 8))
    with pytest.raises(AttackError, match=r"pictures of shape \[1, 28, 28\], got one of \[3, 16"):
        check_generator(small(), (1, 28, 28))
    torn = small()
    del torn.stages[1]
    with pytest.raises(AttackError, match="stages of a generator that chain, got an error in stag"):
        check_generator(torn)
    headless = Generator([*small().stages][:-1], 8, (3, 16, 16))
    with pytest.raises(AttackError, match=r"expected \(pixels,\) from a generator's last stage"):
        check_generator(headless)
    with pytest.raises(AttackError, match="at least 8 pixels a side for a generator"):
        Architecture((3, 4, 32))
    with pytest.raises(AttackError, match="latent_size of at least 1 and a width of at least 4"):
        Architecture((3, 32, 32), width=2)


def decoder() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2),
        nn.Conv2d(8, 3, 3, padding=1), nn.Tanh(),
    )  # fmt: skip


def test_a_pretrained_decoder_is_cut_where_its_resolution_changes() -> None:
    layers = decoder()
    generator = from_decoder(layers, (4, 5, 6), (3, 20, 24), (-1.0, 1.0), latent_std=2.0)
    assert len(generator.stages) == 3
    latent = generator.draw(2, torch.Generator().manual_seed(0))
    expected = (layers(2.0 * latent.view(2, 4, 5, 6)) + 1) / 2
    assert torch.allclose(generator(latent), expected, atol=1e-6)
    (state,) = generator.to_stage(1, (latent,))
    assert state.shape == (2, 8, 10, 12)
    assert len(from_decoder(decoder(), (4, 5, 6), (3, 20, 24), (-1, 1), stages=2).stages) == 2


def test_a_decoder_beyond_its_bounds_keeps_its_gradient() -> None:
    generator = from_decoder(nn.Sequential(nn.Conv2d(1, 1, 1)), (1, 8, 8), (1, 8, 8), (-0.1, 0.1))
    latent = (5 * torch.ones(1, 64)).requires_grad_()
    pixels = generator(latent)
    assert 0.0 <= float(pixels.detach().min()) <= float(pixels.detach().max()) <= 1.0
    pixels.sum().backward()
    assert latent.grad is not None and bool((latent.grad != 0).all())


def test_decoders_that_do_not_fit_are_refused() -> None:
    with pytest.raises(AttackError, match="expected a decoder of latents of 200 elements, got an"):
        from_decoder(decoder(), (8, 5, 5), (3, 20, 20), (-1, 1))
    with pytest.raises(AttackError, match=r"pictures of shape \[3, 3, 9, 9\] from the generator"):
        from_decoder(decoder(), (4, 5, 5), (3, 9, 9), (-1, 1))
    with pytest.raises(AttackError, match=r"expected bounds \(low, high\), at least 1 stage"):
        from_decoder(decoder(), (4, 5, 5), (3, 20, 20), (1, 1))


@pytest.mark.parametrize("training", [train_autoencoding, train_adversarial])
def test_trainings_that_cannot_be_are_refused(training: Any) -> None:
    run = Run(0, None, None)
    with pytest.raises(AttackError, match="at least 32 pictures to train a generator, got 31"):
        training(blobs(31), steps=1, run=run)
    with pytest.raises(AttackError, match="expected at least 1 step, a batch of at least"):
        training(blobs(40), steps=0, run=run)
    if training is train_adversarial:
        with pytest.raises(AttackError, match=r"pictures of \(3, 16, 16\) to begin with, got one"):
            training(blobs(40), steps=1, run=run, start=small((1, 8, 8)))
