"""Inverse networks: they learn what a head lets through, beside a linear decoder as the oracle."""

import pytest
import torch
from torch import Tensor

from splitdeploy.attacks.inverse_network import InverseNetwork, invert, train_inverses
from splitdeploy.profiles.errors import AttackError


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
    train_inverses(observe, [network], training, epochs=10, batch=32)
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
    train_inverses(observe, together, training, epochs=1, batch=64)
    train_inverses(lambda x, g: observe(x, g)[1:], alone[1:], training, epochs=1, batch=64)
    z = observe(training[:4], torch.Generator())[1]
    assert torch.equal(invert(together[1], z), invert(alone[1], z))


@pytest.mark.parametrize("shape", [(10,), (4, 6), (7, 3, 5), (2, 16, 16)])
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


def test_ends_at_the_deadline() -> None:
    made: list[float] = []
    network = InverseNetwork([(3, 8, 8)], (3, 8, 8), width=8)
    train_inverses(
        lambda x, g: [(x,)], [network], pictures(64, 1), epochs=9, batch=32, progress=made.append,
        deadline=lambda: len(made) == 3,
    )  # fmt: skip
    assert len(made) == 3


def test_too_few_pictures_are_told() -> None:
    network = InverseNetwork([(3, 8, 8)], (3, 8, 8), width=8)
    with pytest.raises(AttackError, match=r"expected at least 64 pictures .*, got 3"):
        train_inverses(lambda x, g: [(x,)], [network], pictures(3, 1))


def test_a_tensor_of_four_dimensions_is_told() -> None:
    with pytest.raises(AttackError, match=r"one to three dimensions, got \[\(1, 2, 3, 4\)\]"):
        InverseNetwork([(1, 2, 3, 4)], (3, 8, 8), width=8)
