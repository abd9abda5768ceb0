"""The noise that an edge device draws for a defended head."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from splitdeploy.edge_runtime.guard_noise import NoiseInput, draw, noise_inputs
from splitdeploy.profiles.errors import ReportError

COUNT = 40_000


def one(distribution: str, rate: float = 0.0, shape: tuple[int, ...] = (COUNT,)) -> NoiseInput:
    return NoiseInput("noise.z", "z", shape, "float32", distribution, rate)


def repeatable(seed: int) -> object:
    return np.random.default_rng(seed).bytes


# Kolmogorov and Smirnov: with fixed bytes the p-value is a constant of the test.
@pytest.mark.parametrize(
    ("distribution", "law"), [("gaussian", stats.norm), ("laplace", stats.laplace)]
)
def test_draws_follow_their_law(distribution: str, law: stats.rv_continuous) -> None:
    found = draw([one(distribution)], 2, random_bytes=repeatable(1))["noise.z"]  # type: ignore[arg-type]
    assert found.shape == (2, COUNT) and found.dtype == np.float32
    for picture in found:
        assert stats.kstest(picture, law.cdf).pvalue > 0.01
    assert abs(np.corrcoef(found)[0, 1]) < 4 / np.sqrt(COUNT)
    # Every second number of Box and Muller's shares its radius with another: no correlation.
    half = found[0][: COUNT // 2], found[0][COUNT // 2 :]
    assert abs(np.corrcoef(*half)[0, 1]) < 4 / np.sqrt(COUNT / 2)


def test_a_mask_keeps_the_mean() -> None:
    mask = draw([one("dropout", 0.3)], 1, random_bytes=repeatable(2))["noise.z"]  # type: ignore[arg-type]
    assert set(np.unique(mask)) == {0.0, np.float32(1 / 0.7)}
    # Four standard deviations of a share of COUNT.
    assert (mask == 0).mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / COUNT))


def test_the_operating_system_never_repeats_itself() -> None:
    first, second = (draw([one("gaussian")], 1)["noise.z"] for _ in range(2))
    assert not np.array_equal(first, second)
    assert stats.kstest(first[0], stats.norm.cdf).pvalue > 1e-9


def test_the_extremes_of_the_bytes_are_finite() -> None:
    for byte in (b"\x00", b"\xff"):
        for distribution in ("gaussian", "laplace"):
            found = draw([one(distribution)], 1, random_bytes=lambda n, b=byte: b * n)  # type: ignore[misc]
            assert np.isfinite(found["noise.z"]).all()


@given(
    st.lists(st.integers(0, 9), max_size=4),
    st.integers(0, 3),
    st.sampled_from(["gaussian", "laplace", "dropout"]),
    st.floats(0, 0.99),
)
def test_any_shape_is_filled(sizes: list[int], batch: int, distribution: str, rate: float) -> None:
    asked = one(distribution, rate, tuple(sizes))
    found = draw([asked], batch)["noise.z"]
    assert found.shape == (batch, *sizes) and np.isfinite(found).all()
    entry = {"guard_noise": {"inputs": [asked.to_json()]}}
    back = noise_inputs(entry)[0]
    assert back.shape == asked.shape
    assert back.drop_rate == (rate if distribution == "dropout" else 0.0)


def test_several_inputs_are_independent() -> None:
    asked = [NoiseInput(f"noise.{n}", n, (5000,), "float32", "gaussian") for n in "ab"]
    found = draw(asked, 1)
    assert list(found) == ["noise.a", "noise.b"]
    assert abs(np.corrcoef(found["noise.a"][0], found["noise.b"][0])[0, 1]) < 6 / np.sqrt(5000)


GOOD = one("dropout", 0.5, (2,)).to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"distribution": "cauchy"}, {"drop_rate": 1.0}, {"shape": "no"}, {"shape": [-2]},
        {"name": None, "distribution": None},
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_told(change: dict[str, object]) -> None:
    with pytest.raises(ReportError, match="guard_noise.inputs: expected name, tensor, shape"):
        noise_inputs({"guard_noise": {"inputs": [GOOD | change]}})
    assert noise_inputs({}) == noise_inputs({"guard_noise": None}) == ()


def test_an_unknown_distribution_cannot_be_drawn() -> None:
    with pytest.raises(ReportError, match="unknown distribution 'cauchy' of noise.z: available"):
        draw([one("cauchy")], 1)
