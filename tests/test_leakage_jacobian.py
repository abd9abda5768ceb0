"""Products with the Jacobian against finite differences and closed forms; what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import LeakageError

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 6, 3, padding="same", groups=3),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 1, dilation=1),
    )
    batch_norm = model[1]
    assert isinstance(batch_norm, nn.BatchNorm2d) and batch_norm.running_mean is not None
    batch_norm.running_mean.normal_()
    nn.init.normal_(batch_norm.weight)
    return model.eval()


def pixel_head(module: nn.Module) -> PixelHead:
    return PixelHead(module, MEAN, STD).double()


def pixels(n: int = 2, side: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 3, side, side, generator=generator, dtype=torch.float64)


class TwoTensors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(self.conv(x)), x.mean(dim=(2, 3))


@pytest.mark.parametrize(
    "module", [nn.Identity(), convolutional(), TwoTensors()], ids=["identity", "cnn", "two tensors"]
)
def test_products_agree_with_finite_differences(module: nn.Module) -> None:
    head, x = pixel_head(module), pixels()
    jacobian = HeadJacobian(head, x)
    torch.manual_seed(2)
    v, u = torch.randn_like(x), torch.randn_like(jacobian.features)
    step = 1e-6
    with torch.no_grad():
        slope = (head.features(x + step * v) - head.features(x - step * v)) / (2 * step)
    torch.testing.assert_close(jacobian.jvp(v.flatten(1)), slope, rtol=1e-6, atol=1e-6)
    pulled = (jacobian.vjp(u) * v.flatten(1)).sum(dim=1)
    torch.testing.assert_close(pulled, (u * slope).sum(dim=1), rtol=1e-6, atol=1e-6)


def test_dense_jacobian_is_autograds() -> None:
    head, x = pixel_head(convolutional()), pixels(n=2)
    jacobian = HeadJacobian(head, x)
    assert jacobian.outputs < jacobian.inputs
    for i in range(2):
        expected = torch.autograd.functional.jacobian(head.features, x[i : i + 1])
        torch.testing.assert_close(
            jacobian.dense()[i], expected.reshape(jacobian.outputs, jacobian.inputs)
        )


def test_dense_jacobian_of_a_wide_head_goes_by_columns() -> None:
    class Wide(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, torch.sin(x)], dim=1)

    jacobian = HeadJacobian(pixel_head(Wide()), pixels(n=1, side=2))
    dense = jacobian.dense()[0]
    torch.testing.assert_close(
        dense[:12].diagonal(), (1 / torch.tensor(STD).double()).repeat_interleave(4)
    )


def test_forward_mode_takes_over_where_double_backward_fails() -> None:
    class OneWay(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            return x * 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):  # type: ignore[no-untyped-def]
            return g * 2

        @staticmethod
        def jvp(ctx, t):  # type: ignore[no-untyped-def]
            return t * 2

    class Head(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return OneWay.apply(x)  # type: ignore[no-any-return, no-untyped-call]

    jacobian = HeadJacobian(pixel_head(Head()), pixels())
    v = torch.ones(2, jacobian.inputs, dtype=torch.float64)
    expected = (2 / torch.tensor(STD).double()).repeat_interleave(64).expand(2, -1)
    torch.testing.assert_close(jacobian.jvp(v), expected)


def test_parameters_keep_their_gradients_switched_on() -> None:
    head = pixel_head(convolutional())
    HeadJacobian(head, pixels())
    assert all(p.requires_grad and p.grad is None for p in head.parameters())


def test_it_works_under_no_grad() -> None:
    with torch.no_grad():
        jacobian = HeadJacobian(pixel_head(convolutional()), pixels())
        assert jacobian.vjp(torch.ones_like(jacobian.features)).abs().sum() > 0


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0, keepdim=True)


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


class NotANumber(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x - 10)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Dropout(), "eval mode, got Dropout 'head' in training mode"),
        (nn.BatchNorm2d(3), "eval mode, got BatchNorm2d 'head' in training mode"),
        (Noisy(), "deterministic head, got two passes that differ"),
        (Mixing(), "treats every image by itself, got one that mixes"),
        (Detached(), "differentiable head, got one whose output does not depend"),
        (NotANumber(), "finite smashed data, got NaN or Inf"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_has_no_jacobian_is_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(LeakageError, match=message):
        HeadJacobian(pixel_head(module), pixels())


def test_pixels_of_another_shape_or_type_are_refused() -> None:
    head = PixelHead(nn.Identity(), MEAN, STD)
    with pytest.raises(LeakageError, match=r"floating-point pixels \[n, c, h, w\], got .*uint8"):
        HeadJacobian(head, torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(LeakageError, match=r"of shape \(3, 4, 4\)"):
        HeadJacobian(head, torch.zeros(3, 4, 4))


def rank_bound(module: nn.Module, x: Tensor) -> tuple[list[int], list[int]]:
    jacobian = HeadJacobian(pixel_head(module), x)
    torch.manual_seed(3)
    bound = jacobian.rank_bound(torch.randn_like(jacobian.features))
    ranks = torch.linalg.matrix_rank(jacobian.dense(), rtol=1e-10)
    return bound.tolist(), ranks.tolist()


def test_rank_is_bounded_by_the_narrowest_tensor() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Flatten(), nn.Linear(128, 10), nn.Tanh(), nn.Linear(10, 100)
    )
    assert rank_bound(module, pixels(side=4)) == ([10, 10], [10, 10])


def test_rank_counts_what_a_relu_lets_through() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 40), nn.ReLU())
    head = pixel_head(module)
    active = (head.features(pixels(side=4)) > 0).sum(dim=1).tolist()
    assert rank_bound(module, pixels(side=4)) == (active, active)


def test_a_skip_connection_is_no_bottleneck() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.narrow = nn.Sequential(
                nn.Flatten(), nn.Linear(48, 2), nn.Linear(2, 48), nn.Unflatten(1, (3, 4, 4))
            )

        def forward(self, x: Tensor) -> Tensor:
            return x + self.narrow(x)

    assert rank_bound(Skip(), pixels(side=4)) == ([48, 48], [48, 48])
