"""Noise levels against what rounding really does, and their indifference to scale."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.attacks.leakage.noise import (
    ElementNoise,
    FixedNoise,
    PrecisionNoise,
    SnrNoise,
    noise_named,
    repeated,
    root_mean_square,
)
from splitdeploy.profiles.errors import LeakageError, UnknownNameError


def features() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 10_000, generator=generator, dtype=torch.float64).relu()


@pytest.mark.parametrize(
    ("dtype", "kind"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
@pytest.mark.parametrize("scale", [1.0, 1.4, 7.7])
def test_float_rounding_has_the_modelled_size(dtype: str, kind: torch.dtype, scale: float) -> None:
    z = features() * scale
    rounding = root_mean_square(z.to(kind).double() - z)
    # The mantissas of a Gaussian are not quite log-uniform, hence 12 %.
    assert PrecisionNoise(dtype).tensor_sigma(z) == pytest.approx(rounding, rel=0.12)


def test_int8_rounding_has_the_modelled_size() -> None:
    z = features()
    step = float(z.abs().max()) / 127
    positive = z[z > 0]  # zeros are exact and would halve the error
    error = root_mean_square(torch.round(positive / step) * step - positive)
    assert PrecisionNoise("int8").tensor_sigma(z) == pytest.approx(error, rel=0.02)


@given(st.floats(0, 80))
def test_snr_is_the_ratio_of_powers(snr_db: float) -> None:
    z = features()
    sigma = SnrNoise(snr_db).tensor_sigma(z)
    ratio = 10 * math.log10(float(z.square().mean()) / sigma**2)
    assert ratio == pytest.approx(snr_db, abs=1e-9)


@pytest.mark.parametrize("rule", [PrecisionNoise("fp16"), PrecisionNoise("int8"), SnrNoise(30)])
def test_sigma_goes_with_the_scale_of_each_tensor(rule: PrecisionNoise | SnrNoise) -> None:
    a, b = features(), features()[:, :7].abs() + 1
    one, other = rule.level((a, b)), rule.level((3.7 * a, 0.2 * b))
    factor = torch.cat([torch.full((10_000,), 3.7), torch.full((7,), 0.2)]).double()
    torch.testing.assert_close(other.sigma, one.sigma * factor)
    assert other.relative == pytest.approx(one.relative)


def test_a_dead_tensor_gets_sigma_one_and_no_say() -> None:
    level = SnrNoise(20).level((torch.zeros(2, 5), torch.ones(2, 5)))
    assert level.sigma.tolist() == pytest.approx([1.0] * 5 + [0.1] * 5)
    assert level.relative == pytest.approx(0.1 * math.sqrt(0.5))


def test_names() -> None:
    assert noise_named("fp16") == PrecisionNoise("fp16")
    assert noise_named("snr:30") == SnrNoise(30.0)
    assert noise_named("sigma:0.5") == FixedNoise(0.5)
    assert "30 dB" in SnrNoise(30).describe()
    assert "fp16" in PrecisionNoise("fp16").describe()
    assert "0.5" in FixedNoise(0.5).describe()


@pytest.mark.parametrize("text", ["fp12", "snr", "snr:loud", "sigma:", "", "fp16:3"])
def test_unknown_noise_is_refused(text: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown noise"):
        noise_named(text)


def test_impossible_levels_are_refused() -> None:
    with pytest.raises(LeakageError, match="positive noise sigma, got 0"):
        FixedNoise(0.0)
    with pytest.raises(LeakageError, match="finite signal-to-noise ratio in dB, got nan"):
        SnrNoise(math.nan)
    with pytest.raises(UnknownNameError, match="unknown precision 'fp8'"):
        PrecisionNoise("fp8")


def test_noise_of_each_element_goes_with_its_tensor() -> None:
    a, b = features()[:, :6].view(4, 2, 3) + 0.1, features()[:, :5] + 0.1
    channels = torch.tensor([[[0.1], [0.2]]])
    rule = ElementNoise((channels, torch.tensor(0.5)), "a guard")
    level = rule.level((a, b))
    assert level.sigma.tolist() == pytest.approx([0.1] * 3 + [0.2] * 3 + [0.5] * 5)
    rms_a, rms_b = root_mean_square(a), root_mean_square(b)
    squares = 3 * (0.1 / rms_a) ** 2 + 3 * (0.2 / rms_a) ** 2 + 5 * (0.5 / rms_b) ** 2
    assert level.relative == pytest.approx(math.sqrt(squares / 11))
    assert level.text == "a guard"
    four = repeated(rule, 4).level((a, b))
    torch.testing.assert_close(four.sigma, level.sigma / 2)
    assert four.relative == pytest.approx(level.relative / 2)


def test_noise_of_each_element_is_refused_where_it_does_not_fit() -> None:
    with pytest.raises(LeakageError, match="positive noise sigma for every element, got 0 to 1"):
        ElementNoise((torch.tensor([0.0, 1.0]),), "a guard")
    rule = ElementNoise((torch.ones(1, 7),), "a guard")
    with pytest.raises(LeakageError, match=r"shapes \[\[1, 7\]\] broadcasts to, got \[\[5\]\]"):
        rule.level((torch.ones(4, 5),))
    with pytest.raises(LeakageError, match=r"broadcasts to, got \[\[7\], \[7\]\]"):
        rule.level((torch.ones(4, 7), torch.ones(4, 7)))
