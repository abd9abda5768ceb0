"""The prior of pictures against dense linear algebra, and its fit against drawn pictures."""

from __future__ import annotations

import pytest
import torch

from splitdeploy.attacks.leakage.prior import (
    NATURAL_IMAGES,
    GaussianPrior,
    ImagePrior,
    PowerLaw,
    default_prior,
    fit_power_law,
)
from splitdeploy.profiles.errors import LeakageError


def dense_half(prior: ImagePrior) -> torch.Tensor:
    c, h, w = prior.shape
    return prior.apply_half(torch.eye(c * h * w, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(3, 6, 5), (1, 4, 4), (2, 1, 7)])
def test_half_is_a_symmetric_root_of_the_stated_determinant(shape: tuple[int, int, int]) -> None:
    prior = default_prior(shape)
    half = dense_half(prior)
    torch.testing.assert_close(half, half.T)
    covariance = half @ half
    assert torch.linalg.slogdet(covariance).logabsdet.item() == pytest.approx(prior.log_det())


def test_pictures_are_smooth_grey_mostly_and_as_contrasty_as_photographs() -> None:
    prior = default_prior((3, 224, 224))
    luminance, red_green, blue_yellow = prior.variance.mean(dim=(1, 2)).tolist()
    # The total, per channel: a standard deviation of 0.25 or so on [0, 1].
    assert ((luminance + red_green + blue_yellow) / 3) ** 0.5 == pytest.approx(0.27, abs=0.02)
    assert luminance > 10 * (red_green + blue_yellow) / 2
    assert (prior.variance[:, 1:, 0].diff(dim=1) < 0).all()


def test_amplitude_does_not_depend_on_the_resolution() -> None:
    large, small = default_prior((3, 64, 64)), default_prior((3, 32, 32))
    # The DCT coefficient of the same pattern, sampled twice as finely, has four times the variance.
    torch.testing.assert_close(
        large.variance[:, 3, 5] - large.smoothing**2,
        4 * (small.variance[:, 3, 5] - small.smoothing**2),
    )


def test_fit_finds_the_law_that_pictures_were_drawn_from() -> None:
    law = PowerLaw((2e-3, 3e-4, 1e-4), (2.2, 1.8, 2.0), "made up")
    prior = GaussianPrior((3, 48, 48), law)
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(64, 3 * 48 * 48, generator=generator, dtype=torch.float64)
    fitted = fit_power_law(prior.apply_half(white).view(64, 3, 48, 48))
    assert fitted.exponent == pytest.approx(law.exponent, abs=0.05)
    assert fitted.amplitude == pytest.approx(law.amplitude, rel=0.15)
    assert "64 photographs of 48 by 48" in fitted.source


def test_few_photographs_do_not_move_the_prior() -> None:
    photographs = torch.rand(4, 3, 32, 32)
    assert default_prior((3, 32, 32), photographs).law == NATURAL_IMAGES
    many = torch.rand(20, 3, 32, 32)
    assert default_prior((3, 32, 32), many).law != NATURAL_IMAGES


def test_what_it_says() -> None:
    text = default_prior((3, 8, 8)).describe()
    assert "f^-2.00" in text and "Field 1987" in text and "1/255" in text


def test_refusals() -> None:
    with pytest.raises(LeakageError, match="positive smoothing of the prior, got 0"):
        default_prior((3, 8, 8), smoothing=0.0)
    with pytest.raises(LeakageError, match="at least 16 photographs in 3 channels"):
        fit_power_law(torch.rand(4, 3, 32, 32))
