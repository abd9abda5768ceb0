"""The projection on the ℓ1 ball: optimality conditions, a closed form, and the nearest point."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import brentq

from splitdeploy.attacks.l1_ball import project_on_l1_ball
from splitdeploy.attacks.lbfgs import BatchedLbfgs

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 30))
# Denormal numbers would test the processor instead.
NUMBERS = st.floats(-100, 100, allow_subnormal=False, width=32)
POINTS = SHAPES.flatmap(lambda shape: arrays(np.float64, shape, elements=NUMBERS))


@settings(max_examples=150, deadline=None)
@given(POINTS, st.floats(1e-3, 500))
def test_optimality_conditions(points: np.ndarray, radius: float) -> None:
    """Karush-Kuhn-Tucker, of a convex problem: necessary and sufficient.

    x − v + θ·∂‖x‖₁ ∋ 0 with θ ≥ 0 and θ·(‖x‖₁ − r) = 0, for each sample.
    """
    found = project_on_l1_ball(torch.from_numpy(points), radius).numpy()
    for v, x in zip(points, found, strict=True):
        scale = max(1.0, float(np.abs(v).sum()))
        tolerance = 1e-12 * scale
        norm = np.abs(x).sum()
        assert norm <= radius + tolerance  # feasible
        theta = np.abs(v - x).max()
        if norm < radius - tolerance:
            assert theta <= tolerance  # complementary slackness
        support = np.abs(x) > tolerance
        # On the support the residual is θ·sign(x), off it at most θ.
        assert np.allclose((v - x)[support], theta * np.sign(x[support]), atol=tolerance)
        assert (np.abs(v - x)[~support] <= theta + tolerance).all()


@settings(max_examples=100, deadline=None)
@given(POINTS, st.floats(1e-3, 500))
def test_against_a_root_of_the_norm(points: np.ndarray, radius: float) -> None:
    """θ found by bisection on ‖max(|v| − θ, 0)‖₁ = r instead of by sorting."""
    found = project_on_l1_ball(torch.from_numpy(points), radius).numpy()
    for v, x in zip(points, found, strict=True):
        if np.abs(v).sum() <= radius:
            assert np.array_equal(x, v)
            continue

        def surplus(theta: float, v: np.ndarray = v) -> float:
            return float(np.maximum(np.abs(v) - theta, 0).sum()) - radius

        theta = brentq(surplus, 0.0, np.abs(v).max(), xtol=1e-13)
        expected = np.sign(v) * np.maximum(np.abs(v) - theta, 0)
        assert np.allclose(x, expected, atol=1e-9)


def test_closed_forms() -> None:
    # Equal elements shrink alike; one element is clamped; a radius of 0 leaves nothing.
    assert torch.allclose(
        project_on_l1_ball(torch.tensor([[3.0, -3.0, 3.0]]), 3.0), torch.tensor([[1.0, -1.0, 1.0]])
    )
    assert torch.equal(project_on_l1_ball(torch.tensor([[-5.0]]), 2.0), torch.tensor([[-2.0]]))
    assert torch.equal(project_on_l1_ball(torch.tensor([[1.0, -2.0]]), 0.0), torch.zeros(1, 2))
    # In the plane, far out along one axis, the nearest point is the corner.
    assert torch.equal(
        project_on_l1_ball(torch.tensor([[10.0, 1.0]]), 1.0), torch.tensor([[1.0, 0.0]])
    )


def test_no_feasible_point_is_nearer() -> None:
    draw = np.random.default_rng(0)
    v = draw.normal(size=(1, 6))
    x = project_on_l1_ball(torch.from_numpy(v), 1.0).numpy()
    others = draw.dirichlet(np.ones(6), 20_000) * draw.choice([-1, 1], (20_000, 6))
    others *= draw.uniform(0, 1, (20_000, 1))
    assert (np.linalg.norm(others - v, axis=1) >= np.linalg.norm(x - v) - 1e-12).all()


@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 4, 4)])
def test_each_sample_has_its_own_ball(shape: tuple[int, ...]) -> None:
    points = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    radii = torch.tensor([0.0, 0.5, 2.0, 1e9, float("inf")])
    together = project_on_l1_ball(points, radii)
    for i, radius in enumerate(radii):
        alone = project_on_l1_ball(points[i : i + 1], float(radius))
        assert torch.equal(together[i : i + 1], alone)
    assert torch.equal(together[3:], points[3:])


def test_a_large_map_in_single_precision() -> None:
    """As many elements as a real stage has: the norm meets the radius, and repeating is still."""
    points = torch.randn(2, 64, 32, 32, generator=torch.Generator().manual_seed(0))
    radius = 0.1 * points[0].numel()
    once = project_on_l1_ball(points, radius)
    norms = once.double().abs().flatten(1).sum(1)
    # Each element is rounded to 2^-24 of itself.
    assert torch.allclose(norms, torch.full_like(norms, radius), rtol=1e-6)
    again = project_on_l1_ball(once, radius)
    assert torch.allclose(again, once, atol=1e-6)


def test_a_search_within_the_ball_reaches_the_nearest_point_of_it() -> None:
    """The projection is what minimises the distance under the constraint."""
    goal = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    radii = torch.tensor([0.0, 1.0, 5.0, 1e3])

    def evaluate(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 0.5 * (points - goal).square().sum(1), points - goal

    search = BatchedLbfgs(
        evaluate, torch.zeros(4, 20), history=5, first_step=0.1,
        project=lambda points: project_on_l1_ball(points, radii),
    )  # fmt: skip
    before = search.loss
    for _ in range(60):
        search.advance()
        assert bool((search.loss <= before).all())
        assert bool((search.point.abs().sum(1) <= radii + 1e-4).all())
        before = search.loss
    assert torch.allclose(search.point, project_on_l1_ball(goal, radii), atol=1e-3)
