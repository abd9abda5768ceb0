"""Inverse networks: they learn what a head lets through, beside a linear decoder as the oracle."""

import pytest
import torch
from torch import Tensor

from splitdeploy.attacks.inverse_network import InverseNetwork, invert
from splitdeploy.attacks.inverse_training import (
    Observe,
    Pictures,
    Recipe,
    standardise_by,
    train_inverses,
)
from splitdeploy.attacks.maps import as_map, map_shape
from splitdeploy.attacks.steps import Run
from splitdeploy.profiles.errors import AttackError


def trained(
    observe: Observe, networks: list[InverseNetwork], images: Tensor, epochs: int, batch: int
) -> Run:
    run, recipe = Run(0, None, None), Recipe(batch=batch)
    standardise_by(observe, networks, images)
    steps = recipe.steps(len(images), epochs)
    assert train_inverses(observe, networks, Pictures(images), steps, run, recipe) == steps
    return run


def pictures(n: int, seed: int) -> Tensor:
    """Smooth random colours, ``[n, 3, 8, 8]`` on [0, 1]."""
    coarse = torch.rand(n, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=8, mode="bilinear", align_corners=True)


def least_squares_error(z: Tensor, x: Tensor, z_test: Tensor, x_test: Tensor) -> float:
    """Mean squared error of the best affine decoder fitted to the training pairs."""
    ones = torch.ones(len(z), 1)
    solution = torch.linalg.lstsq(torch.cat([z, ones], 1), x).solution
    found = torch.cat([z_test, torch.ones(len(z_test), 1)], 1) @ solution
    return float((found - x_test).square().mean())


def test_learns_what_a_linear_head_with_noise_lets_through() -> None:
    torch.manual_seed(0)
    head = torch.nn.Conv2d(3, 6, 3, padding=1, stride=2).requires_grad_(False)

    def observe(pixels: Tensor, generator: torch.Generator) -> list[tuple[Tensor, ...]]:
        z = head(pixels)
        return [(z + 0.05 * torch.randn(z.shape, generator=generator),)]

    training, test = pictures(512, 1), pictures(64, 2)
    network = InverseNetwork([(6, 4, 4)], (3, 8, 8), width=16)
    trained(observe, [network], training, epochs=10, batch=32)
    generator = torch.Generator().manual_seed(3)
    (sent,) = observe(test, generator)
    error = float((invert(network, sent) - test).square().mean())
    flat = observe(training, generator)[0][0].flatten(1)
    linear = least_squares_error(flat, training.flatten(1), sent[0].flatten(1), test.flatten(1))
    flat_colour = float((test.mean(dim=(0, 2, 3), keepdim=True) - test).square().mean())
    # The head is linear and the pictures all but Gaussian: a linear decoder is the best there is.
    # Three times its error, within so short a training, is far below that of a flat colour.
    assert error < 3.0 * linear
    assert error < 0.2 * flat_colour


def test_networks_trained_side_by_side_are_those_trained_alone() -> None:
    heads = [torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(3, 5, 1)]

    def observe(pixels: Tensor, generator: torch.Generator) -> list[tuple[Tensor, ...]]:
        del generator
        return [(h(pixels).detach(),) for h in heads]

    def networks() -> list[InverseNetwork]:
        torch.manual_seed(0)
        return [InverseNetwork([(c, 8, 8)], (3, 8, 8), width=8) for c in (4, 5)]

    training = pictures(128, 1)
    together, alone = networks(), networks()
    trained(observe, together, training, epochs=1, batch=64)
    trained(lambda x, g: observe(x, g)[1:], alone[1:], training, epochs=1, batch=64)
    z = observe(training[:4], torch.Generator())[1]
    assert torch.equal(invert(together[1], z), invert(alone[1], z))


@pytest.mark.parametrize(
    "shape", [(10,), (4, 6), (10, 6), (7, 3, 5), (6, 6, 5), (2, 16, 16), (2, 3, 4, 5), ()]
)
def test_takes_vectors_tokens_and_maps_of_any_size(shape: tuple[int, ...]) -> None:
    network = InverseNetwork([shape, (3, 8, 8)], (3, 8, 8), width=8)
    tensors = (torch.randn(5, *shape), torch.randn(5, 3, 8, 8))
    network.standardise(tensors)
    found = invert(network, tensors, batch=2)
    assert found.shape == (5, 3, 8, 8)
    assert bool(((found >= 0) & (found <= 1)).all())


def test_a_dead_channel_is_not_blown_up() -> None:
    network = InverseNetwork([(2, 4, 4)], (3, 8, 8), width=8)
    z = torch.randn(8, 2, 4, 4)
    z[:, 1] = 3.0
    network.standardise((z,))
    later = z.clone()
    later[:, 1] += 1e-3
    assert torch.allclose(invert(network, (z,)), invert(network, (later,)), atol=1e-2)


def test_each_picture_comes_as_often_as_any_other() -> None:
    own = Pictures(torch.rand(10, 1, 4, 4), seed=3)
    rows = torch.cat([own.rows(done, 4) for done in range(5)])
    assert all(int((rows == row).sum()) == 2 for row in range(10))
    assert rows[:10].tolist() != rows[10:].tolist()
    ordered = Pictures(torch.rand(3, 1, 4, 4), shuffle=False)
    assert torch.cat([ordered.rows(done, 2) for done in range(3)]).tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((16, 5, 7), (16, 5, 7)),
        ((7, 7, 16), (16, 7, 7)),
        ((49, 16), (16, 7, 7)),
        ((50, 16), (32, 7, 7)),
        ((48, 16), None),
        ((512, 1, 1), None),
        ((10,), None),
        ((2, 3, 4, 5), None),
    ],
)
def test_maps_are_told_from_vectors(
    shape: tuple[int, ...], expected: tuple[int, int, int] | None
) -> None:
    assert map_shape(shape) == expected
    assert as_map(torch.zeros(2, *shape)).shape[1:] == (expected or (torch.Size(shape).numel(),))


def test_tokens_lie_where_they_came_from() -> None:
    image = torch.rand(2, 16, 7, 7)
    tokens = image.flatten(2).transpose(1, 2)
    assert torch.equal(as_map(tokens), image)
    classed = as_map(torch.cat([torch.full((2, 1, 16), 9.0), tokens], dim=1))
    assert torch.equal(classed[:, :16], image)
    assert bool((classed[:, 16:] == 9.0).all())


def test_no_tensors_are_told() -> None:
    with pytest.raises(AttackError, match="at least one boundary tensor to decode, got none"):
        InverseNetwork([], (3, 8, 8), width=8)
