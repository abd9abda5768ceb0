"""Image quality against two independent libraries, and trivial reconstructions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from splitdeploy.attacks.baselines import best_baseline, trivial_reconstructions
from splitdeploy.attacks.images import load_photographs
from splitdeploy.attacks.quality import judge, mse, psnr_db, ssim, ssim_he2019


def pairs(shape: tuple[int, int, int], noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.from_numpy(load_photographs("photos", shape=shape, count=3).pixels)
    draw = torch.Generator().manual_seed(0)
    return (pixels + noise * torch.randn(pixels.shape, generator=draw)).clamp(0, 1), pixels


@pytest.mark.parametrize("shape", [(3, 64, 48), (1, 32, 32), (3, 11, 11)])
@pytest.mark.parametrize("noise", [0.01, 0.3])
def test_ssim_agrees_with_torchmetrics(shape: tuple[int, int, int], noise: float) -> None:
    x, y = pairs(shape, noise)
    _, everywhere = structural_similarity_index_measure(
        x.double(), y.double(), data_range=1.0, reduction="none", return_full_image=True
    )
    # Wang et al. and scikit-image average where the window fits; torchmetrics 1.9 pads by
    # reflection and averages the border too, so its map is cut to the same places.
    expected = everywhere[..., 5:-5, 5:-5].flatten(1).mean(1)
    assert torch.allclose(ssim(x, y), expected, atol=1e-6)


def test_ssim_agrees_with_skimage() -> None:
    x, y = pairs((3, 64, 48), 0.1)
    for i in range(len(x)):
        expected = structural_similarity(
            x[i].numpy().astype(np.float64), y[i].numpy().astype(np.float64),
            channel_axis=0, data_range=1.0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )  # fmt: skip
        assert float(ssim(x, y)[i]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(3, 64, 48), (1, 28, 28), (3, 7, 7)])
def test_the_ssim_of_he2019_agrees_with_skimage(shape: tuple[int, int, int]) -> None:
    x, y = pairs(shape, 0.1)
    x = 0.2 + 0.5 * x  # pale, so that its range is not 1
    for i in range(len(x)):
        found, original = (t[i].double().numpy() for t in (x, y))
        expected = structural_similarity(
            found, original, channel_axis=0, data_range=found.max() - found.min()
        )
        assert float(ssim_he2019(x, y)[i]) == pytest.approx(expected, abs=1e-9)
    assert judge(x, y, mode="he2019").ssim == pytest.approx(float(ssim_he2019(x, y).mean()))
    assert judge(x, y, mode="he2019").psnr_db == judge(x, y).psnr_db


def test_a_flat_reconstruction_has_a_he2019_similarity_too() -> None:
    _, y = pairs((3, 16, 16), 0.0)
    assert torch.isfinite(ssim_he2019(torch.full_like(y, 0.5), y)).all()


def test_psnr_agrees_with_torchmetrics_image_by_image() -> None:
    x, y = pairs((3, 32, 32), 0.1)
    for i in range(len(x)):
        expected = float(peak_signal_noise_ratio(x[i], y[i], data_range=1.0))
        assert float(psnr_db(x, y)[i]) == pytest.approx(expected, abs=1e-3)


def test_closed_forms() -> None:
    black, grey = torch.zeros(2, 3, 16, 16), torch.full((2, 3, 16, 16), 0.1)
    assert mse(black, grey).tolist() == pytest.approx([0.01, 0.01], rel=1e-6)
    assert psnr_db(black, grey).tolist() == pytest.approx([20.0, 20.0], abs=1e-5)
    assert psnr_db(grey, grey).tolist() == [200.0, 200.0]
    # Flat pictures: the structure term is 1, the luminance term C1 / (0.01 + C1).
    assert ssim(black, grey).tolist() == pytest.approx([1e-4 / 0.0101] * 2, rel=1e-4)


def test_values_outside_the_range_are_clamped_first() -> None:
    y = torch.ones(1, 1, 16, 16)
    assert float(psnr_db(y + 3.0, y)) == 200.0


def test_pictures_smaller_than_the_window_still_have_a_similarity() -> None:
    x, y = pairs((1, 8, 6), 0.2)
    assert ssim(y, y).tolist() == pytest.approx([1.0] * 3)
    assert float(ssim(x, y).max()) < 1.0


def test_the_interval_holds_the_mean_and_one_picture_tells_nothing() -> None:
    x, y = pairs((3, 64, 64), 0.02)
    quality = judge(x, y)
    low, high = quality.ssim_ci95
    values = ssim(x, y)
    # Student's t with two degrees of freedom: 4.3027.
    assert high - low == pytest.approx(2 * 4.3027 * float(values.std()) / 3**0.5, rel=1e-4)
    assert low < quality.ssim < high
    alone = judge(x[:1], y[:1])
    assert alone.ssim_ci95 == (-1.0, 1.0)
    assert (alone.psnr_ci95_db, alone.mse_ci95) == ((0.0, 200.0), (0.0, 1.0))


def test_every_mean_has_the_interval_that_scipy_gives_it() -> None:
    x, y = pairs((3, 64, 64), 0.02)
    quality = judge(x, y)
    for values, mean, interval in (
        (ssim(x, y), quality.ssim, quality.ssim_ci95),
        (psnr_db(x, y), quality.psnr_db, quality.psnr_ci95_db),
        (mse(x, y), quality.mse, quality.mse_ci95),
    ):
        expected = stats.t.interval(0.95, 2, float(values.mean()), stats.sem(values.numpy()))
        assert mean == pytest.approx(float(values.mean()))
        assert interval == pytest.approx(expected)


def test_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"two batches .* of one shape"):
        judge(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9))


def test_trivial_reconstructions_do_not_peek() -> None:
    _, pixels = pairs((3, 16, 16), 0.0)
    changed = pixels.clone()
    changed[0] = 1.0 - changed[0]
    before, after = trivial_reconstructions(pixels), trivial_reconstructions(changed)
    assert set(before) == {"grey", "mean colour", "mean picture"}
    for name in before:
        assert torch.allclose(before[name][0], after[name][0], atol=1e-6)


def test_the_baseline_is_the_best_of_each_metric() -> None:
    _, pixels = pairs((3, 16, 16), 0.0)
    scores = [judge(r, pixels) for r in trivial_reconstructions(pixels).values()]
    best = best_baseline(pixels)
    assert best.psnr_db == max(s.psnr_db for s in scores)
    assert best.ssim == max(s.ssim for s in scores)
    assert best.mse == min(s.mse for s in scores)
    alone = best_baseline(pixels[:1])
    assert alone.mse == judge(torch.full_like(pixels[:1], 0.5), pixels[:1]).mse
