"""The linearised posterior's error: Wiener's closed form on linear heads, by whole matrices."""

import torch
from torch import Tensor, nn

from splitdeploy.attacks.leakage.family import measure_family
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.mean_information import MeanWhitened
from splitdeploy.attacks.leakage.measure import mse_lower_bound
from splitdeploy.attacks.leakage.noise import FixedNoise
from splitdeploy.attacks.leakage.posterior_error import posterior_error
from splitdeploy.attacks.leakage.prior import ImagePrior, default_prior
from splitdeploy.attacks.leakage.sides import Whitened
from splitdeploy.attacks.pixel_head import PixelHead

SHAPE = (3, 6, 6)


def double_head(*layers: nn.Module) -> PixelHead:
    return PixelHead(nn.Sequential(*layers), (0.0,) * 3, (1.0,) * 3).double().eval()


def covariance(prior: ImagePrior) -> Tensor:
    """C as a matrix: its root applied to every unit vector, squared."""
    root = prior.apply_half(torch.eye(prior.variance.numel(), dtype=torch.float64))
    return root @ root.T


def wiener_error(information: Tensor, prior: ImagePrior) -> float:
    inverse = torch.linalg.inv(covariance(prior))
    return float(torch.linalg.inv(inverse + information).trace()) / len(information)


def test_is_wieners_error_for_a_linear_head() -> None:
    torch.manual_seed(0)
    head = double_head(nn.Conv2d(3, 6, 3, padding=1, stride=2))
    pixels = torch.rand(2, *SHAPE, dtype=torch.float64)
    jacobian = HeadJacobian(head, pixels)
    prior, sigma = default_prior(SHAPE), torch.full((jacobian.outputs,), 0.03)
    j = jacobian.dense()[0]
    expected = wiener_error(j.T @ j / 0.03**2, prior)
    found = posterior_error(
        Whitened(jacobian, prior, sigma.double(), seed=0), probes=100, steps=200, tolerance=1e-4
    )
    # 100 probes leave an error of theirs, which they tell; four times that is one in 16,000.
    assert abs(float(found.value[0]) - expected) < 4 * float(found.probe_error[0])
    assert float(found.probe_error[0]) < 0.1 * expected


def test_brackets_close_on_the_value_of_its_probes() -> None:
    torch.manual_seed(1)
    head = double_head(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, stride=2))
    jacobian = HeadJacobian(head, torch.rand(2, *SHAPE, dtype=torch.float64))
    sigma = torch.full((jacobian.outputs,), 0.05, dtype=torch.float64)
    whitened = Whitened(jacobian, default_prior(SHAPE), sigma, seed=0)
    short = posterior_error(whitened, probes=1, steps=5, tolerance=0.0)
    long = posterior_error(whitened, probes=1, steps=400, tolerance=1e-9)
    assert bool((short.lower <= long.value * (1 + 1e-9)).all())
    assert bool((long.value <= short.upper * (1 + 1e-9)).all())
    assert bool((long.upper - long.lower <= 1e-6 * long.value).all())


def test_of_the_mean_information_it_is_at_least_the_bound_by_rings() -> None:
    torch.manual_seed(2)
    head = double_head(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))
    jacobian = HeadJacobian(head, torch.rand(4, *SHAPE, dtype=torch.float64))
    prior = default_prior(SHAPE)
    sigma = torch.full((jacobian.outputs,), 0.05, dtype=torch.float64)
    information = sum(j.T @ j for j in jacobian.dense()) / len(jacobian.dense()) / 0.05**2
    expected = wiener_error(information, prior)
    mean = posterior_error(
        MeanWhitened(jacobian, prior, sigma, seed=0), probes=50, steps=200, tolerance=1e-4
    )
    assert abs(float(mean.value[0]) - expected) < 4 * float(mean.probe_error[0])
    # Both sides are estimated by probes: a tenth covers what two ring probes leave.
    by_rings = mse_lower_bound(Whitened(jacobian, prior, sigma, seed=0))
    assert by_rings <= 1.1 * expected


def test_without_information_the_priors_variance_is_left() -> None:
    head = double_head(nn.Conv2d(3, 2, 3, padding=1))
    jacobian = HeadJacobian(head, torch.rand(1, *SHAPE, dtype=torch.float64))
    sigma = torch.full((jacobian.outputs,), 1e6, dtype=torch.float64)
    prior = default_prior(SHAPE)
    found = posterior_error(Whitened(jacobian, prior, sigma, seed=0))
    assert torch.allclose(found.value, prior.variance.mean(), rtol=1e-6)


def test_stands_in_the_family_where_a_linear_head_has_it_equal_to_van_trees() -> None:
    torch.manual_seed(3)
    head = double_head(nn.Conv2d(3, 6, 3, padding=1, stride=2))
    pixels = torch.rand(3, *SHAPE, dtype=torch.float64)
    family = measure_family(head, pixels, noise=FixedNoise(0.05), prior=default_prior(SHAPE))
    figures = {figure.name: figure for figure in family.figures}
    own, bound = figures["posterior_error"], figures["mse_van_trees_whole"]
    assert (own.binds, bound.binds) == ("", "any")
    assert bound.standard_error is not None
    assert abs(own.value - bound.value) < 4 * bound.standard_error + 0.05 * bound.value


def test_a_deadline_leaves_a_bracket_that_holds() -> None:
    torch.manual_seed(1)
    head = double_head(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, stride=2))
    jacobian = HeadJacobian(head, torch.rand(2, *SHAPE, dtype=torch.float64))
    sigma = torch.full((jacobian.outputs,), 0.05, dtype=torch.float64)
    whitened = Whitened(jacobian, default_prior(SHAPE), sigma, seed=0)
    cut_short = posterior_error(whitened, probes=1, deadline_s=1e-9)
    whole = posterior_error(whitened, probes=1, steps=200, tolerance=1e-6)
    assert bool((cut_short.lower <= whole.upper).all())
    assert bool((whole.lower <= cut_short.upper).all())
    assert bool((cut_short.upper - cut_short.lower > whole.upper - whole.lower).all())
