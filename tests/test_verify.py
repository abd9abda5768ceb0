"""What counts as the same answer."""

from __future__ import annotations

import numpy as np
import pytest

from splitdeploy.partitioner.verify import compare

WANT = np.array([[1.0, -2.0, 0.5]], np.float32)


@pytest.mark.parametrize(
    ("want", "have", "ok"),
    [
        (WANT, WANT, True),
        (WANT, WANT * 1.0005, True),
        (WANT, WANT * 1.01, False),
        (WANT, WANT[:, :2], False),
        (WANT, np.full_like(WANT, np.nan), False),
        (WANT, np.array([[1.0, -2.0, np.inf]], np.float32), False),
        (np.array([[np.nan]]), np.array([[np.nan]]), False),
        (WANT * 1e-6, WANT * 1e-6 + 1e-7, True),  # all but zero, and rounded
        (WANT * 1e-9, WANT * 0, False),  # a tail that answers nothing
        (WANT * 1e-9, WANT[:, ::-1] * 1e-9, False),  # or something else
        (WANT * 0, WANT * 0, True),
        (np.zeros((1, 0)), np.zeros((1, 0)), True),
    ],
)
def test_results_are_compared_by_their_scale(want: np.ndarray, have: np.ndarray, ok: bool) -> None:
    assert compare([want], [have], 1).ok is ok


def test_every_tensor_counts_and_the_largest_errors_are_told() -> None:
    verdict = compare([WANT, WANT], [WANT, WANT + 0.5], 4)
    assert not verdict.ok
    assert verdict.max_abs_error == pytest.approx(0.5)
    assert verdict.max_rel_error == pytest.approx(0.25)
    assert verdict.images == 4


def test_another_number_of_results_is_not_the_same() -> None:
    assert not compare([WANT], [WANT, WANT], 1).ok
