"""Generators: what they give, what they learn, their files, and those that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.generators.autoencoding import train_autoencoding
from splitdeploy.attacks.generators.file import load_generator, save_generator
from splitdeploy.attacks.generators.nearest import nearest_psnr_db
from splitdeploy.attacks.generators.small import Architecture, SmallGenerator
from splitdeploy.attacks.steps import Run


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
    whole = generator(latent)
    assert whole.shape == (2, *shape)
    assert 0.0 <= float(whole.min()) < float(whole.max()) <= 1.0
    for stage in range(1, len(generator.stages)):
        state = generator.to_stage(stage, (latent,))
        # The picture so far and the style travel along: nothing is lost where a stage restarts.
        assert len(state) == 3
        assert torch.equal(generator.from_stage(stage, state), whole)


def train_some(
    folder: Path | None, deadline_s: float | None = None, steps: int = 40
) -> SmallGenerator:
    run = Run(0, deadline_s, None, folder)
    return train_autoencoding(
        blobs(), steps=steps, run=run, latent_size=12, width=8, batch=16, learning_rate=4e-3
    )


def test_training_brings_unseen_pictures_near_and_whitens_the_latents() -> None:
    generator = train_some(None, steps=150)
    origin = generator.origin
    assert origin is not None
    assert (origin.pictures, origin.held_out, origin.method) == (92, 4, "autoencoding")
    # 12 numbers describe these pictures exactly, so they come far nearer than a flat colour.
    assert origin.held_out_psnr_db > origin.flat_psnr_db + 8
    untrained = SmallGenerator(generator.architecture).eval()
    fresh = blobs(200).pixels(slice(150, 182))
    trained_psnr = nearest_psnr_db(generator, fresh, passes=60)
    assert trained_psnr > nearest_psnr_db(untrained, fresh, passes=60)
    drawn = generator(generator.draw(400, torch.Generator().manual_seed(0)))
    # Samples are spread like the pictures: their mean and spread, within a third.
    pictures = blobs().pixels()
    assert torch.allclose(drawn.mean(), pictures.mean(), atol=0.05)
    assert 0.66 < float(drawn.std(0).mean() / pictures.std(0).mean()) < 1.5


def test_a_training_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    once = train_some(None)
    partly = train_some(tmp_path, deadline_s=1e-9)
    again = train_some(tmp_path)
    assert not torch.equal(once.state_dict()["stages.0.map.weight"],
                           partly.state_dict()["stages.0.map.weight"])  # fmt: skip
    for name, tensor in once.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_files_hold_everything(tmp_path: Path) -> None:
    generator = train_some(None, steps=2)
    path = tmp_path / "new" / "generator.npz"
    save_generator(generator, path)
    again = load_generator(path)
    assert isinstance(again, SmallGenerator)
    assert again.origin == generator.origin
    assert again.architecture == generator.architecture
    latent = torch.randn(2, 12)
    assert torch.equal(again(latent), generator(latent))
    assert not any(p.requires_grad for p in again.parameters())
