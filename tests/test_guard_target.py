"""Targets as text and as numbers."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.attacks.defences.base import Defence
from splitdeploy.attacks.defences.registry import defences_table, find_defence
from splitdeploy.attacks.defences.target import (
    Target,
    fsinfo_to_mse,
    mse_to_fsinfo,
    parse_target,
)
from splitdeploy.profiles.errors import UsageError

POSITIVE = st.floats(1e-12, 1e12)
TARGETS = st.one_of(
    st.builds(Target, st.just("fsinfo"), st.floats(-100, 100)),
    st.builds(Target, st.sampled_from(["gain", "mse"]), POSITIVE),
)


@given(TARGETS)
def test_a_target_survives_its_text(target: Target) -> None:
    assert parse_target(f"{target.kind}:{target.value!r}") == target
    assert parse_target(str(target)).value == pytest.approx(target.value, rel=1e-5)


@given(st.floats(-20, 20))
def test_error_and_fsinfo_say_the_same(fsinfo: float) -> None:
    assert mse_to_fsinfo(fsinfo_to_mse(fsinfo)) == pytest.approx(fsinfo, abs=1e-9)


@given(TARGETS, st.floats(-5, 5))
def test_a_target_of_its_own_fsinfo_is_itself(target: Target, prior: float) -> None:
    again = target.of_fsinfo(target.fsinfo(prior), prior)
    assert again.kind == target.kind
    # A small gain above the prior's own is a difference of two numbers of order 1.
    assert again.value == pytest.approx(target.value, rel=1e-9, abs=1e-14)


def test_a_gaussian_guess_has_its_own_variance_as_error() -> None:
    # A pixel of variance v has entropy ½·ln(2πe·v): FSInfo is minus that, and the bound is v.
    assert fsinfo_to_mse(-0.5 * math.log(2 * math.pi * math.e * 0.03)) == pytest.approx(0.03)
    assert Target("mse", 0.03).fsinfo(0.0) == pytest.approx(
        -0.5 * math.log(2 * math.pi * math.e * 0.03)
    )
    assert Target("gain", 0.5).fsinfo(-1.25) == pytest.approx(-0.75)


@given(st.text(max_size=12))
def test_no_text_breaks_the_parser(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_target(text).kind in text


@pytest.mark.parametrize(
    "text", ["", "fsinfo", "fsinfo:", "fsinfo:x", "ssim:0.3", ":1", "gain:nan", "1"]
)
def test_what_is_no_target_is_told(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected a target fsinfo:NATS .* got '"):
        parse_target(text)


@pytest.mark.parametrize("text", ["gain:0", "gain:-1", "mse:0", "mse:-0.1", "mse:inf"])
def test_numbers_out_of_range_are_told(text: str) -> None:
    with pytest.raises(UsageError, match="expected a positive number in the target"):
        parse_target(text)


def test_an_infinite_fsinfo_is_told() -> None:
    with pytest.raises(
        UsageError, match="expected a finite number in the target fsinfo:…, got inf"
    ):
        parse_target("fsinfo:inf")
    with pytest.raises(UsageError, match="got the kind 'ssim'"):
        Target("ssim", 0.3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["bayesian", "shaped", "published"])
def test_the_guards_are_defences_by_name(name: str) -> None:
    kind = find_defence(name)
    assert issubclass(kind, Defence)
    assert kind.strength.startswith("target: fsinfo:NATS")
    assert name in [row["name"] for row in defences_table()]
